"""Pairs of minibatches, one of each of two domains: what domain adaptation learns from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metanotes.data.episodes import Labelled, check_data
from metanotes.data.sampler import Sampler, check_positive
from metanotes.task import Batch, Task

UNLABELLED = -1  # the label of an example whose class is not to be seen


class PairSampler(Sampler):
    """The stream of pairs that `domain_pairs` returns."""

    def __init__(
        self,
        source: Labelled,
        target: Labelled,
        size: int,
        seed: int,
        device: torch.device | str,
    ):
        check_positive(size=size)
        for data in (source, target):
            check_data(data, None)
        shapes = tuple(source.x.shape[1:]), tuple(target.x.shape[1:])
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"source has inputs {list(shapes[0])} and target {list(shapes[1])}: an encoder "
                "takes both; resize one, or repeat its grey channel (x.expand(-1, 3, -1, -1))"
            )
        super().__init__(seed, device)
        self.source = Batch(source.x.detach().to(self.device), source.y.to(self.device))
        self.target = target.x.detach().to(self.device)
        self.size = size

    def config(self) -> dict[str, Any]:
        return {
            "kind": "domain_pairs",
            "size": self.size,
            "source examples": len(self.source.x),
            "target examples": len(self.target),
            "shape": tuple(self.target.shape[1:]),
            "seed": self.seed,
        }

    def _draw(self, tasks: int) -> Task:
        rows = self._rows(len(self.source.x), tasks)
        support = Batch(_real(self.source.x[rows]), self.source.y[rows])
        rows = self._rows(len(self.target), tasks)
        query = Batch(_real(self.target[rows]), torch.full_like(rows, UNLABELLED))
        return Task(support, query)

    def _rows(self, examples: int, tasks: int) -> Tensor:
        """Which examples, `[T, size]`."""
        shape = (tasks, self.size)
        rows = torch.randint(examples, shape, generator=self.generator, device="cpu")
        return rows.to(self.device)


def _real(x: Tensor) -> Tensor:
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def domain_pairs(
    source: Labelled,
    target: Labelled,
    size: int = 32,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> PairSampler:
    """Minibatches of a labelled source domain and of an unlabelled target domain.

    Args:
        source: inputs `.x` `[n, ...]` (uint8 in 0..255, or real numbers), class ids `.y` `[n]`.
        target: inputs of the same shape. Its labels are not looked at.
        size: examples of each domain in a minibatch, at least 1; drawn with replacement.
        seed: where the stream starts.
        device: where the data is kept.

    Returns:
        A sampler: `sampler(T)` is a `Task` of T pairs. The support set is the source's, x
        `[T, size, ...]` and y `[T, size]`; the query set the target's, with -1 for every label.

    Raises:
        ValueError: the inputs differ in shape, a domain is empty, or as of `episodes`.

    >>> from metanotes.data import digits
    >>> pairs = domain_pairs(digits("sklearn", "train"), digits("sklearn", "test"), size=16)
    >>> pairs(1).support.x.shape, pairs(1).query.y.unique()
    (torch.Size([1, 16, 1, 28, 28]), tensor([-1]))
    """
    return PairSampler(source, target, size, seed, device)
