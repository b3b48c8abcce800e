"""The modes against one another, closed forms and finite differences; and what bad input says."""


import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from metanotes import mse
from metanotes.bilevel import hypergradient

IMPLICIT = ("cg", "neumann")
UNROLLED = ("reverse", "forward")
REAL = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=REAL, generator=torch.Generator().manual_seed(seed))


def flat(tree) -> Tensor:
    return torch.cat([t.flatten() for t in tree_flatten(tree)[0]])


def relative(found, expected) -> float:
    a, b = flat(found), flat(expected)
    return ((a - b).norm() / b.norm()).item()


def differences(outer, inner, w0, hyper, h=1e-5, **settings):
    """Central finite differences of the outer loss, one hyperparameter at a time."""
    leaves, spec = tree_flatten(hyper)
    vector = flat(hyper)
    sizes = [t.numel() for t in leaves]

    def value(v):
        parts = [p.view_as(t) for p, t in zip(v.split(sizes), leaves, strict=True)]
        return hypergradient(outer, inner, w0, tree_unflatten(parts, spec), **settings).outer

    eye = h * torch.eye(len(vector), dtype=REAL)
    return torch.stack([(value(vector + e) - value(vector - e)) / (2 * h) for e in eye])


# A problem with every kind of hyperparameter: weights of examples, a penalty of each feature, a
# rate of each step, a momentum, and the start.
X, Y, XV, YV = randn(7, 3), randn(7, 2, seed=1), randn(5, 3, seed=2), randn(5, 2, seed=3)
STEPS = 6
HYPER = {
    "weights": 0.3 * randn(7, seed=4),
    "penalty": [randn(3, seed=5), {"bias": torch.tensor(-1.0, dtype=REAL)}],
    "log_lr": (-1.5 + 0.2 * randn(STEPS, seed=6),),
    "momentum": torch.tensor(0.2, dtype=REAL),
    "start": randn(2, seed=7),
}


def predict(w, x):
    return torch.tanh(x @ w["matrix"]) + w["bias"]


def inner(w, hyper):
    errors = (predict(w, X) - Y).square().mean(1)
    per_feature, rest = hyper["penalty"]
    penalty = (per_feature.exp()[:, None] * w["matrix"].square()).sum()
    return (hyper["weights"].sigmoid() * errors).mean() + 0.1 * (
        penalty + rest["bias"].exp() * w["bias"].square().sum()
    )


def outer(w, hyper):
    return mse(predict(w, XV), YV) + 0.01 * hyper["weights"].square().sum()


def start(hyper):
    return {"matrix": 0.5 * randn(3, 2, seed=8), "bias": hyper["start"] ** 2}


RATES = {"lr": lambda hyper: hyper["log_lr"][0].exp(), "momentum": lambda hyper: hyper["momentum"]}


@pytest.mark.parametrize("method", UNROLLED)
def test_a_mode_agrees_with_differences_in_every_kind_of_hyperparameter(method):
    made = hypergradient(outer, inner, start, HYPER, method=method, steps=STEPS, **RATES)
    exact = differences(outer, inner, start, HYPER, steps=STEPS, **RATES)
    assert relative(made.gradient, exact) < 1e-7
    assert (flat(made.gradient).abs() > 1e-6).all()  # each is put to the test
    assert tree_map(lambda t: t.shape, made.gradient) == tree_map(lambda t: t.shape, HYPER)
    assert made.inner.shape == (STEPS,)


@pytest.mark.parametrize("settings", [{}, {"checkpoint": True}, {"method": "truncated", "last": 6}])
def test_reverse_is_forward(settings):
    forward = hypergradient(outer, inner, start, HYPER, method="forward", steps=STEPS, **RATES)
    reverse = hypergradient(outer, inner, start, HYPER, steps=STEPS, **RATES, **settings)
    assert relative(reverse.gradient, forward.gradient) < 1e-12
    assert relative(reverse.w, forward.w) < 1e-14
    torch.testing.assert_close(reverse.inner, forward.inner)
    torch.testing.assert_close(reverse.outer, outer(reverse.w, HYPER))


@pytest.mark.parametrize("last", [1, 3])
def test_truncated_leaves_out_what_earlier_steps_did(last):
    """It is reverse mode from a start that is held fixed, `last` steps before the end."""
    first = STEPS - last
    momentum = 0.0
    lr = lambda hyper: hyper["log_lr"][0].exp()  # noqa: E731
    begun = hypergradient(
        outer, inner, start, HYPER, steps=first,
        lr=lambda hyper: hyper["log_lr"][0][:first].exp(), momentum=momentum,
    )  # fmt: skip
    rest = hypergradient(
        outer, inner, begun.w, HYPER, steps=last,
        lr=lambda hyper: hyper["log_lr"][0][first:].exp(), momentum=momentum,
    )  # fmt: skip
    cut = hypergradient(
        outer, inner, start, HYPER, method="truncated", last=last, steps=STEPS, lr=lr
    )
    assert relative(cut.gradient, rest.gradient) < 1e-13
    assert cut.inner.shape == (STEPS,)
    assert (cut.gradient["start"] == 0).all()


# Ridge regression with a penalty for each feature and a weight for each example.
def ridge_inner(w, hyper):
    errors = (X @ w - Y[:, 0]).square()
    return (
        0.5 * (hyper["weights"].sigmoid() * errors).sum()
        + 0.5 * (hyper["penalty"].exp() * w.square()).sum()
    )


def ridge_outer(w, hyper):
    return 0.5 * (XV @ w - YV[:, 0]).square().mean()


RIDGE = {"weights": randn(7, seed=4), "penalty": randn(3, seed=5)}


def ridge_minimiser(hyper):
    a = hyper["weights"].sigmoid()
    return torch.linalg.solve(X.T * a @ X + hyper["penalty"].exp().diag(), X.T * a @ Y[:, 0])


def ridge_exact():
    hyper = {n: t.clone().requires_grad_() for n, t in RIDGE.items()}
    value = ridge_outer(ridge_minimiser(hyper), hyper)
    return dict(zip(hyper, torch.autograd.grad(value, list(hyper.values())), strict=True))


@pytest.mark.parametrize(
    ("method", "settings"),
    [("reverse", {}), ("forward", {}), ("truncated", {"last": 1500}), ("cg", {}),
     ("neumann", {"iterations": 2000})],
)  # fmt: skip
def test_ridge_has_its_closed_form(method, settings):
    made = hypergradient(
        ridge_outer, ridge_inner, torch.zeros(3, dtype=REAL), RIDGE,
        method=method, steps=2000, lr=0.1, **settings,
    )  # fmt: skip
    assert relative(made.w, ridge_minimiser(RIDGE)) < 1e-10
    assert relative(made.gradient, ridge_exact()) < 1e-8


def test_unrolled_modes_come_to_the_implicit_one_at_the_rate_of_the_slowest_direction():
    hessian = torch.func.hessian(ridge_inner)(torch.zeros(3, dtype=REAL), RIDGE)
    lr = 0.05
    rate = (1 - lr * torch.linalg.eigvalsh(hessian)).abs().max().item()
    exact, errors = ridge_exact(), []
    for steps in (100, 140):
        made = hypergradient(
            ridge_outer, ridge_inner, torch.zeros(3, dtype=REAL), RIDGE, steps=steps, lr=lr
        )
        errors.append((flat(made.gradient) - flat(exact)).norm().item())
    found = (errors[1] / errors[0]) ** (1 / 40)
    # The path and its derivative shrink alike, so that the error goes as t rate^t.
    assert abs(found - rate * 1.4 ** (1 / 40)) < 0.002


def test_neumann_with_few_terms_is_truncated_reverse_at_the_minimiser():
    at = ridge_minimiser(RIDGE)
    for terms in (1, 2, 7):
        neumann = hypergradient(
            ridge_outer, ridge_inner, at, RIDGE, method="neumann", steps=0, lr=0.1, iterations=terms
        )
        reverse = hypergradient(ridge_outer, ridge_inner, at, RIDGE, steps=terms, lr=0.1)
        assert relative(neumann.gradient, reverse.gradient) < 1e-12


def test_an_implicit_method_takes_the_start_for_the_minimiser_where_there_are_no_steps():
    made = hypergradient(
        ridge_outer, ridge_inner, ridge_minimiser(RIDGE), RIDGE, method="cg", steps=0
    )
    assert relative(made.gradient, ridge_exact()) < 1e-10
    assert made.residual < 1e-10
    assert made.inner.shape == (0,)
