"""Omniglot's characters, as the runs split them."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

from metanotes.data import Images, omniglot


class Classes(NamedTuple):
    """Images of classes for training, for validation and for the test."""

    train: Images
    validation: Images
    test: Images


@cache
def omniglot_classes() -> Classes:
    """Omniglot's 1200/423 characters; of the 1200, 100 are for validation."""
    train, validation = split_classes(omniglot("train", protocol="1200/423"), 1100, seed=0)
    return Classes(train, validation, omniglot("test", protocol="1200/423"))


def split_classes(images: Images, first: int, seed: int) -> tuple[Images, Images]:
    """The images of `first` classes drawn at random, and those of the other classes."""
    order = torch.randperm(len(images.names), generator=torch.Generator().manual_seed(seed))
    parts = []
    for classes in (order[:first].sort().values, order[first:].sort().values):
        rows = torch.isin(images.y, classes)
        names = tuple(images.names[c] for c in classes)
        parts.append(Images(images.x[rows], torch.searchsorted(classes, images.y[rows]), names))
    return parts[0], parts[1]
