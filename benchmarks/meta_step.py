"""A meta-step: the work that most contenders share, and the tasks it is done on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.measure import OURS, Step, Workload
from metanotes import Batch, Task

WARM = 210  # calls until a recording, made at the 200th sight of a shape, is played back
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class MetaStep:
    """One meta-step.

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

        def run() -> Sequence[Tensor]:
            for p in phi:
                p.grad = None
            backward()
            return [torch.zeros_like(p) if p.grad is None else p.grad for p in phi]

        return run


Contenders = Mapping[str, Callable[[MetaStep], Step]]


def meta_step(
    name: str,
    model: Callable[[], nn.Module],
    tasks: Callable[[int], Task],
    loss: Loss,
    contenders: Contenders,
    *,
    count: int,
    inner_lr: float,
    steps: int,
    first_order: bool = False,
) -> Workload:
    """A meta-step of MAML.

    Args:
        name: of the network and of the tasks; their number and the steps are added.
        model: makes the network, of which phi is the parameters.
        tasks: draws so many tasks.
        contenders: see `peers`.
        count: how many tasks, T.
        loss, inner_lr, steps, first_order: see `MetaStep`.
    """

    def work(dtype: torch.dtype, device: torch.device) -> MetaStep:
        moved = moved_to(tasks(count), dtype, device)
        return MetaStep(model().to(device, dtype), moved, inner_lr, steps, loss, first_order)

    name += f", {plural(count, 'task')}" + (f", {plural(steps, 'step')}" if steps else "")
    if first_order:
        name += ", first order"
    return Workload(name, work, contenders, parts=count, warm={OURS: WARM})


def moved_to(tasks: Task, dtype: torch.dtype, device: torch.device) -> Task:
    """The tasks on a device, their real numbers in a dtype."""

    def moved(t: Tensor) -> Tensor:
        return t.to(device, dtype if t.is_floating_point() else t.dtype)

    return Task(*(Batch(*map(moved, batch)) for batch in tasks))


def images(
    tasks: int, ways: int = 5, shots: int = 1, queries: int = 15, channels: int = 1, size: int = 28
) -> Task:
    """Random images in the shape of few-shot classification; queries a class."""
    g = torch.Generator().manual_seed(0)

    def batch(per_class: int) -> Batch:
        x = torch.rand(tasks, ways * per_class, channels, size, size, generator=g)
        return Batch(x, torch.arange(ways).repeat_interleave(per_class).repeat(tasks, 1))

    return Task(batch(shots), batch(queries))


def plural(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
