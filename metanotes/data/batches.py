"""Minibatches of all classes, for learners that take no episodes."""

from __future__ import annotations

from typing import Any

import torch

from metanotes._ground import checks
from metanotes.data.labelled import Examples, Labelled, Rotations, mapped
from metanotes.data.sampler import Sampler
from metanotes.task import Batch, Task


class BatchSampler(Sampler[Task]):
    """The stream of minibatches that `batches` returns."""

    def __init__(
        self,
        data: Labelled,
        size: int,
        rotations: Rotations,
        seed: int,
        device: torch.device | str,
    ):
        super().__init__(seed, device)
        self.size = checks.count("size", size)
        self.examples = Examples(data, self.device, rotations)

    def config(self) -> dict[str, Any]:
        return {
            "kind": "batches",
            "size": self.size,
            "rotations": self.examples.rotations,
            "examples": len(self.examples),
            "shape": self.examples.shape,
            "seed": self.seed,
        }

    def _draw(self, tasks: int) -> Task:
        n, rotations = tasks * self.size, self.examples.rotations
        rows = torch.randint(len(self.examples), (n,), generator=self.generator, device="cpu")
        y, turns = self.examples.labels(rows), None
        if rotations is not None:
            turns = torch.randint(4, (n,), generator=self.generator, device="cpu")
            if rotations == "classes":
                y = 4 * y + turns.to(self.device)
        x = self.examples.inputs(rows, turns)
        shape = (tasks, self.size)
        batch = Batch(mapped(x, lambda tensor: tensor.unflatten(0, shape)), y.view(shape))
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
        data: anything with inputs `.x` `[n, ...]` (uint8 in 0..255, or real numbers), or a dict of
            such tensors, and integer class ids `.y` `[n]`.
        size: examples of a minibatch, at least 1; they are drawn with replacement.
        rotations: `"classes"` makes class c the four classes 4c to 4c + 3, one for each of 0, 90,
            180, 270 degrees; `"tasks"` turns each image by a random one of these; None, none.
        seed: where the stream starts.
        device: where the data is kept.

    Returns:
        A sampler: `sampler(T)` is a `Task` of T minibatches, x `[T, size, ...]` and y `[T, size]`,
        whose support and query sets are the same.

    Raises:
        ValueError: `size` is not positive, or the data is not as `episodes` takes it.

    >>> from metanotes.data import glyphs
    >>> batches(glyphs("background"), size=32)(1).query.x.shape
    torch.Size([1, 32, 1, 28, 28])
    """
    return BatchSampler(data, size, rotations, seed, device)
