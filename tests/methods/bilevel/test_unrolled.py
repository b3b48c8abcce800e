"""Random numbers inside the inner loss, and what is kept of the reader's tensors."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from metanotes import hypergradient
from metanotes.nets import mlp

REAL = {"dtype": torch.float64}


def square(w, hyper):
    return (w - hyper).square().sum()


def noisy(w, hyper):
    """A dropout, and a minibatch that is drawn."""
    rows = torch.randint(5, (3,))
    return (F.dropout(w, 0.4)[rows] - hyper[rows]).pow(4).sum()


@pytest.mark.parametrize("settings", [{}, {"method": "truncated", "last": 5}])
def test_steps_that_are_worked_out_again_draw_what_they_drew(settings):
    results, after = [], []
    for checkpoint in (False, True):
        torch.manual_seed(1)
        results.append(
            hypergradient(
                square,
                noisy,
                torch.linspace(-1, 1, 5, **REAL),
                torch.ones(5, **REAL),
                steps=11,
                lr=0.05,
                checkpoint=checkpoint,
                momentum=0.3,
                **settings,
            )
        )
        after.append(torch.rand(1))
    torch.testing.assert_close(results[1].gradient, results[0].gradient, rtol=1e-12, atol=0)
    assert torch.equal(results[1].inner, results[0].inner)
    assert torch.equal(after[0], after[1])  # and the reader's own stream goes on alike


def test_steps_that_cannot_be_worked_out_again_are_refused():
    numbers = np.random.default_rng(0)

    def inner(w, hyper):
        return (w * float(numbers.random()) - hyper).square().sum()

    settings = {"steps": 9, "lr": 0.05}
    with pytest.raises(ValueError, match=r"at step \d, and .* checkpoint=False does without"):
        hypergradient(square, inner, torch.ones(3), torch.zeros(3), checkpoint=True, **settings)
    hypergradient(square, inner, torch.ones(3), torch.zeros(3), **settings)


@pytest.mark.parametrize("method", ["cg", "neumann"])
def test_an_implicit_method_refuses_random_numbers(method):
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=f"draws random numbers.*method='{method}'"):
        hypergradient(square, noisy, torch.ones(5), torch.ones(5), method=method, steps=2)
    assert torch.equal(torch.get_rng_state(), before)


def attention(w: Tensor, hyper: Tensor) -> Tensor:
    x = torch.linspace(-1, 1, 2 * 6 * 4).view(2, 1, 6, 4)
    return (F.scaled_dot_product_attention(x @ w, x * hyper, x) - x).square().sum()


@pytest.mark.parametrize("method", ["reverse", "forward", "truncated", "cg", "neumann"])
def test_attention_has_a_second_derivative(method):
    def by_hand(w: Tensor, hyper: Tensor) -> Tensor:
        x = torch.linspace(-1, 1, 2 * 6 * 4).view(2, 1, 6, 4)
        weights = ((x @ w) @ (x * hyper).mT / 2).softmax(-1)
        return (weights @ x - x).square().sum()

    results = [
        hypergradient(
            lambda w, h: w.square().sum(),
            inner,
            torch.eye(4),
            torch.full((4,), 0.9),
            method=method,
            steps=3,
            lr=0.02,
            damping=30.0,
            iterations=40,
            tolerance=0.5,
        )
        for inner in (attention, by_hand)
    ]
    torch.testing.assert_close(results[0].gradient, results[1].gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["reverse", "forward", "truncated", "cg"])
def test_what_is_returned_is_the_readers_own(method):
    w0, hyper = torch.ones(3), torch.zeros(3)
    for start in (w0, lambda hyper: hyper):
        result = hypergradient(square, square, start, hyper, method=method, steps=0)
        result.w.add_(1.0)
        result.gradient.add_(1.0)
    assert torch.equal(w0, torch.ones(3))
    assert torch.equal(hyper, torch.zeros(3))
    both = [torch.ones(2), torch.ones(2)]
    result = hypergradient(
        lambda w, h: w.sum() + (h[0] + h[1]).sum(), lambda w, h: w.square().sum(), w0, both,
        method=method,
    )  # fmt: skip
    result.gradient[0].add_(1.0)  # not a view that is spread out, nor the other one
    assert torch.equal(result.gradient[1], torch.ones(2))


def test_a_network_by_its_parameters():
    net, x = mlp(1, 5, 1), torch.linspace(-1, 1, 7)[:, None]

    def inner(w, hyper):
        return (functional_call(net, w, (x,)) - hyper * x).square().mean()

    with pytest.raises(TypeError, match="w0 is a Sequential, a module: give dict"):
        hypergradient(inner, inner, net, torch.tensor(2.0), steps=2)
    w0 = dict(net.named_parameters())
    result = hypergradient(inner, inner, w0, torch.tensor(2.0), steps=2)
    assert result.w.keys() == w0.keys()
    assert all(p.grad is None for p in net.parameters())


def test_inference_mode_is_named_and_its_tensors_can_be_used():
    with torch.inference_mode():
        w0 = torch.ones(3)
        with pytest.raises(RuntimeError, match="inference_mode"):
            hypergradient(square, square, w0, torch.zeros(3), steps=2)
    inside = hypergradient(square, square, w0, torch.zeros(3), steps=2)
    outside = hypergradient(square, square, torch.ones(3), torch.zeros(3), steps=2)
    assert torch.equal(inside.gradient, outside.gradient)
