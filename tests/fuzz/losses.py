"""Losses: torch's, readers' functions, and modules that learn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import metanotes


class Warm(nn.Module):
    """Cross entropy at a temperature that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs * self.temperature.exp(), y)


class Weighted(nn.Module):
    """Squares, with a weight that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(torch.tensor(-0.2, dtype=torch.float64))

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self.log_weight.exp() * (outputs - y).square().mean() - self.log_weight


def focal(outputs: Tensor, y: Tensor) -> Tensor:
    """A loss of a reader's."""
    right = F.log_softmax(outputs, 1).gather(1, y.unsqueeze(1))
    return -((1 - right.exp()) * right).mean()


def log_cosh(outputs: Tensor, y: Tensor) -> Tensor:
    """Another."""
    return ((outputs - y).cosh() + 0.1).log().mean()


LOSSES: dict[str, list[Callable[[], Any]]] = {
    "labels": [
        lambda: metanotes.cross_entropy,
        lambda: metanotes.cross_entropy,
        lambda: metanotes.cross_entropy,
        nn.CrossEntropyLoss,
        lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda: partial(F.cross_entropy, label_smoothing=0.2),
        lambda: focal,
        Warm,
    ],
    "probabilities": [lambda: metanotes.cross_entropy, nn.CrossEntropyLoss, Warm],
    "real": [
        lambda: metanotes.mse,
        lambda: metanotes.mse,
        lambda: metanotes.mse,
        nn.MSELoss,
        lambda: nn.MSELoss(reduction="sum"),
        lambda: F.smooth_l1_loss,
        lambda: partial(F.huber_loss, delta=0.7),
        lambda: log_cosh,
        lambda: lambda outputs, y: (outputs - y).abs().mean(),
        Weighted,
    ],
    "several": [nn.BCEWithLogitsLoss, lambda: F.binary_cross_entropy_with_logits],
}


def describe_loss(loss: Any) -> str:
    if isinstance(loss, partial):
        return f"partial({loss.func.__name__}, {loss.keywords})"
    return getattr(loss, "__name__", repr(loss))
