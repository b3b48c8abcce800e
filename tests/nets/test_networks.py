"""The networks: shapes, seeds, and what they refuse."""

import pytest
import torch

from metanotes.nets import conv4, dense4, mlp


@pytest.mark.parametrize(
    ("options", "shape", "parameters"),
    [
        ({}, (1, 28, 28), 113_221),
        ({"pool": "max"}, (1, 28, 28), 112_261),
        ({"channels": 32, "in_channels": 3, "size": 84, "pool": "max"}, (3, 84, 84), 32_901),
    ],
)
def test_conv4_is_the_network_of_the_papers(options, shape, parameters):
    model = conv4(5, **options)
    assert model(torch.zeros(2, *shape)).shape == (2, 5)
    assert sum(p.numel() for p in model.parameters()) == parameters


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
    linear = [m for m in model if isinstance(m, torch.nn.Linear)]
    assert [m.out_features for m in linear] == [256, 128, 64, 64, 5]
    kinds = [type(m).__name__ for m in model]
    assert kinds == ["Flatten", *["Linear", "BatchNorm1d", "ReLU"] * 4, "Linear"]
    assert not any(b.numel() for b in model.buffers())  # no running statistics


def test_nets_are_made_from_their_seed_and_leave_the_global_one():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    a, b, c = mlp(1, 4, 1, seed=3), mlp(1, 4, 1, seed=3), mlp(1, 4, 1, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a[0].weight, b[0].weight)
    assert not torch.equal(a[0].weight, c[0].weight)
    a, b, c = dense4(5, size=6, seed=3), dense4(5, size=6, seed=3), dense4(5, size=6, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a[-1].weight, b[-1].weight)
    assert not torch.equal(a[-1].weight, c[-1].weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mlp(3), r"sizes=\(3,\) needs an input and an output width"),
        (lambda: conv4(5, pool="mean"), "pool='mean' must be"),
        (lambda: conv4(5, size=12, pool="max"), "size=12 is too small"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
