"""Convolutional networks: shapes, body and head, running statistics, and what they refuse."""

import pytest
import torch
from torch import nn

from metanotes import MAML
from metanotes.nets import conv4, conv_decoder, conv_encoder, feature_count


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


@pytest.mark.parametrize("pool", ["stride", "max"])
@pytest.mark.parametrize("size", [16, 20, 28, 33, 42])
def test_the_features_are_as_many_as_the_formula_says(size, pool):
    body = conv4(None, channels=3, size=size, pool=pool)
    side = -(-size // 16) if pool == "stride" else size // 16
    assert feature_count(body) == 3 * side**2 == body(torch.zeros(2, 1, size, size)).shape[1]


@pytest.mark.parametrize("pool", ["stride", "max"])
@pytest.mark.parametrize("halvings", range(5))
def test_the_first_blocks_halve_the_image(pool, halvings):
    body, side = conv4(None, channels=3, size=21, pool=pool, halvings=halvings), 21
    for _ in range(halvings):
        side = -(-side // 2) if pool == "stride" else side // 2
    assert body[:-1](torch.zeros(2, 1, 21, 21)).shape == (2, 3, side, side)
    assert feature_count(body) == 3 * side**2


def test_conv4_without_ways_is_the_body_of_the_same_weights():
    body, model, x = conv4(None, channels=4), conv4(5, channels=4), torch.randn(6, 1, 28, 28)
    assert len(body) == len(model) - 1
    assert isinstance(body[-1], nn.Flatten)
    assert isinstance(model[-1], nn.Linear)
    assert model[-1].in_features == feature_count(body) == feature_count(model[:-1]) == 16
    assert torch.equal(body(x), model[:-1](x))


def test_running_statistics_are_kept_on_request():
    model, x = conv4(5, channels=4, running_statistics=True), torch.randn(6, 1, 28, 28)
    plain = conv4(5, channels=4)
    assert not any(b.numel() for b in plain.buffers())
    assert torch.equal(model(x), plain(x))  # in training, both take the batch's
    assert model[1].running_mean.abs().sum() > 0
    model.eval(), plain.eval()
    together = model(x)
    assert torch.allclose(model(x[:1]), together[:1], atol=1e-6)  # in eval(), one by one alike
    assert not torch.allclose(plain(x[:1]), plain(x)[:1], atol=1e-3)


def test_learners_that_descend_refuse_running_statistics():
    with pytest.raises(ValueError, match="running statistics"):
        MAML(conv4(5, channels=4, running_statistics=True), inner_lr=0.1)
    MAML(conv4(5, channels=4, running_statistics=True).eval(), inner_lr=0.1)


def test_encoder_and_decoder_fit_each_other():
    x = torch.rand(4, 1, 12, 12)
    encoder, decoder = conv_encoder(1, 12, (5, 7)), conv_decoder(1, 12, 7)
    assert encoder(x).shape == (4, feature_count(encoder)) == (4, 63)
    assert decoder(encoder(x)).shape == x.shape
    sizes = [sum(p.numel() for p in net.parameters()) for net in (conv_encoder(), conv_decoder())]
    assert sizes == [41_040, 9_683]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: conv4(5, pool="mean"), "pool='mean' must be"),
        (lambda: conv4(5, size=12, pool="max"), "size=12 is too small"),
        (lambda: conv4(5, halvings=5), "halvings=5 asks for more than the four blocks"),
        (lambda: conv4(5, halvings=-1), "halvings=-1 must be"),
        (lambda: conv4(5, size=3, pool="max", halvings=2), "for 2 halvings: at least 4"),
        (lambda: conv4(0), "ways=0 must be"),
        (lambda: conv4(None, channels=0), "channels=0 must be"),
        (lambda: conv_encoder(size=30), "size=30 must be a multiple of 4"),
        (lambda: conv_encoder(widths=(0, 3)), r"widths\[0\]=0 must be"),
        (lambda: conv_decoder(size=0), "size=0 must be"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
