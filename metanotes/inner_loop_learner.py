"""A learner that descends: what MAML and its kin have in common.

    theta_0 = phi,    theta_{t+1} = theta_t + rule(grad l(theta_t)),    l^n = l(theta_k; D_test)

`inner_loop` has the steps and their derivative, `meta_step` the ways to work them out fast. This
class joins them to a model. A method says what its losses are (`query_losses`), or what phi is.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

from metanotes._ground.randomness import cuda_devices
from metanotes.engine.step import Recording, meta_step, replica
from metanotes.engine.task_layers import TaskLayers
from metanotes.inner_loop import (
    Descent,
    TaskLoss,
    descend,
    leaves,
    over_tasks,
    trainable,
    unrolled,
    with_task_axis,
)
from metanotes.learner import Learner, Loss, check_targets, cross_entropy
from metanotes.task import Batch, Task, check_tasks
from metanotes.update_rules import Theta, UpdateRule


def _channels_last(x: Tensor) -> Tensor:
    """Images `[N, C, H, W]` in the memory order N, H, W, C (vmap lacks `memory_format=`)."""
    rows = x.movedim(-3, -1).clone(memory_format=torch.contiguous_format)
    return rows.movedim(-1, -3)


class OneByOne(torch.autograd.Function):
    """The losses of tasks, `[T]`, one by one, each pulled back before the next is worked out.

    So the graph of one task is alive at a time. `OneByOne.apply(loss, names, x, y, *theta)`.
    """

    @staticmethod
    def forward(
        ctx: Any, loss: TaskLoss, names: list[str], x: Tensor, y: Tensor, *theta: Tensor
    ) -> Tensor:
        losses, gradients = [], []
        for n in range(len(x)):
            with torch.enable_grad():
                one = leaves({name: t[n] for name, t in zip(names, theta, strict=True)})
                losses.append(loss(one, x[n], y[n]))
                gradients.append(
                    torch.autograd.grad(losses[-1], list(one.values()), materialize_grads=True)
                )
        ctx.save_for_backward(*map(torch.stack, zip(*gradients, strict=True)))
        return torch.stack(losses).detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (weights.view(-1, *[1] * (g.ndim - 1)) * g for g in ctx.saved_tensors)
        return None, None, None, None, *gradients


class Trial(NamedTuple):
    """What a model does with the support set of one task.

    Args:
        output: the shape of its output for one example.
        flops: floating-point operations of its forward pass.
        copies: whether it can be copied.
    """

    output: torch.Size
    flops: int
    copies: bool


class InnerLoopLearner(Learner):
    """A learner that descends: phi is the start, the rule's parameters, or both.

    Args:
        model: any module whose forward maps `[N, ...]` to `[N, ...]`. Parameters that do not
            require a gradient stay as they are.
        rule: makes a step of a gradient.
        steps: inner steps k, at least 0.
        loss: of one task, inside and outside.
        first_order: hold the inner gradients constant.
        keep_graph: build one graph of the whole inner loop, so that its result can be
            differentiated any number of times rather than once.
        checkpoint: hold k copies of theta and compute each inner step but the last again in the
            backward pass: less memory for more time, as in `torch.utils.checkpoint`.
        compile: compile the meta-step with torch.compile: seconds to minutes once, for every shape
            of the tasks. The model's forward may then depend on its tensors only. It pays for small
            networks and on a GPU; convolutions on a CPU are left as they are.

    Raises:
        ValueError: the model has running statistics, or buffers that its forward writes to: they
            would carry one task into the next. Or labels outside the model's outputs.

    >>> from metanotes import Adam, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> learner = InnerLoopLearner(mlp(1, 20, 1), Adam(lr=0.01), steps=3, loss=mse)
    >>> theta = learner.adapt(sinusoid(shots=10, queries=10, seed=0)(25).support)
    >>> {name: tuple(t.shape) for name, t in theta.items()}["0.weight"]      # a copy a task
    (25, 20, 1)
    """

    def __init__(
        self,
        model: nn.Module,
        rule: UpdateRule,
        steps: int,
        loss: Loss = cross_entropy,
        first_order: bool = False,
        keep_graph: bool = False,
        checkpoint: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__(loss)
        if steps < 0:
            raise ValueError(f"steps={steps} must be 0 or more")
        refuse_running_statistics(model)
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError(
                "the model has no parameter that requires a gradient: nothing to adapt"
            )
        self.model, self.rule, self.steps = model, rule, steps
        self.first_order, self.keep_graph, self.checkpoint = first_order, keep_graph, checkpoint
        self.compiled = compile
        self._trials: dict[Hashable, Trial] = {}
        self.recordings: dict[Hashable, Recording | None] = {}
        self._convolves = any(isinstance(module, _ConvNd) for module in model.modules())
        self._task_layers = self._channels_last = False  # found out by `_try`

    def forward(self, tasks: Task) -> Tensor:
        """l^n, the loss on the query set after learning from the support set: `[T]`."""
        check_tasks(tasks)
        trial = self.trial(tasks.support)
        for batch in tasks:
            check_targets(self.loss, trial.output, batch.y)
        if self.keep_graph or not torch.is_grad_enabled():
            return self.query_losses(tasks)
        return meta_step(self, tasks)

    def query_losses(self, tasks: Task) -> Tensor:
        """`forward`, plainly written: what each method fills in."""
        return self.losses_at(self.descend([tasks.support], self.steps), tasks.query)

    def losses_at(self, theta: Theta, batch: Batch) -> Tensor:
        """l^n(theta^n) on a batch of every task: `[T]`."""
        # Task by task, the gradient at theta can be taken at once, where theta is all that learns.
        ours = type(self).predict is InnerLoopLearner.predict and set(theta) == set(
            trainable(self.model)
        )
        at_once = ours and torch.is_grad_enabled() and not self.keep_graph
        if not at_once or not self.one_by_one(batch.x):
            return self.task_losses(self.predict(theta, batch.x), batch.y)

        def loss(theta: Theta, x: Tensor, y: Tensor) -> Tensor:
            return self.loss(self._outputs(theta, x), y)

        return OneByOne.apply(loss, list(theta), *batch, *theta.values())

    def adapt(self, support: Batch, steps: int | None = None) -> Theta:
        """theta_k by name, tensors `[T, ...]`, after `steps` (default: the learner's) steps."""
        steps = self.steps if steps is None else steps
        if steps < 0:
            raise ValueError(f"steps={steps} must be 0 or more")
        check_targets(self.loss, self.trial(support).output, support.y)
        return self.descend([support], steps)

    def descend(self, batches: Sequence[Batch], steps: int) -> Theta:
        """theta_k after steps on minibatches in turn, or on one batch: `adapt` without checks."""
        descent = Descent(
            self.task_loss, self.rule, batches, steps, self.first_order, not self.batchable
        )
        if self.keep_graph:
            return unrolled(self.phi(), descent)
        return descend(self.phi(), descent, self.checkpoint)

    def predict(self, adapted: Theta, x: Tensor) -> Tensor:
        """f_theta(x) of every task: x `[T, M, ...]` to outputs `[T, M, ...]`."""
        return over_tasks(self._outputs, self.one_by_one(x))(adapted, x)

    def one_by_one(self, x: Tensor) -> bool:
        """Whether to predict task by task.

        Weights that differ between tasks make vmap's convolutions grouped ones. On a CPU, one
        ordinary convolution a task is faster.
        """
        return not self.batchable or (self._convolves and not x.is_cuda)

    def _outputs(self, theta: Theta, x: Tensor) -> Tensor:
        """f_theta(x) of one task, on a CPU on images with their channels last: faster again."""
        if self._channels_last and x.ndim == 4 and not x.is_cuda:
            x = _channels_last(x)
        return functional_call(self.model, theta, (x,))

    def train(self, mode: bool = True) -> Self:
        """As of any module; but layers with running statistics, which came frozen, stay frozen."""
        super().train(mode)
        for layer in self.model.modules():
            if getattr(layer, "running_mean", None) is not None:
                layer.eval()
        return self

    def extra_repr(self) -> str:
        loss = getattr(self.loss, "__name__", type(self.loss).__name__)
        return f"steps={self.steps}, first_order={self.first_order}, loss={loss}"

    def phi(self) -> Theta:
        """The parameters of the model that are adapted, by name."""
        return trainable(self.model)

    def task_loss(self, theta: Theta, x: Tensor, y: Tensor) -> Tensor:
        """l(theta) of one task: x `[N, ...]`, y `[N]` or `[N, ...]`, to a scalar."""
        with TaskLayers() if self._task_layers else nullcontext():
            return self.loss(functional_call(self.model, theta, (x,)), y)

    def trial(self, support: Batch) -> Trial:
        """Run the model on one task, before any work: what it gives and what it can do."""
        x = support.x
        key = self.training, x.shape[1:], x.dtype, x.device
        if key not in self._trials:
            self._trials[key] = self._try(x[:1], support.y[:1])
        return self._trials[key]

    def _try(self, x: Tensor, y: Tensor) -> Trial:
        with torch.no_grad(), torch.random.fork_rng(devices=cuda_devices(x.device)):
            buffers = {name: b.clone() for name, b in self.model.named_buffers()}
            with FlopCounterMode(display=False) as counter:
                outputs = functional_call(self.model, buffers, (x[0],))
            written = [name for name, b in buffers.items() if b._version > 0]
            if written:
                raise ValueError(
                    f"the model's forward writes to its buffers {written}: they would carry one "
                    "task into the next; use a module that keeps nothing (or model.eval())"
                )
            check_targets(self.loss, outputs.shape[1:], y)
            phi = {name: p.detach() for name, p in self.phi().items()}
            layers = self._convolves and not x.is_cuda and not self.keep_graph
            for self.batchable, self._task_layers in (
                (True, layers),
                (True, False),
                (False, False),
            ):
                try:
                    for tasks in 1, 2:  # their tensors lie otherwise in memory, and vmap may mind
                        many = (torch.cat([t] * tasks) for t in (x, y))
                        loss = over_tasks(self.task_loss, not self.batchable)
                        loss(with_task_axis(phi, tasks), *many)
                    break
                except (RuntimeError, NotImplementedError):  # no batching rule, a branch on data
                    if not self.batchable:
                        raise
            self._channels_last = x.ndim == 5 and self._convolves and x.device.type == "cpu"
            if self._channels_last:
                try:
                    self.model(_channels_last(x[0]))
                except RuntimeError:  # a view() of what is no longer contiguous
                    self._channels_last = False
        try:
            replica(self)
            copies = True
        except Exception:  # a lock, an open file: anything may refuse to be copied
            copies = False
        return Trial(outputs.shape[1:], counter.get_total_flops(), copies)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "recordings": {}}  # a recording can be neither copied nor saved


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
            "next; build them with track_running_stats=False (the statistics of the batch, as in "
            "MAML), or use nn.GroupNorm or nn.LayerNorm"
        )
