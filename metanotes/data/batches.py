"""Minibatches of all classes, for learners that take no episodes."""

from __future__ import annotations

from typing import Any

import torch

from metanotes.data.episodes import Labelled, Rotations, check_data, rotate
from metanotes.data.sampler import Sampler, check_positive
from metanotes.task import Batch, Task


class BatchSampler(Sampler):
    """The stream of minibatches that `batches` returns."""

    def __init__(
        self,
        data: Labelled,
        size: int,
        rotations: Rotations,
        seed: int,
        device: torch.device | str,
    ):
        check_positive(size=size)
        check_data(data, rotations)
        super().__init__(seed, device)
        self.x, self.y = data.x.detach().to(self.device), data.y.to(self.device)
        self.size, self.rotations = size, rotations

    def config(self) -> dict[str, Any]:
        return {
            "kind": "batches",
            "size": self.size,
            "rotations": self.rotations,
            "examples": len(self.x),
            "shape": tuple(self.x.shape[1:]),
            "seed": self.seed,
        }

    def _draw(self, tasks: int) -> Task:
        n = tasks * self.size
        rows = torch.randint(len(self.x), (n,), generator=self.generator, device="cpu")
        x, y = (t.index_select(0, rows.to(self.device)) for t in (self.x, self.y))
        if self.rotations is not None:
            turns = torch.randint(4, (n,), generator=self.generator, device="cpu")
            x = rotate(x, turns)
            if self.rotations == "classes":
                y = 4 * y + turns.to(self.device)
        if x.dtype == torch.uint8:
            x = x.float().div_(255)
        batch = Batch(*(t.unflatten(0, (tasks, self.size)) for t in (x, y)))
        return Task(batch, batch)


def batches(
    data: Labelled,
    size: int,
    *,
    rotations: Rotations = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> BatchSampler:
    """Minibatches of examples drawn from all classes, as ordinary training takes them.

    Args:
        data: anything with inputs `.x` `[n, ...]` (uint8 in 0..255, or real numbers) and integer
            class ids `.y` `[n]`.
        size: examples of a minibatch, at least 1; they are drawn with replacement.
        rotations: `"classes"` makes class c the four classes 4c to 4c + 3, one for each of 0, 90,
            180, 270 degrees; `"tasks"` turns each image by a random one of these; None, none.
        seed: where the stream starts.
        device: where the data is kept.

    Returns:
        A sampler: `sampler(T)` is a `Task` of T minibatches, x `[T, size, ...]` and y `[T, size]`,
        whose support and query sets are the same.

    Raises:
        ValueError: as of `episodes`.

    >>> from metanotes.data import glyphs
    >>> batches(glyphs("background"), size=32)(1).query.x.shape
    torch.Size([1, 32, 1, 28, 28])
    """
    return BatchSampler(data, size, rotations, seed, device)
