"""What the checks of the coursework ask, with an answer that teaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SHOWN = 8  # numbers, at most, that a message prints


def check_close(
    found: object, expected: Tensor | float | Sequence[Any], hint: str, tolerance: float = 1e-8
) -> None:
    """Stop with a hint where numbers are not what they should be.

    Args:
        found: what was worked out, a tensor of any shape `[...]`.
        expected: what it should be, of the same shape; a tensor, or numbers in lists.
        hint: what to look at, the first words of the error.
        tolerance: the largest error, in units of the largest expected number or of 1.

    Raises:
        AssertionError: not a tensor, another shape, or a number that is too far away or NaN.

    >>> check_close(torch.tensor([1.0, 2.0]), [1.0, 2.0], "one and two")
    >>> check_close(torch.tensor([1.0, -2.0]), [1.0, 2.0], "mind the sign")
    Traceback (most recent call last):
    AssertionError: mind the sign
      found    [1.0, -2.0]
      expected [1.0, 2.0]
    """
    if not isinstance(found, Tensor):
        raise AssertionError(f"{hint}\n  a tensor is expected, not {type(found).__name__}: {found}")
    right = torch.as_tensor(expected, dtype=torch.float64).detach()
    left = found.detach().double()
    if left.shape != right.shape:
        raise AssertionError(
            f"{hint}\n  found shape {list(left.shape)}\n  expected    {list(right.shape)}"
        )
    scale = max(1.0, float(right.abs().max())) if right.numel() else 1.0
    away = float((left - right).abs().max()) if right.numel() else 0.0
    if away <= tolerance * scale:
        return
    if right.numel() > SHOWN:
        raise AssertionError(f"{hint}\n  the largest difference is {away:.3g}")
    raise AssertionError(f"{hint}\n  found    {rounded(left)}\n  expected {rounded(right)}")


def rounded(numbers: Tensor) -> Any:
    """Numbers as a message shows them."""
    return torch.round(numbers, decimals=6).tolist()
