"""Modules in training or evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """All parts of a module in one mode; then each as it was.

    >>> layers = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with in_mode(layers, training=False):
    ...     layers[0].training
    False
    >>> [layer.training for layer in layers]
    [True, False]
    """
    modes = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
