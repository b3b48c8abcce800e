"""Tensors on another device, whatever holds them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def moved(thing: Any, device: torch.device) -> Any:
    """The same tuples, lists and dicts, with their tensors on a device; all else as it is.

    >>> moved({"x": [torch.zeros(2)], "kind": "words"}, torch.device("cpu"))
    {'x': [tensor([0., 0.])], 'kind': 'words'}
    """
    if isinstance(thing, Tensor):
        return thing.to(device)
    if isinstance(thing, tuple):
        parts = [moved(part, device) for part in thing]
        return type(thing)(*parts) if hasattr(thing, "_fields") else tuple(parts)
    if isinstance(thing, list):
        return [moved(part, device) for part in thing]
    if isinstance(thing, dict):
        return {name: moved(part, device) for name, part in thing.items()}
    return thing
