"""Labelled images: what the classification tasks are drawn from."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Images(NamedTuple):
    """Images of named classes.

    Args:
        x: images, `[n, C, H, W]`; uint8 in 0..255, or real numbers.
        y: the class of each, `[n]`, int64 in 0..len(names)-1.
        names: the name of each class; for characters `"Alphabet/character"`.

    >>> import torch
    >>> Images(torch.zeros(4, 1, 8, 8), torch.tensor([0, 0, 1, 1]), ("left", "right"))
    Images(4 images [1, 8, 8] of 2 classes)
    """

    x: Tensor
    y: Tensor
    names: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Images({len(self.x)} images {list(self.x.shape[1:])} of {len(self.names)} classes)"
