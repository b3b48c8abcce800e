"""The learners of the few-shot runs that compare: phi has no part for a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from metanotes.learner import Learner, Loss, cross_entropy
from metanotes.methods.comparison import (
    MatchingNetwork,
    PrototypicalNetwork,
    RelationNetwork,
    SiameseNetwork,
    sigmoid_mse,
)
from metanotes.methods.comparison.features import Comparing
from runs.few_shot_entry import Entry, Searching
from runs.jobs import Session

COMPARING: dict[str, Callable[..., Comparing]] = {
    kind.__name__: kind for kind in (MatchingNetwork, PrototypicalNetwork, SiameseNetwork)
}
LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "sigmoid_mse": sigmoid_mse}
RATES = (1e-3, 3e-3, 1e-2, 3e-2)  # Adam's outer rates to choose from, each falling to 0


class OfAllWays(Searching):
    """Its phi has no part for a class: it is trained on tasks of so many ways, a task at a time,
    and judged on others.

    Args:
        iterations, rates: see `Searching`.
        queries: of a class, in training.
    """

    queries: int

    def trained(self, entry: Entry) -> str:
        return entry.learner

    def shots(self, entry: Entry) -> int:
        """Of the training episodes."""
        return 1

    def new(self, entry: Entry) -> Comparing:
        """The learner before its training, for the ways of its training episodes."""
        raise NotImplementedError

    def judged_in(self, entry: Entry) -> Entry:
        """The same, whichever setting asks for it first."""
        return entry.first()

    def after(
        self, entry: Entry, session: Session, what: str, rate: float, part: int = 1
    ) -> Comparing:
        learner, first = self.new(entry), self.judged_in(entry)
        tasks = entry.episodes(learner.ways, self.shots(entry), self.queries)
        adam = torch.optim.Adam(learner.parameters(), lr=rate)
        judged = learner.with_ways(first.ways)
        images = learner.ways * (self.shots(entry) + self.queries)
        iterations = self.iterations // part
        first.train(session, what, learner, tasks, iterations, 1, images, adam, judged)
        return judged

    def learner(self, entry: Entry, session: Session) -> Learner:
        learner = super().learner(entry, session)
        assert isinstance(learner, Comparing)
        return learner.with_ways(entry.ways)


@dataclass(frozen=True)
class Compares(OfAllWays):
    """Trained once, on 1-shot episodes.

    Args:
        learner_class: a name of `COMPARING`.
        iterations, rates, queries: see `OfAllWays`.
        arguments: of the class, beside the body and the ways.
        ways: of the training episodes; default: the image set's many.
    """

    learner_class: str
    iterations: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] = RATES
    queries: int = 3
    ways: int | None = None

    def new(self, entry: Entry) -> Comparing:
        body, ways = nn.Sequential(*list(entry.net())[:-1]), self.ways or entry.images.many
        return COMPARING[self.learner_class](body, ways, **self.arguments)


@dataclass(frozen=True)
class Relates(OfAllWays):
    """The relation network. It adds up the maps of a class, and has to know the sums of how many it
    is given: it is trained once for each number of shots.

    Args:
        iterations, rates, queries: see `OfAllWays`.
        ways: of the training episodes.
        loss: a name of `LOSSES`.
    """

    iterations: int
    ways: int = 10
    loss: Literal["cross_entropy", "sigmoid_mse"] = "sigmoid_mse"
    rates: tuple[float, ...] = RATES
    queries: int = 5

    def trained(self, entry: Entry) -> str:
        return f"{entry.learner} {entry.shots}-shot"

    def training(self, entry: Entry) -> dict[str, Any]:
        parts = str(entry.images.related(0))
        return {**super().training(entry), "shots": entry.shots, "parts": parts}

    def shots(self, entry: Entry) -> int:
        return entry.shots

    def new(self, entry: Entry) -> Comparing:
        parts = entry.images.related(entry.seed)
        return RelationNetwork(*parts, ways=self.ways, loss=LOSSES[self.loss])

    def judged_in(self, entry: Entry) -> Entry:
        return entry.first(shots=entry.shots)
