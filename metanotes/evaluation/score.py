"""A score, the metrics it is made of, and the parts of it that ranks give."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from metanotes._ground.agreement import same_call
from metanotes._ground.ranks import Ranks
from metanotes.learner import cross_entropy, mse

Metric = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Score:
    """The score of a learner on test tasks, or of a classifier on test examples.

    Args:
        values: the score of every task, `[tasks]`: a fraction for accuracy.
        metric: "accuracy", or the name of the loss.
        transductive: whether a query was predicted in one batch with the other queries.
        of: what `values` are of: "tasks" or "examples".

    >>> score = Score(torch.tensor([0.8, 1.0, 0.9, 0.9]), "accuracy", transductive=False)
    >>> print(score)
    90.0 ± 8.0 % (4 tasks, not transductive)
    """

    values: Tensor
    metric: str
    transductive: bool
    of: str = "tasks"

    @property
    def mean(self) -> float:
        """The mean over tasks."""
        return float(self.values.mean())

    @property
    def ci95(self) -> float:
        """Half the width of the 95 % interval of the mean, over tasks: 1.96 s / sqrt(n)."""
        return float(1.96 * self.values.std() / math.sqrt(len(self.values)))

    def __str__(self) -> str:
        how = "transductive" if self.transductive else "not transductive"
        if self.metric == "accuracy":
            value = f"{100 * self.mean:.1f} ± {100 * self.ci95:.1f} %"
        else:
            value = f"{self.mean:.3g} ± {self.ci95:.2g} {self.metric}"
        return f"{value} ({len(self.values)} {self.of}, {how})"


def accuracy(outputs: Tensor, y: Tensor) -> Tensor:
    """The fraction of right answers of one task: outputs `[M, ways]`, labels `[M]`, to a scalar.

    Raises:
        ValueError: y are no labels, one for each output.

    >>> accuracy(torch.eye(4), torch.tensor([0, 1, 2, 2]))
    tensor(0.7500, dtype=torch.float64)
    """
    _check_labels(outputs, y)
    return (outputs.argmax(-1) == y).double().mean()


def _check_labels(outputs: Tensor, y: Tensor) -> None:
    if y.is_floating_point() or y.shape != outputs.shape[:-1]:
        raise ValueError(
            f"accuracy compares outputs {list(outputs.shape)} with labels, whole numbers "
            f"{list(outputs.shape[:-1])}, and not with {y.dtype} {list(y.shape)}: of targets that "
            "are one-hot, labels are y.argmax(-1)"
        )


# ------------------------------------------------------------------------------------- metrics


def usual_metric(loss: Metric, output: torch.Size, y: Tensor) -> Metric:
    """Accuracy for labels, the learner's loss for real numbers.

    Args:
        loss: the learner's.
        output: the shape of its output for one example.
        y: targets, `[T, M, ...]`.

    Raises:
        ValueError: neither would be what its name says.
    """
    if y.is_floating_point():
        if loss in (mse, cross_entropy) and y.shape[2:] != output:
            raise ValueError(
                f"a target has the shape {list(y.shape[2:])} and an output {list(output)}: they "
                "must agree, or metric= says how they are compared"
            )
        return loss
    if y.shape[2:] or len(output) != 1:
        raise ValueError(
            f"targets {list(y.shape)} and outputs of the shape {list(output)} an example are no "
            "single label for each query: metric= says how they are compared"
        )
    if output[0] < 2:
        raise ValueError(
            f"targets are labels, {y.dtype}, and the model gives one number an example, whose "
            "accuracy would mean nothing: metric= says how they are compared"
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= output[0]:
        raise ValueError(
            f"labels run from {low} to {high}, and the outputs have {output[0]} classes: "
            f"accuracy needs labels 0 to {output[0] - 1} (not hidden ones, such as -1 or -100, "
            "global class ids, or a domain with more classes); or metric= says how they are "
            "compared"
        )
    return accuracy


def judged(metric: Metric, outputs: Tensor, y: Tensor) -> Tensor:
    """The metric of every task, `[T]`."""
    if metric is accuracy:  # also in the blocks after the first
        _check_labels(outputs, y)
        usual_metric(metric, outputs.shape[2:], y)
        right = (outputs.argmax(-1) == y) & ~outputs.isnan().any(-1)  # NaN is no class
        return right.double().mean(1)
    values = [torch.as_tensor(metric(*pair)) for pair in zip(outputs, y, strict=True)]
    if any(value.ndim for value in values):
        raise ValueError(
            f"metric gave {list(values[0].shape)} for a task, not a scalar: take the mean"
        )
    return torch.stack(values)


def name_of(metric: Metric | None) -> str:
    return (
        ""
        if metric is None
        else getattr(metric, "__name__", type(metric).__name__).removesuffix("_loss")
    )


# ------------------------------------------------------------------------------- of all ranks


class Judged(NamedTuple):
    """What one rank has judged.

    Args:
        values: of every R-th block of tasks, if there are R ranks.
        metric: its name; "" where the rank had no block.
        first: the first block in words, which all ranks draw.
    """

    values: list[Tensor]
    metric: str
    first: str


def score_of(
    ranks: Ranks, judge: Callable[[], Judged], transductive: bool, of: str = "tasks"
) -> Score:
    every = ranks.gathered(judge)
    same_call(ranks, {"tasks": every[ranks.rank].first})
    rounds = zip_longest(*(judged.values for judged in every))
    values = [block for each in rounds for block in each if block is not None]
    return Score(torch.cat(values).double(), every[0].metric, transductive, of)
