"""Linear functions with noise: regression tasks whose best answer is known, ridge regression.

Task n is one function, y = w_n . x + noise, its weights w_n ~ N(0, I) drawn anew; its examples have
x ~ N(0, scale^2 I).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metanotes._ground import checks
from metanotes.data.sampler import Count, Sampler, check_count, draw_count
from metanotes.task import Batch, Task


class LinearFunctionSampler(Sampler[Task]):
    """The stream of linear functions that `linear_functions` returns."""

    def __init__(
        self,
        shots: Count,
        queries: Count,
        dim: int,
        noise: float,
        scale: float,
        seed: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ):
        super().__init__(seed, device)
        self.shots, self.queries = check_count("shots", shots), check_count("queries", queries)
        self.dim, self.scale = checks.count("dim", dim), checks.positive("scale", scale)
        self.noise, self.dtype = checks.nonnegative("noise", noise), dtype

    def config(self) -> dict[str, Any]:
        counts = {"shots": self.shots, "queries": self.queries, "dim": self.dim}
        numbers = {"noise": self.noise, "scale": self.scale, "seed": self.seed}
        return {"kind": "linear_functions"} | counts | numbers

    def _draw(self, tasks: int) -> Task:
        k, q = (draw_count(count, self.generator) for count in (self.shots, self.queries))
        w = self._normal(tasks, self.dim, 1)
        x = self.scale * self._normal(tasks, k + q, self.dim)
        y = x @ w
        y[:, :k] += self.noise * self._normal(tasks, k, 1)
        x, y = (t.to(self.device, self.dtype) for t in (x, y))
        return Task(Batch(x[:, :k], y[:, :k]), Batch(x[:, k:], y[:, k:]))

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64, device="cpu")


def linear_functions(
    shots: Count = 10,
    queries: Count = 10,
    *,
    dim: int = 2,
    noise: float = 0.3,
    scale: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> LinearFunctionSampler:
    """Regression tasks, each one linear function y = w . x, seen through noise.

    The noise is in the support set only: a query's target is w . x itself, so that the error of an
    answer is the answer's own. The best answer is ridge regression with the penalty noise^2.

    Args:
        shots: support points of a task, at least 1; or a range `(low, high)` of such numbers, both
            ends included, from which one is drawn for every batch of tasks.
        queries: query points of a task, at least 1, or a range.
        dim: variables of the function.
        noise: standard deviation of what is added to a support point's target, at least 0.
        scale: standard deviation of each variable.
        seed: where the stream of tasks starts.
        dtype: of x and y; the tasks are the same in each, up to rounding.
        device: where the tasks are put; they are the same on each.

    Returns:
        A sampler: `sampler(T)` is a `Task` with support x `[T, shots, dim]` and y `[T, shots, 1]`.

    Raises:
        ValueError: a count or `scale` is not positive, `noise` is negative, or the device does not
            exist.

    Source: Garg, Tsipras, Liang and Valiant, "What Can Transformers Learn In-Context?", NeurIPS
    2022, section 3.

    >>> tasks = linear_functions(shots=(1, 12), queries=20, dim=3, seed=0)(25)
    >>> tasks.query.x.shape, tasks.query.y.shape
    (torch.Size([25, 20, 3]), torch.Size([25, 20, 1]))
    """
    return LinearFunctionSampler(shots, queries, dim, noise, scale, seed, dtype, device)
