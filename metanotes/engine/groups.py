"""The losses of tasks and their gradient, group by group, so that the memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import current_thread, main_thread

import torch
from torch import Tensor

from metanotes._ground.nodes import nodes_of
from metanotes.engine.plan import LARGE, Plan
from metanotes.engine.protocol import Learned
from metanotes.engine.trial import depends_on_others
from metanotes.task import Task, task_count

Gradient = list[Tensor | None]


def losses_and_gradient(
    learner: Learned, tasks: Task, plan: Plan, weights: Tensor | None = None
) -> tuple[Tensor, Gradient]:
    """l^n of some tasks, `[T]`, and the gradient of their sum, weighted with `weights` `[T]`.

    No graph outlives its group of tasks.

    Raises:
        RuntimeError: of several groups, something is learned that is not the learner's, and was not
            when the plan was made: its gradient would be lost.
    """
    groups = plan.groups(tasks)
    shares: Sequence[Tensor | None] = [None] * len(groups)
    if weights is not None:
        shares = weights.split([task_count(group) for group in groups])
    phi = [p for p in learner.parameters() if p.requires_grad]
    losses: list[Tensor] = []
    total: Gradient = [None] * len(phi)
    with plan.at_work(), torch.enable_grad():
        for group, share in zip(groups, shares, strict=True):
            losses.append(learner.query_losses(group))
            if len(groups) > 1 == len(losses) and depends_on_others(learner, nodes_of(losses)):
                raise RuntimeError(
                    "the losses depend on a tensor that requires a gradient and is not among "
                    "learner.parameters(), and did not when tasks of this shape were first seen: "
                    "register it in the learner, or go on with copy.deepcopy(learner), which "
                    "looks anew"
                )
            summed = (losses[-1] if share is None else share * losses[-1]).sum()
            gradient = torch.autograd.grad(summed, phi, allow_unused=True)
            losses[-1] = losses[-1].detach()
            total = [
                g if t is None else t if g is None else t + g
                for t, g in zip(total, gradient, strict=True)
            ]
    return torch.cat(losses), total


@contextmanager
def few_threads(plan: Plan, tasks: int) -> Iterator[None]:
    """Small work in one thread: two would gain little, and lose much where a core is busy.

    In the main thread alone, for a new thread takes the number that was set last by any.
    """
    before = torch.get_num_threads()
    if before == 1 or plan.flops * tasks > LARGE or current_thread() is not main_thread():
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
