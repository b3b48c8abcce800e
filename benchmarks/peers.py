"""The contenders: ways to the meta-gradient of MAML, each in the words of its own library.

A contender takes a `MetaStep`, prepares what it needs once, and returns the step that is timed: it
leaves the meta-gradient in the `.grad` of the parameters. Each is written as its library's own
examples are. Where a library works task by task, the loss of a task is pulled back before the next
one begins: that is as fast as one pass at the end, and holds one task's graph rather than all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from metanotes import MAML, Task
from metanotes.engine import Computing
from metanotes.learner import Loss

Step = Callable[[], Sequence[Tensor]]
Theta = dict[str, Tensor]


@dataclass(frozen=True)
class MetaStep:
    """One meta-step of MAML.

    Args:
        model: phi is its parameters.
        tasks: T tasks, support x `[T, N, ...]` and query alike.
        inner_lr: the inner step size.
        steps: inner steps.
        loss: of one task, inside and outside.
        first_order: hold the inner gradients constant.
    """

    model: nn.Module
    tasks: Task
    inner_lr: float
    steps: int
    loss: Loss
    first_order: bool = False

    def each_task(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Support x and y, query x and y of one task after the other."""
        return zip(*self.tasks.support, *self.tasks.query, strict=True)

    def mean(self, loss: Tensor) -> Tensor:
        """What the loss of one task contributes to the mean."""
        return loss / len(self.tasks.support.x)

    def step(self, backward: Callable[[], None]) -> Step:
        """The step that is timed, of a function that adds the meta-gradient to `.grad`."""
        phi = list(self.model.parameters())

        def run() -> list[Tensor]:
            for p in phi:
                p.grad = None
            backward()
            return [torch.zeros_like(p) if p.grad is None else p.grad for p in phi]

        return run


Contender = Callable[[MetaStep], Step]


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


def metanotes(work: MetaStep, **options: Unpack[Computing]) -> Step:
    """Ours; options as of `MAML`."""
    learner = MAML(
        work.model,
        work.inner_lr,
        work.steps,
        first_order=work.first_order,
        loss=work.loss,
        **options,
    )
    return work.step(lambda: learner(work.tasks).mean().backward())


def metanotes_checkpoint(work: MetaStep) -> Step:
    """Ours, with less memory for more time."""
    return metanotes(work, checkpoint=True)


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


OURS, REFERENCE = "metanotes", "plain loop"
BASIC: dict[str, Contender] = {
    REFERENCE: plain_loop,
    "torch.func": torch_func,
    OURS: metanotes,
}
LIBRARIES: dict[str, Contender] = {
    "learn2learn": learn2learn,
    "higher": higher,
    "TorchOpt": torchopt,
}
ALL: dict[str, Contender] = {
    REFERENCE: plain_loop,
    **LIBRARIES,
    "torch.func": torch_func,
    "torch.func, vmap outermost": torch_func_inside,
    OURS: metanotes,
}
