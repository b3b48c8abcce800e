"""The one idea: a learner F_phi, and its loss after learning.

    theta^n = F_phi(D_train^n)         learner.adapt(tasks.support)
    f_theta^n(x)                       learner.predict(adapted, x)
    l^n(theta^n)                       learner(tasks), a tensor [T]
    L(phi) = sum_n l^n                 learner(tasks).mean(), up to the constant 1/T
    phi <- phi - eta grad L(phi)       learner(tasks).mean().backward(), and any torch optimizer

phi is whatever `learner.parameters()` gives. A method is a choice of what phi is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy as cross_entropy
from torch.nn.functional import mse_loss as mse

from metanotes._ground.checks import count
from metanotes.engine import Computing, Options, Workshop, meta_step
from metanotes.task import IGNORED, Batch, Inputs, Task, check_tasks, tensors_of
from metanotes.theta import over_tasks
from metanotes.theta.gradients import one_number_each

__all__ = ["Learner", "check_outputs", "check_targets", "cross_entropy", "mse"]

Loss = Callable[[Tensor, Tensor], Tensor]
# Losses that compare shape with shape, and would stretch what differs.
COMPARED = (mse, F.l1_loss, F.smooth_l1_loss, F.huber_loss)
MODULES = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)


class Learner(nn.Module):
    """F_phi: an ordinary module whose `forward` gives the loss after learning, task by task.

    A new method fills in `adapt` and `predict`, and everything else (the engine's groups and speed,
    training, evaluation, checkpoints, devices, data parallelism) works on it. Both see all tasks;
    `over_tasks` applies to each of them what is written for one.

    Args:
        loss: from outputs `[N, ...]` and targets `[N]` or `[N, ...]` of one task to a scalar.
        keep_graph, checkpoint, record, compile, group: how it is worked out, see `Options`.

    >>> import torch
    >>> class Average(Learner):
    ...     def adapt(self, support, steps=None): return support.y.mean(1)
    ...     def predict(self, adapted, x): return adapted[:, None, :].expand(-1, x.shape[1], -1)
    >>> x, y = torch.zeros(3, 4, 1), torch.ones(3, 4, 1)
    >>> Average(loss=mse)(Task(Batch(x, y), Batch(x, y + 2)))
    tensor([4., 4., 4.])
    """

    takes_steps = False  # whether `adapt` descends, so that `steps` means something

    def __init__(self, loss: Loss = cross_entropy, **computing: Unpack[Computing]) -> None:
        super().__init__()
        if not callable(loss):
            raise ValueError(
                f"loss={loss!r} must be a function of outputs and targets, such as metanotes.mse"
            )
        if isinstance(loss, type):
            raise ValueError(f"loss={loss.__name__} is a class: make one, {loss.__name__}()")
        strange = computing.keys() - set(Options._fields)
        if strange:
            raise TypeError(f"{type(self).__name__} takes no argument {', '.join(sorted(strange))}")
        self.loss = loss
        self.options = Options(**computing)
        if self.options.group is not None:
            count("group", self.options.group)
            if self.options.keep_graph:
                raise ValueError(
                    f"keep_graph=True keeps one graph of all tasks, and group={self.options.group} "
                    "one of so many at a time: only one of them is possible"
                )
        self.workshop = Workshop()

    def adapt(self, support: Batch, steps: int | None = None) -> Any:
        """F_phi(D_train) of every task; support.x is `[T, N, ...]`.

        Args:
            support: what the tasks are learned from.
            steps: for learners that take steps, how many; default: as in training.
        """
        raise NotImplementedError

    def predict(self, adapted: Any, x: Any) -> Tensor:
        """f_theta(x) of every task: `[T, M, ...]` to outputs `[T, M, ...]`."""
        raise NotImplementedError

    def forward(self, tasks: Task) -> Tensor:
        """l^n, the loss on the query set after learning from the support set: `[T]`."""
        check_tasks(tasks)
        step = meta_step
        if torch.compiler.is_compiling():  # it may not trace what differentiates twice
            step = torch.compiler.disable(step)
        return step(self, tasks)

    # What the engine asks of a learner (`metanotes.engine.Learned`).

    def query_losses(self, tasks: Task) -> Tensor:
        """`forward`, plainly written: what the engine works out."""
        outputs = self.predict(self.adapt(tasks.support), tasks.query.x)
        return self.task_losses(outputs, tasks.query.y)

    def task_losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss of every task: outputs `[T, M, ...]`, y `[T, M]` or `[T, M, ...]`, to `[T]`."""
        return one_number_each(over_tasks(self.loss)(outputs, y))

    def first_look(self, tasks: Task) -> torch.Size:
        """Run the model on a single task: the shape of its output for one example."""
        try:
            outputs = self.predict(self.adapt(tasks.support), tasks.query.x)
        except (RuntimeError, ValueError) as error:
            for x, _ in tasks if about_dtypes(error) else ():
                refuse_whole_numbers(x, error)
                refuse_other_dtype(self, x)
            raise
        if not isinstance(outputs, Tensor):
            check_outputs(outputs, tasks.query.y[0])
        return check_outputs(outputs[0], tasks.query.y[0])

    @torch.enable_grad()
    def probe(self, tasks: Task) -> list[Tensor]:
        """The losses of some tasks, and their gradient."""
        phi = self.probed(tasks)
        losses = self.query_losses(tasks)
        if not losses.requires_grad:
            return [losses]
        weights = torch.arange(1, len(losses) + 1).to(losses)  # each task counts by itself
        gradient = torch.autograd.grad(weights @ losses, phi, materialize_grads=True)
        return [losses, *gradient]

    def probed(self, tasks: Task) -> list[Tensor]:
        """By what a probe differentiates: what is learned, and tasks that carry a graph."""
        own = [p for p in self.parameters() if p.requires_grad and not p._backward_hooks]
        return [*own, *(t for t in tensors_of(tasks) if t.requires_grad)]

    def check(self, tasks: Task, output: torch.Size) -> None:
        """Refuse targets that outputs of this shape cannot be compared with."""
        check_targets(self.loss, output, tasks.query.y)


def check_outputs(outputs: Any, y: Tensor) -> torch.Size:
    """The shape of a model's output for one example, if it and its loss are what they should be.

    Args:
        outputs: of one task, `[N, ...]`.
        y: targets of one task.

    Raises:
        TypeError: a model that returns something else than a tensor.
        ValueError: outputs of another number of examples.

    >>> check_outputs(torch.zeros(25, 5), torch.zeros(25))
    torch.Size([5])
    """
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"the model returns a {type(outputs).__name__}, not a tensor: wrap it in a module "
            "whose forward returns the outputs alone, such as its logits"
        )
    if outputs.ndim == 0 or len(outputs) != len(y):
        raise ValueError(
            f"the model gives outputs {list(outputs.shape)} for {len(y)} examples: its forward "
            "maps [N, ...] to [N, ...], an output for each example"
        )
    return outputs.shape[1:]


def check_targets(loss: Loss, output: torch.Size, y: Tensor) -> None:
    """Refuse labels outside the ways, and targets that would be compared in silence as what they
    are not.

    Args:
        loss: which loss they are for; of others than cross entropy and mean squares nothing is
            known.
        output: the shape of the model's output for one example.
        y: targets, `[T, N]` or `[T, N, ...]`.

    Raises:
        ValueError: says what would do.

    >>> check_targets(cross_entropy, torch.Size([5]), torch.tensor([[0, 1, 5]]))
    Traceback (most recent call last):
    ValueError: labels run from 0 to 5, but the model's outputs have 5 classes: labels are 0 to 4
    """
    target = y.shape[2:]
    if loss in COMPARED or isinstance(loss, MODULES):
        if target != output:
            raise ValueError(
                f"a target has the shape {list(target)}, the model's output {list(output)}: "
                "they must agree"
            )
        if not (y.is_floating_point() or y.is_complex()):
            raise ValueError(
                f"targets are {y.dtype}, labels perhaps: this loss needs real ones (y.float()); "
                "labels need loss=metanotes.cross_entropy"
            )
    elif loss is cross_entropy:
        ways = output[0] if output else 0
        if ways == 0:
            raise ValueError(
                "cross entropy needs an output for each class, [N, ways]; the model gives one "
                "number an example"
            )
        if y.is_floating_point():
            _check_probabilities(y, output)
        elif y.dtype not in (torch.int64, torch.uint8):
            raise ValueError(f"labels are {y.dtype}: cross entropy takes torch.int64; y.long()")
        elif target != output[1:]:
            raise ValueError(
                f"a label has the shape {list(target)}, the model's output {list(output)}: cross "
                f"entropy wants labels [N{', L' * (len(output) - 1)}] for outputs [N, ways"
                f"{', L' * (len(output) - 1)}]"
            )
        else:
            wrong = (y < 0) | (y >= ways)
            if target:  # tokens, of which some may be padding
                wrong &= y != IGNORED
            if wrong.any():
                raise ValueError(
                    f"labels run from {int(y.min())} to {int(y.max())}, but the model's outputs "
                    f"have {ways} classes: labels are 0 to {ways - 1}"
                )


def _check_probabilities(y: Tensor, output: torch.Size) -> None:
    probabilities = y.shape[2:] == output and output[0] > 1
    if probabilities:
        with torch.no_grad():
            sums = y.sum(2)
            probabilities = bool((y >= 0).all() and ((sums - 1).abs() < 1e-3).all())
    if not probabilities:
        raise ValueError(
            f"targets are real numbers {list(y.shape)}, and the loss is cross entropy: for "
            "regression use loss=metanotes.mse. Cross entropy takes labels (y.long()), or "
            "probabilities over two or more classes that sum to 1"
        )


def refuse_running_statistics(model: nn.Module) -> None:
    """Running statistics mix the tasks, and cannot be adapted.

    Raises:
        ValueError: names the layers, and what to use instead.
    """
    layers = [
        name
        for name, module in model.named_modules()
        if module.training and getattr(module, "running_mean", None) is not None
    ]
    if layers:
        raise ValueError(
            f"the layers {layers} keep running statistics, which would carry one task into the "
            "next. Of a pretrained network, freeze them: model.eval() before it is handed over. Of "
            "a new one, build them with track_running_stats=False (the statistics of the batch, as "
            "in MAML), or use nn.GroupNorm or nn.LayerNorm"
        )


def keep_frozen(model: nn.Module) -> None:
    """Layers with running statistics, which came frozen or were refused, stay so in training.

    >>> keep_frozen(layer := nn.BatchNorm1d(2))
    >>> layer.training
    False
    """
    for layer in model.modules():
        if getattr(layer, "running_mean", None) is not None:
            layer.eval()


def refuse_other_dtype(model: nn.Module, x: Inputs) -> None:
    """Real inputs are of the type of the model's parameters, unless torch casts by itself.

    Raises:
        ValueError: names both types.
    """
    tensors = x.values() if isinstance(x, dict) else [x]
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    for t in tensors:
        if like is None or not t.is_floating_point() or torch.is_autocast_enabled(t.device.type):
            continue
        if t.dtype != like.dtype:
            raise ValueError(
                f"x is {t.dtype} and the model's parameters are {like.dtype}: cast one of them, "
                f"x.to({like.dtype}) or model.to({t.dtype})"
            )


def about_dtypes(error: Exception) -> bool:
    """Whether torch, or a module, complains of the type of numbers."""
    return any(words in str(error).lower() for words in ("type", "not implemented for"))


def refuse_whole_numbers(x: Inputs, error: Exception) -> None:
    """Say what to do where a model could not work with inputs that are whole numbers.

    Raises:
        ValueError: x is of an integer type.
    """
    tensors = x.values() if isinstance(x, dict) else [x]
    kinds = {t.dtype for t in tensors if not (t.is_floating_point() or t.is_complex())}
    if kinds:
        raise ValueError(
            f"the model cannot work with x of {', '.join(map(str, kinds))} ({error}): numbers that "
            "are no tokens are real, x.float(), and pixels x.float() / 255"
        ) from error
