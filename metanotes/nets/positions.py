"""Where in a sequence a place is, as waves of many lengths (Vaswani et al. 2017, section 3.5).

    s(t, 2i) = sin(t / 10000^(2i / d)),    s(t, 2i + 1) = cos(t / 10000^(2i / d))             (1)

The place n steps back has, in each pair of numbers, an angle that is smaller by a constant: one
linear map of s(t) gives s(t - n) for all t. To look at the place before is then learned at once for
all places; with positions drawn at random it is learned place by place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metanotes._ground.checks import count


def sinusoids(positions: int, width: int) -> Tensor:
    """The waves (1), float32 `[positions, width]`: for the learned positions of a body to start at.

    Args:
        positions: places, t = 0, 1, ...
        width: numbers at a place, d, even.

    Raises:
        ValueError: a count below 1, an odd width.

    >>> from metanotes.nets import TransformerBody
    >>> body = TransformerBody(width=64, heads=4, layers=2, causal=True, positions=50)
    >>> with torch.no_grad():
    ...     body.positions.copy_(sinusoids(50, 64)).shape
    torch.Size([50, 64])
    """
    count("positions", positions)
    if count("width", width) % 2:
        raise ValueError(f"width={width} must be even: a sine and a cosine of each length")
    rates = 10_000 ** -(torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width)
    angles = torch.arange(positions, dtype=torch.float64, device="cpu")[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1).float()
