"""The number of features, read off the end of a body."""

import pytest
import torch
from torch import nn

from metanotes.nets import (
    ResidualBlock,
    TransformerBody,
    conv4,
    feature_count,
    mlp,
    resnet,
    token_transformer,
    transformer,
    vit,
)

IMAGES = torch.zeros(2, 1, 28, 28)
BODIES = {
    "conv4": (conv4(None, channels=3), IMAGES),
    "conv4 in another": (nn.Sequential(nn.Identity(), conv4(None), nn.ReLU()), IMAGES),
    "resnet": (resnet(None, (2, 3)), IMAGES),
    "vit": (vit(None, width=12, heads=3, layers=1), IMAGES),
    "mlp": (nn.Sequential(nn.Flatten(), mlp(784, 5, 3), nn.Tanh(), nn.Dropout(0.5)), IMAGES),
    "batch norm": (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784)), IMAGES),
    "layer norm": (nn.Sequential(nn.LayerNorm((28, 28))), IMAGES),
    "linear": (nn.Linear(28, 6), IMAGES),
    "transformer": (transformer(28, None, 8, 2, 1), IMAGES[:, 0]),
    "transformer body": (TransformerBody(28, 4, 1), IMAGES[:, 0]),
    "tokens": (token_transformer(None, 9, 5, 8, 2, 1), torch.ones(2, 5, dtype=torch.long)),
}


@pytest.mark.parametrize("name", BODIES)
def test_it_is_what_a_forward_pass_gives(name):
    body, x = BODIES[name]
    assert feature_count(body) == body(x).shape[-1]


@pytest.mark.parametrize(
    "body",
    [
        nn.Sequential(nn.Linear(8, 4), nn.Unflatten(1, (2, 2)), nn.Flatten()),
        nn.Sequential(nn.Linear(8, 4), nn.GLU()),
        nn.Sequential(ResidualBlock(1, 4), nn.Flatten()),
        nn.Sequential(),
        nn.ReLU(),
    ],
)
def test_it_is_not_guessed(body):
    with pytest.raises(ValueError, match=r"body=\w+ ends in \w+, which does not tell"):
        feature_count(body)
