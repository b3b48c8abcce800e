"""Quadratic functions of several variables: the regression tasks of Hochreiter et al. (2001).

Task n is one function, y = sum_{i <= j} a_ij x_i x_j + sum_i b_i x_i + c, its coefficients drawn
anew from U[-1, 1]; its examples are points of it at x ~ U[-1, 1]^dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metanotes._ground import checks
from metanotes.data.sampler import Count, Sampler, check_count, draw_count
from metanotes.task import Batch, Task


def monomials(x: Tensor) -> Tensor:
    """The products x_i x_j for i <= j, the x_i, and 1: `[..., dim]` to `[..., (dim+1)(dim+2)/2]`.

    >>> monomials(torch.tensor([2.0, 3.0])).tolist()
    [4.0, 6.0, 9.0, 2.0, 3.0, 1.0]
    """
    i, j = torch.triu_indices(x.shape[-1], x.shape[-1], device=x.device)
    return torch.cat([x[..., i] * x[..., j], x, torch.ones_like(x[..., :1])], -1)


class SurfaceSampler(Sampler[Task]):
    """The stream of quadratic functions that `surfaces` returns."""

    def __init__(
        self,
        shots: Count,
        queries: Count,
        dim: int,
        scale: float,
        seed: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ):
        super().__init__(seed, device)
        self.shots, self.queries = check_count("shots", shots), check_count("queries", queries)
        self.dim, self.scale = checks.count("dim", dim), checks.positive("scale", scale)
        self.dtype = dtype

    def config(self) -> dict[str, Any]:
        counts = {"shots": self.shots, "queries": self.queries, "dim": self.dim}
        return {"kind": "surfaces"} | counts | {"scale": self.scale, "seed": self.seed}

    def _draw(self, tasks: int) -> Task:
        k, q = (draw_count(count, self.generator) for count in (self.shots, self.queries))
        terms = (self.dim + 1) * (self.dim + 2) // 2
        a = self.scale * self._uniform(tasks, terms, 1)
        x = self._uniform(tasks, k + q, self.dim)
        y = monomials(x) @ a
        x, y = (t.to(self.device, self.dtype) for t in (x, y))
        return Task(Batch(x[:, :k], y[:, :k]), Batch(x[:, k:], y[:, k:]))

    def _uniform(self, *shape: int) -> Tensor:
        unit = torch.rand(shape, generator=self.generator, dtype=torch.float64, device="cpu")
        return 2 * unit - 1


def surfaces(
    shots: Count = 30,
    queries: Count = 10,
    *,
    dim: int = 2,
    scale: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> SurfaceSampler:
    """Regression tasks, each one quadratic function with random coefficients.

    Args:
        shots: support points of a task, at least 1; or a range `(low, high)` of such numbers, both
            ends included, from which one is drawn for every batch of tasks.
        queries: query points of a task, at least 1, or a range.
        dim: variables of the function.
        scale: coefficients are drawn from U[-scale, scale].
        seed: where the stream of tasks starts.
        dtype: of x and y; the tasks are the same in each, up to rounding.
        device: where the tasks are put; they are the same on each.

    Returns:
        A sampler: `sampler(T)` is a `Task` with support x `[T, shots, dim]` and y `[T, shots, 1]`.

    Raises:
        ValueError: a count or `scale` is not positive, or the device does not exist.

    Source: Hochreiter, Younger and Conwell, "Learning to Learn Using Gradient Descent", ICANN 2001.

    >>> tasks = surfaces(shots=30, queries=10, seed=0)(25)
    >>> tasks.support.x.shape, tasks.query.y.shape
    (torch.Size([25, 30, 2]), torch.Size([25, 10, 1]))
    """
    return SurfaceSampler(shots, queries, dim, scale, seed, dtype, device)
