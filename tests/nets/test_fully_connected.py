"""Fully connected networks: shapes, layers, and what they refuse."""

import pytest
import torch
from torch import nn

from metanotes.nets import dense4, feature_count, mlp


def test_mlp_is_linear_layers_with_activations_between():
    model = mlp(2, 5, 3, activation=nn.Tanh)
    assert [type(m).__name__ for m in model] == ["Linear", "Tanh", "Linear"]
    assert model(torch.zeros(4, 7, 2)).shape == (4, 7, 3)
    assert sum(p.numel() for p in mlp(1, 40, 40, 1).parameters()) == 1_761


@pytest.mark.parametrize(
    ("options", "shape", "parameters"),
    [
        ({}, (1, 28, 28), 247_621),
        ({"in_channels": 3, "size": 9}, (3, 9, 9), 109_125),
    ],
)
def test_dense4_is_the_network_without_convolutions(options, shape, parameters):
    model = dense4(5, **options)
    assert model(torch.randn(4, *shape)).shape == (4, 5)
    assert sum(p.numel() for p in model.parameters()) == parameters
    linear = [m for m in model if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linear] == [256, 128, 64, 64, 5]
    kinds = [type(m).__name__ for m in model]
    assert kinds == ["Flatten", *["Linear", "BatchNorm1d", "ReLU"] * 4, "Linear"]
    assert not any(b.numel() for b in model.buffers())  # no running statistics


def test_dense4_without_ways_is_the_body_of_the_same_weights():
    body, model, x = dense4(None, size=6), dense4(5, size=6), torch.randn(4, 1, 6, 6)
    assert feature_count(body) == 64
    assert torch.equal(body(x), model[:-1](x))
    counting = dense4(5, size=6, running_statistics=True)
    counting(x)
    assert counting[2].running_mean.abs().sum() > 0
    assert torch.allclose(counting.eval()(x[:1]), counting(x)[:1], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mlp(3), r"sizes=\(3,\) needs an input and an output width"),
        (lambda: mlp(3, 0, 1), r"sizes\[1\]=0 must be a whole number of at least 1"),
        (lambda: dense4(0), "ways=0 must be"),
        (lambda: dense4(5, size=0), "size=0 must be"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
