"""Random choices, all of them from one seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

Kind = TypeVar("Kind")


class Draw:
    """Random choices, all of them from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def integer(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def chance(self, p: float) -> bool:
        return float(torch.rand((), generator=self.generator)) < p

    def real(self, low: float, high: float) -> float:
        number = low + (high - low) * float(torch.rand((), generator=self.generator))
        return float(f"{number:.3g}")

    def choice(self, options: Sequence[Kind]) -> Kind:
        return options[self.integer(0, len(options) - 1)]

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def labels(self, classes: int, *shape: int) -> Tensor:
        return torch.randint(classes, shape, generator=self.generator)

    def order(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self.generator)
