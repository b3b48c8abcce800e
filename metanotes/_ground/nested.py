"""Tensors, whatever holds them: what samplers draw is nested in tuples, lists and dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def mapped(function: Callable[[Tensor], Tensor], thing: Any) -> Any:
    """The same tuples, lists and dicts, with a function of their tensors; all else as it is.

    An iterator gives what it gave, mapped likewise, as it is asked.

    >>> mapped(lambda t: t + 1, {"x": [torch.zeros(2)], "kind": "words"})
    {'x': [tensor([1., 1.])], 'kind': 'words'}
    >>> next(mapped(lambda t: t + 1, iter([torch.zeros(2), torch.ones(2)])))
    tensor([1., 1.])
    """
    if isinstance(thing, Tensor):
        return function(thing)
    if isinstance(thing, tuple):
        parts = [mapped(function, part) for part in thing]
        return type(thing)(*parts) if hasattr(thing, "_fields") else tuple(parts)
    if isinstance(thing, list):
        return [mapped(function, part) for part in thing]
    if isinstance(thing, dict):
        return {name: mapped(function, part) for name, part in thing.items()}
    if isinstance(thing, Iterator):
        return (mapped(function, part) for part in thing)
    return thing


def moved(thing: Any, device: torch.device) -> Any:
    """The same with its tensors on a device.

    >>> moved({"x": [torch.zeros(2)], "kind": "words"}, torch.device("cpu"))
    {'x': [tensor([0., 0.])], 'kind': 'words'}
    """
    return mapped(lambda t: t.to(device), thing)


def tensors_in(thing: Any) -> list[Tensor]:
    """The tensors that it holds; an iterator is not asked for its.

    >>> tensors_in({"x": [torch.zeros(2)], "kind": "words"})
    [tensor([0., 0.])]
    """
    tensors: list[Tensor] = []

    def note(t: Tensor) -> Tensor:
        tensors.append(t)
        return t

    mapped(note, thing)
    return tensors
