"""How Omniglot's characters are split, on characters drawn from fonts."""

from __future__ import annotations

import torch

from metanotes.data import glyphs
from runs import omniglot


def test_classes_are_split_with_none_in_both_parts() -> None:
    images = glyphs("background")
    first, others = omniglot.split_classes(images, 5, seed=1)
    assert len(first.names) == 5
    assert set(first.names) | set(others.names) == set(images.names)
    assert not set(first.names) & set(others.names)
    for part in (first, others):
        for c in (0, len(part.names) - 1):
            same = images.x[images.y == images.names.index(part.names[c])]
            assert torch.equal(part.x[part.y == c], same)
