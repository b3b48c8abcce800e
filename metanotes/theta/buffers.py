"""What a model notes by itself, apart from what it has learned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def buffers_apart(model: nn.Module) -> Iterator[None]:
    """While this lasts, a model notes what it notes (running statistics) in copies, then dropped.

    A step that is only tried out leaves no trace.

    >>> import torch
    >>> layer = nn.BatchNorm1d(2)
    >>> with buffers_apart(layer):
    ...     _ = layer(torch.randn(5, 2))
    >>> layer.running_mean
    tensor([0., 0.])
    """
    holders = {id(module): module._buffers for module in model.modules()}.values()
    own = [(holder, name, t) for holder in holders for name, t in holder.items() if t is not None]
    try:
        for holder, name, t in own:
            holder[name] = t.clone()
        yield
    finally:
        for holder, name, t in own:
            holder[name] = t
