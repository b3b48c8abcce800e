"""Forward mode is reverse mode, whatever the inner loss is made of."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metanotes import cross_entropy, hypergradient, mse
from metanotes.methods.bilevel.forward_mode import can_be_batched, derivatives

REAL = {"dtype": torch.float64}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **REAL)


X, Y = normal(7, 3), normal(7, 2, seed=1)
LABELS = torch.arange(7) % 2


class Twice(torch.autograd.Function):
    """x**3, without a rule for vmap."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, d):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * d


def recurrent(w, hyper):
    """An LSTM, which vmap cannot batch."""
    return mse(functional_call(CELL, w, (X,))[0], hyper)


CELL = nn.LSTMCell(3, 2).double()
EMBEDDING = nn.Embedding(4, 3, padding_idx=0).double()


def embedded(w, hyper):
    rows = functional_call(EMBEDDING, w, (torch.tensor([0, 1, 3, 1]),))
    return ((rows.sum(1) - hyper) ** 4).sum()


def branching(w, hyper):
    return (w * hyper).square().sum() if w.sum() > 0 else (w - hyper).pow(4).sum()


MATRIX = normal(3, 2, seed=2)
PROBLEMS = {
    "mse": (lambda w, h: mse(X @ w, Y) + h.exp() * w.square().sum(), MATRIX, normal(seed=3)),
    "mse of two that are learned": (lambda w, h: mse(X @ w, h), MATRIX, normal(7, 2, seed=3)),
    "cross entropy": (
        lambda w, h: cross_entropy(X @ w, LABELS) + (h.exp() * w.square()).sum(),
        MATRIX,
        normal(3, 2, seed=3),
    ),
    "smooth L1": (lambda w, h: F.smooth_l1_loss(X @ w, Y * h), MATRIX, normal(2, seed=3)),
    "no vmap of an LSTM": (
        recurrent,
        {n: p.detach() for n, p in CELL.named_parameters()},
        normal(7, 2, seed=3),
    ),
    "no vmap of a function": (lambda w, h: Twice.apply(w * h).sum(), normal(4), normal(4, seed=3)),
    "an embedding with padding": (
        embedded,
        {"weight": EMBEDDING.weight.detach()},
        normal(4, seed=3),
    ),
    "a branch on data": (branching, normal(4), normal(4, seed=3)),
    "one number": (lambda w, h: (w - 3) ** 2 + h * w**2, normal(seed=1), normal(seed=2) ** 2),
    "one number beside others": (
        lambda w, h: (w["a"] * w["b"] - h).square().sum() + h.sum() * w["b"] ** 2,
        {"a": normal(3), "b": normal(seed=1)},
        normal(3, seed=2),
    ),
    "nothing beside numbers": (
        lambda w, h: (w[0] - h[1]).pow(4).sum() + w[1].sum() + h[0].sum(),
        (normal(3), normal(0, 2)),
        [normal(2, 0), normal(3, seed=1)],
    ),
    "linear": (lambda w, h: (w * 2).sum(), normal(3), normal(3, seed=1)),
    "a penalty beside a line": (lambda w, h: (w * h).sum() + h.sum(), normal(3), normal(3, seed=1)),
}


def total(tree) -> Tensor:
    return sum((t.square().sum() for t in torch.utils._pytree.tree_leaves(tree)), torch.zeros(()))


@pytest.mark.parametrize("momentum", [0.0, 0.4])
@pytest.mark.parametrize("name", PROBLEMS)
def test_forward_mode_is_reverse_mode(name, momentum):
    inner, w0, hyper = PROBLEMS[name]
    settings = {"steps": 4, "lr": 0.02, "momentum": momentum}
    results = [
        hypergradient(
            lambda w, h: total(w) + 0.1 * total(h), inner, w0, hyper, method=m, **settings
        )
        for m in ("forward", "reverse")
    ]
    for ours, theirs in zip(*map(torch.utils._pytree.tree_leaves, results), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_example_of_the_docstring():
    result = hypergradient(
        lambda w, hyper: (w - 2) ** 2,
        lambda w, hyper: 0.5 * (w - 3) ** 2 + 0.5 * hyper * w**2,
        torch.tensor(0.0),
        torch.tensor(1.0),
        method="forward",
    )
    torch.testing.assert_close(result.w, torch.tensor(1.5))
    torch.testing.assert_close(result.gradient, torch.tensor(0.75))


def test_learned_rates_of_another_precision():
    def inner(w, hyper):
        return (w - 1).pow(4).sum() + hyper["penalty"] * w.square().sum()

    hyper = {"penalty": torch.tensor(0.5), "log_lr": normal(5) / 10 - 4}
    results = [
        hypergradient(
            lambda w, hyper: w.sum(),
            inner,
            torch.zeros(3),
            hyper,
            method=method,
            steps=5,
            lr=lambda hyper: hyper["log_lr"].exp(),
            momentum=lambda hyper: hyper["penalty"] / 2,
        )
        for method in ("forward", "reverse")
    ]
    for name in hyper:
        ours, theirs = (result.gradient[name] for result in results)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
        assert ours.dtype == hyper[name].dtype


@pytest.mark.parametrize("drawn", ["in the loss", "in the start"])
def test_the_same_random_numbers_give_what_reverse_mode_gives(drawn):
    def noise(like: Tensor) -> Tensor:
        return torch.rand(like.shape, **REAL)

    def inner(w, hyper):
        mask = noise(w) if drawn == "in the loss" else 1.0
        return (w * mask - hyper).pow(4).sum()

    def start(hyper):
        return hyper * (noise(hyper) if drawn == "in the start" else 1.0)

    results = []
    for method in ("forward", "reverse"):
        torch.manual_seed(5)
        results.append(
            hypergradient(
                lambda w, h: total(w), inner, start, normal(4), method=method, steps=3, lr=0.05
            )
        )
    torch.testing.assert_close(results[0].w, results[1].w, rtol=1e-12, atol=0)
    torch.testing.assert_close(results[0].gradient, results[1].gradient, rtol=1e-10, atol=1e-12)


def test_what_vmap_batches_wrongly_is_worked_out_row_by_row(monkeypatch):
    inner, w0, hyper = PROBLEMS["mse"]
    settings = {"steps": 3, "lr": 0.02}
    expected = hypergradient(lambda w, h: total(w), inner, w0, hyper, **settings)

    def wrong(function):
        return lambda *rows: tuple(
            1.01 * torch.stack(parts)
            for parts in zip(*(function(*row) for row in zip(*rows, strict=True)), strict=True)
        )

    monkeypatch.setattr("metanotes.methods.bilevel.forward_mode.vmap", wrong)
    result = hypergradient(lambda w, h: total(w), inner, w0, hyper, method="forward", **settings)
    torch.testing.assert_close(result.gradient, expected.gradient, rtol=1e-10, atol=0)
    x = normal(3).requires_grad_()
    assert not can_be_batched([x**2], [x])


def test_derivatives_along_directions_are_the_jacobian():
    x = [normal(3).requires_grad_(), normal(2, 2, seed=1).requires_grad_()]

    def function(a, b):
        return [a.sin().sum() * b, a[:2] @ b, b.new_ones(2)]

    directions = [normal(5, 3, seed=2), normal(5, 2, 2, seed=3)]
    rows = derivatives(function(*x), x, directions)
    jacobian = torch.autograd.functional.jacobian(lambda *x: tuple(function(*x)), tuple(x))
    for ours, parts in zip(rows, jacobian, strict=True):
        expected = sum(
            torch.tensordot(d.flatten(1), j.flatten(ours.ndim - 1), ([1], [ours.ndim - 1]))
            for d, j in zip(directions, parts, strict=True)
        )
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)
