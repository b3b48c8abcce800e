"""The exact answer, where the tasks are drawn from a Gaussian process: what a learner can reach.

    f ~ GP(0, k),    y_i = f(x_i) + noise
    E[f(x) | D]   = k(x, X) (K + s^2 I)^-1 y                                                     (1)
    Var[f(x) | D] = k(x, x) - k(x, X) (K + s^2 I)^-1 k(X, x)

with K = k(X, X) and s^2 the variance of the noise. No other function of D has a smaller mean
squared error over tasks than (1). What it needs is k, the law of the tasks, which other learners
have to find out from tasks. Three laws:

    k(x, z) = x.z              y = w.x, w ~ N(0, I): (1) is ridge regression with the penalty s^2
    k(x, z) = cos(x - z)       y = u sin x + v cos x, u and v ~ N(0, 1): waves of random phase
    k(x, z) = exp(-|x - z|^2 / 2 d^2)      any smooth function

Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning", MIT Press 2006, equations
(2.25) and (2.26).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal

from metanotes._ground.checks import positive
from metanotes.learner import Learner, check_targets, mse
from metanotes.task import Batch
from metanotes.theta import over_tasks

Kernel = Callable[[Tensor, Tensor], Tensor]


class Conditioned(NamedTuple):
    """What `GaussianProcess` keeps of the support set.

    Args:
        x: its inputs X, `[T, N, inputs]`.
        root: L with L L^T = K + s^2 I, `[T, N, N]`.
        weights: (K + s^2 I)^-1 y, `[T, N, outputs]`.

    >>> support = Batch(torch.randn(3, 5, 2), torch.randn(3, 5, 1))
    >>> GaussianProcess(lambda x, z: x @ z.mT, noise=0.1).adapt(support).root.shape
    torch.Size([3, 5, 5])
    """

    x: Tensor
    root: Tensor
    weights: Tensor


class GaussianProcess(Learner):
    """Answers with the posterior mean (1). Nothing in it is learned.

    On the map:
        phi: nothing
        adapts: the solution of a linear system
        outer loss: none
        needs: the law that the tasks are drawn from

    Args:
        kernel: k of one task, from x `[N, inputs]` and z `[M, inputs]` to `[N, M]`.
        noise: s, the standard deviation of the noise in y, above 0. In float32 one below a
            hundredth of what K is made of loses its meaning; take float64.

    Raises:
        ValueError: noise that is not above 0, targets that are labels, or a kernel that is none.

    Source: see the module's.

    >>> from metanotes import evaluate
    >>> from metanotes.data import linear_functions
    >>> ridge = GaussianProcess(lambda x, z: x @ z.mT, noise=0.3)
    >>> evaluate(ridge, linear_functions(shots=20, dim=2, noise=0.3), tasks=50).mean < 0.03
    True
    """

    def __init__(self, kernel: Kernel, noise: float) -> None:
        super().__init__(mse)
        self.kernel, self.noise = kernel, positive("noise", noise)

    def adapt(self, support: Batch, steps: int | None = None) -> Conditioned:
        """The support set, and what (1) needs of it."""
        x, y = support
        check_targets(mse, y.shape[2:], y)
        K = over_tasks(self.kernel)(x, x)  # [T, N, N]
        if K.shape != (*x.shape[:2], x.shape[1]) or y.ndim != 3:
            raise ValueError(
                f"the kernel gives {list(K.shape[1:])} for {x.shape[1]} examples, whose targets "
                f"are {list(y.shape[2:])}: it maps [N, inputs] and [M, inputs] to [N, M], and "
                "targets are vectors"
            )
        if not torch.allclose(K, K.mT, rtol=1e-3, atol=1e-6 * float(K.abs().max())):
            raise ValueError(
                "the kernel gives another number for (x, z) than for (z, x): it must be symmetric"
            )
        root = torch.linalg.cholesky(K + self.noise**2 * torch.eye(x.shape[1]).to(K))
        return Conditioned(x, root, torch.cholesky_solve(y, root))

    def predict(self, adapted: Conditioned, x: Tensor) -> Tensor:
        """The posterior mean: `[T, M, inputs]` to `[T, M, outputs]`."""
        return over_tasks(self.kernel)(x, adapted.x) @ adapted.weights

    def distribution(self, adapted: Conditioned, x: Tensor) -> Normal:
        """The posterior of f(x) at each query by itself, a normal distribution `[T, M, outputs]`.

        A y has the noise besides: its variance is greater by s^2.
        """
        k = over_tasks(self.kernel)(x, adapted.x)  # [T, M, N]
        k_xx = over_tasks(self.kernel)(x, x).diagonal(dim1=1, dim2=2)  # [T, M]
        solved = torch.linalg.solve_triangular(adapted.root, k.mT, upper=False)
        sd = (k_xx - solved.square().sum(1)).clamp(min=0).sqrt()[..., None]
        mean = k @ adapted.weights
        return Normal(mean, sd.expand_as(mean), validate_args=False)
