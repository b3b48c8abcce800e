"""Whether a model sees theta wherever it uses its parameters.

`call` puts theta in the place of a module's parameters while its forward runs. What reaches a
parameter by another way, or runs when the forward is over, sees the module's own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metanotes._ground.randomness import cuda_devices
from metanotes.task import Inputs
from metanotes.theta.buffers import buffers_apart
from metanotes.theta.gradients import TaskLoss
from metanotes.theta.parameters import Theta, call, leaves, trainable


def check_that_theta_is_seen(loss: TaskLoss, phi: Theta, at: Theta, x: Inputs, y: Tensor) -> None:
    """Compare the loss and its gradient, theta standing in for phi, with those where phi holds it.

    Args:
        loss: of one task.
        phi: the parameters themselves, by name. They hold theta for as long as this takes.
        at: theta of one task, tensors without a task axis.
        x, y: of one task.

    Raises:
        ValueError: they differ.

    >>> w, one = torch.nn.Parameter(torch.ones(2)), torch.ones(2)
    >>> loss = lambda theta, x, y: (theta["w"] * x - y).square().mean()
    >>> check_that_theta_is_seen(loss, {"w": w}, {"w": 0 * one}, one, one)
    >>> loss = lambda theta, x, y: (w * x - y).square().mean()      # not by its name
    >>> check_that_theta_is_seen(loss, {"w": w}, {"w": 0 * one}, one, one)
    Traceback (most recent call last):
    ValueError: somewhere the model sees its own weights and not those of the inner step. ...
    """
    known = [name for name, p in phi.items() if not p._backward_hooks]  # they may alter a gradient

    def numbers(theta: Theta) -> list[Tensor]:
        torch.clear_autocast_cache()  # it holds what parameters were
        with torch.random.fork_rng(devices=cuda_devices(y.device)):
            torch.manual_seed(0)
            value = loss(theta, x, y)
            if not value.requires_grad:
                return [value]
            by = [theta[name] for name in known]
            return [value, *torch.autograd.grad(value, by, materialize_grads=True)]

    seen = numbers(leaves(at))
    kept = {name: p.detach().clone() for name, p in phi.items()}
    try:
        for name, p in phi.items():
            p.data.copy_(at[name])  # unseen by graphs that are not yet pulled back
        right = numbers(phi)
    finally:
        for name, p in phi.items():
            p.data.copy_(kept[name])
        torch.clear_autocast_cache()
    if len(seen) != len(right) or not all(map(_equal, seen, right)):
        raise ValueError(
            "somewhere the model sees its own weights and not those of the inner step. It may work "
            "something out again in its backward pass (torch.utils.checkpoint; checkpoint=True of "
            "the learner saves memory instead), or reach a weight by another way than as an "
            "attribute of a module (a list, a partial, a function that keeps its module), or "
            "remember one call in the next, or draw random numbers that are not torch's"
        )


def check_that_weights_are_seen(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Inputs, y: Tensor
) -> None:
    """`check_that_theta_is_seen` of all weights of a model, somewhere beside where they are.

    Args:
        model: left as it is.
        loss: of outputs and targets.
        x, y: of one task.

    >>> x, y = torch.ones(3, 2), torch.ones(3, 1)
    >>> check_that_weights_are_seen(nn.Linear(2, 1), nn.MSELoss(), x, y)
    """
    phi = trainable(model)
    beside = {name: 0.9 * p.detach() + 0.01 for name, p in phi.items()}
    # With gradients also where the caller does without: it is looked at once.
    with buffers_apart(model), torch.enable_grad():
        check_that_theta_is_seen(
            lambda theta, x, y: loss(call(model, theta, x), y), phi, beside, x, y
        )


class Look:
    """`check_that_weights_are_seen`, once, and again when the model is another.

    >>> look, x, y = Look(), torch.ones(3, 2), torch.ones(3, 1)
    >>> look(nn.Linear(2, 1), nn.MSELoss(), x, y)
    """

    def __init__(self) -> None:
        self.at: tuple[nn.Module, ...] = ()

    def __call__(
        self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Inputs, y: Tensor
    ) -> None:
        if self.at != (model,):
            check_that_weights_are_seen(model, loss, x, y)
            self.at = (model,)


def _equal(a: Tensor, b: Tensor) -> bool:
    """But for rounding; both are of the same operations."""
    tolerance = torch.finfo(b.dtype).eps ** 0.5
    a, b = (t.detach().double().nan_to_num() for t in (a, b))
    return bool((a - b).norm() <= tolerance * b.norm() + 1e-30)
