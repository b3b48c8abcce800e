"""A function of one task, as a function of T tasks.

    over_tasks(f)(theta, x) = (f(theta^1, x^1), ..., f(theta^T, x^T))

A model and its loss are written for one task. `over_tasks` applies a function of one task to all of
them: one by one, unless a plan of the engine's is in force (`How`), which has tried
`torch.func.vmap` on the very function and compared. The value is the same either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from metanotes.task import task_count


class How(NamedTuple):
    """In which way functions of one task are applied to T tasks.

    Args:
        at_once: by `vmap`, rather than one by one.
        apart: predictions one by one all the same. Weights that differ between tasks make vmap's
            convolutions grouped ones; on a CPU, for many examples, an ordinary one a task is
            faster.
        channels_last: images of one task with their channels last in memory: faster on a CPU.
        layers: makes a context in which functions of `torch.nn` under `vmap` are worked out in
            another way.
        stacked: makes a context in which functions of torch take tensors of all tasks, without
            `vmap`, or refuse to (`NotStackable`): then one by one.
        on_trial: let the refusal through.

    >>> How(at_once=True).channels_last
    False
    """

    at_once: bool = False
    apart: bool = False
    channels_last: bool = False
    layers: Callable[[], AbstractContextManager[Any]] = nullcontext
    stacked: Callable[[], AbstractContextManager[Any]] | None = None
    on_trial: bool = False


class NotStackable(NotImplementedError):
    """A function of one task that cannot be given tensors of all tasks."""


IN_FORCE: ContextVar[How | None] = ContextVar("how tasks are worked on", default=None)
ONE_BY_ONE = How()


def present() -> How:
    """The way that is in force: one by one, where no plan is."""
    return IN_FORCE.get() or ONE_BY_ONE


@contextmanager
def in_force(how: How) -> Iterator[None]:
    """While this lasts, `over_tasks` works in that way.

    >>> with in_force(How(at_once=True)):       # one call of vmap, and not three of torch.dot
    ...     over_tasks(torch.dot)(torch.ones(3, 2), torch.arange(6.0).view(3, 2))
    tensor([1., 5., 9.])
    """
    token = IN_FORCE.set(how)
    try:
        yield
    finally:
        IN_FORCE.reset(token)


def over_tasks(function: Callable[..., Tensor], *, predicts: bool = False) -> Callable[..., Tensor]:
    """A function of one task, as a function of all tasks.

    Args:
        function: of tensors, or dicts and tuples of them, without a task axis, to a tensor.
        predicts: whether it works on query sets, of many examples, with weights of the tasks' own.

    Returns:
        The function of the same arguments, each with a leading task axis, to a tensor `[T, ...]`.

    >>> over_tasks(torch.dot)(torch.ones(3, 2), torch.arange(6.0).view(3, 2))
    tensor([1., 5., 9.])
    """
    how = present()
    if how.at_once and not (predicts and how.apart):
        at_once = None if how.stacked else vmap(function, randomness="different")

        def run(*args: Any) -> Tensor:
            # A single task is a plain call: nothing is gained, and torch reads strides of a batch
            # of one otherwise than those of many.
            if task_count(args) == 1:
                return each(function, args, how)
            if at_once is None:
                return stacked(function, args, how)
            with how.layers():
                return at_once(*args)

        return run
    return lambda *args: each(function, args, how)


def of_task(args: Any, n: int, how: How = ONE_BY_ONE) -> Any:
    """The n-th task's part of arguments with a leading task axis."""
    if isinstance(args, dict):
        return {name: of_task(t, n, how) for name, t in args.items()}
    if isinstance(args, tuple | list):  # by hand: torch's tree_map takes as long as a small layer
        parts = [of_task(t, n, how) for t in args]
        return type(args)(*parts) if hasattr(args, "_fields") else type(args)(parts)
    one = args[n]
    if how.channels_last and one.ndim == 4 and one.is_floating_point():
        rows = one.movedim(-3, -1).clone(memory_format=torch.contiguous_format)
        one = rows.movedim(-1, -3)  # N, H, W, C in memory (vmap lacks `memory_format=`)
    return one


def each(function: Callable[..., Tensor], args: Any, how: How = ONE_BY_ONE) -> Tensor:
    """A function of one task on each task in turn."""
    tasks = range(task_count(args))
    results = [function(*of_task(args, n, how)) for n in tasks]
    if not isinstance(results[0], Tensor):
        raise ValueError(f"a function of one task gave a {type(results[0]).__name__}, not a tensor")
    return torch.stack(results)


def stacked(function: Callable[..., Tensor], args: Any, how: How) -> Tensor:
    """A function of one task on tensors of all tasks, if it is such a one; else on each in turn."""
    assert how.stacked is not None
    try:
        with how.stacked():
            return function(*args)
    except NotStackable:
        if how.on_trial:
            raise
        return each(function, args, how)
