"""Sine waves: the regression tasks of the MAML paper.

Task n is one wave, y = a_n sin(x + b_n), with its amplitude a_n and phase b_n drawn anew; its
support and query sets are points of that wave at x ~ U[-5, 5].
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metanotes._ground import checks
from metanotes.data.sampler import Count, Sampler, check_count, draw_count
from metanotes.task import Batch, Task


class Waves(NamedTuple):
    """Tasks, and the waves they were drawn from.

    Args:
        tasks: points of T waves.
        amplitude: a, `[T]`.
        phase: b, `[T]`, in radians.
    """

    tasks: Task
    amplitude: Tensor
    phase: Tensor


class SinusoidSampler(Sampler[Task]):
    """The stream of sine tasks that `sinusoid` returns."""

    def __init__(
        self,
        shots: Count,
        queries: Count,
        amplitude: tuple[float, float],
        phase: tuple[float, float],
        x_range: tuple[float, float],
        seed: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ):
        ranges = {"amplitude": amplitude, "phase": phase, "x_range": x_range}
        for name, (low, high) in ranges.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"{name}={(low, high)} is not a range; use finite (low, high)")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype={dtype} has no fractions; use torch.float32 or torch.float64")
        super().__init__(seed, device)
        self.shots, self.queries = check_count("shots", shots), check_count("queries", queries)
        self.dtype = dtype
        self.ranges = {name: (float(low), float(high)) for name, (low, high) in ranges.items()}

    def config(self) -> dict[str, Any]:
        counts = {"kind": "sinusoid", "shots": self.shots, "queries": self.queries}
        return counts | self.ranges | {"seed": self.seed}

    def draw(self, tasks: int) -> Waves:
        """The next tasks, as `sampler(tasks)` would draw them, with their amplitudes and phases.

        Args:
            tasks: how many, T >= 1.
        """
        tasks = checks.count("tasks", tasks)
        k, q = (draw_count(count, self.generator) for count in (self.shots, self.queries))
        a = self._uniform("amplitude", tasks, 1, 1)
        b = self._uniform("phase", tasks, 1, 1)
        x = self._uniform("x_range", tasks, k + q, 1)
        y = a * torch.sin(x + b)
        # Everything is drawn in float64 and rounded last: every dtype sees the same tasks.
        x, y, a, b = (tensor.to(self.device, self.dtype) for tensor in (x, y, a, b))
        support, query = Batch(x[:, :k], y[:, :k]), Batch(x[:, k:], y[:, k:])
        return Waves(Task(support, query), a.flatten(), b.flatten())

    def _draw(self, tasks: int) -> Task:
        return self.draw(tasks).tasks

    def _uniform(self, name: str, *shape: int) -> Tensor:
        low, high = self.ranges[name]
        unit = torch.rand(shape, generator=self.generator, dtype=torch.float64, device="cpu")
        return low + (high - low) * unit


def sinusoid(
    shots: Count = 10,
    queries: Count = 10,
    *,
    amplitude: tuple[float, float] = (0.1, 5.0),
    phase: tuple[float, float] = (0.0, math.pi),
    x_range: tuple[float, float] = (-5.0, 5.0),
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> SinusoidSampler:
    """Regression tasks, each one sine wave y = a sin(x + b).

    The sign is the notes'; the code of the MAML paper has a sin(x - b), which is the same family
    mirrored. It matters for what joint training learns, E[y|x]: with phases in [0, π] that is
    E[a] (2/π) cos x here (and minus that with the other sign), with phases in [0, 2π] it is 0.

    Args:
        shots: support points of a task, K >= 1; or a range `(low, high)` of such numbers, both ends
            included, from which one is drawn for every batch of tasks.
        queries: query points of a task, Q >= 1, or a range.
        amplitude: the range of a, drawn uniformly.
        phase: the range of b in radians, drawn uniformly; `(0, 2 * math.pi)` for the variant of
            the Reptile paper.
        x_range: the range of x, drawn uniformly.
        seed: where the stream of tasks starts.
        dtype: of x and y; the tasks are the same in each, up to rounding.
        device: where the tasks are put; they are the same on each.

    Returns:
        A sampler: `sampler(T)` is a `Task` with support x and y `[T, K, 1]`, query `[T, Q, 1]`, and
        `sampler.draw(T)` the same with the amplitudes and phases `[T]` beside it.

    Raises:
        ValueError: a count is not positive, a range is not one, or the device does not exist.

    Source: Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
    Networks", ICML 2017, section 5.1.

    >>> sines = sinusoid(shots=10, queries=15, seed=0)
    >>> tasks = sines(25)
    >>> tasks.support.x.shape, tasks.query.y.shape
    (torch.Size([25, 10, 1]), torch.Size([25, 15, 1]))
    >>> waves = sines.draw(25)
    >>> a, b = waves.amplitude[:, None, None], waves.phase[:, None, None]
    >>> x, y = waves.tasks.query
    >>> torch.allclose(y, a * torch.sin(x + b), atol=1e-5)
    True
    """
    return SinusoidSampler(shots, queries, amplitude, phase, x_range, seed, dtype, device)
