"""The initial weights: from a seed, the same ones as ever, and nothing else drawn."""

import pytest
import torch

from metanotes.nets import (
    conv4,
    conv_decoder,
    conv_encoder,
    dense4,
    lstm,
    mlp,
    resnest,
    resnet,
    token_transformer,
    transformer,
    vit,
)

SMALL = {
    "mlp": lambda seed: mlp(1, 4, 1, seed=seed),
    "dense4": lambda seed: dense4(5, size=6, seed=seed),
    "conv4": lambda seed: conv4(5, channels=4, seed=seed),
    "conv_encoder": lambda seed: conv_encoder(1, 8, (2, 3), seed=seed),
    "conv_decoder": lambda seed: conv_decoder(1, 8, 3, seed=seed),
    "resnet": lambda seed: resnet(5, (3, 4), seed=seed),
    "resnest": lambda seed: resnest(5, (4, 6), seed=seed),
    "lstm": lambda seed: lstm(2, 1, 4, seed=seed),
    "transformer": lambda seed: transformer(2, 1, 8, 2, 1, seed=seed, positions=4),
    "token_transformer": lambda seed: token_transformer(5, 9, 4, 8, 2, 1, seed=seed),
    "vit": lambda seed: vit(5, width=8, heads=2, layers=1, seed=seed),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_net_is_made_from_its_seed_and_leaves_the_global_one(name):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    a, b, c = (list(SMALL[name](seed).parameters()) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, a, b))
    assert not torch.equal(a[0], c[0])


@pytest.mark.parametrize(
    ("model", "sums"),
    [
        (mlp(1, 40, 40, 1), [-3.094628691673279, -2.2869006225882913]),
        (mlp(2, 5, 3, seed=3), [-1.481807366013527, -3.4360317550599575]),
        (dense4(5), [11.015339755864801, 511.03761113225266]),
        (dense4(20, 3, 9, seed=2), [-1.7891491402685986, 502.9176552957699]),
        (conv4(5), [-1.946483097912278, 257.5737022036128]),
        (conv4(5, 32, 3, 84, "max", 1), [-0.23077504319371656, 127.92352076728861]),
        (conv_encoder(), [-0.5995493297414214, 84.04351514065638]),
        (conv_encoder(1, 8, (2, 3), 4), [1.4621746642515063, 7.022994518862106]),
        (conv_decoder(), [-1.3521201356179517, 2.8844245491818583]),
        (conv_decoder(1, 8, 3, 5), [-1.1394897295103874, -7.609704250236973]),
    ],
)
def test_the_draws_of_published_runs_stay_what_they_were(model, sums):
    weights = [p.detach().double().sum() for p in model.parameters()]
    assert weights[0].item() == pytest.approx(sums[0], rel=1e-6)
    assert sum(weights).item() == pytest.approx(sums[1], rel=1e-6)
