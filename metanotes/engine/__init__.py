"""How the losses of tasks and their gradient are worked out: one door, `meta_step`."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from metanotes.engine.step import meta_step

__all__ = ["meta_step", "recording"]


@contextmanager
def recording(learner: nn.Module) -> Iterator[None]:
    """While this lasts, nothing but tensors changes in a learner: its operations may be recorded.

    A stub until the engine is rebuilt.
    """
    yield
