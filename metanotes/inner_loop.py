"""The inner loop, shared by every method that descends, and its exact derivative.

    theta_0 = phi,    theta_{t+1} = theta_t + rule(grad l(theta_t)),    t = 0 .. k-1      (1)

`descend` computes theta_k of all tasks at once. Its backward pass is the adjoint of (1): a
cotangent v of theta_{t+1} is pulled back through one step at a time, from t = k-1 down to 0,

    v <- v + H(theta_t) d,    d = the cotangent of the gradient, pulled back through the rule.  (2)

With `SGD(alpha)`, d = -alpha v, and (2) is MAML's product (I - alpha H_0) ... (I - alpha H_{k-1}) g
(Finn et al. 2017, section 2.2). First order leaves H d out.

Only the forward pass of the model is vmapped; every derivative is ordinary autograd on top of it.
The usual way round, an outer gradient of `vmap(grad(loss))`, is silently wrong where a module uses
`F.batch_norm` with weights (torch 2.13; chapter 3 measures by how much).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, vmap

from metanotes._ground.randomness import random_state, replayed
from metanotes.task import Batch
from metanotes.update_rules import State, Theta, UpdateRule

TaskLoss = Callable[[Theta, Tensor, Tensor], Tensor]  # theta of one task, x, y -> scalar


def over_tasks(function: Callable[..., Tensor], loop: bool) -> Callable[..., Tensor]:
    """A function `(theta, *tensors)` of one task, applied to every task: vmapped, or one by one."""
    if not loop:
        return vmap(function, randomness="different")

    def run(theta: Theta, *tensors: Tensor) -> Tensor:
        tasks = range(len(tensors[0]))
        one = [{name: t[n] for name, t in theta.items()} for n in tasks]
        return torch.stack([function(one[n], *(t[n] for t in tensors)) for n in tasks])

    return run


def trainable(module: nn.Module) -> Theta:
    """The parameters of a module that require a gradient, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def with_task_axis(phi: Theta, tasks: int) -> Theta:
    """phi for every task: `[...]` to `[T, ...]`."""
    # As in images, the channels of convolution weights lie side by side: no copies later on.
    order = {4: torch.channels_last}
    return {
        name: p.contiguous(memory_format=order.get(p.ndim, torch.contiguous_format)).expand(
            tasks, *p.shape
        )
        for name, p in phi.items()
    }


class Descent(NamedTuple):
    """What an inner loop is made of, beside where it starts.

    Args:
        loss: of one task, `loss(theta, x, y)`, a scalar.
        rule: makes a step of a gradient.
        batches: what the tasks learn from, x `[T, N, ...]`: step t takes the t-th, and after the
            last the first again. The whole support set, or minibatches of it.
        steps: k, at least 0.
        first_order: hold the inner gradients constant.
        loop: work task by task, for losses that `vmap` cannot batch.
    """

    loss: TaskLoss
    rule: UpdateRule
    batches: Sequence[Batch]
    steps: int
    first_order: bool
    loop: bool

    def start(self, phi: Theta) -> tuple[Theta, State]:
        """theta_0 of every task, which is phi with a task axis, and the rule's first state."""
        theta = with_task_axis(phi, len(self.batches[0].x))
        return theta, self.rule.init(theta)

    def step(self, t: int, theta: Theta, state: State, rule_phi: Theta) -> tuple[Theta, State]:
        """Equation (1) at time t, differentiable where gradients are enabled."""
        batch = self.batches[t % len(self.batches)]
        second_order = torch.is_grad_enabled() and not self.first_order
        at = theta if second_order else {n: t.detach().requires_grad_() for n, t in theta.items()}
        with torch.enable_grad():
            losses = over_tasks(self.loss, self.loop)(at, *batch)  # [T]
            gradients = torch.autograd.grad(
                losses.sum(), list(at.values()), create_graph=second_order, materialize_grads=True
            )
        grads = dict(zip(theta, gradients, strict=True))
        updates, state = functional_call(self.rule, rule_phi, (grads, state))
        return {name: theta[name] + updates[name] for name in theta}, state


def descend(phi: Theta, descent: Descent, checkpoint: bool = False) -> Theta:
    """theta_k of every task, differentiable once in phi and in the rule's parameters.

    Args:
        phi: the start, by name, without a task axis.
        descent: the loss, the rule, the data and the number of steps.
        checkpoint: hold k copies of theta and compute each step but the last again in the backward
            pass, rather than hold the graph of each step.

    Returns:
        theta_k by name, tensors `[T, ...]`.
    """
    rule_phi = trainable(descent.rule)
    if descent.steps == 0:
        return descent.start(phi)[0]
    names = (list(phi), list(rule_phi))
    grad_enabled = torch.is_grad_enabled()
    apply = _Descend.apply
    if torch.compiler.is_compiling():  # torch.compile may not trace an adjoint of our own: it
        apply = torch.compiler.disable(apply)  # would give another gradient (torch 2.13)
    theta = apply(descent, names, checkpoint, grad_enabled, *phi.values(), *rule_phi.values())
    return dict(zip(phi, theta, strict=True))


def unrolled(phi: Theta, descent: Descent) -> Theta:
    """What `descend` computes, as one graph that can be differentiated any number of times."""
    rule_phi = trainable(descent.rule)
    theta, state = descent.start(phi)
    for t in range(descent.steps):
        theta, state = descent.step(t, theta, state, rule_phi)
    return theta


class _Descend(torch.autograd.Function):
    """Equation (1) forwards, equation (2) backwards."""

    @staticmethod
    def forward(
        ctx: Any,
        descent: Descent,
        names: tuple[list[str], list[str]],
        checkpoint: bool,
        grad_enabled: bool,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        phi = dict(zip(names[0], tensors, strict=False))
        rule_phi = dict(zip(names[1], tensors[len(phi) :], strict=True))
        # First order with nothing to learn in the rule: d theta_k / d phi = I, so keep nothing.
        keep = grad_enabled and not (descent.first_order and not rule_phi)
        ctx.descent, ctx.names, ctx.checkpoint, ctx.trajectory = descent, names, checkpoint, []
        device = descent.batches[0].x.device
        theta, state = descent.start(phi)
        for t in range(descent.steps):
            inputs = leaves(theta), tuple(leaves(part) for part in state), leaves(rule_phi)
            random = random_state(device) if checkpoint else ()
            # The last step is the first to be pulled back: its graph is needed at once.
            graph = keep and (not checkpoint or t == descent.steps - 1)
            with torch.set_grad_enabled(graph):
                outputs = descent.step(t, *inputs)
            if keep:
                ctx.trajectory.append((inputs, outputs if graph else None, random))
            theta = {name: t.detach() for name, t in outputs[0].items()}
            state = tuple({name: t.detach() for name, t in part.items()} for part in outputs[1])
        return tuple(theta.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        descent, (names, rule_names) = ctx.descent, ctx.names
        v = list(cotangents)  # of theta_{t+1}, then of theta_t
        v_state: list[Tensor] = []  # of the state likewise; nothing depends on the last one
        v_rule: list[Tensor | None] = [None] * len(rule_names)
        device = descent.batches[0].x.device
        for t in reversed(range(len(ctx.trajectory))):
            inputs, outputs, random = ctx.trajectory[t]
            theta, state, rule_phi = inputs
            if ctx.checkpoint:  # one graph at a time: this one goes when it has served
                ctx.trajectory[t] = inputs, None, random
            if outputs is None:
                with replayed(random, device), torch.enable_grad():
                    outputs = descent.step(t, theta, state, rule_phi)
            ends = [*outputs[0].values(), *_flat(outputs[1])]
            pairs = [
                (end, c) for end, c in zip(ends, [*v, *v_state], strict=False) if end.requires_grad
            ]
            pulled = torch.autograd.grad(
                [end for end, _ in pairs],
                [*theta.values(), *_flat(state), *rule_phi.values()],
                [cotangent for _, cotangent in pairs],
                retain_graph=not ctx.checkpoint,  # for a second backward pass of the caller's
                materialize_grads=True,
            )
            split = len(pulled) - len(rule_names)
            v, v_state = list(pulled[: len(names)]), list(pulled[len(names) : split])
            v_rule = [
                d if r is None else r + d for r, d in zip(v_rule, pulled[split:], strict=True)
            ]
        if v_state and ctx.trajectory:  # the first state may depend on theta_0, as a memory of it
            theta = leaves(ctx.trajectory[0][0][0])
            with torch.enable_grad():
                starts = zip(_flat(descent.rule.init(theta)), v_state, strict=True)
            pairs = [(start, c) for start, c in starts if start.requires_grad]
            if pairs:
                pulled = torch.autograd.grad(
                    [start for start, _ in pairs],
                    list(theta.values()),
                    [cotangent for _, cotangent in pairs],
                    materialize_grads=True,
                )
                v = [a + b for a, b in zip(v, pulled, strict=True)]
        return None, None, None, None, *(t.sum(0) for t in v), *v_rule


def leaves(theta: Theta) -> Theta:
    return {name: t.detach().requires_grad_() for name, t in theta.items()}


def _flat(state: State) -> list[Tensor]:
    return [t for part in state for t in part.values()]
