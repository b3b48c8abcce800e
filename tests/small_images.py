"""Images of 8x8 pixels that any learner can tell apart, for tests of the few-shot runs."""

from __future__ import annotations

import torch
from torch import nn

from metanotes.data import Images


def small_images(classes: int, seed: int) -> Images:
    """Classes that differ in their mean image."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand(classes, 1, 1, 8, 8, generator=generator)
    x = means + 0.1 * torch.rand(classes, 20, 1, 8, 8, generator=generator)
    names = tuple(f"c{i}" for i in range(classes))
    return Images(x.flatten(0, 1), torch.arange(classes).repeat_interleave(20), names)


def small_net(ways: int, seed: int) -> nn.Sequential:
    """A network for them."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, ways))
