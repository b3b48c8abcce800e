"""The modes against one another, closed forms and finite differences; and what bad input says."""

import ctypes
import math

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from benchmarks.measure import Machine
from metanotes import MAML, mse
from metanotes.data import sinusoid
from metanotes.methods.bilevel import InnerProblemError, hypergradient
from metanotes.nets import mlp
from tests.plainly import in_new_process

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


def ridge_minimizer(hyper):
    a = hyper["weights"].sigmoid()
    return torch.linalg.solve(X.T * a @ X + hyper["penalty"].exp().diag(), X.T * a @ Y[:, 0])


def ridge_exact():
    hyper = {n: t.clone().requires_grad_() for n, t in RIDGE.items()}
    value = ridge_outer(ridge_minimizer(hyper), hyper)
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
    assert relative(made.w, ridge_minimizer(RIDGE)) < 1e-10
    assert relative(made.gradient, ridge_exact()) < 1e-8


def test_unrolled_modes_come_to_the_implicit_one_at_the_rate_of_the_slowest_direction():
    zero = torch.zeros(3, dtype=REAL)
    hessian = torch.autograd.functional.hessian(lambda w: ridge_inner(w, RIDGE), zero)
    lr = 0.05
    rate = (1 - lr * torch.linalg.eigvalsh(hessian)).abs().max().item()
    exact, errors = ridge_exact(), []
    for steps in (200, 280):
        made = hypergradient(
            ridge_outer, ridge_inner, torch.zeros(3, dtype=REAL), RIDGE, steps=steps, lr=lr
        )
        errors.append((flat(made.gradient) - flat(exact)).norm().item())
    found = (errors[1] / errors[0]) ** (1 / 80)
    # The path and its derivative shrink alike, so that the error goes as t rate^t.
    assert abs(found - rate * 1.4 ** (1 / 80)) < 0.001


def test_neumann_with_few_terms_is_truncated_reverse_at_the_minimiser():
    at = ridge_minimizer(RIDGE)
    for terms in (1, 2, 7):
        neumann = hypergradient(
            ridge_outer, ridge_inner, at, RIDGE, method="neumann", steps=0, lr=0.1, iterations=terms
        )
        reverse = hypergradient(ridge_outer, ridge_inner, at, RIDGE, steps=terms, lr=0.1)
        assert relative(neumann.gradient, reverse.gradient) < 1e-12


def test_an_implicit_method_takes_the_start_for_the_minimiser_where_there_are_no_steps():
    made = hypergradient(
        ridge_outer, ridge_inner, ridge_minimizer(RIDGE), RIDGE, method="cg", steps=0
    )
    assert relative(made.gradient, ridge_exact()) < 1e-10
    assert made.residual < 1e-10
    assert made.inner.shape == (0,)


def test_maml_is_an_instance():
    """Phi_0(phi) = phi, one task, one step: `MAML` gives the same gradient."""
    net = mlp(1, 4, 1).double()
    tasks = sinusoid(shots=5, queries=6, seed=0, dtype=REAL)(1)
    (xs, ys), (xq, yq) = ((b.x[0], b.y[0]) for b in tasks)
    phi = {n: p.detach() for n, p in net.named_parameters()}
    learner = MAML(net, inner_lr=0.05, steps=3, loss=mse)
    learner(tasks).mean().backward()
    made = hypergradient(
        lambda theta, phi: mse(functional_call(net, theta, (xq,)), yq),
        lambda theta, phi: mse(functional_call(net, theta, (xs,)), ys),
        lambda phi: phi, phi, steps=3, lr=0.05,
    )  # fmt: skip
    assert relative(made.gradient, {n: p.grad for n, p in net.named_parameters()}) < 1e-12


def test_momentum_is_that_of_torch():
    w = torch.ones(4, dtype=REAL, requires_grad=True)
    sgd = torch.optim.SGD([w], lr=0.05, momentum=0.7)
    target = randn(4, seed=3)
    for _ in range(9):
        sgd.zero_grad()
        (0.5 * (w - target) ** 2 * target.exp()).sum().backward()
        sgd.step()
    for method in UNROLLED:
        made = hypergradient(
            lambda w, hyper: w.sum(),
            lambda w, hyper: (0.5 * (w - hyper) ** 2 * hyper.exp()).sum(),
            torch.ones(4, dtype=REAL), target, method=method, steps=9, lr=0.05, momentum=0.7,
        )  # fmt: skip
        torch.testing.assert_close(made.w, w.detach())


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_one_learned_rate_for_all_steps(momentum):
    for method in UNROLLED:
        settings = {
            "steps": 4,
            "lr": lambda hyper: hyper["lr"],
            "momentum": lambda hyper: hyper["momentum"].expand(4),
        }
        hyper = {
            "lr": torch.tensor(0.02, dtype=REAL),
            "momentum": torch.tensor([momentum], dtype=REAL),
        }
        problem = (
            lambda w, h: (w - 1).pow(4).sum(),
            lambda w, h: w.pow(4).sum() + w.sum(),
            0.3 * randn(3),
        )
        made = hypergradient(*problem, hyper, method=method, **settings)
        assert relative(made.gradient, differences(*problem, hyper, **settings)) < 1e-8


@pytest.mark.parametrize("method", ["reverse", "forward", "truncated", *IMPLICIT])
def test_a_hyperparameter_that_no_loss_depends_on_has_the_gradient_zero(method):
    hyper = {"penalty": torch.tensor(0.3, dtype=REAL), "idle": [torch.ones(2, 1, dtype=REAL)]}
    made = hypergradient(
        lambda w, h: (w - 1).square().sum(),
        lambda w, h: (w + 1).square().sum() + h["penalty"] * w.square().sum(),
        torch.zeros(3, dtype=REAL), hyper, method=method,
    )  # fmt: skip
    assert (made.gradient["idle"][0] == 0).all()
    assert made.gradient["idle"][0].shape == (2, 1)
    assert made.gradient["penalty"] != 0


@pytest.mark.parametrize("method", ["reverse", "forward", "truncated", *IMPLICIT])
def test_outer_loss_without_w_or_without_hyper(method):
    penalty = torch.tensor(0.3, dtype=REAL)

    def loss(w, h):
        return (w + 1).square().sum() + h * w.square().sum()

    w0 = torch.zeros(3, dtype=REAL)
    direct = hypergradient(lambda w, h: h**2, loss, w0, penalty, method=method)
    torch.testing.assert_close(direct.gradient, 2 * penalty)
    nothing = hypergradient(lambda w, h: torch.tensor(1.0), loss, w0, penalty, method=method)
    assert nothing.gradient == 0


def test_start_and_rates_have_no_gradient_in_an_implicit_method():
    made = hypergradient(
        ridge_outer, ridge_inner, lambda h: h["start"],
        {**RIDGE, "start": randn(3), "lr": torch.tensor(0.1, dtype=REAL)},
        method="cg", steps=300, lr=lambda h: h["lr"],
    )  # fmt: skip
    assert (made.gradient["start"] == 0).all()
    assert made.gradient["lr"] == 0
    assert relative({n: made.gradient[n] for n in RIDGE}, ridge_exact()) < 1e-8


def test_single_precision_parameters_and_gradients_off():
    hyper = tree_map(lambda t: torch.nn.Parameter(t.float()), RIDGE)
    w0 = torch.nn.Parameter(torch.zeros(3))

    def cast(loss):
        return lambda w, h: loss(w.double(), tree_map(Tensor.double, h)).float()

    for method in ("reverse", "forward", *IMPLICIT):
        with torch.no_grad():
            made = hypergradient(
                cast(ridge_outer), cast(ridge_inner), w0, hyper,
                method=method, steps=300, iterations=200,
            )  # fmt: skip
        assert made.gradient["penalty"].dtype == torch.float32
        assert not made.gradient["penalty"].requires_grad
        assert not made.w.requires_grad
        assert relative(tree_map(Tensor.double, made.gradient), ridge_exact()) < 1e-4
    assert w0.grad is None
    assert (w0 == 0).all()


# Bad input.


def square(w, hyper):
    return (w - hyper).square().sum()


def ones(*shape):
    return torch.ones(*shape, dtype=REAL)


@pytest.mark.parametrize("method", ["reverse", "forward", "truncated", *IMPLICIT])
@pytest.mark.parametrize("power", [2, 4])
def test_an_inner_problem_that_diverges_says_when(method, power):
    with pytest.raises(
        InnerProblemError, match=r"diverged: .* after \d+ of 2000 steps; a smaller lr"
    ):
        hypergradient(
            square, lambda w, h: (w - h).pow(power).sum(), 3 * ones(2), ones(2) * 0,
            method=method, steps=2000, lr=1.5,
        )  # fmt: skip


@pytest.mark.parametrize("method", ["reverse", "forward"])
def test_an_outer_loss_that_is_not_finite(method):
    with pytest.raises(InnerProblemError, match="hypergradient is not finite"):
        hypergradient(lambda w, h: (w.sum() * 0).log(), square, ones(2), ones(2), method=method)


def flat_direction(w, hyper):
    """w_0 + w_1 matters, w_0 - w_1 does not: the minimiser is not unique."""
    return (w.sum() - hyper).square()


def test_a_singular_inner_hessian():
    hyper = torch.tensor(3.0, dtype=REAL)
    w0 = torch.tensor([0.5, 0.0], dtype=REAL)
    with pytest.raises(InnerProblemError, match="singular or not positive definite"):
        hypergradient(lambda w, h: w[0].square(), flat_direction, w0, hyper, method="cg")
    # Where the outer loss does not ask about the flat direction, there is an answer.
    fine = hypergradient(lambda w, h: w.sum().square(), flat_direction, w0, hyper, method="cg")
    torch.testing.assert_close(fine.gradient, 2 * hyper)
    # The Neumann series leaves the flat direction alone, and so does damping.
    for settings in (
        {"method": "neumann"},
        {"method": "cg", "damping": 1e-6},
        {"method": "reverse"},
    ):
        made = hypergradient(lambda w, h: w[0].square(), flat_direction, w0, hyper, **settings)
        torch.testing.assert_close(made.gradient, made.w[0], rtol=1e-5, atol=0)
    assert made.residual is None
    with pytest.raises(InnerProblemError, match="singular or not positive definite"):
        hypergradient(
            lambda w, h: w[0].square(), flat_direction, w0, hyper, method="neumann", tolerance=1e-3
        )


@pytest.mark.parametrize("size", [3, 40])
def test_conjugate_gradients_notice_null_directions_of_a_larger_problem(size):
    a = randn(size, size // 2 + 1)  # rank about half
    with pytest.raises(InnerProblemError, match="singular"):
        hypergradient(
            lambda w, h: (w - 1).square().sum(),
            lambda w, h: (a.T @ w - h).square().mean(),
            torch.zeros(size, dtype=REAL), ones(size // 2 + 1), method="cg", iterations=500,
        )  # fmt: skip


def test_a_saddle_is_no_minimum():
    def saddle(w, hyper):
        return w[0].square() - hyper * w[1].square()

    for method in IMPLICIT:
        with pytest.raises(InnerProblemError, match="not positive definite"):
            hypergradient(
                lambda w, h: w.sum(), saddle, torch.zeros(2, dtype=REAL),
                torch.tensor(1.0, dtype=REAL), method=method, steps=5,
            )  # fmt: skip


def test_too_few_iterations_are_an_error_that_says_what_would_do():
    def ill(w, hyper):
        return 0.5 * (torch.logspace(0, 2, 50, dtype=REAL) * (w - hyper).square()).sum()

    settings = {"method": "cg", "steps": 0, "iterations": 5}
    with pytest.raises(InnerProblemError, match=r"residual of \d.* after 5 iterations"):
        hypergradient(square, ill, 0.5 * ones(50), ones(50), **settings)
    made = hypergradient(square, ill, 0.5 * ones(50), ones(50), tolerance=0.9, **settings)
    assert 1e-3 < made.residual < 0.9
    with pytest.raises(InnerProblemError, match=r"residual of .* after 5 terms"):
        hypergradient(
            square, ill, 0.5 * ones(50), ones(50), method="neumann", steps=0, iterations=5,
            lr=1e-4, tolerance=1e-3,
        )  # fmt: skip
    with pytest.raises(InnerProblemError, match=r"diverges.* a smaller lr than 0.1 may help"):
        hypergradient(square, ill, 0.5 * ones(50), ones(50), method="neumann", steps=0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"method": "backward"}, ValueError, "method='backward' is not one of 'reverse'"),
        ({"steps": -1}, ValueError, "steps=-1"),
        ({"steps": 2.0}, ValueError, "steps=2.0"),
        ({"last": 0}, ValueError, "last=0"),
        ({"iterations": 0}, ValueError, "iterations=0"),
        ({"tolerance": 0.0}, ValueError, "tolerance=0.0"),
        ({"damping": -1.0}, ValueError, "damping=-1.0"),
        ({"lr": 0.0}, ValueError, "lr=0.0 must be a finite number above 0"),
        ({"lr": math.nan}, ValueError, "lr=nan"),
        ({"lr": ones(3)}, ValueError, r"lr has the shape \[3\].* one for each of the 4 steps"),
        ({"lr": lambda hyper: 0.1}, TypeError, r"lr\(hyper\) gave a float"),
        ({"momentum": 1.0}, ValueError, r"momentum=1.0 must be in \[0, 1\)"),
        ({"hyper": 1.0}, TypeError, "hyper is a float; it must be a tensor"),
        ({"hyper": {"a": [ones(2).int()]}}, TypeError, r"hyper\['a'\]\[0\] is of torch.int32"),
        ({"hyper": {}}, TypeError, "hyper has no tensor in it"),
        ({"w0": {"w": None}}, TypeError, r"w0\['w'\] is a NoneType"),
        ({"w0": lambda hyper: 0.0}, TypeError, "w0 is a float"),
        ({"w0": torch.ones(2, dtype=torch.complex64)}, TypeError, "w0 is of torch.complex64"),
        ({"inner": 3}, TypeError, "inner must be a function"),
        ({"outer": lambda w, h: w}, TypeError, r"outer\(w, hyper\) has the shape \[2\]"),
        ({"inner": lambda w, h: w}, TypeError, r"inner\(w, hyper\) has the shape \[2\]"),
        ({"inner": lambda w, h: 1.0}, TypeError, "inner.* gave a float"),
        ({"inner": lambda w, h: h.sum()}, ValueError, "does not depend on w"),
        ({"inner": lambda w, h: ones(1).sum()}, ValueError, "does not depend on w"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["reverse", "forward"])
def test_bad_arguments_are_named(change, error, message, method):
    arguments = {
        "outer": square, "inner": square, "w0": ones(2), "hyper": ones(2),
        "method": method, "steps": 4,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        hypergradient(**{**arguments, **change})


@pytest.mark.parametrize("method", ["reverse", "forward", "truncated", "cg"])
def test_no_steps(method):
    made = hypergradient(square, square, lambda h: h**2, 3 * ones(2), method=method, steps=0)
    torch.testing.assert_close(made.w, 9 * ones(2))
    # (h^2 - h)^2 has the derivative 2 (h^2 - h) (2 h - 1); implicit: w = h, so 2 (w - h) (1 - 1)
    expected = 0.0 if method == "cg" else 60.0
    torch.testing.assert_close(made.gradient, expected * ones(2))


def held(size: int) -> dict[str, int | None]:
    """100 steps on so many parameters: what each mode holds at most, of the process's memory."""
    machine = Machine("cpu", threads=1)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: what is freed goes back at once
    scale, target = torch.rand(2, size, generator=torch.Generator().manual_seed(0))

    def inner(w, hyper):
        return 0.5 * ((scale + hyper.exp()) * (w - target).square()).sum()

    def peak(**mode) -> int | None:
        def step() -> None:
            start = torch.zeros(size), torch.tensor(0.0)
            hypergradient(lambda w, h: w.square().sum(), inner, *start, steps=100, **mode)

        return machine.peak(step)

    peak(method="cg")  # whatever torch takes at its first call
    return {
        "reverse": peak(),
        "checkpoint": peak(checkpoint=True),
        "truncated": peak(method="truncated", last=20),
        **{method: peak(method=method) for method in IMPLICIT},
    }


def test_implicit_memory_is_a_tenth_of_reverse_mode():
    size = 100_000
    bytes_ = in_new_process(held, size)
    if bytes_["reverse"] is None:
        pytest.skip("not Linux with glibc")
    assert bytes_["reverse"] > 190 * 4 * size
    assert bytes_["checkpoint"] < 0.4 * bytes_["reverse"]
    assert bytes_["truncated"] < 0.3 * bytes_["reverse"]
    assert max(bytes_[method] for method in IMPLICIT) <= 0.1 * bytes_["reverse"]


@pytest.mark.parametrize("method", ["reverse", "forward"])
def test_a_gradient_that_is_the_hyperparameter_itself(method):
    """grad_w L = w + hyper: what is pulled back is the cotangent itself, the same memory."""
    made = hypergradient(
        lambda w, h: (w * torch.arange(3.0, dtype=REAL)).sum(),
        lambda w, h: (0.5 * w * w + w * h).sum(),
        ones(3), ones(3), method=method, steps=4, lr=0.1,
    )  # fmt: skip
    torch.testing.assert_close(made.gradient, -(1 - 0.9**4) * torch.arange(3.0, dtype=REAL))
