"""The gradient of a loss after learning, in what learning held fixed.

    f(lambda) = E(w_T, lambda),    w_0 = Phi_0(lambda),    w_t = Phi_t(w_{t-1}, lambda)          (1)

Phi_t is a step of gradient descent on the inner loss L, with momentum:

    v_{t+1} = mu v_t + grad_w L(w_t, lambda),    w_{t+1} = w_t - eta v_{t+1}                     (2)

With A_t = dPhi_t/dw and B_t = dPhi_t/dlambda, the chain rule is worked through from either end:

    reverse:   a_T = grad_w E,  p = grad_lambda E;   p += a_t B_t,  a_{t-1} = a_t A_t,  t = T .. 1
    forward:   Z_0 = dPhi_0/dlambda,  Z_t = A_t Z_{t-1} + B_t;   p = grad_lambda E + grad_w E Z_T

and at a minimiser of L the path does not matter:

    implicit:  p = grad_lambda E - grad_w E H^-1 d2L/dw dlambda,    H = d2L/dw2
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, jvp, vmap
from torch.utils._pytree import tree_unflatten

from metanotes.bilevel.implicit import conjugate_gradient, neumann_series
from metanotes.bilevel.problem import (
    InnerProblemError,
    Loss,
    Problem,
    Rate,
    Start,
    Tree,
    leaves,
    pull,
)

METHODS = ("reverse", "forward", "truncated", "cg", "neumann")


class Hypergradient(NamedTuple):
    """What `hypergradient` returns.

    Args:
        gradient: df/dlambda, the same tree as `hyper`.
        w: w_T, the same tree as `w0`.
        outer: E(w_T, lambda), a scalar.
        inner: L(w_t, lambda) before each step, `[T]`.
        residual: of an implicit method, |a - H q| / |a| with a = grad_w E and q what was found for
            H^-1 a (in the Neumann series, without its last term); else None.

    >>> made = Hypergradient(torch.tensor(2.0), torch.ones(3), torch.tensor(0.5), torch.zeros(4))
    >>> made.gradient, made.residual
    (tensor(2.), None)
    """

    gradient: Tree
    w: Tree
    outer: Tensor
    inner: Tensor
    residual: float | None = None


def hypergradient(
    outer: Loss,
    inner: Loss,
    w0: Tree | Callable[[Tree], Tree],
    hyper: Tree,
    *,
    method: str = "reverse",
    steps: int = 100,
    lr: Rate = 0.1,
    momentum: Rate = 0.0,
    last: int = 10,
    iterations: int = 100,
    tolerance: float | None = None,
    damping: float = 0.0,
    checkpoint: bool = False,
) -> Hypergradient:
    """The gradient in `hyper` of the outer loss after `steps` steps of descent on the inner loss.

    A tree is a tensor, or nested dictionaries, lists and tuples of tensors, of real floating-point
    numbers and any shapes: one penalty, a weight for every example `[N]`, all the parameters of a
    network. Nothing that is given is changed.

    Args:
        outer: E(w, hyper), a scalar: the validation loss, or the mean over tasks of their query
            losses.
        inner: L(w, hyper), a scalar: the training loss, or the sum over tasks of their support
            losses. The same arguments must give the same value: no dropout, nothing drawn inside.
        w0: w_0, a tree; or Phi_0, a function that makes it of `hyper` (`lambda phi: phi` is MAML).
        hyper: lambda, a tree.
        method: one of

            - "reverse": back along the T steps, for any number of hyperparameters at once. Memory
              O(T), T times what one gradient of L saves.
            - "truncated": back along the `last` steps alone (Shaban et al. 2019). Memory O(last).
              What the start and earlier steps did to the outer loss is left out.
            - "forward": along with the steps. Memory O(|w| |lambda|), whatever T is; time
              O(|lambda|). `inner` must be a function that `torch.func` can transform.
            - "cg": implicit, by conjugate gradients (Pedregosa 2016). Memory and time do not depend
              on T. Right where w_T minimises L.
            - "neumann": implicit, H^-1 a = eta sum_j (I - eta H)^j a, with the last lr for eta and
              `iterations` terms (Lorraine et al. 2020). With few terms it is what "truncated" gives
              at the minimiser.
        steps: T, at least 0. With 0 an implicit method takes `w0` for the minimiser.
        lr: eta, above 0: a number, or a function of `hyper` that gives a tensor, if it is learned
            (`lambda hyper: hyper["log_lr"].exp()`). One, or one for each step, `[T]`.
        momentum: mu, in [0, 1), in the same forms. Heavy ball, as in `torch.optim.SGD`.
        last: of "truncated": so many steps at the end are differentiated, at least 1.
        iterations: of "cg": at most so many; of "neumann": the number of terms.
        tolerance: of "cg" and "neumann": the residual that must be reached. None stands for 1e-10
            in "cg" (1e-4 in less than double precision) and for no demand in "neumann".
        damping: of "cg" and "neumann": H + damping I instead of H; at least 0.
        checkpoint: of "reverse" and "truncated": keep nothing of a step but its w, and compute the
            gradient of L again on the way back. Memory T |w|, about half as fast again.

    Returns:
        `Hypergradient(gradient, w, outer, inner, residual)`, without a graph. A hyperparameter on
        which neither loss depends has the gradient 0. To an implicit method so have the start, lr
        and momentum, on which no minimiser depends.

    Raises:
        InnerProblemError: the inner problem diverges; or H is singular or not positive definite in
            an implicit method, or its tolerance is not reached.
        TypeError: a tree holds something else, or a loss is no scalar.
        ValueError: an argument is out of its range, or `inner` does not depend on w.

    Sources: Franceschi, Donini, Frasconi and Pontil, "Forward and Reverse Gradient-Based
    Hyperparameter Optimization", ICML 2017, algorithms 1 and 2; Franceschi et al., "Bilevel
    Programming for Hyperparameter Optimization and Meta-Learning", ICML 2018.

    Here the inner minimiser is 3 / (1 + hyper):

    >>> def inner(w, hyper): return 0.5 * (w - 3) ** 2 + 0.5 * hyper * w**2
    >>> def outer(w, hyper): return (w - 2) ** 2
    >>> made = hypergradient(outer, inner, torch.tensor(0.0), torch.tensor(1.0))
    >>> made.w, made.gradient  # 2 (w - 2) dw/dhyper = 2 (-0.5) (-3/4)
    (tensor(1.5000), tensor(0.7500))
    """
    _check(method, steps, last, iterations, tolerance, damping)
    given, spec = leaves("hyper", hyper)
    hypers = [t.detach().requires_grad_() for t in given]
    problem = Problem(outer, inner, w0, spec, steps, lr, momentum)
    with torch.enable_grad():
        if method == "forward":
            found = _forward(problem, hypers)
        else:
            start = problem.start(hypers)
            kept = {"reverse": steps, "truncated": min(last, steps)}.get(method, 0)
            path = _descend(problem, start, hypers, kept, checkpoint)
            if method in ("reverse", "truncated"):
                found = _reverse(problem, start, path, hypers, whole=kept == steps)
            else:
                found = _implicit(
                    problem, start, path, hypers, method, iterations, tolerance, damping
                )
    if not all(t.isfinite().all() for t in found.gradient):
        raise InnerProblemError(
            "the hypergradient is not finite: the outer loss is not, or it grows out of range on "
            "its way through the steps; a smaller lr or fewer steps may help"
        )
    return found._replace(
        gradient=tree_unflatten(found.gradient, spec),
        w=tree_unflatten(found.w, problem.w_spec),
    )


class _Step(NamedTuple):
    """What is kept of a step: its w, its gradient's graph, and v before and after it."""

    w: list[Tensor]
    g: list[Tensor] | None
    v: list[Tensor] | None
    v_next: list[Tensor]


class _Path(NamedTuple):
    """A descent: its last steps, where it ended, and the loss before each step."""

    kept: list[_Step]
    w: list[Tensor]
    losses: Tensor


def _descend(
    problem: Problem, start: Start, hypers: list[Tensor], kept: int, checkpoint: bool
) -> _Path:
    """Equation (2), `steps` times."""
    hyper = problem.hyper(hypers)
    w, v = [t.detach() for t in start.w], None
    rates = zip(problem.each_step(start.lr), problem.each_step(start.momentum), strict=True)
    steps, losses = [], [w[0].new_zeros(0)]
    for t, (lr, momentum) in enumerate(rates):
        keep = t >= problem.steps - kept
        at = [x.detach().requires_grad_() for x in w]
        loss, g = problem.inner_gradient(at, hyper, keep and not checkpoint)
        v_next = [x.detach() for x in g]
        if v is not None:
            v_next = _plus(v_next, v, momentum)
        if keep:
            steps.append(_Step(at, None if checkpoint else g, v, v_next))
        w = _plus([x.detach() for x in at], v_next, -lr)
        v = None if start.momentum is None else v_next
        losses.append(loss[None])
    path = _Path(steps, w, torch.cat(losses))
    problem.check_descent(path.w, path.losses, start.lr)
    return path


def _reverse(
    problem: Problem, start: Start, path: _Path, hypers: list[Tensor], whole: bool
) -> Hypergradient:
    """The steps that were kept, from the last to the first."""
    value, a, p = problem.outer_gradient(path.w, hypers)
    hyper, n = problem.hyper(hypers), len(path.w)
    lr, momentum = problem.each_step(start.lr), problem.each_step(start.momentum)
    d_lr, d_momentum = [0.0] * problem.steps, [0.0] * problem.steps
    d_v: list[Tensor] | None = None  # of v_{t+1}, by way of the steps after this one
    for t in range(problem.steps - 1, problem.steps - 1 - len(path.kept), -1):
        step = path.kept.pop()  # what it held is free after its turn
        g = step.g or problem.inner_gradient(step.w, hyper, create_graph=True)[1]
        if start.lr.requires_grad:
            d_lr[t] = -_dot(a, step.v_next)
        d_g = _times(a, -lr[t]) if d_v is None else _plus(d_v, a, -lr[t])
        if step.v is not None:
            d_momentum[t] = _dot(d_g, step.v)
            d_v = _times(d_g, momentum[t])
        pulled = pull(g, [*step.w, *hypers], d_g)
        a, p = _plus(a, pulled[:n]), _plus(p, pulled[n:])
        del step, g, pulled
    ends = [(start.lr, d_lr)]
    if start.momentum is not None:
        ends.append((start.momentum, d_momentum))
    outputs, cotangents = [], []
    for rate, d in ends:
        each = rate.new_tensor(d)
        outputs.append(rate)
        cotangents.append(each if rate.shape else each.sum())
    if whole:
        outputs, cotangents = [*outputs, *start.w], [*cotangents, *a]
    p = _plus(p, pull(outputs, hypers, cotangents))
    return Hypergradient(p, path.w, value, path.losses)


def _forward(problem: Problem, hypers: list[Tensor]) -> Hypergradient:
    """Z_t, a list of [|lambda|, *shape of w], along with w_t."""
    _warm_up()
    hypers = [t.detach() for t in hypers]
    sizes = [t.numel() for t in hypers]
    basis = [
        rows.T.reshape(-1, *t.shape).to(t)
        for rows, t in zip(torch.eye(sum(sizes)).split(sizes), hypers, strict=True)
    ]

    def begin(*hyper: Tensor) -> tuple[Tensor, ...]:
        return tuple(problem.start(list(hyper)).tensors())

    def gradient(*tensors: Tensor) -> tuple[Tensor, ...]:
        hyper = problem.hyper(list(tensors[n:]))
        of_w = grad_and_value(lambda w: problem.inner_loss(list(w), hyper))
        g, loss = of_w(tensors[:n])
        return *g, loss

    start = problem.start(hypers)
    n = len(start.w)
    d_start = _push(begin, hypers, basis)[1]
    w, Z, d_lr, d_momentum = start.w, d_start[:n], d_start[n], d_start[n + 1 :]
    rates = zip(problem.each_step(start.lr), problem.each_step(start.momentum), strict=True)
    v = [torch.zeros_like(x) for x in w]
    d_v = [torch.zeros_like(x) for x in Z]
    losses = [w[0].new_zeros(0)]
    if problem.steps:
        problem.inner_gradient(
            _asked(w), problem.hyper(hypers), create_graph=False
        )  # or it says why
    for t, (lr, momentum) in enumerate(rates):
        (*g, loss), (*d_g, _) = _push(gradient, [*w, *hypers], [*Z, *basis])
        if d_momentum:
            d_v = _plus(_plus(d_g, d_v, momentum), _outer(_at(d_momentum[0], t), v))
            v = _plus(g, v, momentum)
        else:
            v, d_v = g, d_g
        Z = _plus(_plus(Z, d_v, -lr), _outer(_at(d_lr, t), v), -1.0)
        w = _plus(w, v, -lr)
        losses.append(loss.detach()[None])
    path = _Path([], w, torch.cat(losses))
    problem.check_descent(path.w, path.losses, start.lr)
    value, a, p = problem.outer_gradient(w, hypers)
    along = sum((x.flatten(1) @ y.flatten() for x, y in zip(Z, a, strict=True)), start=0.0)
    parts = torch.as_tensor(along).split(sizes)
    p = [x + part.view_as(x).to(x) for x, part in zip(p, parts, strict=True)]
    return Hypergradient(p, path.w, value, path.losses)


def _implicit(
    problem: Problem,
    start: Start,
    path: _Path,
    hypers: list[Tensor],
    method: str,
    iterations: int,
    tolerance: float | None,
    damping: float,
) -> Hypergradient:
    """H^-1 grad_w E without H, then one product with the mixed derivatives."""
    value, a, p = problem.outer_gradient(path.w, hypers)
    w = _asked(path.w)
    _, g = problem.inner_gradient(w, problem.hyper(hypers), create_graph=True)
    sizes = [t.numel() for t in w]

    def parts(vector: Tensor) -> list[Tensor]:
        return [part.view_as(t).to(t) for part, t in zip(vector.split(sizes), w, strict=True)]

    def product(vector: Tensor) -> Tensor:
        found = _flat(pull(g, w, parts(vector), retain=True))
        return found.add_(vector, alpha=damping) if damping else found

    b = _flat(a)
    if method == "cg":
        exact = 1e-10 if b.dtype == torch.float64 else 1e-4
        q, residual = conjugate_gradient(
            product, b, iterations, exact if tolerance is None else tolerance
        )
    else:
        lr = problem.each_step(start.lr)[-1] if problem.steps else start.lr.max().item()
        q, residual = neumann_series(
            product, b, iterations, math.inf if tolerance is None else tolerance, lr
        )
    p = _plus(p, pull(g, hypers, parts(q)), -1.0)
    return Hypergradient(p, path.w, value, path.losses, residual)


def _check(
    method: str,
    steps: int,
    last: int,
    iterations: int,
    tolerance: float | None,
    damping: float,
) -> None:
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not one of {', '.join(map(repr, METHODS))}")
    for name, value, least in (
        ("steps", steps, 0),
        ("last", last, 1),
        ("iterations", iterations, 1),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}={value!r} must be a whole number, at least {least}")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance={tolerance} must be above 0")
    if not (damping >= 0 and math.isfinite(damping)):
        raise ValueError(f"damping={damping} must be a finite number, at least 0")


def _asked(w: list[Tensor]) -> list[Tensor]:
    return [t.detach().requires_grad_() for t in w]


@cache
def _warm_up() -> None:
    """torch's forward mode warns at its first use, of something of its own (torch 2.13)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        jvp(torch.sin, (torch.zeros(()),), (torch.zeros(()),))


def _push(
    function: Callable[..., tuple[Tensor, ...]], at: list[Tensor], along: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The function's values, and its derivatives along each row of `along`, stacked."""

    def one(*direction: Tensor) -> Any:
        return jvp(function, tuple(at), direction)

    out_dims: Any = (None, 0)
    values, derivatives = vmap(one, out_dims=out_dims, randomness="same")(*along)
    return list(values), list(derivatives)


def _plus(x: list[Tensor], y: list[Tensor], factor: float = 1.0) -> list[Tensor]:
    """x + factor y."""
    return list(torch._foreach_add(x, y, alpha=factor))


def _times(x: list[Tensor], factor: float) -> list[Tensor]:
    return list(torch._foreach_mul(x, factor))


def _dot(x: list[Tensor], y: list[Tensor]) -> float:
    return sum(torch.dot(s.flatten(), t.flatten()).item() for s, t in zip(x, y, strict=True))


def _flat(x: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in x])


def _at(rate: Tensor, t: int) -> Tensor:
    """The derivative of step t's rate, `[|lambda|]`."""
    return rate if rate.ndim == 1 else rate[:, t]


def _outer(d_rate: Tensor, v: list[Tensor]) -> list[Tensor]:
    """d_rate `[|lambda|]` times v, `[|lambda|, *shape]`."""
    return [d_rate.view(-1, *[1] * x.ndim) * x for x in v]
