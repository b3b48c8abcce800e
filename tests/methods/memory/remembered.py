"""Small sequences for the tests of this room."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from metanotes.data import Sampler, Sequences, sequences
from metanotes.task import Batch


def sampler(ways: int = 3, length: int = 8, features: int = 4, seed: int = 0) -> Sampler[Sequences]:
    """Sequences of six classes in float64, each a cloud of points."""
    g = torch.Generator().manual_seed(1)
    centers = torch.randn(6, 1, features, generator=g, dtype=torch.float64)
    x = centers + 0.3 * torch.randn(6, 9, features, generator=g, dtype=torch.float64)
    data = Batch(x.flatten(0, 1), torch.arange(6).repeat_interleave(9))
    return sequences(data, ways, length, seed=seed)


def told(x: Tensor, y: Tensor, ways: int) -> Sequences:
    """The sequences of these examples, x `[T, L, F]` and y `[T, L]`."""
    shown = F.one_hot(y, ways)
    previous = shown.roll(1, 1).to(x)
    previous[:, 0] = 0
    return Sequences(x, y, previous, (shown.cumsum(1) * shown).sum(2))
