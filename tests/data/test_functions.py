"""Families of functions: what they are, their stream, and what is refused."""

import pytest
import torch
from torch import nn

from metanotes import Batch, mse
from metanotes.data import networks, quadratics
from metanotes.nets import mlp

DATA = Batch(torch.arange(30 * 4, dtype=torch.uint8).view(30, 4), torch.arange(30).remainder(3))


def make(seed: int) -> nn.Module:
    return mlp(4, 5, 3, seed=seed)


def test_a_quadratic_is_what_it_says():
    functions = quadratics(dim=3, seed=0, dtype=torch.float64)(5)
    W, y = next(functions.batches)
    theta = torch.randn(5, 3, dtype=torch.float64)
    values = torch.stack([functions.loss({"theta": theta[n]}, W[n], y[n]) for n in range(5)])
    torch.testing.assert_close(values, ((W @ theta[..., None])[..., 0] - y).square().sum(1))
    assert torch.equal(next(functions.batches).x, W)
    assert not functions.theta["theta"].any()


def test_entries_are_standard_normal():
    W, y = next(quadratics(seed=0)(2000).batches)
    for t in (W, y):
        assert abs(t.mean()) < 0.02
        assert abs(t.std() - 1) < 0.02


def test_dtypes_and_seeds():
    a, b = (next(quadratics(seed=4, dtype=d)(3).batches).x for d in (torch.float32, torch.float64))
    torch.testing.assert_close(a.double(), b, rtol=1e-6, atol=1e-6)
    assert not torch.equal(a, next(quadratics(seed=5)(3).batches).x)


@pytest.mark.parametrize(
    "sampler", [quadratics(seed=1), networks(make, DATA, size=7, seed=1)], ids=["q", "n"]
)
def test_the_stream_resumes_whatever_was_drawn_of_a_function(sampler):
    functions = sampler.restarted()
    first = functions(3)
    for _ in range(4):
        next(first.batches)
    state = functions.state_dict()
    expected = next(functions(2).batches)
    other = sampler.restarted()
    other.load_state_dict(state)
    assert torch.equal(next(other(2).batches).x, expected.x)
    assert not torch.equal(expected.x[0], next(sampler.restarted()(2).batches).x[0])


def test_networks_start_apart_and_see_scaled_minibatches():
    functions = networks(make, DATA, size=7, seed=1)(4)
    weights = functions.theta["0.weight"]
    assert weights.shape == (4, 5, 4)
    assert not torch.equal(weights[0], weights[1])
    x, y = next(functions.batches)
    assert x.shape == (4, 7, 4)
    assert x.max() <= 1
    for n in range(4):  # the images belong to their labels
        rows = (255 * x[n, :, 0] / 4).round().long()
        assert torch.equal(rows.remainder(3), y[n])


def test_any_loss():
    data = Batch(torch.randn(10, 4), torch.zeros(10, dtype=torch.long))
    functions = networks(
        lambda seed: mlp(4, 1, seed=seed), data, 5, loss=lambda o, y: mse(o[:, 0], y.float())
    )(2)
    x, y = next(functions.batches)
    one = {name: t[0] for name, t in functions.theta.items()}
    expected = (x[0] @ one["0.weight"].T + one["0.bias"]).square().mean()
    torch.testing.assert_close(functions.loss(one, x[0], y[0]), expected)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="dim"):
        quadratics(dim=0)
    with pytest.raises(ValueError, match="size"):
        networks(make, DATA, size=0)
    with pytest.raises(ValueError, match="tasks"):
        quadratics()(0)
    with pytest.raises(ValueError, match="differ"):
        networks(make, Batch(DATA.x, DATA.y[:5]))
