"""Sets of points in the plane: each set drawn from one distribution, which is its only theme.

Set n has a family (normal, uniform, Laplace, ring), a center and a spread along each axis; its
points are center + spread * u, with u of the family, of mean 0 and variance 1 along each axis.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metanotes._ground import checks
from metanotes.data.sampler import Count, Sampler, check_count, draw_count
from metanotes.task import Batch, Task

FAMILIES = ("normal", "uniform", "laplace", "ring")


class PointSets(NamedTuple):
    """Sets of points, and what they were drawn from.

    Args:
        tasks: T sets, as tasks of a single class.
        family: a number in 0..3, `[T]`: normal, uniform, Laplace, ring.
        center: the mean, `[T, 2]`.
        spread: the standard deviation along each axis, `[T, 2]`.
    """

    tasks: Task
    family: Tensor
    center: Tensor
    spread: Tensor


class PointSetSampler(Sampler[Task]):
    """The stream of sets that `point_sets` returns."""

    def __init__(
        self,
        shots: Count,
        queries: Count,
        seed: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ):
        super().__init__(seed, device)
        self.shots, self.queries = check_count("shots", shots), check_count("queries", queries)
        self.dtype = dtype

    def config(self) -> dict[str, Any]:
        counts = {"shots": self.shots, "queries": self.queries}
        return {"kind": "point_sets"} | counts | {"seed": self.seed}

    def draw(self, tasks: int) -> PointSets:
        """The next sets, as `sampler(tasks)` would draw them, with what they were drawn from.

        Args:
            tasks: how many, T >= 1.
        """
        tasks = checks.count("tasks", tasks)
        k, q = (draw_count(count, self.generator) for count in (self.shots, self.queries))
        family = torch.randint(len(FAMILIES), (tasks,), generator=self.generator, device="cpu")
        center = 2 * self._uniform(tasks, 2) - 1
        spread = 0.3 + 1.2 * self._uniform(tasks, 2)
        shape = (tasks, k + q, 2)
        normal = torch.randn(shape, generator=self.generator, dtype=torch.float64, device="cpu")
        unit = self._uniform(*shape)
        folded = (2 * unit - 1).sign() * (1 - (2 * unit - 1).abs()).log()
        angle = 2 * math.pi * unit[..., :1]
        of_family = torch.stack(
            [
                normal,
                math.sqrt(12) * (unit - 0.5),
                folded / math.sqrt(2),
                math.sqrt(2) * torch.cat([angle.cos(), angle.sin()], 2),
            ]
        )
        u = of_family[family, torch.arange(tasks, device="cpu")]  # [T, K+Q, 2]
        x = center[:, None] + spread[:, None] * u
        x, center, spread = (t.to(self.device, self.dtype) for t in (x, center, spread))
        y = torch.zeros(tasks, k + q, dtype=torch.long, device=self.device)
        both = Task(Batch(x[:, :k], y[:, :k]), Batch(x[:, k:], y[:, k:]))
        return PointSets(both, family.to(self.device), center, spread)

    def _draw(self, tasks: int) -> Task:
        return self.draw(tasks).tasks

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64, device="cpu")


def point_sets(
    shots: Count = 50,
    queries: Count = 50,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> PointSetSampler:
    """Sets of points in the plane, each from one distribution of four families.

    The families are the normal, the uniform and the Laplace distribution, along each axis by
    itself, and a ring. The mean is drawn from U[-1, 1]^2, the standard deviation along each axis
    from U[0.3, 1.5], so that neither tells the family.

    Args:
        shots: points in the support part of a set, at least 1, or a range `(low, high)` of such
            numbers, both ends included.
        queries: points in its query part, at least 1, or a range.
        seed: where the stream of sets starts.
        dtype: of the points; they are the same in each, up to rounding.
        device: where the sets are put; they are the same on each.

    Returns:
        A sampler: `sampler(T)` is a `Task` with support x `[T, shots, 2]`, and y `[T, shots]`, all
        zero: a set is a class, and a task has only one. `sampler.draw(T)` is the same with the
        families, means and spreads beside it.

    Raises:
        ValueError: a count is not positive, or the device does not exist.

    Source: after Edwards and Storkey, "Towards a Neural Statistician", ICLR 2017, section 5.1, who
    have distributions on a line.

    >>> sets = point_sets(shots=20, queries=30, seed=0).draw(16)
    >>> sets.tasks.support.x.shape, sets.family.shape
    (torch.Size([16, 20, 2]), torch.Size([16]))
    """
    return PointSetSampler(shots, queries, seed, dtype, device)
