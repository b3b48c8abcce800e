"""The layers of many tasks at once, against one task after the other."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from metanotes.engine.derivatives import (
    Convolution,
    ConvSettings,
    InputGradient,
    Normalization,
    WeightGradient,
)
from metanotes.engine.task_layers import convolve, normalize, pool, to_channels, to_tasks

SHAPES = {
    "stride 1": ((3, 3), ConvSettings((1, 1), (1, 1), (1, 1), 1)),
    "stride 2": ((3, 3), ConvSettings((2, 2), (1, 1), (1, 1), 1)),
    "stride beyond the kernel": ((2, 2), ConvSettings((3, 3), (0, 0), (1, 1), 1)),
    "uneven": ((3, 2), ConvSettings((2, 1), (0, 1), (1, 1), 1)),
    "1 x 1": ((1, 1), ConvSettings((1, 1), (0, 0), (1, 1), 1)),
    "dilation": ((2, 3), ConvSettings((1, 2), (1, 0), (2, 1), 1)),
    "groups": ((3, 3), ConvSettings((1, 1), (0, 0), (1, 1), 2)),
}
WINDOWS = {
    "2 x 2": ((2, 2), (2, 2), (0, 0), (1, 1), False),
    "that overlap": ((3, 2), (1, 1), (1, 0), (1, 2), False),
    "that reach out": ((2, 2), (2, 2), (0, 0), (1, 1), True),
}


def random(*shape: int) -> Tensor:
    g = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()


def derivatives(function, *inputs: Tensor) -> list[Tensor]:
    """The result, its gradients, and what is pulled back through these."""
    y = function(*inputs)
    g = random(*y.shape)
    first = torch.autograd.grad(y, inputs, g, create_graph=True)
    cotangents = [random(*t.shape) for t in first]
    second = torch.autograd.grad(first, (*inputs, g), cotangents, materialize_grads=True)
    return [y, *first, *second]


def one_by_one(function):
    return lambda *inputs: torch.stack([function(*one) for one in zip(*inputs, strict=True)])


def assert_the_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------------------------- convolution


@pytest.mark.parametrize("name", SHAPES)
def test_convolution_and_its_derivatives(name):
    size, how = SHAPES[name]
    x, w = random(3, 2, 7, 6), random(4, 2 // how.groups, *size)

    def function(x: Tensor, w: Tensor) -> Tensor:
        return Convolution.apply(x, w, how)

    torch.testing.assert_close(function(x, w), F.conv2d(x, w, None, *how), rtol=1e-12, atol=1e-12)
    assert gradcheck(function, (x, w))
    assert gradgradcheck(function, (x, w))


@pytest.mark.parametrize("name", SHAPES)
def test_one_sum_of_products_read_three_ways(name):
    size, how = SHAPES[name]
    x, w = random(3, 2, 7, 6), random(4, 2 // how.groups, *size)
    y = Convolution.apply(x, w, how)
    g = random(*y.shape)
    value = (g * y).sum()
    torch.testing.assert_close((x * InputGradient.apply(g, w, x.shape, how)).sum(), value)
    torch.testing.assert_close((w * WeightGradient.apply(x, g, w.shape, how)).sum(), value)


@pytest.mark.parametrize("name", SHAPES)
def test_convolutions_of_tasks(name):
    size, how = SHAPES[name]
    x, w = random(3, 5, 4, 7, 6), random(3, 6, 4 // how.groups, *size)
    ours = derivatives(lambda x, w: convolve(x, w, how), x, w)
    theirs = derivatives(one_by_one(lambda x, w: F.conv2d(x, w, None, *how)), x, w)
    assert_the_same(ours, theirs)


def test_the_tasks_side_by_side_in_the_channels():
    x = random(3, 5, 4, 7, 6).detach()
    together = to_channels(x)
    assert together.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(together[:, 4:8], x[1])
    apart = to_tasks(together, 3)
    assert torch.equal(apart, x)
    # From layer to layer nothing is copied.
    assert apart.data_ptr() == together.data_ptr() == to_channels(apart).data_ptr()


# ------------------------------------------------------------------------- batch normalisation


def test_batch_normalisation_and_its_derivatives():
    x, w, b = random(6, 4, 3, 2), random(4), random(1, 4)[0]

    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return Normalization.apply(x, w, b, 1e-3)

    expected = F.batch_norm(x, None, None, w, b, training=True, eps=1e-3)
    torch.testing.assert_close(function(x, w, b), expected, rtol=1e-12, atol=1e-12)
    assert gradcheck(function, (x, w, b))
    assert gradgradcheck(function, (x, w, b))


def test_batch_normalisation_of_tasks():
    x, w, b = random(3, 5, 4, 3, 2), random(3, 4), random(4, 3).mT

    def plainly(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, w, b, training=True, eps=1e-3)

    ours = derivatives(lambda *inputs: normalize(*inputs, 1e-3), x, w, b)
    assert_the_same(ours, derivatives(one_by_one(plainly), x, w, b))


# ------------------------------------------------------------------------------- max-pooling


@pytest.mark.parametrize("name", WINDOWS)
def test_max_pooling_of_tasks(name):
    x, window = random(3, 5, 4, 7, 6), WINDOWS[name]
    ours = derivatives(lambda x: pool(x, window), x)
    assert_the_same(ours, derivatives(one_by_one(lambda x: F.max_pool2d(x, *window)), x))
