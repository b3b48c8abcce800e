"""Functions of every kind: right, or refused in the reader's words before any work."""

from itertools import repeat

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metanotes import SGD, Batch, LearningToOptimize, LSTMRule, StepSizeController, trajectory
from metanotes.data import Functions
from metanotes.methods.optimizers import function_values
from metanotes.theta import How
from metanotes.theta.task_axis import present

REAL = {"dtype": torch.float64}


def loss(theta, x, y):
    return (theta["w"] * x - y).square().sum() + 1


def functions(**changes) -> Functions:
    """Two functions of three numbers each."""
    batch = Batch(torch.ones(2, 3, **REAL), torch.zeros(2, 3, **REAL))
    theta = {"w": torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]], **REAL)}
    return Functions(**{"loss": loss, "theta": theta, "batches": repeat(batch), **changes})


def learner(steps: int = 3, first_order: bool = True) -> LearningToOptimize:
    rule = LSTMRule(hidden=3, scale=0.5).double()
    return LearningToOptimize(rule, steps, first_order=first_order)


ONE = torch.ones(3, requires_grad=True)
BAD = [
    ({"loss": lambda t, x, y: loss(t, x, y)[None]}, ValueError, r"the shape \[1\] for each"),
    ({"loss": lambda t, x, y: t["w"] * x}, ValueError, r"the shape \[3\] for each.*\.sum\(\)"),
    ({"loss": lambda t, x, y: x.sum()}, ValueError, "does not depend on theta"),
    ({"theta": {}}, ValueError, r"theta needs tensors \[T, \.\.\.\]"),
    ({"theta": {"w": torch.tensor(1.0)}}, ValueError, r"not \{'w': \(\)\}"),
    ({"theta": {"w": torch.ones(2, 3), "b": torch.ones(3)}}, ValueError, "the same T"),
    ({"theta": {"w": torch.ones(2, 3).int()}}, ValueError, r"theta\['w'\] is of torch.int32"),
    ({"theta": {"w": torch.ones(2, 3).cfloat()}}, ValueError, r"theta\['w'\] is of torch.complex"),
    (
        {"theta": {"w": torch.ones(2, 3, requires_grad=True)}},
        ValueError,
        r"theta\['w'\] requires a gradient.*\.detach\(\)",
    ),
    ({"batches": [Batch(torch.ones(2, 3), torch.zeros(2, 3))]}, TypeError, "batches is a list"),
    (
        {"batches": iter([Batch(torch.ones(2, 3, **REAL), torch.zeros(2, 3, **REAL))])},
        ValueError,
        "batches has come to its end",
    ),
    (
        {"batches": repeat(Batch(torch.ones(4, 3), torch.zeros(4, 3)))},
        ValueError,
        r"a batch has x \[4, 3\], and theta T=2 functions",
    ),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD)
def test_what_cannot_be_descended_is_named(changes, error, message):
    for call in (
        lambda f: learner()(f),
        lambda f: trajectory(SGD(0.1), f, 3),
        lambda f: StepSizeController(steps=3).rollout(f),
    ):
        with pytest.raises(error, match=message):
            call(functions(**changes))


def test_what_are_no_functions_is_named():
    for wrong in (Batch(torch.ones(2), torch.ones(2)), lambda tasks: functions()):
        for call in (learner(), StepSizeController(), lambda f: trajectory(SGD(0.1), f)):
            with pytest.raises(TypeError, match=r"functions is a \w+; it must be Functions"):
                call(wrong)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        learner()(functions())


@pytest.mark.parametrize("rule", [0.1, LSTMRule, torch.nn.Identity()])
def test_what_is_no_rule_is_named(rule):
    with pytest.raises(ValueError, match=r"rule is a \w+; it must be an UpdateRule"):
        LearningToOptimize(rule, 3)(functions())
    with pytest.raises(ValueError, match=r"rule is a \w+; it must be an UpdateRule"):
        trajectory(rule, functions(), 3)


@pytest.mark.parametrize("where", ["x", "loss"])
def test_what_else_is_learned_is_differentiated_or_refused(where):
    own = torch.tensor([0.5, 1.0, 2.0], requires_grad=True, **REAL)
    if where == "x":
        batch = Batch(own.expand(2, 3), torch.zeros(2, 3, **REAL))
        changed = lambda: functions(batches=repeat(batch))  # noqa: E731
    else:
        changed = lambda: functions(  # noqa: E731
            loss=lambda t, x, y: (own * (t["w"] * x - y).square()).sum()
        )
    with pytest.raises(ValueError, match="something else than the rule requires a gradient"):
        learner()(changed())
    with torch.no_grad():
        learner()(changed())  # nothing is learned
    exact = learner(first_order=False)
    (gradient,) = torch.autograd.grad(exact(changed()).sum(), own)
    for i in range(3):
        ends = []
        for h in (1e-6, -1e-6):
            with torch.no_grad():
                own[i] += h
                ends.append(exact(changed()).sum().item())
                own[i] -= h
        assert abs((ends[0] - ends[1]) / 2e-6 - gradient[i]) < 1e-5 * gradient.abs().max()


class Recurrent(nn.Module):
    """An LSTM: `vmap` has no rule for it."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(2, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0][:, -1]


class Attention(nn.Module):
    """Scaled dot products by torch's own kernel, which cannot be batched."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.q(x)[:, None]
        return F.scaled_dot_product_attention(h, h, h)[:, 0].mean(1)


class Branch(nn.Module):
    """A forward that looks at its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).mean(1)
        return h if self.a.weight.sum() > 0 else 2 * h


class Words(nn.Module):
    """An embedding with padding: `vmap` honours it in the first function only (torch 2.13)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3, padding_idx=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.table((2 * x.abs()).long().clamp(max=4)[..., 0]).sum(1)


@pytest.mark.parametrize("make", [Recurrent, Attention, Branch, Words])
@pytest.mark.parametrize("first_order", [True, False])
def test_functions_that_cannot_be_batched_are_worked_out_one_by_one(make, first_order):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().double()
        x, y = torch.randn(3, 6, 4, 2, **REAL), torch.randn(3, 6, 3, **REAL)
        theta = {n: torch.randn(3, *p.shape, **REAL) for n, p in model.named_parameters()}

    def network_loss(theta, x, y):
        return F.mse_loss(functional_call(model, theta, (x,)), y)

    rule = LSTMRule(hidden=3, scale=0.5).double()
    whole = LearningToOptimize(rule, 3, first_order=first_order)
    together = whole(Functions(network_loss, theta, repeat(Batch(x, y))))
    phi = list(rule.parameters())
    gradient = torch.autograd.grad(together.sum(), phi)
    total = [torch.zeros_like(p) for p in phi]
    for n in range(3):
        one = {name: t[n : n + 1] for name, t in theta.items()}
        alone = whole(Functions(network_loss, one, repeat(Batch(x[n : n + 1], y[n : n + 1]))))
        torch.testing.assert_close(together[n], alone[0], rtol=1e-10, atol=0)
        total = [a + b for a, b in zip(total, torch.autograd.grad(alone[0], phi), strict=True)]
    for ours, theirs in zip(gradient, total, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_what_is_batched_wrongly_is_worked_out_one_by_one(monkeypatch):
    right = learner()(functions())
    plainly = function_values.losses_and_gradients

    def wrong(*inputs, **settings):
        losses, grads = plainly(*inputs, **settings)
        return losses * (1.03 if present().at_once else 1.0), grads

    monkeypatch.setattr(function_values, "losses_and_gradients", wrong)
    torch.testing.assert_close(learner()(functions()), right, rtol=1e-12, atol=0)
    rollout = StepSizeController(steps=3).double().rollout(functions(), torch.zeros(2, 3))
    torch.testing.assert_close(rollout.losses[:, 0], torch.tensor([15.0, 6.25], **REAL))


@pytest.mark.parametrize("first_order", [True, False])
def test_a_parameter_that_a_function_does_not_use_stays(first_order):
    theta = {**functions().theta, "idle": torch.ones(2, **REAL)}
    expected = learner(first_order=first_order)(functions())
    torch.testing.assert_close(
        learner(first_order=first_order)(functions(theta=theta)), expected, rtol=1e-12, atol=0
    )
    _, end = trajectory(SGD(0.1), functions(theta=theta), 3)
    assert torch.equal(end["idle"], torch.ones(2, **REAL))
    StepSizeController(steps=2)(functions(theta=theta))


def test_numbers_of_numpy_are_numbers():
    rule = LSTMRule(hidden=np.int64(3), layers=np.int64(2), seed=np.int64(0), scale=np.float64(0.5))
    losses = LearningToOptimize(rule.double(), np.int64(3))(functions())
    assert torch.equal(losses, learner()(functions()))
    rule.scale = np.float64(0.25)  # a setting may change at any time
    changed = LearningToOptimize(rule, 3)(functions())
    rule.scale = 0.25
    assert torch.equal(changed, LearningToOptimize(rule, 3)(functions()))
    assert not torch.equal(changed, losses)
    controller = StepSizeController(np.float64(0.1), np.int64(3), copies=np.int64(2))
    assert controller.rollout(functions(), steps=np.int64(2)).losses.shape == (2, 3)
    losses, _ = trajectory(SGD(0.1), functions(), np.int64(2))
    assert losses.shape == (2, 3)


def test_steps_that_no_longer_fit_the_weights_are_refused():
    changed = learner(3)
    changed.steps = 5
    with pytest.raises(ValueError, match="steps=5, but there are 3 weights"):
        changed(functions())


@pytest.mark.parametrize("steps", [0, 2.5, True, None])
def test_a_part_of_the_way_is_of_whole_steps(steps):
    whole, f = learner(), functions()
    with pytest.raises(ValueError, match="steps="):
        whole.unroll(f, whole.start(f), steps)


@pytest.mark.parametrize(("first_order", "fused"), [(True, True), (True, False), (False, True)])
def test_a_gradient_that_cannot_be_differentiated_again_says_so(first_order, fused):
    rule = LSTMRule(hidden=3, fused=fused).double()
    losses = LearningToOptimize(rule, 3, first_order=first_order)(functions())
    message = "first_order=False" if first_order else "fused=False"
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.grad(losses.sum(), list(rule.parameters()), create_graph=True)


def test_the_exact_gradient_can_be_differentiated_again():
    rule = LSTMRule(hidden=2, fused=False, scale=0.5).double()

    def slope() -> Tensor:
        losses = LearningToOptimize(rule, 3, first_order=False)(functions())
        return torch.autograd.grad(losses.sum(), rule.out_bias, create_graph=True)[0]

    (exact,) = torch.autograd.grad(slope(), rule.out_bias)
    ends = []
    for h in (1e-5, -1e-5):
        with torch.no_grad():
            rule.out_bias += h
        ends.append(slope().item())
        with torch.no_grad():
            rule.out_bias -= h
    assert abs((ends[0] - ends[1]) / 2e-5 - exact) < 1e-6 * abs(exact)


def test_to_look_at_functions_draws_no_random_numbers():
    def noisy(theta, x, y):
        return (F.dropout(theta["w"], 0.5) * x - y).square().sum() + 1

    drawn = []
    for look in (True, False):
        torch.manual_seed(0)
        f = functions(loss=noisy)
        batch = next(f.batches)
        how = How(at_once=True)
        if look:  # what is drawn anew cannot be compared: it stays at once
            assert function_values.first_look(f, f.theta, batch) == how
        drawn.append(function_values.values_at(f, f.theta, batch, how))
    assert torch.equal(drawn[0][0], drawn[1][0])


def test_inputs_may_go_by_name():
    def by_name(theta, x, y):
        return loss(theta, x["a"] * x["b"], y)

    x, y = next(functions().batches)
    named = functions(loss=by_name, batches=repeat(Batch({"a": x, "b": torch.ones_like(x)}, y)))
    assert torch.equal(learner()(named), learner()(functions()))
    noise = torch.zeros(2, 2)
    ours, plain = (StepSizeController(steps=2).rollout(f, noise) for f in (named, functions()))
    assert torch.equal(ours.losses, plain.losses)
    assert StepSizeController(steps=2)(named).shape == (2,)
    with pytest.raises(ValueError, match=r"a batch has x \[1\], and theta T=2 functions"):
        learner()(functions(batches=repeat(Batch({"a": x, "b": torch.ones(1)}, y))))
