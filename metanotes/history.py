"""What happened in a run: its losses and scores, and the phi of the best score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["History"]


@dataclass
class History:
    """What happened in a run.

    Args:
        losses: L(phi) at every iteration, the mean over its batch of tasks; summed over its turns,
            where it has several.
        validation: pairs of the iteration, counted from 1, and the score after it.
        stopped_early: whether validation stopped improving.
        levels: the losses of each level, by name, where phi has several.

    >>> history = History(losses=[3.0, 2.0, 1.0, 2.0])
    >>> history.plot(smooth=2).lines[0].get_ydata().tolist()
    [2.5, 1.5]
    """

    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    stopped_early: bool = False
    levels: dict[str, list[float]] = field(default_factory=dict)

    def plot(self, ax: Axes | None = None, smooth: int | None = None, label: str = "loss") -> Axes:
        """Draw the losses, averaged over `smooth` iterations, and the validation scores.

        The scores have an axis of their own, at the right. Each level has a line.
        """
        import matplotlib.pyplot as plt

        ax = ax or plt.subplots()[1]
        for name, values in (self.levels or {label: self.losses}).items():
            losses = torch.tensor(values, dtype=torch.float64)
            window = max(1, smooth or len(losses) // 50)
            means = losses[: len(losses) // window * window].reshape(-1, window).mean(1)
            ax.plot(window * torch.arange(1, len(means) + 1), means, label=name)
        ax.set(xlabel="iteration", ylabel="loss after learning")
        if self.validation:
            right = ax.twinx()
            right.plot(*zip(*self.validation, strict=True), "o--", color="gray")
            right.set(ylabel="validation score (dashed)")
        return ax


class Outcome:
    """What a run has brought so far: its history, and the phi of its best score.

    Args:
        learner: whose phi it is.
        patience: how many scores in a row may be no better before the run stops.

    >>> outcome = Outcome(nn.Linear(1, 1), patience=1)
    >>> for score in (0.5, 0.7, 0.6):
    ...     outcome.add({"phi": 1.0})
    ...     outcome.judge(score)
    >>> outcome.history.validation, outcome.history.stopped_early
    ([(1, 0.5), (2, 0.7), (3, 0.6)], True)
    """

    def __init__(self, learner: nn.Module, patience: int | None = None) -> None:
        self.learner, self.patience, self.history = learner, patience, History()
        self.best: dict[str, Tensor] | None = None

    def add(self, losses: Mapping[str, float]) -> None:
        """Note the losses of an iteration, by level."""
        self.history.losses.append(sum(losses.values()))
        if len(losses) > 1:
            for name, loss in losses.items():
                self.history.levels.setdefault(name, []).append(loss)

    def judge(self, score: float) -> None:
        """Note a score, more is better; keep phi if it is the best, stop when patience is over."""
        # NaN is worse than any score.
        before = [-math.inf if math.isnan(s) else s for _, s in self.history.validation]
        self.history.validation.append((len(self.history.losses), score))
        if score > max(before, default=-math.inf):
            self.best = {name: t.clone() for name, t in self.learner.state_dict().items()}
            return
        since_best = len(before) - before.index(max(before)) if before else 0
        self.history.stopped_early = self.patience is not None and since_best >= self.patience

    def goes_on(self, iterations: int) -> bool:
        """Whether a run of so many iterations has some left."""
        return len(self.history.losses) < iterations and not self.history.stopped_early

    def state_dict(self) -> dict[str, Any]:
        """The fields of the history, and the best phi."""
        return {"history": vars(self.history), "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        vars(self.history).update(state["history"])
        self.best = state["best"]
