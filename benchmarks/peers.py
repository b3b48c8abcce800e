"""The contenders of a meta-step of MAML, each in the words of its own library.

A contender takes a `MetaStep`, prepares what it needs once, and returns the step that is timed: it
leaves the meta-gradient in the `.grad` of the parameters. Each is written as its library's own
examples are. Where a library works task by task, the loss of a task is pulled back before the next
one begins: that is as fast as one pass at the end, and holds one task's graph rather than all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from benchmarks.measure import OURS, REFERENCE, Step
from benchmarks.meta_step import Contenders, MetaStep
from metanotes import MAML

Theta = dict[str, Tensor]


def plain_loop(work: MetaStep) -> Step:
    """What one writes first: task by task, `autograd.grad` with `create_graph`."""

    def backward() -> None:
        for x, y, xq, yq in work.each_task():
            theta: Theta = dict(work.model.named_parameters())
            for _ in range(work.steps):
                loss = work.loss(functional_call(work.model, theta, (x,)), y)
                grads = torch.autograd.grad(
                    loss, list(theta.values()), create_graph=not work.first_order
                )
                theta = {
                    n: t - work.inner_lr * g for (n, t), g in zip(theta.items(), grads, strict=True)
                }
            work.mean(work.loss(functional_call(work.model, theta, (xq,)), yq)).backward()

    return work.step(backward)


# Small networks, and all on a GPU, are worked on in recorded operations; older versions, beside
# which `--against` measures, record unasked.
RECORDED: dict[str, Any] = {"record": True}


def maml(work: MetaStep, small: bool = False, **options: Any) -> MAML:
    """Our learner for this work; options as of `MAML`."""
    record = small or (work.tasks.support.x.is_cuda and not options)
    options = {"first_order": work.first_order, "loss": work.loss, **options}
    if record:
        try:
            return MAML(work.model, work.inner_lr, work.steps, **options, **RECORDED)
        except TypeError:  # an older version, without such an option
            pass
    return MAML(work.model, work.inner_lr, work.steps, **options)


def metanotes(work: MetaStep, small: bool = False, **options: Any) -> Step:
    """Ours; `small` for small networks, options as of `MAML`."""
    learner = maml(work, small, **options)
    return work.step(lambda: learner(work.tasks).mean().backward())


def learn2learn(work: MetaStep) -> Step:
    """learn2learn: clone the model, adapt the clone, pull back its query loss."""
    from learn2learn.algorithms.maml import MAML as TheirMAML

    maml = TheirMAML(work.model, lr=work.inner_lr, first_order=work.first_order)

    def backward() -> None:
        for x, y, xq, yq in work.each_task():
            learner = maml.clone()
            for _ in range(work.steps):
                learner.adapt(work.loss(learner(x), y))
            work.mean(work.loss(learner(xq), yq)).backward()

    return work.step(backward)


def higher(work: MetaStep) -> Step:
    """higher: a differentiable copy of the model and of its optimizer."""
    from higher import innerloop_ctx

    optimizer = torch.optim.SGD(work.model.parameters(), lr=work.inner_lr)
    phi = list(work.model.parameters())

    def backward() -> None:
        for x, y, xq, yq in work.each_task():
            with innerloop_ctx(
                work.model,
                optimizer,
                copy_initial_weights=False,
                track_higher_grads=not work.first_order,
            ) as (learner, inner):
                for _ in range(work.steps):
                    inner.step(work.loss(learner(x), y))
                loss = work.mean(work.loss(learner(xq), yq))
                if not work.first_order:
                    loss.backward()
                    continue
                # First order: the gradient at theta_k is applied at phi.
                for p, g in zip(phi, torch.autograd.grad(loss, learner.parameters()), strict=True):
                    p.grad = g if p.grad is None else p.grad + g

    return work.step(backward)


def torchopt(work: MetaStep) -> Step:
    """TorchOpt: an optimizer whose steps stay in the graph. It has no first order."""
    from torchopt import MetaSGD, extract_state_dict, recover_state_dict

    if work.first_order:
        raise NotImplementedError("second order alone")
    inner = MetaSGD(work.model, lr=work.inner_lr)

    def backward() -> None:
        start = extract_state_dict(work.model, by="reference")
        start_inner = extract_state_dict(inner, by="reference")
        for x, y, xq, yq in work.each_task():
            for _ in range(work.steps):
                inner.step(work.loss(work.model(x), y))
            work.mean(work.loss(work.model(xq), yq)).backward()
            recover_state_dict(work.model, start)
            recover_state_dict(inner, start_inner)

    return work.step(backward)


def _loss_after_learning(work: MetaStep) -> Callable[..., Tensor]:
    """Of one task: `(phi, x, y, xq, yq)` to its query loss, in torch.func's words."""

    def loss(theta: Theta, x: Tensor, y: Tensor) -> Tensor:
        return work.loss(functional_call(work.model, theta, (x,)), y)

    def after(phi: Theta, x: Tensor, y: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
        theta = phi
        for _ in range(work.steps):
            grads = grad(loss)(theta, x, y)
            if work.first_order:
                grads = {n: g.detach() for n, g in grads.items()}
            theta = {n: t - work.inner_lr * grads[n] for n, t in theta.items()}
        return loss(theta, xq, yq)

    return after


ONE_PHI = (None, 0, 0, 0, 0)  # vmap over the tasks' data, the same phi for all


def torch_func(work: MetaStep) -> Step:
    """torch.func, straightforwardly: vmap over tasks, and the outer gradient outside.

    Wrong where the model has batch normalisation with weights, see `metanotes/inner_loop.py`.
    """
    losses = vmap(_loss_after_learning(work), in_dims=ONE_PHI, randomness="different")
    phi = dict(work.model.named_parameters())
    return work.step(lambda: losses(phi, *work.tasks.support, *work.tasks.query).mean().backward())


def dozen_lines(work: MetaStep) -> Step:
    """Autograd over a vmapped forward: what a reader who knows both writes in a dozen lines."""
    (x, y), (xq, yq) = work.tasks
    phi = dict(work.model.named_parameters())
    losses = vmap(
        lambda theta, x, y: work.loss(functional_call(work.model, theta, (x,)), y),
        randomness="different",
    )

    def backward() -> None:
        theta = {n: p.expand(len(x), *p.shape) for n, p in phi.items()}
        for _ in range(work.steps):
            total = losses(theta, x, y).sum()
            grads = torch.autograd.grad(
                total, list(theta.values()), create_graph=not work.first_order
            )
            theta = {
                n: t - work.inner_lr * g for (n, t), g in zip(theta.items(), grads, strict=True)
            }
        losses(theta, xq, yq).mean().backward()

    return work.step(backward)


def torch_func_inside(work: MetaStep) -> Step:
    """torch.func with vmap outermost: the meta-gradient of every task, then their mean. Right."""
    gradients = vmap(grad(_loss_after_learning(work)), in_dims=ONE_PHI, randomness="different")
    return work.step(_mean_of(gradients, work))


def torch_func_compiled(work: MetaStep) -> Step:
    """`torch_func`, its whole meta-gradient through `torch.compile`."""
    losses = vmap(_loss_after_learning(work), in_dims=ONE_PHI, randomness="different")
    gradient = torch.compile(grad(lambda *arguments: losses(*arguments).mean()), dynamic=False)
    return work.step(_mean_of(gradient, work))


def _mean_of(gradients: Callable[..., Theta], work: MetaStep) -> Callable[[], None]:
    """Gradients by name, with or without a task axis, averaged over tasks into `.grad`."""
    named = dict(work.model.named_parameters())

    def backward() -> None:
        phi = {n: p.detach() for n, p in named.items()}
        for n, g in gradients(phi, *work.tasks.support, *work.tasks.query).items():
            named[n].grad = g.mean(0) if g.ndim > phi[n].ndim else g

    return backward


BASIC: Contenders = {REFERENCE: plain_loop, "torch.func": torch_func, OURS: metanotes}
ALL: Contenders = {
    REFERENCE: plain_loop,
    "learn2learn": learn2learn,
    "higher": higher,
    "TorchOpt": torchopt,
    "torch.func": torch_func,
    "torch.func, vmap outermost": torch_func_inside,
    OURS: metanotes,
}
COMPILED: Contenders = {
    "torch.func, compiled": torch_func_compiled,
    "metanotes, compiled": partial(metanotes, compile=True),
}
DOZEN_LINES: Contenders = {
    REFERENCE: plain_loop,
    "autograd over vmap": dozen_lines,
    OURS: metanotes,
}
# Ours, with less memory for more time.
CHECKPOINT: Contenders = {"metanotes, checkpoint": partial(metanotes, checkpoint=True)}


def some(*names: str) -> Contenders:
    """Those of these names."""
    return {name: ALL[name] for name in names}


LIGHT = some(REFERENCE, "learn2learn", "TorchOpt", OURS)
