"""H q = b, with nothing of H but its products with vectors.

conjugate gradients (Hestenes and Stiefel 1952):  exact after |w| steps, H positive definite
Neumann series (Lorraine et al. 2020):            q = eta sum_{j < J} (I - eta H)^j b
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from metanotes.bilevel.problem import InnerProblemError

Product = Callable[[Tensor], Tensor]  # p [n] -> H p [n]

SINGULAR = (
    "the inner Hessian is singular or not positive definite at w, so that the minimiser of the "
    "inner loss is not unique, or w is none; add a penalty to the inner loss, or set damping"
)


def conjugate_gradient(
    product: Product, b: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, float]:
    """q `[n]` with |b - H q| <= tolerance |b|, and that ratio.

    Raises:
        InnerProblemError: a direction without positive curvature was met, or the tolerance was not.
    """
    q, r, p = torch.zeros_like(b), b.clone(), b.clone()
    rr = start = torch.dot(r, r).item()
    tiny, largest, taken = 10 * torch.finfo(b.dtype).eps, 0.0, 0
    while rr > tolerance**2 * start and taken < iterations:
        Hp = product(p)
        curvature, length = torch.dot(p, Hp).item(), torch.dot(p, p).item()
        largest = max(largest, curvature / length)
        if not curvature > tiny * largest * length:
            raise InnerProblemError(SINGULAR)
        q.add_(p, alpha=rr / curvature)
        r.sub_(Hp, alpha=rr / curvature)
        rr, before = torch.dot(r, r).item(), rr
        p.mul_(rr / before).add_(r)
        taken += 1
    residual = math.sqrt(rr / start) if start else 0.0
    if not residual <= tolerance:
        raise InnerProblemError(
            f"conjugate gradients left a residual of {residual:.1e} after {taken} iterations, "
            f"above the tolerance of {tolerance:.1e}: more iterations, a larger tolerance or "
            f"damping may help; or {SINGULAR}"
        )
    return q, residual


def neumann_series(
    product: Product, b: Tensor, iterations: int, tolerance: float, lr: float
) -> tuple[Tensor, float]:
    """The sum of `iterations` terms, and |b - H q| / |b| of one term less.

    Raises:
        InnerProblemError: the terms grow, or the tolerance was not reached.
    """
    term, total = b.clone(), b.clone()
    for _ in range(iterations - 1):
        term = term.sub_(product(term), alpha=lr)
        total += term
    start = b.norm().item()
    residual = term.norm().item() / start if start else 0.0
    if not residual <= 1 + 1e-6:
        raise InnerProblemError(
            f"the Neumann series diverges: after {iterations} terms its terms are {residual:.3g} "
            f"times as large as the first; a smaller lr than {lr:g} may help; or the inner Hessian "
            "is not positive definite at w"
        )
    if not residual <= tolerance:
        raise InnerProblemError(
            f"the Neumann series left a residual of {residual:.1e} after {iterations} terms, above "
            f"the tolerance of {tolerance:.1e}; take more, or method='cg'; or {SINGULAR}"
        )
    return total.mul_(lr), residual
