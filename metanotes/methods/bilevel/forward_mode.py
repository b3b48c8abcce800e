"""The hypergradient along the path of the descent, from its start to its end.

    Z_0 = dPhi_0/dlambda,  Z_t = A_t Z_{t-1} + B_t;   p = grad_lambda E + grad_w E Z_T           (1)

A row of Z_t is the derivative of w_t along one hyperparameter. With g = grad_w L, that of the step
v' = mu v + g, w' = w - eta v' is

    dv' = mu dv + dmu v + dg,    dw' = dw - eta dv' - deta v'                                    (2)

and dg, along dw and dlambda, is a gradient itself, since second derivatives are symmetric:

    dg = grad_w (<grad_w L, dw> + <grad_lambda L, dlambda>)                                      (3)

So that all of it is ordinary autograd, the rows batched where that gives what a loop gives.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vmap

from metanotes.methods.bilevel.problem import Hypergradient, Problem, refuse_independent
from metanotes.methods.bilevel.trees import requiring_grad
from metanotes.methods.bilevel.unrolled import step


def forward(problem: Problem, hypers: list[Tensor]) -> Hypergradient:
    """Z_t, tensors `[Q, *shape of w]` for Q hyperparameters, along with w_t."""
    sizes = [t.numel() for t in hypers]
    basis = [
        rows.T.reshape(sum(sizes), *t.shape).to(t)
        for rows, t in zip(torch.eye(sum(sizes)).split(sizes), hypers, strict=True)
    ]
    start = problem.start(hypers)
    w, Z, batched = [t.detach() for t in start.w], derivatives(start.w, hypers, basis), True
    rates, d_rates = start.rates(), derivatives(start.rates(), hypers, basis)
    v, d_v = list[Tensor](), list[Tensor]()
    losses: list[Tensor] = []
    for t in range(problem.steps):
        w = requiring_grad(w)
        loss = problem.inner_loss(w, problem.hyper(hypers))
        inputs = [*w, *hypers]
        g: list[Tensor | None] = [None] * len(inputs)
        if loss.requires_grad:
            g = list(torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True))
        refuse_independent(g[: len(w)])
        pairs = [
            (d, row)
            for d, row in zip(g, [*Z, *basis], strict=True)
            if d is not None and d.requires_grad
        ]
        outputs, rows = [d for d, _ in pairs], [row for _, row in pairs]
        if t == 0:
            batched = can_be_batched(outputs, w)
        dg = each_row(outputs, w, rows, batched, sum(sizes))  # (3)
        gradient = [
            torch.zeros_like(x) if d is None else d.detach()
            for x, d in zip(w, g[: len(w)], strict=True)
        ]
        now = [(rate[t] if rate.ndim else rate).detach() for rate in rates]
        d_now = [d[:, t] if d.ndim > 1 else d for d in d_rates]
        lr, momentum = now[0], now[1] if len(now) > 1 else None
        w_next, v_next = step([x.detach() for x in w], v, gradient, lr, momentum)
        if v and momentum is not None:  # (2), from the second step on: v_0 = 0
            dg = [
                momentum * dv + _times(d_now[1], x) + d for dv, x, d in zip(d_v, v, dg, strict=True)
            ]
        Z = [
            dw - lr * d - _times(d_now[0], x)
            for dw, d, x in zip(Z, dg, v_next or gradient, strict=True)
        ]
        w, v, d_v = w_next, v_next, dg
        losses.append(loss.detach())
    path_losses = torch.stack(losses) if losses else w[0].new_zeros(0)
    problem.check_descent(w, path_losses, start.lr)
    value, a, p = problem.outer_gradient(w, hypers)
    along = sum(
        (x.reshape(len(x), y.numel()) @ y.flatten() for x, y in zip(Z, a, strict=True)),
        start=torch.zeros((), device=w[0].device),
    )
    p = [x + part.view_as(x).to(x) for x, part in zip(p, along.split(sizes), strict=True)]
    return Hypergradient(p, w, value, path_losses)


def _times(rows: Tensor, x: Tensor) -> Tensor:
    """A number a row, `[Q]`, times a tensor: `[Q, *shape]`."""
    return rows.to(x).view(-1, *[1] * x.ndim) * x


def derivatives(
    outputs: list[Tensor], inputs: list[Tensor], directions: list[Tensor]
) -> list[Tensor]:
    """The derivatives of the outputs along each direction, `[Q, *shape]`.

    A vector-Jacobian product is linear in its vector u, and its derivative in u is the Jacobian.
    """
    u = [torch.zeros_like(o).requires_grad_() for o in outputs]
    rows = len(directions[0])
    pairs = [(o, d) for o, d in zip(outputs, u, strict=True) if o.requires_grad]
    if not pairs:
        return [o.new_zeros(rows, *o.shape) for o in outputs]
    products = torch.autograd.grad(
        [o for o, _ in pairs], inputs, [d for _, d in pairs], create_graph=True, allow_unused=True
    )
    used = [(p, d) for p, d in zip(products, directions, strict=True) if p is not None]
    linear, along = [p for p, _ in used], [d for _, d in used]
    return each_row(linear, u, along, can_be_batched(linear, u), rows)


def each_row(
    outputs: list[Tensor], inputs: list[Tensor], rows: list[Tensor], batched: bool, count: int
) -> list[Tensor]:
    """The cotangents of the inputs, `[Q, *shape]`, for each of Q rows of those of the outputs."""
    if not outputs:
        return [x.new_zeros(count, *x.shape) for x in inputs]

    def pulled(*row: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(outputs, inputs, row, retain_graph=True, materialize_grads=True)

    if batched:
        return list(vmap(pulled)(*rows))
    each = [pulled(*row) for row in zip(*rows, strict=True)]
    return [torch.stack(parts) for parts in zip(*each, strict=True)]


def can_be_batched(outputs: list[Tensor], inputs: list[Tensor]) -> bool:
    """Whether vmap gives the cotangents of the inputs as a loop does: tried on two rows.

    Not every operation can be batched, and torch has batched some of them wrongly.
    """
    if not outputs:
        return True
    rows = [
        torch.arange(2 * o.numel(), device=o.device).cos().view(2, *o.shape).to(o) for o in outputs
    ]
    try:
        batched = each_row(outputs, inputs, rows, True, 2)
    except (RuntimeError, NotImplementedError):
        return False
    plain = each_row(outputs, inputs, rows, False, 2)
    for b, p in zip(batched, plain, strict=True):
        rounding = torch.finfo(p.dtype).eps ** 0.5 * p.abs().amax() if p.numel() else 0.0
        if ((b - p).abs() > rounding).any():
            return False
    return True
