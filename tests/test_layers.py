"""Convolution and batch normalisation of many tasks at once, against one task after the other."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from metanotes.layers import Convolution, InputGradient, Normalisation, WeightGradient

SHAPES = {
    "stride 1": ((3, 3), (1, 1), (1, 1)),
    "stride 2": ((3, 3), (2, 2), (1, 1)),
    "stride beyond the kernel": ((2, 2), (3, 3), (0, 0)),
    "uneven": ((3, 2), (2, 1), (0, 1)),
    "1 x 1": ((1, 1), (1, 1), (0, 0)),
}


def random(*shape: int) -> Tensor:
    g = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("name", SHAPES)
def test_convolution_and_its_derivatives(name):
    size, *how = SHAPES[name]
    x, w = random(2, 3, 2, 7, 6), random(2, 4, 2, *size)
    expected = torch.stack([F.conv2d(a, b, None, *how) for a, b in zip(x, w, strict=True)])
    torch.testing.assert_close(Convolution.apply(x, w, *how), expected, rtol=1e-12, atol=1e-12)

    def function(x: Tensor, w: Tensor) -> Tensor:
        return Convolution.apply(x, w, *how)

    assert gradcheck(function, (x, w))
    assert gradgradcheck(function, (x, w))


@pytest.mark.parametrize("how", [((1, 1), (1, 1)), ((2, 1), (0, 1))])
def test_many_images_take_another_road_to_the_same_derivatives(how):
    x, w = random(2, 9, 16, 14, 12), random(2, 5, 16, 3, 3)

    def plainly(x: Tensor, w: Tensor, *how: tuple[int, int]) -> Tensor:
        return torch.stack([F.conv2d(a, b, None, *how) for a, b in zip(x, w, strict=True)])

    results = []
    for function in (Convolution.apply, plainly):
        y = function(x, w, *how)
        assert y[0, :, 0].numel() >= 512  # with 16 channels: not one product for all tasks
        g = random(*y.shape)
        first = torch.autograd.grad(y, (x, w), g, create_graph=True)
        cotangents = random(*x.shape), random(*w.shape)
        second = torch.autograd.grad(first, (x, w, g), cotangents)
        results.append([y, *first, *second])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SHAPES)
def test_one_sum_of_products_read_three_ways(name):
    size, *how = SHAPES[name]
    x, w = random(2, 3, 2, 7, 6), random(2, 4, 2, *size)
    y = Convolution.apply(x, w, *how)
    g = random(*y.shape)
    value = (g * y).sum()
    torch.testing.assert_close((x * InputGradient.apply(g, w, x.shape, *how)).sum(), value)
    torch.testing.assert_close((w * WeightGradient.apply(x, g, w.shape, *how)).sum(), value)


def test_batch_normalisation_and_its_derivatives():
    x, w, b = random(2, 3, 4, 3, 2), random(2, 4), random(4, 2).mT

    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return Normalisation.apply(x, w, b, 1e-3)

    expected = [
        F.batch_norm(*args, training=True, eps=1e-3)
        for args in zip(x, [None] * 2, [None] * 2, w, b, strict=True)
    ]
    torch.testing.assert_close(function(x, w, b), torch.stack(expected), rtol=1e-12, atol=1e-12)
    assert gradcheck(function, (x, w, b))
    assert gradgradcheck(function, (x, w, b))


def test_batch_normalisation_is_as_exact_as_torchs_far_from_zero():
    x = (random(1, 5, 2, 6, 6).detach() + 100).float()
    w, b = torch.ones(1, 2), torch.zeros(1, 2)
    exact = F.batch_norm(x[0].double(), None, None, training=True)
    ours = Normalisation.apply(x, w, b, 1e-5)[0]
    theirs = F.batch_norm(x[0], None, None, training=True)
    assert (ours - exact).abs().max() < 4 * (theirs - exact).abs().max()
