"""Pairs of minibatches, one of each of two domains: what domain adaptation learns from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metanotes._ground import checks
from metanotes.data.labelled import Examples, Labelled, mapped
from metanotes.data.sampler import Sampler
from metanotes.task import UNLABELLED, Batch, Task

TOLERANCE = 1e-3  # beyond 0 and 1: what rounding and resizing add


class PairSampler(Sampler[Task]):
    """The stream of pairs that `domain_pairs` returns."""

    def __init__(
        self,
        source: Labelled,
        target: Labelled,
        size: int,
        seed: int,
        device: torch.device | str,
    ):
        super().__init__(seed, device)
        self.size = checks.count("size", size)
        self.source, self.target = (Examples(data, self.device) for data in (source, target))
        if self.source.shape != self.target.shape:
            raise ValueError(
                f"source has inputs {self.source.shape} and target {self.target.shape}: an encoder "
                "takes both; resize one, or repeat its grey channel (x.expand(-1, 3, -1, -1))"
            )
        _check_scales(self.source.x, self.target.x)

    def config(self) -> dict[str, Any]:
        return {
            "kind": "domain_pairs",
            "size": self.size,
            "source examples": len(self.source),
            "target examples": len(self.target),
            "shape": self.target.shape,
            "seed": self.seed,
        }

    def _draw(self, tasks: int) -> Task:
        rows = self._rows(self.source, tasks)
        support = Batch(self._inputs(self.source, rows), self.source.labels(rows).view(tasks, -1))
        rows = self._rows(self.target, tasks)
        hidden = torch.full((tasks, self.size), UNLABELLED, device=self.device)
        return Task(support, Batch(self._inputs(self.target, rows), hidden))

    def _rows(self, domain: Examples, tasks: int) -> Tensor:
        """Which examples, `[T * size]`."""
        shape = (tasks, self.size)
        return torch.randint(len(domain), shape, generator=self.generator, device="cpu").flatten()

    def _inputs(self, domain: Examples, rows: Tensor) -> Any:
        return mapped(domain.inputs(rows), lambda tensor: tensor.unflatten(0, (-1, self.size)))


def _check_scales(source: Any, target: Any) -> None:
    """Refuse inputs that differ in scale or type when they come out: bytes do as 0..1."""
    if isinstance(source, Mapping):
        return
    named = {"source": source, "target": target}
    for name, other in (("source", "target"), ("target", "source")):
        x, bytes_ = named[name], named[other]
        if bytes_.dtype != torch.uint8 or x.dtype == torch.uint8:
            continue
        low, high = x.min().item(), x.max().item()
        if low < -TOLERANCE or high > 1 + TOLERANCE:
            raise ValueError(
                f"{other}.x is torch.uint8, which comes as 0..1, and {name}.x is {x.dtype} from "
                f"{low:.4g} to {high:.4g}: divide it by 255 if these are bytes, or give both as "
                "real numbers on one scale"
            )
    types = [torch.float32 if x.dtype == torch.uint8 else x.dtype for x in named.values()]
    if types[0] != types[1]:
        raise ValueError(
            f"source.x comes as {types[0]} and target.x as {types[1]}: an encoder takes both; "
            "convert one of them (x.float())"
        )


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
        target: inputs of the same shape, type and scale: uint8 comes as 0..1, so that real numbers
            beside it are to be in 0..1 too. Its labels are not looked at.
        size: examples of each domain in a minibatch, at least 1; drawn with replacement.
        seed: where the stream starts.
        device: where the data is kept.

    Returns:
        A sampler: `sampler(T)` is a `Task` of T pairs. The support set is the source's, x
        `[T, size, ...]` and y `[T, size]`; the query set the target's, with -1 for every label.

    Raises:
        ValueError: the inputs differ in shape, or come in different types or scales (bytes beside
            real numbers in 0..255); a domain is empty; or data that `episodes` would not take.

    >>> from metanotes.data import digits
    >>> pairs = domain_pairs(digits("sklearn", "train"), digits("sklearn", "test"), size=16)
    >>> pairs(1).support.x.shape, pairs(1).query.y.unique()
    (torch.Size([1, 16, 1, 28, 28]), tensor([-1]))
    """
    return PairSampler(source, target, size, seed, device)
