"""A task, and what a learner may see of it.

Task n is a pair (D_train, D_test): the *support* set, on which a learner learns, and the *query*
set, on which it is judged. Every tensor has a leading task axis of length T, so that a `Task` is a
batch of T tasks, worked on at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

__all__ = [
    "Batch",
    "Functions",
    "Sequences",
    "Task",
    "check_tasks",
    "joined",
    "map_tensors",
    "minibatches",
    "select",
    "task_count",
    "task_to",
]

Inputs = Tensor | dict[str, Tensor]
Of = TypeVar("Of")

UNLABELLED = -1  # the label of an example whose class is not to be seen
IGNORED = -100  # a token that cross entropy leaves out, as torch's `ignore_index`


class Batch(NamedTuple):
    """Examples of T tasks: inputs and their targets.

    Args:
        x: inputs, `[T, N, ...]`; or a dict of such tensors, which a model's forward gets as its
            keyword arguments.
        y: targets, `[T, N]` (integer class labels) or `[T, N, ...]` (real numbers, or tokens).

    >>> batch = Batch(x=torch.zeros(3, 5, 2), y=torch.zeros(3, 5, dtype=torch.long))
    >>> len(batch.x)                            # T
    3
    """

    x: Any  # Inputs
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


# ------------------------------------------------------------------------- of any nested tensors


def tensors_of(of: Any) -> list[Tensor]:
    """The tensors of a `Task`, a `Batch`, or anything else made of dicts, tuples and lists.

    >>> [t.ndim for t in tensors_of(Batch({"ids": torch.zeros(3, 5)}, torch.zeros(3)))]
    [2, 1]
    """
    if isinstance(of, Tensor):
        return [of]
    parts = of.values() if isinstance(of, dict) else of if isinstance(of, tuple | list) else ()
    return [t for part in parts for t in tensors_of(part)]


def task_count(of: Any) -> int:
    """T, of a `Task`, a `Batch`, or anything else made of tensors with a leading task axis.

    >>> task_count(Batch({"ids": torch.zeros(3, 5)}, torch.zeros(3, 5)))
    3
    """
    tensors = tensors_of(of)
    if not tensors:
        raise ValueError("there is no tensor in this, and so no number of tasks")
    return len(tensors[0])


def map_tensors(function: Callable[[Tensor], Tensor], of: Of) -> Of:
    """A function on every tensor of a `Task`, a `Batch`, or other nested dicts and tuples.

    >>> map_tensors(lambda t: t[:2], Batch(torch.zeros(3, 5, 2), torch.zeros(3, 5))).y.shape
    torch.Size([2, 5])
    """
    mapped: Of = tree_map(function, of)
    return mapped


def select(of: Of, index: Any) -> Of:
    """The tasks of an index or a slice, of a `Task`, a `Batch`, or other nested tensors.

    >>> select(Batch(torch.zeros(3, 5, 2), torch.zeros(3, 5)), slice(1)).x.shape
    torch.Size([1, 5, 2])
    """
    return map_tensors(lambda t: t[index], of)


def task_to(tasks: Of, device: torch.device | str) -> Of:
    """The same tasks on another device.

    >>> task_to(Batch(torch.zeros(3, 5, 2), torch.zeros(3, 5)), "meta").x.device
    device(type='meta')
    """
    return map_tensors(lambda t: t.to(device), tasks)


def joined(first: Batch, second: Batch) -> Batch:
    """The examples of both, task by task: `[T, N, ...]` and `[T, M, ...]` to `[T, N + M, ...]`.

    >>> five, four = (Batch(torch.zeros(3, n, 2), torch.zeros(3, n)) for n in (5, 4))
    >>> joined(five, four).x.shape
    torch.Size([3, 9, 2])
    """
    x, y = (
        tree_map(lambda a, b: torch.cat([a, b], 1), *pair)
        for pair in zip(first, second, strict=True)
    )
    return Batch(x, y)


def minibatches(examples: Batch, size: int, steps: int) -> Batch:
    """The minibatches of so many steps, one after the other: x `[T, steps * size, ...]`.

    Each task's examples are gone through in a random order; when all have been used, in another.

    Raises:
        ValueError: a minibatch of more examples than a task has.

    >>> examples = Batch(torch.arange(4).expand(3, 4), torch.zeros(3, 4))
    >>> drawn = minibatches(examples, size=2, steps=3).x          # three steps, of two each
    >>> drawn.shape, drawn[0, :4].sort().values.tolist()          # two steps see each example once
    (torch.Size([3, 6]), [0, 1, 2, 3])
    """
    tasks, examples_of_a_task = examples.y.shape[:2]
    if size > examples_of_a_task:
        raise ValueError(
            f"batch={size} asks for more examples than the {examples_of_a_task} of a task"
        )
    rounds = max(1, -(-size * steps // examples_of_a_task))
    order = [torch.rand(tasks, examples_of_a_task).argsort(1) for _ in range(rounds)]
    rows = torch.cat(order, 1)[:, : max(size, size * steps)].to(examples.y.device)
    task = torch.arange(tasks, device=rows.device)[:, None]
    return map_tensors(lambda t: t[task, rows], examples)


def in_parts(examples: Batch, size: int) -> list[Batch]:
    """Examples that lie one after the other, as minibatches of that size."""
    count = examples.y.shape[1] // size
    return [select(examples, (slice(None), slice(i * size, (i + 1) * size))) for i in range(count)]


# ------------------------------------------------------------------------------------ checks


def _named(tasks: Task) -> dict[str, Any]:
    """Every tensor of a `Task`, by the name that a reader gave it."""
    named: dict[str, Any] = {}
    for part, (x, y) in zip(Task._fields, tasks, strict=True):
        if isinstance(x, dict):
            named |= {f"{part}.x[{key!r}]": value for key, value in x.items()}
        else:
            named[f"{part}.x"] = x
        named[f"{part}.y"] = y
    return named


def check_tasks(tasks: Task) -> None:
    """Refuse tasks that no learner can work on.

    Raises:
        TypeError: something in it is no tensor.
        ValueError: the leading axes differ, a batch is empty, or an input is NaN or infinite.

    >>> check_tasks(Task(Batch(torch.zeros(3, 5, 2), torch.zeros(3, 4)),
    ...                  Batch(torch.zeros(3, 5, 2), torch.zeros(3, 5))))
    Traceback (most recent call last):
    ValueError: support.x and support.y differ in their number of examples; got ...
    """
    _check_form(tasks)
    named = _named(tasks)
    _check_shapes(named)
    real = {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}
    with torch.no_grad():
        if not real or _finite_sum(list(real.values())):
            return  # nearly always
        for name, tensor in real.items():  # or a sum of large numbers
            if not torch.isfinite(tensor).all():
                raise ValueError(
                    f"{name} has NaN or infinite values; clean or rescale the data first"
                )


def check_judged(tasks: Task, empty: str) -> None:
    """`check_tasks` for a learner whose query set has a name and a purpose of its own.

    Args:
        tasks: what the learner is given.
        empty: what an empty query set is to it, and what would be missing.

    Raises:
        TypeError, ValueError: see `check_tasks`; an empty query set is refused in these words.

    >>> x, y = torch.zeros(3, 5, 2), torch.zeros(3, 5)
    >>> tasks = Task(Batch(x, y), Batch(x[:, :0], y[:, :0]))
    >>> check_judged(tasks, "an empty quiz: nothing is asked")
    Traceback (most recent call last):
    ValueError: query.y is [3, 0], an empty quiz: nothing is asked; give at least one example
    """
    if isinstance(tasks, tuple) and len(tasks) == 2:
        y = getattr(tasks[1], "y", None)
        if isinstance(y, Tensor) and y.ndim > 1 and y.shape[1] == 0:
            raise ValueError(f"query.y is {list(y.shape)}, {empty}; give at least one example")
    check_tasks(tasks)


def _check_shapes(named: dict[str, Tensor]) -> None:
    def got() -> str:
        return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in named.items())

    if any(tensor.ndim < 2 for tensor in named.values()):
        raise ValueError(
            f"every tensor of a Task needs a task axis and an example axis; got {got()}"
        )
    if len({len(tensor) for tensor in named.values()}) > 1:
        raise ValueError(f"every tensor of a Task has the same number of tasks first; got {got()}")
    for part in Task._fields:
        sizes = {t.shape[:2] for name, t in named.items() if name.startswith(part)}
        if len(sizes) > 1:
            raise ValueError(
                f"{part}.x and {part}.y differ in their number of examples; got {got()}"
            )
        if 0 in next(iter(sizes)):
            raise ValueError(f"a Task needs at least one task and one example; got {got()}")
    if len({tensor.device for tensor in named.values()}) > 1:
        where = ", ".join(f"{name} on {tensor.device}" for name, tensor in named.items())
        raise ValueError(f"the tensors of a Task lie on several devices: {where}; see task_to")


def _finite_sum(tensors: list[Tensor]) -> bool:
    """Whether the sum of all numbers is finite."""
    sums = [tensor.sum() for tensor in tensors]
    if tensors[0].device.type == "cpu":
        return math.isfinite(sum(map(float, sums)))
    return math.isfinite(sum(sums))  # one wait for the device


def _check_form(tasks: Task) -> None:
    if not isinstance(tasks, tuple) or len(tasks) != 2:
        raise TypeError(f"tasks are a Task(support, query); got {type(tasks).__name__}")
    if not all(isinstance(batch, tuple) and len(batch) == 2 for batch in tasks):
        kinds = [type(batch).__name__ for batch in tasks]
        raise TypeError(f"support and query are each a Batch(x, y); got {' and '.join(kinds)}")
    for name, value in _named(Task(*tasks)).items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name} is a {type(value).__name__}, not a tensor: torch.as_tensor(...) makes one"
            )
