"""The hypergradient along the path of the descent, from its end or from its start.

    v_{t+1} = mu v_t + grad_w L(w_t, lambda),    w_{t+1} = w_t - eta v_{t+1}                     (1)

With A_t and B_t the derivatives of the t-th step in w and in lambda (Franceschi et al. 2017):

    reverse:  a_T = grad_w E,  p = grad_lambda E;   p += a_t B_t,  a_{t-1} = a_t A_t,  t = T .. 1
    forward:  Z_0 = dPhi_0/dlambda,  Z_t = A_t Z_{t-1} + B_t;   p = grad_lambda E + grad_w E Z_T

Without momentum A_t = I - eta H and B_t = -eta d2L/dw dlambda. Neither is written out: autograd
gives their products with vectors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, jvp, vmap

from metanotes.methods.bilevel.problem import Hypergradient, Problem, Start, asked, pull_or_none

Number = float | Tensor  # a rate: a number, or a tensor that is differentiated
Rates = list[float] | Tensor  # of all steps: numbers, or one tensor, a scalar or [T]


def step(
    w: list[Tensor], v: list[Tensor], g: list[Tensor], lr: Number, momentum: Number | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Equation (1), of w_t, v_t and the gradient; an empty v is 0, or there is no momentum."""
    v_next = _moved(g, v, momentum) if v and momentum is not None else g
    return _moved(w, v_next, -lr), [] if momentum is None else v_next


def _moved(x: list[Tensor], y: list[Tensor], by: Number) -> list[Tensor]:
    """x + by y; one operation where `by` is a number."""
    if isinstance(by, float):
        return [torch.add(a, b, alpha=by) for a, b in zip(x, y, strict=True)]
    return [a + by * b for a, b in zip(x, y, strict=True)]


def _at(rates: Rates, t: int) -> Number:
    return rates[t] if isinstance(rates, list) or rates.ndim else rates


class Segment(NamedTuple):
    """Some steps in a row: where they start, and where they end if the graph between is kept."""

    steps: range
    w: list[Tensor]
    v: list[Tensor]
    ends: list[Tensor] | None


class Path(NamedTuple):
    """A descent: the segments to go back along, where it ended, and the loss before each step."""

    segments: list[Segment]
    w: list[Tensor]
    losses: Tensor


class Rules(NamedTuple):
    """The rates of a descent: as numbers, and as leaves where they depend on hyperparameters."""

    lr: list[float]
    momentum: list[float] | None
    learned: list[Tensor]
    start: Start

    @staticmethod
    def of(problem: Problem, start: Start) -> Rules:
        given = [start.lr] if start.momentum is None else [start.lr, start.momentum]
        return Rules(
            problem.each_step(start.lr),
            None if start.momentum is None else problem.each_step(start.momentum),
            asked([rate for rate in given if rate.requires_grad]),
            start,
        )

    def differentiable(self) -> tuple[Rates, Rates | None]:
        """lr and momentum, leaves in place of numbers where they are learned."""
        learned = list(self.learned)
        lr = learned.pop(0) if self.start.lr.requires_grad else self.lr
        return lr, learned.pop() if learned else self.momentum

    def sources(self) -> list[Tensor]:
        """What the leaves stand for."""
        given = [self.start.lr, *([] if self.start.momentum is None else [self.start.momentum])]
        return [rate for rate in given if rate.requires_grad]


def descend(
    problem: Problem, start: Start, rules: Rules, hypers: list[Tensor], kept: int, checkpoint: bool
) -> Path:
    """`steps` steps, the last `kept` of them so that one can go back along them."""
    hyper = problem.hyper(hypers)
    first = problem.steps - kept
    w, v = [t.detach() for t in start.w], list[Tensor]()
    losses: list[Tensor] = []
    segments: list[Segment] = []
    # Going back from segment to segment, sqrt(T) at a time, holds least.
    length = max(1, math.isqrt(kept)) if checkpoint else max(1, kept)
    bounds = [*range(first, problem.steps, length), problem.steps]
    if first:
        w, v = _steps(problem, hyper, range(first), w, v, rules, losses, linked=False)
    for low, high in pairwise(bounds):
        steps = range(low, high)
        if checkpoint:
            segments.append(Segment(steps, w, v, None))
            w, v = _steps(problem, hyper, steps, w, v, rules, losses, linked=False)
        else:
            begin, before = asked(w), asked(v)
            w, v = _steps(problem, hyper, steps, begin, before, rules, losses, linked=True)
            segments.append(Segment(steps, begin, before, [*w, *v]))
            w = [t.detach() for t in w]
    path = Path(segments, w, torch.stack(losses) if losses else w[0].new_zeros(0))
    problem.check_descent(path.w, path.losses, start.lr)
    return path


def _steps(
    problem: Problem,
    hyper: Any,
    steps: range,
    w: list[Tensor],
    v: list[Tensor],
    rules: Rules,
    losses: list[Tensor],
    linked: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Some steps: linked in one graph, or without any."""
    lr, momentum = rules.differentiable() if linked else (rules.lr, rules.momentum)
    for t in steps:
        at = w if linked else asked(w)
        loss, g = problem.inner_gradient(at, hyper, create_graph=linked)
        w, v = step(w, v, g, _at(lr, t), None if momentum is None else _at(momentum, t))
        losses.append(loss)
    return w, v


def reverse(
    problem: Problem, start: Start, rules: Rules, path: Path, hypers: list[Tensor], whole: bool
) -> Hypergradient:
    """From the last segment to the first."""
    value, a, p = problem.outer_gradient(path.w, hypers)
    hyper, n, rates = problem.hyper(hypers), len(path.w), rules.learned
    cotangents = a  # of a segment's ends; nothing depends on the last v
    d_rates: list[Tensor] = [torch.zeros_like(rate) for rate in rates]
    while path.segments:
        steps, w, v, ends = path.segments.pop()
        if ends is None:
            w, v = asked(w), asked(v)
            linked = _steps(problem, hyper, steps, w, v, rules, [], linked=True)
            ends = [*linked[0], *linked[1]]
        inputs = [*w, *v] if path.segments or (whole and callable(problem.w0)) else []
        ends = ends[: len(cotangents)]
        pulled = pull_or_none(ends, [*inputs, *hypers, *rates], cotangents)
        del ends
        cotangents = [
            torch.zeros_like(x) if d is None else d for x, d in zip(inputs, pulled, strict=False)
        ]
        pulled = pulled[len(inputs) :]
        p = _summed(p, pulled[: len(p)])
        d_rates = _summed(d_rates, pulled[len(p) :])
    sources, d_sources = rules.sources(), d_rates
    if whole and callable(problem.w0):
        sources, d_sources = [*sources, *start.w], [*d_sources, *cotangents[:n]]
    p = _summed(p, pull_or_none(sources, hypers, d_sources) if sources else [None] * len(p))
    return Hypergradient(p, path.w, value, path.losses)


def _summed(x: list[Tensor], y: list[Tensor | None]) -> list[Tensor]:
    """x + y, where None stands for zero."""
    return [a if b is None else a + b for a, b in zip(x, y, strict=True)]


def forward(problem: Problem, hypers: list[Tensor]) -> Hypergradient:
    """Z_t, tensors `[Q, *shape of w]` for Q hyperparameters, along with w_t."""
    _warm_up()
    hypers = [t.detach() for t in hypers]
    sizes = [t.numel() for t in hypers]
    basis = [
        rows.T.reshape(-1, *t.shape).to(t)
        for rows, t in zip(torch.eye(sum(sizes)).split(sizes), hypers, strict=True)
    ]

    def begin(*hyper: Tensor) -> tuple[Tensor, ...]:
        return tuple(problem.start(list(hyper)).tensors())

    start = problem.start(hypers)
    n, m = len(start.w), len(hypers)
    given = [start.lr, *([] if start.momentum is None else [start.momentum])]
    d_start = _push(begin, hypers, basis)[1]
    w, Z, d_given = start.w, d_start[:n], d_start[n:]

    k = n if start.momentum is not None else 0  # the tensors of v

    def phi(*tensors: Tensor) -> tuple[Tensor, ...]:
        """One step, of w, v, the hyperparameters and the rates."""
        w, v, rates = tensors[:n], list(tensors[n : n + k]), tensors[n + k + m :]
        hyper = problem.hyper(list(tensors[n + k : n + k + m]))
        g, loss = grad_and_value(lambda w: problem.inner_loss(list(w), hyper))(w)
        w_next, v_next = step(list(w), v, list(g), rates[0], rates[1] if k else None)
        return *w_next, *v_next, loss

    v, d_v = [torch.zeros_like(x) for x in w[:k]], [torch.zeros_like(x) for x in Z[:k]]
    losses: list[Tensor] = []
    if problem.steps:  # where it does not depend on w, this says so
        problem.inner_gradient(asked(w), problem.hyper(hypers), create_graph=False)
    for t in range(problem.steps):
        now = [rate[t] if rate.ndim else rate for rate in given]
        d_now = [d[:, t] if d.ndim > 1 else d for d in d_given]
        (*ends, loss), (*d_ends, _) = _push(
            phi, [*w, *v, *hypers, *now], [*Z, *d_v, *basis, *d_now]
        )
        w, v, Z, d_v = ends[:n], ends[n:], d_ends[:n], d_ends[n:]
        losses.append(loss)
    path = Path([], w, torch.stack(losses) if losses else w[0].new_zeros(0))
    problem.check_descent(path.w, path.losses, start.lr)
    value, a, p = problem.outer_gradient(w, hypers)
    along = sum((x.flatten(1) @ y.flatten() for x, y in zip(Z, a, strict=True)), start=0.0)
    parts = torch.as_tensor(along).split(sizes)
    p = [x + part.view_as(x).to(x) for x, part in zip(p, parts, strict=True)]
    return Hypergradient(p, path.w, value, path.losses)


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
