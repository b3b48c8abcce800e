"""A loop of steps whose graph is made again in the backward pass: less memory for more time.

    theta_{t+1}, s_{t+1} = step(t, theta_t, s_t),    t = 0 .. k-1

Forward, theta_t and s_t are kept, k copies of them, and no graph but the last step's. Backward, the
graph of one step at a time is made again and pulled back through, as `torch.utils.checkpoint` does
for a function. A step that gives another result the second time is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from metanotes._ground.nodes import nodes_of
from metanotes._ground.randomness import random_state, replayed
from metanotes.engine.working import attention_at_present
from metanotes.theta import in_force, leaves
from metanotes.theta.parameters import Theta, flat
from metanotes.theta.task_axis import present

State = tuple[Theta, ...]
Step = Callable[[int, Theta, State], tuple[Theta, State]]


def recomputed(
    step: Step, theta: Theta, state: State, steps: int, learned: Sequence[Tensor]
) -> Theta:
    """theta_k, differentiable once in theta_0, in the first state and in `learned`.

    Args:
        step: of the time, theta and the state; what else it depends on stays as it is.
        theta: theta_0, tensors `[T, ...]`.
        state: s_0.
        steps: k, at least 1.
        learned: the tensors that require a gradient and that a step depends on beside these.

    Raises:
        RuntimeError: a step depends on another tensor that requires a gradient, which would be
            lost; in the backward pass, if a step gives another result than it gave before.

    >>> rate = torch.tensor(0.5, requires_grad=True)
    >>> halve = lambda t, theta, state: ({"w": theta["w"] - rate * theta["w"]}, state)
    >>> start = {"w": torch.full((3, 1), 8.0, requires_grad=True)}                      # T = 3
    >>> end = recomputed(halve, start, (), steps=3, learned=[rate])["w"]
    >>> end.flatten().tolist(), torch.autograd.grad(end.sum(), [rate])[0].item()  # -3 * 8 / 4 * T
    ([1.0, 1.0, 1.0], -18.0)
    """
    if any(t._backward_hooks for t in learned):  # they would act inside, and again outside
        for t in range(steps):
            theta, state = step(t, theta, state)
        return theta
    names = list(theta), [list(part) for part in state]
    out = _Recomputed.apply(
        step, names, steps, len(learned), *learned, *theta.values(), *flat(state)
    )
    return dict(zip(theta, out, strict=True))


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, step: Step, names: Any, steps: int, learned: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.step, ctx.learned, ctx.kept = step, tensors[:learned], []
        ctx.how, ctx.device = present(), tensors[-1].device
        ctx.autocast, ctx.attention = casts_in_force(ctx.device), attention_at_present()
        theta, state = _by_name(names, tensors[learned:])
        for t in range(steps):
            inputs = leaves(theta), tuple(map(leaves, state))
            random = random_state(ctx.device)
            last = bool(t == steps - 1)  # the first to be pulled back: its graph is needed at once
            with torch.set_grad_enabled(last):
                outputs = step(t, *inputs)
            if last:
                ends = [*outputs[0].values(), *flat(outputs[1])]
                _refuse_others(ends, [*inputs[0].values(), *flat(inputs[1]), *ctx.learned])
            ctx.kept.append((inputs, outputs if last else None, random))
            theta = {n: v.detach() for n, v in outputs[0].items()}
            state = tuple({n: v.detach() for n, v in part.items()} for part in outputs[1])
        ctx.end = list(theta.values())
        return tuple(v.clone() for v in theta.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        v = list(cotangents)  # of theta_{t+1}, then of theta_t
        v_state: list[Tensor] = []  # of the state likewise; nothing depends on the last one
        v_learned: list[Tensor | None] = [None] * len(ctx.learned)
        for t in reversed(range(len(ctx.kept))):
            (theta, state), outputs, random = ctx.kept[t]
            ctx.kept[t] = (theta, state), None, random  # one graph at a time
            if outputs is None:
                again = replayed(random, ctx.device), ctx.autocast, in_force(ctx.how)
                with again[0], again[1], again[2], ctx.attention(), torch.enable_grad():
                    outputs = ctx.step(t, theta, state)
                after = ctx.kept[t + 1][0][0].values() if t + 1 < len(ctx.kept) else ctx.end
                _check_same(outputs[0], after, t)
            ends = zip([*outputs[0].values(), *flat(outputs[1])], [*v, *v_state], strict=False)
            pairs = [(end, cotangent) for end, cotangent in ends if end.requires_grad]
            inputs = [*theta.values(), *flat(state)]
            pulled = torch.autograd.grad(
                [end for end, _ in pairs],
                [*inputs, *ctx.learned],
                [cotangent for _, cotangent in pairs],
                materialize_grads=True,
            )
            v, v_state = list(pulled[: len(v)]), list(pulled[len(v) : len(inputs)])
            v_learned = [
                d if sum_ is None else sum_ + d
                for sum_, d in zip(v_learned, pulled[len(inputs) :], strict=True)
            ]
        return None, None, None, None, *v_learned, *v, *v_state


def _by_name(names: Any, tensors: Sequence[Tensor]) -> tuple[Theta, State]:
    rest = iter(tensors)
    theta = {name: next(rest) for name in names[0]}
    return theta, tuple({name: next(rest) for name in part} for part in names[1])


def casts_in_force(device: torch.device) -> AbstractContextManager[Any]:
    """The automatic casts that are in force, to be put in force again."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, torch.get_autocast_dtype(device.type))


def _refuse_others(ends: Sequence[Tensor], known: Sequence[Tensor]) -> None:
    """Refuse a step whose graph begins at a tensor that is not known."""
    own = {id(t) for t in known}
    others = (getattr(node, "variable", None) for node in nodes_of(ends, until=known))
    if any(other is not None and id(other) not in own for other in others):
        raise RuntimeError(
            "checkpoint=True: an inner step depends on a tensor that requires a gradient and is "
            "not among learner.parameters(), and its gradient would be lost: register it in the "
            "learner, or use checkpoint=False"
        )


def _check_same(theta: Theta, before: Sequence[Tensor], t: int) -> None:
    for (name, now), then in zip(theta.items(), before, strict=True):
        if torch.equal(now, then):  # nearly always, and much quicker to see
            continue
        # A GPU may add up in another order the second time: where terms cancel, nothing is left.
        slack = 0.0 if now.device.type == "cpu" else 1e-4 * float(then.abs().max())
        if not torch.allclose(now, then, rtol=1e-3, atol=max(1e-6, slack), equal_nan=True):
            raise RuntimeError(
                f"inner step {t + 1} gave another {name!r} when it was computed again for the "
                "backward pass: what it depends on (a rate, the data, a setting) has changed "
                "since the losses were computed. Call backward() first, or use checkpoint=False"
            )
