"""What an optimizer sees of T functions: their values, and the gradients there.

    f^n(theta^n)  and  grad f^n(theta^n),    n = 1 .. T

All functions are worked on at once where that gives what a loop over them gives: tried on the first
two, in both ways. What cannot be descended is refused before any work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from metanotes._ground.randomness import random_state, replayed
from metanotes.engine import Still, slow_rules_refused
from metanotes.task import Batch, Functions, select
from metanotes.theta import How, in_force, leaves, losses_and_gradients
from metanotes.theta.parameters import Theta
from metanotes.theta.task_axis import ONE_BY_ONE, of_task
from metanotes.update_rules import UpdateRule


def check_rule(rule: object) -> UpdateRule:
    """The rule, if it is one.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(rule, UpdateRule):
        raise ValueError(
            f"rule is a {type(rule).__name__}; it must be an UpdateRule, such as "
            "metanotes.SGD(0.1) or a trained metanotes.LSTMRule()"
        )
    return rule


def check_functions(functions: Functions) -> Theta:
    """theta_0, without a graph.

    Raises:
        TypeError: these are no `Functions`.
        ValueError: theta has not a tensor `[T, ...]` of real numbers throughout, or is learned.
        RuntimeError: in `torch.inference_mode`.
    """
    if not all(hasattr(functions, name) for name in Functions._fields):
        raise TypeError(
            f"functions is a {type(functions).__name__}; it must be Functions, such as sampler(16) "
            "of a sampler of metanotes.data"
        )
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "torch.inference_mode() turns off the gradients that an optimizer works with: leave "
            "it, or take torch.no_grad()"
        )
    theta = functions.theta
    shapes = {name: tuple(t.shape) for name, t in theta.items()}
    sizes = {shape[:1] for shape in shapes.values()}
    if len(sizes) != 1 or sizes <= {(), (0,)}:
        raise ValueError(
            f"theta needs tensors [T, ...] with the same T >= 1 throughout, not {shapes}"
        )
    for name, t in theta.items():
        if not t.is_floating_point():
            raise ValueError(f"theta[{name!r}] is of {t.dtype}; it must be of real numbers")
        if t.requires_grad:
            raise ValueError(
                f"theta[{name!r}] requires a gradient, but where a descent starts is not learned "
                "here: .detach() it"
            )
    return {name: t.detach() for name, t in theta.items()}


def next_batch(functions: Functions) -> Batch:
    """What the functions see at the next step.

    Raises:
        TypeError: `batches` is no iterator.
        ValueError: there is no further batch, or it is of another number of functions.
    """
    if not isinstance(functions.batches, Iterator):
        raise TypeError(
            f"functions.batches is a {type(functions.batches).__name__}; it must be an iterator, "
            "such as itertools.repeat(batch): a step takes the next"
        )
    batch = next(functions.batches, None)
    if batch is None:
        raise ValueError(
            "functions.batches has come to its end: T steps see T + 1 batches, and the same "
            "functions cannot be descended twice (itertools.repeat(batch) goes on)"
        )
    tasks = len(next(iter(functions.theta.values())))
    for name, part in zip(Batch._fields, batch, strict=True):
        for t in tree_leaves(part):
            if t.shape[:1] != (tasks,):
                raise ValueError(
                    f"a batch has {name} {list(t.shape)}, and theta T={tasks} functions"
                )
    return Batch(*batch)


def values_at(
    functions: Functions, theta: Theta, batch: Batch, how: How, *, second_order: bool = False
) -> tuple[Tensor, Theta]:
    """f(theta), `[T]`, and its gradient, which is held constant unless it is second order."""
    # torch's fused kernels of attention can be neither batched nor differentiated twice.
    plain = sdpa_kernel(SDPBackend.MATH) if how.at_once or second_order else nullcontext()
    with in_force(how), plain:
        return losses_and_gradients(functions.loss, theta, *batch, create_graph=second_order)


def first_look(
    functions: Functions, theta: Theta, batch: Batch, *, second_order: bool = False
) -> How:
    """How the functions are worked on: at once, if that gives what a loop over them gives.

    Random numbers that this takes are drawn again afterwards.

    Raises:
        ValueError: f is no number, or does not depend on theta.
    """
    _check_loss(functions, theta, batch)
    first = next(iter(theta.values()))
    # One by one where weights that differ would make a grouped convolution: slow on a CPU. And a
    # single function, which does without vmap's decompositions.
    convolutions = any(t.ndim == 5 for t in theta.values())
    if len(first) == 1 or (convolutions and not first.is_cuda):
        return ONE_BY_ONE
    at_once, before = How(at_once=True), random_state(first.device)
    two = functions, *select((theta, batch), slice(2))
    with replayed(before, first.device), Still(at_once=False):
        right = values_at(*two, ONE_BY_ONE, second_order=second_order)
        drawn = not all(map(torch.equal, before, random_state(first.device)))
    with replayed(before, first.device):
        try:
            with slow_rules_refused(), Still(at_once=True):
                tried = values_at(*two, at_once, second_order=second_order)
        except (RuntimeError, NotImplementedError, ValueError, TypeError, UserWarning):
            return ONE_BY_ONE  # no batching rule, a branch on data
    return at_once if drawn or _alike(tried, right) else ONE_BY_ONE


def _check_loss(functions: Functions, theta: Theta, batch: Batch) -> None:
    """Refuse what is not one number for a function, and what theta has no part in."""
    loss = _first_loss(functions, leaves(theta), batch)
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        what = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"functions.loss gave the {what} for each function; it must be one number, a tensor "
            "of shape []: .mean() or .sum()"
        )
    if not loss.requires_grad:
        raise ValueError("functions.loss(theta, x, y) does not depend on theta")


def learned_elsewhere(functions: Functions, theta: Theta, batch: Batch) -> bool:
    """Whether f has a gradient though theta asks for none: of x or y, or parameters of its own."""
    return _first_loss(functions, theta, batch).requires_grad


def _first_loss(functions: Functions, theta: Theta, batch: Batch) -> Tensor:
    """f of the first function, by an ordinary call that leaves no trace in random numbers."""
    device = next(iter(theta.values())).device
    with replayed(random_state(device), device), torch.enable_grad():
        return functions.loss(*of_task((theta, *batch), 0))


@torch.no_grad()
def _alike(tried: tuple[Tensor, Theta], right: tuple[Tensor, Theta]) -> bool:
    """Whether losses and gradients agree but for rounding; torch's faults are of some per cent."""
    largest = max((float(g.abs().max()) for g in right[1].values() if g.numel()), default=0.0)
    return all(
        not ((a - b).abs() > torch.finfo(b.dtype).eps ** (1 / 3) * (b.abs() + largest)).any()
        for a, b in zip(tree_leaves(tried), tree_leaves(right), strict=True)
    )
