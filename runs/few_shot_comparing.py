"""The learners of the few-shot runs that compare: phi has no part for a class."""

from __future__ import annotations

from dataclasses import dataclass
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
from runs.few_shot_entry import Contender, Entry, plain
from runs.jobs import Session

COMPARING = {kind.__name__: kind for kind in (MatchingNetwork, PrototypicalNetwork, SiameseNetwork)}
LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "sigmoid_mse": sigmoid_mse}


@dataclass(frozen=True)
class Compares(Contender):
    """Trained once, on 1-shot episodes of many classes, and judged in every setting.

    Args:
        learner_class: a name of `COMPARING`.
        iterations: of one task each.
        outer_lr: Adam's, falling to 0.
        queries: of a class, in training.
    """

    learner_class: str
    iterations: int
    outer_lr: float = 3e-3
    queries: int = 3

    def trained(self, entry: Entry) -> str:
        return entry.learner

    def training(self, entry: Entry) -> dict[str, Any]:
        return plain(self)

    def learner(self, entry: Entry, session: Session) -> Learner:
        many, body = entry.images.many, nn.Sequential(*list(entry.net())[:-1])
        learner = COMPARING[self.learner_class](body, many)
        train_on_episodes(self, entry.first(), session, learner, shots=1)
        return learner.with_ways(entry.ways)


@dataclass(frozen=True)
class Relates(Contender):
    """The relation network. It adds up the maps of a class, and has to know the sums of how many it
    is given: it is trained once for each number of shots.

    Args:
        iterations: of one task each.
        ways: of the training episodes.
        loss: a name of `LOSSES`.
        outer_lr: Adam's, falling to 0.
        queries: of a class, in training.
    """

    iterations: int
    ways: int = 10
    loss: Literal["cross_entropy", "sigmoid_mse"] = "cross_entropy"
    outer_lr: float = 3e-3
    queries: int = 5

    def trained(self, entry: Entry) -> str:
        return f"{entry.learner} {entry.shots}-shot"

    def training(self, entry: Entry) -> dict[str, Any]:
        return {**plain(self), "shots": entry.shots, "parts": str(entry.images.related(0))}

    def learner(self, entry: Entry, session: Session) -> Learner:
        parts = entry.images.related(entry.seed)
        learner = RelationNetwork(*parts, ways=self.ways, loss=LOSSES[self.loss])
        train_on_episodes(self, entry.first(shots=entry.shots), session, learner, entry.shots)
        return learner.with_ways(entry.ways)


def train_on_episodes(
    contender: Compares | Relates, entry: Entry, session: Session, learner: Any, shots: int
) -> None:
    """Train on episodes of the learner's own ways, a task at a time.

    Args:
        contender: has the settings.
        entry: in the setting in which the training is validated.
        session: of the job.
        learner: what is trained.
        shots: of the training episodes.
    """
    entry.train(
        session,
        contender.trained(entry),
        learner,
        entry.episodes(learner.ways, shots, contender.queries),
        contender.iterations,
        1,
        learner.with_ways(entry.ways),
        torch.optim.Adam(learner.parameters(), lr=contender.outer_lr),
    )
