"""Recurrent networks: an LSTM that reads a sequence and says something at every place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metanotes._ground.checks import counts
from metanotes._ground.randomness import seeded


class LSTMBody(nn.LSTM):
    """An LSTM whose forward gives its outputs alone, `[N, L, inputs]` to `[N, L, hidden]`.

    Its forget gates are open at first. Its weights are drawn from the global random state, as those
    of any module of torch's.

    Args:
        inputs: numbers of a vector.
        hidden: cells.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden, batch_first=True)
        self.features = hidden
        with torch.no_grad():
            dict(self.named_parameters())["bias_hh_l0"][hidden : 2 * hidden] = 1.0

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        outputs: Tensor = super().forward(x)[0]
        return outputs


def lstm(inputs: int, outputs: int | None, hidden: int = 128, seed: int = 0) -> nn.Sequential:
    """An LSTM on sequences of real vectors, and a linear head.

    Args:
        inputs: numbers of a vector.
        outputs: of the head; None leaves it out.
        hidden: cells of the LSTM.
        seed: of the initial weights (PyTorch's default initialisation; forget gates open).

    Returns:
        From `[N, L, inputs]` to `[N, L, outputs]`; to `hidden` numbers without a head.

    Raises:
        ValueError: a count below 1.

    >>> model = lstm(inputs=3, outputs=1)
    >>> model(torch.zeros(8, 20, 3)).shape
    torch.Size([8, 20, 1])
    """
    counts(inputs=inputs, hidden=hidden)
    if outputs is not None:
        counts(outputs=outputs)
    with seeded(seed):
        modules: list[nn.Module] = [LSTMBody(inputs, hidden)]
        if outputs is not None:
            modules.append(nn.Linear(hidden, outputs))
    return nn.Sequential(*modules)
