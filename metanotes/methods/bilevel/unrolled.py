"""The hypergradient along the path of the descent, from its end to its start.

    v_{t+1} = mu v_t + grad_w L(w_t, lambda),    w_{t+1} = w_t - eta v_{t+1}                     (1)

With A_t and B_t the derivatives of the t-th step in w and in lambda (Franceschi et al. 2017):

    reverse:  a_T = grad_w E,  p = grad_lambda E;   p += a_t B_t,  a_{t-1} = a_t A_t,  t = T .. 1

Without momentum A_t = I - eta H and B_t = -eta d2L/dw dlambda. Neither is written out: autograd
gives their products with vectors.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metanotes._ground.randomness import RandomState, random_state, replayed
from metanotes.methods.bilevel.problem import Hypergradient, Problem, Start
from metanotes.methods.bilevel.trees import requiring_grad, vjp_or_none

Number = float | Tensor  # a rate: a number, or a tensor that is differentiated
Numbers = list[float] | Tensor  # of all steps: numbers, or one tensor, a scalar or [T]


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


def _at(rates: Numbers, t: int) -> Number:
    return rates[t] if isinstance(rates, list) or rates.ndim else rates


class Segment(NamedTuple):
    """Some steps in a row.

    Args:
        steps: their numbers.
        w, v: where they start.
        ends: where they end, if the graph between is kept.
        random: what they drew random numbers from, if they drew any and it is not.
    """

    steps: range
    w: list[Tensor]
    v: list[Tensor]
    ends: list[Tensor] | None
    random: RandomState | None


class InnerPath(NamedTuple):
    """A descent: the segments to go back along, where it ended, and the loss before each step."""

    segments: list[Segment]
    w: list[Tensor]
    losses: Tensor


class StepSizes(NamedTuple):
    """The rates of a descent: as numbers, and as leaves where they depend on hyperparameters."""

    lr: list[float]
    momentum: list[float] | None
    learned: list[Tensor]
    start: Start

    @staticmethod
    def of(problem: Problem, start: Start) -> StepSizes:
        return StepSizes(
            problem.each_step(start.lr),
            None if start.momentum is None else problem.each_step(start.momentum),
            requiring_grad([rate for rate in start.rates() if rate.requires_grad]),
            start,
        )

    def differentiable(self) -> tuple[Numbers, Numbers | None]:
        """lr and momentum, leaves in place of numbers where they are learned."""
        learned = list(self.learned)
        lr = learned.pop(0) if self.start.lr.requires_grad else self.lr
        return lr, learned.pop() if learned else self.momentum

    def sources(self) -> list[Tensor]:
        """What the leaves stand for."""
        return [rate for rate in self.start.rates() if rate.requires_grad]


def follow(
    problem: Problem,
    start: Start,
    sizes: StepSizes,
    hypers: list[Tensor],
    kept: int,
    checkpoint: bool,
) -> InnerPath:
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
        w, v = _steps(problem, hyper, range(first), w, v, sizes, losses, linked=False)
    for low, high in pairwise(bounds):
        steps = range(low, high)
        if checkpoint:
            begin, before, random = w, v, random_state(w[0].device)
            w, v = _steps(problem, hyper, steps, w, v, sizes, losses, linked=False)
            drawn = not all(map(torch.equal, random, random_state(w[0].device)))
            segments.append(Segment(steps, begin, before, None, random if drawn else None))
        else:
            begin, before = requiring_grad(w), requiring_grad(v)
            w, v = _steps(problem, hyper, steps, begin, before, sizes, losses, linked=True)
            segments.append(Segment(steps, begin, before, [*w, *v], None))
            w = [t.detach() for t in w]
    path = InnerPath(segments, w, torch.stack(losses) if losses else w[0].new_zeros(0))
    problem.check_descent(path.w, path.losses, start.lr)
    return path


def _steps(
    problem: Problem,
    hyper: Any,
    steps: range,
    w: list[Tensor],
    v: list[Tensor],
    sizes: StepSizes,
    losses: list[Tensor],
    linked: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Some steps: linked in one graph, or without any."""
    lr, momentum = sizes.differentiable() if linked else (sizes.lr, sizes.momentum)
    for t in steps:
        at = w if linked else requiring_grad(w)
        loss, g = problem.inner_gradient(at, hyper, create_graph=linked)
        w, v = step(w, v, g, _at(lr, t), None if momentum is None else _at(momentum, t))
        losses.append(loss)
    return w, v


def _again(
    problem: Problem, hyper: Any, segment: Segment, sizes: StepSizes, losses: Tensor
) -> Segment:
    """A segment worked out a second time, with its graph.

    Raises:
        ValueError: its losses are not what they were.
    """
    w, v, again = requiring_grad(segment.w), requiring_grad(segment.v), list[Tensor]()
    with replayed(segment.random, w[0].device) if segment.random else nullcontext():
        ends = _steps(problem, hyper, segment.steps, w, v, sizes, again, linked=True)
    before, after = losses[segment.steps.start : segment.steps.stop], torch.stack(again)
    rounding = torch.finfo(before.dtype).eps ** 0.5 * before.abs().max()
    changed = ((after - before).abs() > rounding).nonzero().flatten()
    if len(changed):
        t = int(changed[0])
        raise ValueError(
            f"inner(w, hyper) gave {before[t].item():g} at step {segment.steps[t]}, and "
            f"{after[t].item():g} when that step was worked out again: with checkpoint=True it may "
            "draw from torch's global generators, but otherwise must give the same again; "
            "checkpoint=False does without"
        )
    return Segment(segment.steps, w, v, [*ends[0], *ends[1]], None)


def reverse(
    problem: Problem,
    start: Start,
    sizes: StepSizes,
    path: InnerPath,
    hypers: list[Tensor],
    whole: bool,
) -> Hypergradient:
    """From the last segment to the first."""
    value, a, p = problem.outer_gradient(path.w, hypers)
    hyper, n, rates = problem.hyper(hypers), len(path.w), sizes.learned
    cotangents = a  # of a segment's ends; nothing depends on the last v
    d_rates: list[Tensor] = [torch.zeros_like(rate) for rate in rates]
    while path.segments:
        segment = path.segments.pop()
        if segment.ends is None:
            segment = _again(problem, hyper, segment, sizes, path.losses)
        _, w, v, ends, _ = segment
        assert ends is not None
        inputs = [*w, *v] if path.segments or (whole and callable(problem.w0)) else []
        ends = ends[: len(cotangents)]
        pulled = vjp_or_none(ends, [*inputs, *hypers, *rates], cotangents)
        del ends, segment  # the graph goes before that of the next segment is made
        cotangents = [
            torch.zeros_like(x) if d is None else d for x, d in zip(inputs, pulled, strict=False)
        ]
        pulled = pulled[len(inputs) :]
        p = _summed(p, pulled[: len(p)])
        d_rates = _summed(d_rates, pulled[len(p) :])
    sources, d_sources = sizes.sources(), d_rates
    if whole and callable(problem.w0):
        sources, d_sources = [*sources, *start.w], [*d_sources, *cotangents[:n]]
    p = _summed(p, vjp_or_none(sources, hypers, d_sources))
    return Hypergradient(p, path.w, value, path.losses)


def _summed(x: list[Tensor], y: list[Tensor | None]) -> list[Tensor]:
    """x + y, where None stands for zero."""
    return [a if b is None else a + b for a, b in zip(x, y, strict=True)]
