"""The hypergradient at a minimiser of the inner loss, where the path does not matter.

    p = grad_lambda E - q d2L/dw dlambda,    H q = grad_w E,    H = d2L/dw2

q is found with nothing of H but its products with vectors:

conjugate gradients (Hestenes and Stiefel 1952):  exact after as many steps as w has numbers
Neumann series (Lorraine et al. 2020):            q = eta sum_{j < J} (I - eta H)^j b
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from metanotes.methods.bilevel.problem import (
    Hypergradient,
    InnerProblemError,
    Problem,
    Start,
)
from metanotes.methods.bilevel.trees import requiring_grad, vjp
from metanotes.methods.bilevel.unrolled import InnerPath

Product = Callable[[Tensor], Tensor]  # p [n] -> H p [n]

SINGULAR = (
    "the inner Hessian is singular or not positive definite at w, so that the minimiser of the "
    "inner loss is not unique, or w is none of them; add a penalty to it, or set damping"
)


def implicit(
    problem: Problem,
    start: Start,
    path: InnerPath,
    hypers: list[Tensor],
    method: str,
    iterations: int,
    tolerance: float | None,
    damping: float,
) -> Hypergradient:
    """H^-1 grad_w E without H, then one product with the mixed derivatives."""
    value, a, p = problem.outer_gradient(path.w, hypers)
    w = requiring_grad(path.w)
    _, g = problem.inner_gradient(w, problem.hyper(hypers), create_graph=True)
    sizes = [t.numel() for t in w]

    def parts(vector: Tensor) -> list[Tensor]:
        return [part.view_as(t).to(t) for part, t in zip(vector.split(sizes), w, strict=True)]

    def product(vector: Tensor) -> Tensor:
        image = _flat(vjp(g, w, parts(vector), retain=True))
        return image.add_(vector, alpha=damping) if damping else image

    b = _flat(a)
    if method == "cg":
        exact = 1e-10 if b.dtype == torch.float64 else 1e-4
        q, residual = conjugate_gradient(
            product, b, iterations, exact if tolerance is None else tolerance
        )
    else:
        if not start.lr.numel() or not start.lr.flatten()[-1] > 0:
            raise ValueError(f"method='neumann' needs an lr above 0, not {start.lr.tolist()}")
        lr = start.lr.flatten()[-1].item()
        q, residual = neumann_series(
            product, b, iterations, math.inf if tolerance is None else tolerance, lr
        )
    p = [x - y for x, y in zip(p, vjp(g, hypers, parts(q)), strict=True)]
    return Hypergradient(p, path.w, value, path.losses, residual)


def conjugate_gradient(
    product: Product, b: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, float]:
    """q `[n]`, its residual norm(b - H q) / norm(b) at most the tolerance, and that residual.

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
    """The sum of `iterations` terms, and the residual norm(b - H q) / norm(b) of one term less.

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


def _flat(x: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in x])
