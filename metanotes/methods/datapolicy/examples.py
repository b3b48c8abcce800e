"""What the learners of this room ask of a model: the loss of each example, and a trial run."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.func import vmap

from metanotes.learner import Loss, check_outputs, check_targets
from metanotes.task import IGNORED, Task, check_judged
from metanotes.theta import call, trainable
from metanotes.theta.parameters import Theta


def check_model(model: nn.Module) -> nn.Module:
    """The model, if there is something in it to train.

    Raises:
        TypeError: it is no module.
        ValueError: it has no parameters, or all are frozen.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; it must be a module")
    if not trainable(model):
        raise ValueError(
            f"model={type(model).__name__} has no parameter to train: what the data should be is "
            "learned from how its steps turn out"
        )
    return model


def check_examples(tasks: Task) -> None:
    """Refuse what no model can be trained and judged on.

    Raises:
        ValueError: the validation set is empty, or of another kind than the training set; a
            training example consists of targets that are left out; or see
            `metanotes.task.check_tasks`.
    """
    check_judged(
        tasks,
        "an empty validation set: it is from the loss there that the data are learned",
    )
    (x, y), (x_val, y_val) = tasks
    if isinstance(x, Tensor) and isinstance(x_val, Tensor) and x.shape[2:] != x_val.shape[2:]:
        raise ValueError(
            f"an example is {list(x.shape[2:])} in the support set and {list(x_val.shape[2:])} in "
            "the query set: one model takes both"
        )
    if y.shape[2:] != y_val.shape[2:] or y.is_floating_point() != y_val.is_floating_point():
        raise ValueError(
            f"support.y is {list(y.shape)} of {y.dtype} and query.y {list(y_val.shape)} of "
            f"{y_val.dtype}: the validation set needs targets of the same kind"
        )
    if y.ndim > 2 and not y.is_floating_point():  # tokens
        left_out = y.flatten(2).eq(IGNORED).all(2)
        if left_out.any():
            task, example = left_out.nonzero()[0].tolist()
            raise ValueError(
                f"example {example} of task {task} has no target but {IGNORED}, which losses leave "
                "out, and so no loss that could be weighted: leave it out of the support set"
            )


def outputs_for(model: nn.Module, theta: Theta, loss: Loss, x: Any, y: Tensor) -> Tensor:
    """The outputs of a model with theta as its parameters, if `loss` can compare them with y.

    Raises:
        TypeError, ValueError: see `check_outputs` and `check_targets`.
    """
    outputs = call(model, theta, x)
    check_targets(loss, check_outputs(outputs, y), y[None])
    return outputs


def loss_of_each(loss: Loss, outputs: Tensor, y: Tensor) -> Tensor:
    """The loss of each example: outputs `[N, ...]` and y `[N]` or `[N, ...]` to `[N]`.

    Raises:
        ValueError: the loss of one example is no single number, or the loss is the mean that
            weights of classes make: in the mean of one example its weight cancels.

    >>> import torch
    >>> loss_of_each(nn.functional.mse_loss, torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1))
    tensor([1., 9.])
    """
    if _weighs_classes(loss):
        raise ValueError(
            f"loss={loss} has weights of classes, which cancel in the mean over one example: leave "
            "them out, as the weights of the examples are learned here, or take reduction='sum'"
        )
    losses = vmap(lambda output, target: loss(output[None], target[None]))(outputs, y)
    if losses.ndim != 1:
        raise ValueError(
            f"the loss of one example is {list(losses.shape[1:])}, not a scalar: use "
            "reduction='mean'"
        )
    return losses


def _weighs_classes(loss: Loss) -> bool:
    """Whether it is torch's mean over examples in which each counts as much as its class."""
    functional = nn.functional.cross_entropy, nn.functional.nll_loss
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
        weight, reduction = loss.weight, loss.reduction
    elif isinstance(loss, partial) and loss.func in functional:
        weight, reduction = loss.keywords.get("weight"), loss.keywords.get("reduction", "mean")
    else:
        return False
    return weight is not None and reduction == "mean"


def name_of(loss: Loss) -> str:
    """By which a learner's text, and so a checkpoint, knows its loss."""
    return getattr(loss, "__name__", type(loss).__name__)
