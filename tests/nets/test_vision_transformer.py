"""The vision transformer: its patches, body and head, and what it refuses."""

import pytest
import torch
from torch import nn

from metanotes.nets import feature_count, vit
from metanotes.nets.vision_transformer import Patches


def test_patches_are_read_row_by_row():
    x = torch.arange(2 * 3 * 6 * 6.0).view(2, 3, 6, 6)
    patches = Patches(6, 2, 3)(x)
    assert patches.shape == (2, 6, 3 * 2 * 3)
    for n in range(6):
        row, column = 2 * (n // 2), 3 * (n % 2)
        assert torch.equal(patches[:, n], x[:, :, row : row + 2, column : column + 3].flatten(1))
    assert torch.equal(Patches(6, 2, 3)(x.contiguous(memory_format=torch.channels_last)), patches)


def test_without_ways_it_is_the_body_of_the_same_weights():
    x = torch.randn(3, 1, 28, 28)
    body, model = vit(None, width=8, heads=2, layers=1), vit(5, width=8, heads=2, layers=1)
    assert isinstance(model[-1], nn.Linear)
    assert torch.equal(body(x), model[:-1](x))
    assert body(x).shape == (3, feature_count(body))
    assert torch.allclose(model(x[:1]), model(x)[:1], atol=1e-6)  # an image on its own


def test_the_number_of_weights():
    layer = 2 * 2 * 8 + 4 * 8 * 9 + 8 * 32 + 32 + 32 * 8 + 8
    model = vit(5, (1, 28), 3, 28, 8, 2, 1)
    expected = 3 * 28 * 8 + 8 + 28 * 8 + layer + 2 * 8 + 8 * 5 + 5
    assert sum(p.numel() for p in model.parameters()) == expected
    assert model(torch.zeros(2, 3, 28, 28)).shape == (2, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vit(5, patch=8), "size=28 must be a multiple of patch=8"),
        (lambda: vit(5, patch=(7, 8)), r"size=28 must be a multiple of patch=\(7, 8\)"),
        (lambda: vit(5, patch=0), "patch=0 must be"),
        (lambda: vit(5, patch=(7, 0)), "patch=0 must be"),
        (lambda: vit(0), "ways=0 must be"),
        (lambda: vit(5, width=10), "width=10 must be a multiple of heads=4"),
        (lambda: vit(5)(torch.zeros(2, 1, 14, 14)), "its images must be of size=28"),
    ],
)
def test_bad_settings_and_inputs_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
