"""What is no problem is refused in the reader's words, before any work."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from metanotes import InnerProblemError, hypergradient


def square(w, hyper):
    return (w - hyper).square().sum()


def never(w, hyper):
    pytest.fail("work before the check")


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(*shape, dtype=torch.float64)


LR = torch.tensor(0.1)
RATE = torch.tensor(0.1, requires_grad=True)
METHODS = ["reverse", "forward", "truncated", "cg", "neumann"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"w0": nn.Linear(2, 1)}, TypeError, r"w0 is a Linear, a module.*named_parameters"),
        ({"hyper": nn.Linear(2, 1)}, TypeError, r"hyper is a Linear; .*named_parameters"),
        ({"w0": np.ones(2)}, TypeError, r"w0 is a ndarray; .*torch.as_tensor"),
        ({"hyper": {"a": np.float64(1.0)}}, TypeError, r"hyper\['a'\] is a float64; .*as_tensor"),
        ({"w0": nn.Linear(2, 1).parameters()}, TypeError, r"w0 is a generator; .*list"),
        (
            {"w0": {"w": torch.ones(2).int()}},
            TypeError,
            r"w0\['w'\] is of torch.int32.*\.float\(\)",
        ),
        ({"hyper": ones(2).to_sparse()}, TypeError, r"hyper is torch.sparse_coo.*to_dense"),
        ({"w0": ones(0)}, ValueError, "w0 has no number in it"),
        ({"hyper": [ones(0, 3)]}, ValueError, "hyper has no number in it"),
        ({"w0": [ones(2), ones(2) * math.nan]}, ValueError, r"w0\[1\] has NaN or infinite"),
        ({"hyper": ones(2) / 0}, ValueError, "hyper has NaN or infinite"),
        (
            {"inner": lambda w: w.sum()},
            TypeError,
            r"inner is called as inner\(w, hyper\): too many",
        ),
        (
            {"outer": lambda w, hyper, x: x},
            TypeError,
            r"outer is called as outer\(w, hyper\): miss",
        ),
        ({"w0": lambda: ones(2)}, TypeError, r"w0 is called as w0\(hyper\)"),
        ({"lr": lambda: LR}, TypeError, r"lr is called as lr\(hyper\)"),
        ({"lr": "0.1"}, TypeError, "lr='0.1' must be a number, one number for each step, or a fun"),
        ({"lr": None}, TypeError, "lr=None must be a number"),
        ({"lr": 1j}, TypeError, "lr=1j must be a number"),
        ({"lr": True}, TypeError, "lr=True must be a number"),
        ({"momentum": None}, TypeError, "momentum=None must be a number"),
        ({"lr": LR, "hyper": {"lr": LR}}, ValueError, "lr is a tensor of hyper, but would be held"),
        ({"momentum": LR, "hyper": LR}, ValueError, "momentum is a tensor of hyper"),
        ({"lr": RATE}, ValueError, "lr requires a gradient, but would be held constant"),
        ({"lr": [RATE, 2 * RATE, RATE, RATE]}, ValueError, "lr requires a gradient"),
        (
            {"w0": LR, "hyper": LR},
            ValueError,
            "w0 is a tensor of hyper, but would be held constant",
        ),
        ({"w0": {"w": 2 * RATE}}, ValueError, "w0 carries a graph, but would be held constant"),
        ({"steps": True}, ValueError, "steps=True"),
        ({"steps": torch.tensor(3)}, ValueError, "steps=tensor"),
        ({"last": 2.5}, ValueError, "last=2.5"),
        ({"tolerance": "small"}, ValueError, "tolerance='small' must be a number"),
        ({"damping": None}, ValueError, "damping=None must be a number of at least 0"),
        ({"checkpoint": "run.pt"}, ValueError, "checkpoint='run.pt' is not one of False, True"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_bad_arguments_are_named_before_any_work(change, error, message, method):
    arguments = {
        "outer": never, "inner": never, "w0": ones(2), "hyper": ones(2),
        "method": method, "steps": 4,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        hypergradient(**{**arguments, **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"outer": lambda w, h: (w > 0).sum()}, TypeError, r"outer.* is of torch.int64; .*a count"),
        ({"outer": lambda w, h: (w * 1j).sum()}, TypeError, r"outer.* is of torch.complex128"),
        ({"inner": lambda w, h: (w * 1j).sum()}, TypeError, r"inner.* is of torch.complex128"),
        ({"inner": lambda w, h: square(w, h)[None]}, TypeError, r"shape \[1\]; .*\.mean\(\) or"),
        ({"inner": lambda w, h: torch.tensor(square(w, h).item())}, ValueError, r"\.item\(\)"),
        ({"w0": lambda h: h.log() / 0}, ValueError, "w0 has NaN or infinite"),
        ({"lr": lambda h: h.sum() / 0}, ValueError, r"lr\(hyper\) has NaN or infinite"),
        ({"lr": lambda h: torch.tensor(1)}, TypeError, r"lr\(hyper\) is of torch.int64"),
        (
            {"inner": lambda w, h: square(w, h) * math.nan},
            InnerProblemError,
            "is nan at w0 already",
        ),
        (
            {"outer": lambda w, h: square(w, h) * math.nan},
            InnerProblemError,
            r"outer loss is not finite at w after 4 steps \(the loss is nan\)",
        ),
        (
            {"outer": lambda w, h: (w - w.detach()).abs().sqrt().sum()},
            InnerProblemError,
            "gradient of the outer loss is not finite at w",
        ),
        ({"outer": lambda w, h: (w.sum() * 0).exp() / 0}, InnerProblemError, "the loss is inf"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_what_functions_give_is_checked(change, error, message, method):
    arguments = {
        "outer": square, "inner": square, "w0": ones(2), "hyper": 2 * ones(2),
        "method": method, "steps": 4,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        hypergradient(**{**arguments, **change})


@pytest.mark.parametrize("lr", [0.0, -0.1])
def test_a_neumann_series_needs_a_rate_above_0(lr):
    with pytest.raises(ValueError, match="needs an lr above 0"):
        hypergradient(
            square, square, ones(2), ones(2), method="neumann", steps=0,
            lr=lambda hyper: hyper.sum() * 0 + lr,
        )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_numbers_of_numpy_are_numbers(method):
    plain = {"steps": 4, "lr": 0.1, "momentum": 0.5, "last": 2, "iterations": 30, "tolerance": 0.1}
    theirs = {
        name: np.int64(v) if isinstance(v, int) else np.float64(v) for name, v in plain.items()
    }
    results = [
        hypergradient(square, square, ones(2), 2 * ones(2), method=method, **settings)
        for settings in (
            plain,
            theirs,
            {**plain, "lr": np.full(4, 0.1)},
            {**plain, "lr": [0.1] * 4},
        )
    ]
    for result in results[1:]:
        assert torch.equal(result.gradient, results[0].gradient)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("trees", [(list, dict), (tuple, list)])
def test_trees_of_every_kind(method, trees):
    """The same problem with w and hyper in one tensor, and in trees of several."""

    def packed(kind, parts):
        return dict(zip("ab", parts, strict=True)) if kind is dict else kind(parts)

    def joined(tree):
        return torch.cat(list(tree.values() if isinstance(tree, dict) else tree))

    w0, hyper = torch.arange(5.0).double(), torch.linspace(0, 1, 5).double()
    settings = {"method": method, "steps": 5, "iterations": 400}
    plain = hypergradient(square, square, w0, hyper, **settings)
    result = hypergradient(
        lambda w, h: square(joined(w), joined(h)), lambda w, h: square(joined(w), joined(h)),
        packed(trees[0], w0.split([2, 3])), packed(trees[1], hyper.split([4, 1])), **settings,
    )  # fmt: skip
    assert type(result.w) is trees[0]
    assert type(result.gradient) is trees[1]
    torch.testing.assert_close(joined(result.gradient), plain.gradient)
    torch.testing.assert_close(joined(result.w), plain.w)


LINE = nn.Linear(2, 1).double()
AROUND = {
    "outer of hyper": ({"outer": lambda w, h: square(LINE.bias, w["bias"])}, "outer.* as hyper"),
    "inner of hyper": (
        {"inner": lambda w, h: square(w["weight"], LINE.weight) + square(w["bias"], h["bias"])},
        "inner.* as hyper",
    ),
    "inner of w": (
        {
            "inner": lambda w, h: square(LINE(ones(3, 2)), 1.0) + h * square(w["bias"], 0.0),
            "w0": dict(LINE.named_parameters()),
            "hyper": torch.tensor(1.0).double(),
        },
        "inner.* as w",
    ),
}


def test_a_tensor_that_carries_a_graph_must_not_be_used_as_it_was_given_either():
    made = 2 * ones(2).requires_grad_()
    with pytest.raises(ValueError, match=r"outer.* as hyper"):
        hypergradient(lambda w, h: square(w, made), square, ones(2), made, steps=3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", AROUND)
def test_a_module_must_be_called_with_what_stands_for_its_parameters(where, method):
    change, message = AROUND[where]
    arguments = {
        "outer": lambda w, h: square(w["bias"], 0.0),
        "inner": lambda w, h: sum(square(w[name], h[name]) for name in w),
        "w0": lambda h: h,
        "hyper": dict(LINE.named_parameters()),
        "method": method,
        "steps": 3,
    }
    with pytest.raises(ValueError, match=f"{message}: torch.func.functional_call"):
        hypergradient(**{**arguments, **change})
    assert all(p.grad is None for p in LINE.parameters())


class Recomputing(nn.Module):
    """Works its only layer out again in the backward pass, when its own parameters are back."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 1).double()

    def forward(self, x):
        return checkpoint(lambda x: torch.tanh(self.line(x)), x, use_reentrant=False)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("which", ["inner", "outer"])
def test_a_module_that_works_out_again_in_backward_is_refused(which, method):
    net = Recomputing()
    arguments = {
        "outer": lambda w, h: square(w["line.bias"], 0.0),
        "inner": lambda w, h: sum((t * h).square().sum() for t in w.values()),
        which: lambda w, h: square(functional_call(net, w, (ones(3, 2),)), h),
        "w0": dict(net.named_parameters()),
        "hyper": torch.tensor(1.0).double(),
    }
    with pytest.raises(RuntimeError, match=rf"{which}\(w, hyper\) works something out again"):
        hypergradient(**arguments, method=method, steps=3)
