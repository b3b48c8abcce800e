"""What the map of the book says of a method: words of its documentation, and costs, counted.

Nothing is timed, so that a cost is the same at every run.
"""

from __future__ import annotations

import inspect
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

FIELDS = ("phi", "adapts", "outer loss", "needs")


def map_fields(method: object) -> dict[str, str]:
    """What the documentation of a method says under "On the map:", field by field.

    Args:
        method: a class or a function.

    Returns:
        `phi`, `adapts`, `outer loss` and `needs`, in this order; nothing if it is not there.

    Raises:
        ValueError: a field is missing, or there are others.

    >>> class Nearest:
    ...     '''Answers with the nearest.
    ...
    ...     On the map:
    ...         phi: nothing
    ...         adapts: nothing: the examples are kept
    ...         outer loss: none
    ...         needs: features
    ...     '''
    >>> map_fields(Nearest)["adapts"]
    'nothing: the examples are kept'
    """
    text = inspect.cleandoc(getattr(method, "__doc__", None) or "")
    section = re.search(r"^On the map:\n((?:    .*\n?)+)", text, re.M)
    if section is None:
        return {}
    fields = dict(line.strip().split(": ", 1) for line in section[1].splitlines())
    if tuple(fields) != FIELDS:
        raise ValueError(
            f"{getattr(method, '__name__', method)} has the fields {', '.join(fields)} under "
            f"'On the map:'; it needs {', '.join(FIELDS)}, in this order"
        )
    return fields


class Cost(NamedTuple):
    """What a piece of work cost.

    Args:
        operations: of its products of matrices and its convolutions, a multiplication and an
            addition being two.
        memory: the most bytes that tensors made on the way occupied at a time, the graph's and the
            results among them.

    >>> Cost(operations=12, memory=40).memory
    40
    """

    operations: int
    memory: int


def cost_of(work: Callable[[], object]) -> Cost:
    """Count what a piece of work costs, its backward passes included.

    What was there before costs nothing, and what one operation needs within itself is not seen.
    Recurrent nets and attention are worked out in products of matrices that can be counted.

    Args:
        work: is done once.

    >>> a = torch.ones(2, 3)
    >>> cost_of(lambda: a @ a.T)
    Cost(operations=24, memory=16)
    """
    with _Counting() as counted, sdpa_kernel(SDPBackend.MATH), _without_onednn():
        work()
    return Cost(counted.operations, counted.most)


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Its LSTM is a single operation, whose products are not to be seen."""
    backend: Any = torch.backends.mkldnn
    before, backend.enabled = backend.enabled, False
    try:
        yield
    finally:
        backend.enabled = before


class _Counting(TorchDispatchMode):
    """Sees every operation and the memory of its outputs, until nothing refers to it any more."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.now = self.most = 0
        self.occupied: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            count = flop_registry[func.overloadpacket]
            self.operations += count(*args, **(kwargs or {}), out_val=outputs)
        inputs = {_storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in tree_leaves(outputs):
            if isinstance(t, Tensor) and _storage(t) not in self.occupied.keys() | inputs:
                self.occupy(t)
        return outputs

    def occupy(self, t: Tensor) -> None:
        storage = t.untyped_storage()
        self.occupied[id(storage)] = storage.nbytes()
        weakref.finalize(storage, self.release, id(storage))
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)

    def release(self, key: int) -> None:
        self.now -= self.occupied.pop(key)


def _storage(t: Tensor) -> int:
    return id(t.untyped_storage())


def numbers_in(things: Any) -> int:
    """How many numbers are in tensors, a tree of them, or a module that learns.

    Args:
        things: a module, of which the parameters that require a gradient count; or a tree of
            tensors, such as what `adapt` returns, in which other things count nothing.

    >>> numbers_in(nn.Linear(3, 2)), numbers_in({"w": torch.zeros(2, 3), "name": "w"})
    (8, 6)
    """
    if isinstance(things, nn.Module):
        things = [p for p in things.parameters() if p.requires_grad]
    return sum(t.numel() for t in tree_leaves(things) if isinstance(t, Tensor))
