"""Sequences: examples of a few classes one after the other, for learners with a memory.

    at step t    in: x_t and y_{t-1}    out: y_t

The label comes one step late, so that it has to be kept, with what it belongs to, until the class
is shown again. Which class is called 0, which 1, ... is drawn anew for every sequence (Santoro et
al. 2016, section 2), and how well a learner does is told by presentation: at a class's first it can
only guess.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from metanotes._ground import checks
from metanotes.data.labelled import ExamplesByClass, Labelled, Rotations, mapped
from metanotes.data.sampler import Sampler, draw_uniform
from metanotes.task import Sequences


class SequenceSampler(Sampler[Sequences]):
    """The stream of sequences that `sequences` returns."""

    def __init__(
        self,
        data: Labelled,
        ways: int,
        length: int,
        rotations: Rotations,
        seed: int,
        device: torch.device | str,
    ):
        super().__init__(seed, device)
        self.ways, self.length = checks.count("ways", ways), checks.count("length", length)
        if self.length < self.ways:
            raise ValueError(
                f"length={length} is too short to show ways={ways} classes; use a length of at "
                f"least {ways}, and of {2 * ways} or more for each to be shown again"
            )
        self.examples = ExamplesByClass(data, self.device, rotations)
        self.examples.check(
            self.ways, self._shows(), f"length={self.length} of ways={self.ways} asks for"
        )

    def _shows(self) -> int:
        """How often a class is shown at most."""
        return -(-self.length // self.ways)

    def config(self) -> dict[str, Any]:
        return {
            "kind": "sequences",
            "ways": self.ways,
            "length": self.length,
            "rotations": self.examples.rotations,
            "classes": self.examples.classes,
            "examples": len(self.examples),
            "shape": self.examples.shape,
            "seed": self.seed,
        }

    def _draw(self, tasks: int) -> Sequences:
        rows, turns = self.examples.draw(tasks, self.ways, self._shows(), self.generator)
        y = self._labels(tasks)  # [T, L]
        shown = one_hot(y, self.ways)  # [T, L, N]
        presentation = shown.cumsum(1).gather(2, y[..., None]).squeeze(2)  # [T, L]
        task = torch.arange(tasks, device="cpu")[:, None]
        rows, turns = rows[task, y, presentation - 1], turns.gather(1, y)  # [T, L]
        x = self.examples.inputs(rows.flatten(), turns.flatten())
        x = mapped(x, lambda tensor: tensor.unflatten(0, (tasks, self.length)))
        real = isinstance(x, Tensor) and x.is_floating_point()
        previous = shown.roll(1, 1).to(self.device, x.dtype if real else torch.float32)
        previous[:, 0] = 0
        return Sequences(x, y.to(self.device), previous, presentation.to(self.device))

    def _labels(self, tasks: int) -> Tensor:
        """Each class as often as another, and where that does not come out, some once more."""
        rounds, rest = divmod(self.length, self.ways)
        y = torch.arange(self.ways, device="cpu").repeat(tasks, rounds)
        more = draw_uniform(self.generator, tasks, self.ways).topk(rest).indices  # [T, rest]
        y = torch.cat([y, more], 1)
        return y.gather(1, draw_uniform(self.generator, *y.shape).argsort(1))


def sequences(
    data: Labelled,
    ways: int,
    length: int,
    *,
    rotations: Rotations = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> SequenceSampler:
    """Sequences of examples of a few classes, each with the label of the step before.

    In every sequence the classes are drawn without replacement, in random order, and so are the
    examples of each. All classes are shown equally often, or where `length` is no multiple of
    `ways`, some of them once more; the steps are in random order.

    Args:
        data: anything with inputs `.x` `[n, ...]` (uint8 in 0..255, or real numbers), or a dict of
            such tensors, and integer class ids `.y` `[n]`.
        ways: classes of a sequence, N, at most the classes of `data`.
        length: examples of a sequence, L, from N to N times the examples of the smallest class.
        rotations: as of `episodes`.
        seed: where the stream starts.
        device: where the data is kept and the sequences are put; they are the same on each.

    Returns:
        A sampler: `sampler(T)` is `Sequences`, x `[T, L, ...]`, y `[T, L]` (int64 in 0..N-1), the
        previous labels as ones and zeros `[T, L, N]`, all zeros at the first step, and the
        presentations `[T, L]`, 1 where a class is shown for the first time.

    Raises:
        ValueError: more ways than classes, a length that the examples do not allow or that is below
            `ways`, or data that `episodes` would not take.

    Source: Santoro et al., "Meta-Learning with Memory-Augmented Neural Networks", ICML 2016, whose
    sequences have 5 classes and 50 examples.

    >>> from metanotes.data import glyphs
    >>> drawn = sequences(glyphs("background"), ways=5, length=50)(16)
    >>> drawn.x.shape, drawn.previous.shape
    (torch.Size([16, 50, 1, 28, 28]), torch.Size([16, 50, 5]))
    >>> torch.equal(drawn.previous[:, 1:].argmax(-1), drawn.y[:, :-1])
    True
    >>> (drawn.presentation == 10).sum(1).unique()              # each of the five, ten times
    tensor([5])
    """
    return SequenceSampler(data, ways, length, rotations, seed, device)
