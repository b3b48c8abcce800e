"""A task, and what a learner may see of it.

Task n is a pair (D_train, D_test): the *support* set, on which a learner learns, and the *query*
set, on which it is judged. Every tensor has a leading task axis of length T, so that a `Task` is a
batch of T tasks, worked on at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

UNLABELLED = -1  # the label of an example whose class is not to be seen


class Batch(NamedTuple):
    """Examples of T tasks: inputs and their targets.

    Args:
        x: inputs, `[T, N, ...]`.
        y: targets, `[T, N]` (integer class labels) or `[T, N, ...]` (real numbers).

    >>> batch = Batch(x=torch.zeros(3, 5, 2), y=torch.zeros(3, 5, dtype=torch.long))
    >>> len(batch.x)                            # T
    3
    """

    x: Tensor
    y: Tensor


class Task(NamedTuple):
    """T tasks: what they may be learned from, and what they are judged on.

    Args:
        support: D_train of every task.
        query: D_test of every task.

    >>> x, y = torch.zeros(3, 5, 2), torch.zeros(3, 5, dtype=torch.long)
    >>> tasks = Task(support=Batch(x, y), query=Batch(x, y))
    >>> tasks.support.x.shape
    torch.Size([3, 5, 2])
    """

    support: Batch
    query: Batch


class Functions(NamedTuple):
    """T functions and where the descent of each begins: what a learner of optimizers meets.

    Args:
        loss: f of one function, `loss(theta, x, y)`, a scalar.
        theta: theta_0 by name, tensors `[T, ...]`.
        batches: what f sees at step 0, 1, ...: x `[T, ...]` and y `[T, ...]`.

    >>> from itertools import repeat
    >>> square = lambda theta, x, y: (theta["w"] * x - y).square().mean()
    >>> batch = Batch(torch.ones(3, 5), torch.zeros(3, 5))
    >>> functions = Functions(square, {"w": torch.ones(3)}, repeat(batch))      # T = 3
    """

    loss: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]
    theta: dict[str, Tensor]
    batches: Iterator[Batch]


class Sequences(NamedTuple):
    """T sequences of L examples: what a learner with a memory meets.

    At step t it sees x_t and the label of the step before, y_{t-1}, and answers y_t. It has been
    told a class's label when it meets the class for the second time, and has to guess at the first.

    Args:
        x: inputs, `[T, L, ...]`.
        y: their labels, `[T, L]`, integers in 0..N-1.
        previous: y_{t-1} as ones and zeros, `[T, L, N]`; at the first step all zeros.
        presentation: how many times the class has been shown by then, `[T, L]`: 1, 2, ...

    >>> y = torch.tensor([[1, 0, 1]])
    >>> previous = torch.tensor([[[0., 0], [0, 1], [1, 0]]])
    >>> Sequences(torch.randn(1, 3, 4), y, previous, torch.tensor([[1, 1, 2]])).y.shape
    torch.Size([1, 3])
    """

    x: Tensor
    y: Tensor
    previous: Tensor
    presentation: Tensor


def task_to(tasks: Task, device: torch.device | str) -> Task:
    """The same tasks on another device."""
    return Task(*(Batch(*(tensor.to(device) for tensor in batch)) for batch in tasks))


def check_tasks(tasks: Task) -> None:
    """Refuse tasks that no learner can work on.

    Raises:
        ValueError: the leading axes differ, a batch is empty, or an input is NaN or infinite.
    """
    named = {
        "support.x": tasks.support.x,
        "support.y": tasks.support.y,
        "query.x": tasks.query.x,
        "query.y": tasks.query.y,
    }

    def got() -> str:
        return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in named.items())

    if any(tensor.ndim < 2 for tensor in named.values()):
        raise ValueError(
            f"every tensor of a Task needs a task axis and an example axis; got {got()}"
        )
    if len({len(tensor) for tensor in named.values()}) > 1:
        raise ValueError(f"every tensor of a Task has the same number of tasks first; got {got()}")
    for name, (x, y) in zip(Task._fields, tasks, strict=True):
        if x.shape[1] != y.shape[1]:
            raise ValueError(
                f"{name}.x and {name}.y differ in their number of examples; got {got()}"
            )
        if 0 in x.shape[:2]:
            raise ValueError(f"a Task needs at least one task and one example; got {got()}")
    real = {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}
    if all(map(math.isfinite, [tensor.sum() for tensor in real.values()])):
        return  # nearly always
    for name, tensor in real.items():  # or a sum of large numbers
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} has NaN or infinite values; clean or rescale the data first")
