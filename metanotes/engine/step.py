"""The meta-step: the losses of all tasks and their gradient, as fast as the machine allows.

    L(phi) = sum_n l^n(phi),    grad L = sum_n grad l^n

A learner says what l^n is (`query_losses`); nothing here does. By the plan for tasks of this shape,

* one group of tasks is one graph, plainly, and autograd does the rest;
* of several groups, each is worked out and pulled back before the next, so that the memory stays
  bounded, and `backward` has only to scale the gradient;
* where recordings are asked for, their operations are played back.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from metanotes._ground.randomness import random_state, replayed
from metanotes.engine.groups import few_threads, losses_and_gradient
from metanotes.engine.plan import Plan, plan_for
from metanotes.engine.protocol import Learned
from metanotes.engine.recomputed import casts_in_force
from metanotes.engine.recordings import (
    Recording,
    recorded,
    settings_of,
    tensors_held,
    what_is_asked,
)
from metanotes.task import Task, task_count, tensors_of


def meta_step(learner: Learned, tasks: Task) -> Tensor:
    """`learner.query_losses(tasks)`, `[T]`, differentiable in all that is learned.

    Args:
        learner: `metanotes.Learner` calls this from its `forward`, or anything else that is
            `Learned`.
        tasks: T tasks.

    >>> from metanotes import MAML, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> learner, tasks = MAML(mlp(1, 8, 1), inner_lr=0.1, loss=mse), sinusoid(seed=0)(4)
    >>> torch.allclose(meta_step(learner, tasks), learner.query_losses(tasks))
    True
    """
    asked = what_is_asked(learner, tasks)
    recording = None if asked is None else asked.recording
    plan = plan_for(learner, tasks) if recording is None else recording.plan
    learner.check(tasks, plan.output)
    if not torch.is_grad_enabled():
        with plan.at_work():
            return torch.cat([learner.query_losses(group) for group in plan.groups(tasks)])
    if asked is not None and recording is None:
        recording = recorded(asked, learner, tasks, plan)
    grouped = task_count(tasks) > plan.group and not plan.whole
    if recording is not None or grouped:
        own = tensors_held(learner.modules()) if asked is None else asked.own
        phi = [t for t in own if t.requires_grad]
        if not any(t._backward_hooks for t in phi):  # inside they would act, and once more outside
            return _AtOnce.apply(learner, tasks, plan, own, recording, *phi)
    with few_threads(plan, task_count(tasks)), plan.at_work():
        losses = learner.query_losses(tasks)
    return _NotTwice.apply(losses) if plan.once else losses


class _NotTwice(torch.autograd.Function):
    """Losses `[T]` whose gradient must not be differentiated."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor) -> Tensor:
        return losses.view_as(losses)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the third derivatives of torch's normalisations are wrong, so the gradient of "
                "these losses cannot be differentiated (create_graph=True): make the learner with "
                "keep_graph=True, which does without them"
            )
        return weights


class _AtOnce(torch.autograd.Function):
    """The losses of tasks, whose gradient is worked out with them."""

    @staticmethod
    def forward(
        ctx: Any,
        learner: Learned,
        tasks: Task,
        plan: Plan,
        own: list[Tensor],
        recording: Recording | None,
        *phi: Tensor,
    ) -> Tensor:
        tensors = tensors_of(tasks)
        ctx.learner, ctx.tasks, ctx.plan, ctx.phi = learner, tasks, plan, len(phi)
        ctx.save_for_backward(*phi, *tensors)  # an error, where one is changed in place since
        ctx.autocast, ctx.random = casts_in_force(tensors[0].device), ()
        ctx.settings = None if recording else settings_of(learner.modules())[0]
        if recording is None or recording.random:
            ctx.random = random_state(tensors[0].device)
        with few_threads(plan, task_count(tasks)):
            if recording is None:
                losses, ctx.gradient = losses_and_gradient(learner, tasks, plan)
            else:
                losses, ctx.gradient = recording.play(learner, tasks, own)
        return losses

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        phi = ctx.saved_tensors[: ctx.phi]
        each = weights.tolist()
        if len(set(each)) == 1:  # the mean or the sum, nearly always
            scaled = iter(torch._foreach_mul([g for g in ctx.gradient if g is not None], each[0]))
            gradient = [None if g is None else next(scaled) for g in ctx.gradient]
        else:
            if ctx.settings is not None and ctx.settings != settings_of(ctx.learner.modules())[0]:
                raise RuntimeError(
                    "settings of the learner have changed since its losses were computed, and the "
                    "losses are weighted unequally, which takes the work a second time: call "
                    "backward() before the change"
                )
            replay = replayed(ctx.random, weights.device) if ctx.random else nullcontext()
            with replay, ctx.autocast:
                gradient = losses_and_gradient(ctx.learner, ctx.tasks, ctx.plan, weights)[1]
        if torch.is_grad_enabled():  # somebody means to differentiate the gradient
            gradient = [None if g is None else _OnlyOnce.apply(g, *phi) for g in gradient]
        return None, None, None, None, None, *gradient


class _OnlyOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *phi: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> None:
        raise RuntimeError(
            "the meta-gradient can be differentiated only where its graph is kept: make the "
            "learner with keep_graph=True"
        )
