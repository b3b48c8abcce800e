"""The losses of T tasks, and their gradients at theta."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metanotes.task import Inputs, task_count
from metanotes.theta.parameters import Theta, leaves, trainable, with_task_axis
from metanotes.theta.task_axis import of_task, over_tasks, present

TaskLoss = Callable[[Theta, Any, Tensor], Tensor]  # theta, x and y of one task -> scalar


def losses_and_gradients(
    loss: TaskLoss, theta: Theta, x: Inputs, y: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Theta]:
    """The loss of every task, `[T]`, and its gradient at theta.

    Only the forward pass is vmapped, and every derivative is ordinary autograd on top of it. The
    usual way round, an outer gradient of `vmap(grad(loss))`, is silently wrong where a module uses
    `F.batch_norm` with weights (torch 2.13; chapter 3 measures by how much).

    Args:
        loss: of one task.
        theta: tensors `[T, ...]`.
        x, y: what the tasks learn from, `[T, N, ...]`.
        create_graph: make the gradient differentiable, in theta and in all else that it depends
            on; otherwise it is held constant.

    Raises:
        RuntimeError: in `torch.inference_mode`.
        ValueError: there is nothing in theta.

    >>> w, x, y = torch.ones(3, 1), torch.full((3, 4, 1), 2.0), torch.zeros(3, 4)
    >>> loss = lambda theta, x, y: ((x @ theta["w"] - y) ** 2).mean()
    >>> losses_and_gradients(loss, {"w": w}, x, y)[1]["w"].flatten()
    tensor([8., 8., 8.])
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "a descent needs gradients, and torch.inference_mode() forbids them: use "
            "torch.no_grad(), which the descent may leave for its own"
        )
    if not theta:
        raise ValueError("no parameter requires a gradient any more: there is nothing to adapt")
    at = theta
    if not create_graph:
        at = leaves(theta)
    elif not all(t.requires_grad for t in theta.values()):
        at = {n: t if t.requires_grad else t.detach().requires_grad_() for n, t in theta.items()}
    with torch.enable_grad():
        losses = one_number_each(over_tasks(loss)(at, x, y))
        gradients = torch.autograd.grad(
            losses,
            list(at.values()),
            torch.ones_like(losses),  # of the sum: a task's loss depends on its own theta alone
            create_graph=create_graph,
            allow_unused=True,
        )
    return losses, {
        name: torch.zeros_like(t) if g is None else g
        for (name, t), g in zip(at.items(), gradients, strict=True)
    }


def one_step_ahead(
    loss: TaskLoss, model: nn.Module, inner_lr: float, x: Inputs, y: Tensor
) -> Theta:
    """theta' = theta - inner_lr grad loss(theta) of every task, from the model's own theta.

    theta is held constant: theta' is differentiable in what else the loss depends on.

    >>> model, x, y = nn.Linear(1, 1), torch.ones(3, 4, 1), torch.zeros(3, 4)
    >>> loss = lambda theta, x, y: theta["weight"].square().sum()
    >>> bool((one_step_ahead(loss, model, 0.5, x, y)["weight"] == 0).all())
    True
    """
    theta = with_task_axis(leaves(trainable(model)), len(y))
    second_order = torch.is_grad_enabled()
    _, g = losses_and_gradients(loss, theta, x, y, create_graph=second_order)
    return {name: t.detach() - inner_lr * g[name] for name, t in theta.items()}


def one_number_each(losses: Tensor) -> Tensor:
    """The losses of tasks, if they are `[T]`.

    Raises:
        ValueError: they are not.

    >>> one_number_each(torch.ones(3))
    tensor([1., 1., 1.])
    >>> one_number_each(torch.ones(3, 5))
    Traceback (most recent call last):
    ValueError: the loss of one task is [5], not a scalar: use reduction='mean', ...
    """
    if losses.ndim != 1:
        raise ValueError(_no_scalar(losses.shape[1:]))
    return losses


def one_number(loss: Tensor) -> Tensor:
    """The loss of one task, if it is a scalar.

    Raises:
        ValueError: it is not.

    >>> one_number(torch.ones(()))
    tensor(1.)
    """
    if loss.ndim:
        raise ValueError(_no_scalar(loss.shape))
    return loss


def _no_scalar(shape: torch.Size) -> str:
    return (
        f"the loss of one task is {list(shape)}, not a scalar: use reduction='mean', or take the "
        "mean over the examples"
    )


class KnownGradient(torch.autograd.Function):
    """Losses `[T]` whose gradients are known, so that no graph has to be kept for them.

    `KnownGradient.apply(losses, gradients, *theta)`: gradients and theta are alike, `[T, ...]`.

    >>> w = torch.tensor([[1.0], [2.0]], requires_grad=True)                # T = 2
    >>> KnownGradient.apply(w.detach().square().sum(1), [2 * w.detach()], w).mean().backward()
    >>> w.grad
    tensor([[1.],
            [2.]])
    """

    @staticmethod
    def forward(ctx: Any, losses: Tensor, gradients: Sequence[Tensor], *theta: Tensor) -> Tensor:
        ctx.gradients = gradients
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # the gradients would count as constants, without a word
            raise RuntimeError(
                "these losses can be differentiated once (create_graph=True asks for more): "
                "make the learner with keep_graph=True or, if it has no such option, "
                "first_order=False"
            )
        gradients = (weights.view(-1, *[1] * (g.ndim - 1)) * g for g in ctx.gradients)
        return None, None, *gradients


def losses_pulled_back(loss: TaskLoss, theta: Theta, x: Inputs, y: Tensor) -> Tensor:
    """The losses of tasks, `[T]`, one by one, each pulled back before the next is worked out.

    So the graph of one task is alive at a time. Nothing but theta may be learned.

    Args:
        loss: of one task.
        theta: tensors `[T, ...]`.
        x, y: of the tasks, `[T, N, ...]`.

    >>> w = torch.tensor([[1.0], [2.0]], requires_grad=True)                # T = 2
    >>> loss = lambda theta, x, y: ((x @ theta["w"] - y) ** 2).mean()
    >>> x, y = torch.ones(2, 4, 1), torch.zeros(2, 4)
    >>> losses_pulled_back(loss, {"w": w}, x, y).detach()
    tensor([1., 4.])
    """
    how, names = present(), list(theta)
    losses: list[Tensor] = []
    gradients: list[tuple[Tensor, ...]] = []
    for n in range(task_count(y)):
        one, x_n, y_n = of_task((dict(theta), x, y), n, how)
        one = leaves(one)
        losses.append(loss(one, x_n, y_n))
        gradients.append(
            torch.autograd.grad(losses[-1], [one[k] for k in names], materialize_grads=True)
        )
    together = [torch.stack(parts) for parts in zip(*gradients, strict=True)]
    return KnownGradient.apply(torch.stack(losses).detach(), together, *theta.values())
