"""The loss of the way that an update rule goes, against plain loops."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from metanotes import (
    SGD,
    Adam,
    Batch,
    CheckpointError,
    LearningToOptimize,
    LSTMRule,
    NonFiniteLossError,
    cross_entropy,
    meta_train,
    trajectory,
)
from metanotes.data import Functions, networks, quadratics
from metanotes.nets import mlp
from tests.plainly import relative_error


def digits_like(dtype=torch.float64) -> Batch:
    g = torch.Generator().manual_seed(0)
    return Batch(
        torch.randn(40, 1, 4, 4, generator=g).to(dtype), torch.randint(3, (40,), generator=g)
    )


def make(seed: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *mlp(16, 5, 3, seed=seed, activation=nn.Sigmoid)).double()


def conv(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).double()


SAMPLERS = {
    "quadratics": lambda: quadratics(dim=4, seed=3, dtype=torch.float64),
    "perceptrons": lambda: networks(make, digits_like(), size=6, seed=3),
    "convolutions": lambda: networks(conv, digits_like(), size=6, seed=3),
}


def plainly(rule, functions: Functions, steps: int, weights, first_order: bool) -> torch.Tensor:
    """sum_t w_t f(theta_t), one function after the other, all in one graph."""
    batches = [next(functions.batches) for _ in range(steps + 1)]
    totals = []
    for n in range(len(batches[0].x)):
        theta = {name: t[n : n + 1] for name, t in functions.theta.items()}
        state, total = rule.init(theta), 0.0
        for t in range(steps + 1):
            if not theta[next(iter(theta))].requires_grad:
                theta = {name: p.detach().requires_grad_() for name, p in theta.items()}
            one = {name: p[0] for name, p in theta.items()}
            value = functions.loss(one, batches[t].x[n], batches[t].y[n])
            if t > 0:
                total = total + weights[t - 1] * value
            grads = torch.autograd.grad(value, list(theta.values()), create_graph=True)
            grads = [g.detach() for g in grads] if first_order else grads
            updates, state = rule(dict(zip(theta, grads, strict=True)), state)
            theta = {name: p + updates[name] for name, p in theta.items()}
        totals.append(total)
    return torch.stack(totals)


@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("kind", SAMPLERS)
def test_losses_and_gradient_are_those_of_a_plain_loop(kind, first_order):
    weights = [0.5, 0.0, 2.0, 1.0]
    plain = LSTMRule(hidden=4, scale=0.5, fused=False).double()
    rule = LSTMRule(hidden=4, scale=0.5).double()
    expected = plainly(plain, SAMPLERS[kind]()(3), 4, weights, first_order)
    ours = LearningToOptimize(rule, 4, weights=weights, first_order=first_order)(
        SAMPLERS[kind]()(3)
    )
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    pull = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    theirs = torch.autograd.grad((pull * expected).sum(), list(plain.parameters()))
    mine = torch.autograd.grad((pull * ours).sum(), list(rule.parameters()))
    assert relative_error(mine, theirs) < 1e-10


def test_first_order_is_another_gradient():
    gradients = []
    for first_order in (True, False):
        rule = LSTMRule(hidden=4, scale=0.5).double()
        losses = LearningToOptimize(rule, 4, first_order=first_order)(SAMPLERS["quadratics"]()(3))
        gradients.append(torch.autograd.grad(losses.sum(), list(rule.parameters())))
    assert relative_error(*gradients) > 1e-3


def test_the_full_gradient_is_that_of_finite_differences():
    rule = LSTMRule(hidden=3, scale=0.5).double()
    learner = LearningToOptimize(rule, 5, first_order=False)
    functions = lambda: quadratics(dim=3, seed=1, dtype=torch.float64)(4)  # noqa: E731
    learner(functions()).mean().backward()
    for p in (rule.weights[0], rule.out_bias):
        with torch.no_grad():
            ends = []
            for h in (1e-6, -1e-6):
                p.view(-1)[0] += h
                ends.append(learner(functions()).mean().item())
                p.view(-1)[0] -= h
        assert abs((ends[0] - ends[1]) / 2e-6 - p.grad.view(-1)[0]) < 1e-6 * p.grad.abs().max()


def test_windows_go_the_whole_way():
    sampler = SAMPLERS["perceptrons"]()
    learner = LearningToOptimize(LSTMRule(hidden=4).double(), 7)
    whole, end = learner.unroll(functions := sampler.restarted()(3), learner.start(functions), 7)
    functions = sampler.restarted()(3)
    position, parts = learner.start(functions), []
    for steps in (3, 3, 1):
        losses, position = learner.unroll(functions, position, steps)
        position = position.detached()
        parts.append(losses)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    for name, t in end.theta.items():
        torch.testing.assert_close(position.theta[name], t)
        assert not position.theta[name].requires_grad


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_trajectory_is_what_torch_optim_does(kind):
    losses, theta = trajectory(Adam(lr=0.05), SAMPLERS[kind]()(2), steps=6)
    functions = SAMPLERS[kind]()(2)
    p = {name: t.clone().requires_grad_() for name, t in functions.theta.items()}
    adam = torch.optim.Adam(list(p.values()), lr=0.05)
    for t in range(7):
        x, y = next(functions.batches)
        values = torch.stack(
            [functions.loss({n: t[i] for n, t in p.items()}, x[i], y[i]) for i in range(2)]
        )
        torch.testing.assert_close(losses[:, t], values.detach(), rtol=1e-6, atol=1e-8)
        if t < 6:
            adam.zero_grad()
            values.sum().backward()
            adam.step()
    for name, t in theta.items():
        torch.testing.assert_close(t, p[name].detach(), rtol=1e-6, atol=1e-8)
        assert not t.requires_grad


def test_a_network_is_the_function_and_minibatches_change():
    sampler = SAMPLERS["perceptrons"]()
    functions = sampler(2)
    first, second = (next(functions.batches) for _ in range(2))
    assert not torch.equal(first.x, second.x)
    one = {name: t[1] for name, t in functions.theta.items()}
    model = make(0)
    expected = cross_entropy(functional_call(model, one, (first.x[1],)), first.y[1])
    torch.testing.assert_close(functions.loss(one, first.x[1], first.y[1]), expected)
    again = sampler.restarted()(2)
    assert torch.equal(next(again.batches).x, first.x)
    assert torch.equal(again.theta["1.weight"], functions.theta["1.weight"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps=0 must be a whole number of at least 1"),
        ({"steps": 3, "weights": [1.0, 1.0]}, "must be steps=3 finite numbers"),
        ({"steps": 2, "weights": [1.0, -1.0]}, "must be steps=2 finite numbers"),
        ({"steps": 2, "weights": [1.0, float("nan")]}, "must be steps=2 finite numbers"),
        ({"steps": 2, "weights": [0.0, 0.0]}, "one of them above"),
        ({"unroll": 0}, "unroll=0 must be a whole number of at least 1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LearningToOptimize(SGD(0.1), **settings)


# -------------------------------------------------------------------------- training on windows


def small(steps: int = 30, **settings) -> LearningToOptimize:
    rule = LSTMRule(hidden=8, preprocess=None)
    return LearningToOptimize(rule, steps, **({"unroll": 10} | settings))


def train(learner, episodes, **settings):
    settings = {"tasks": 8, "meta_lr": 3e-3, "clip": 10.0, "progress": False} | settings
    return meta_train(learner, quadratics(dim=4, seed=0), episodes, **settings)


@pytest.mark.parametrize("first_order", [True, False])
def test_every_window_is_a_plain_step_of_adam(first_order):
    weights = [1.0] * 10 + [0.0] * 10 + [0.5] * 5  # the middle window takes no step
    ours = small(25, weights=weights, first_order=first_order)
    plain = small(25, first_order=first_order)
    history = train(ours, 3, clip=0.5)
    adam = torch.optim.Adam(plain.parameters(), lr=3e-3)
    sampler, totals = quadratics(dim=4, seed=0), []
    for _ in range(3):
        functions = sampler(8)
        position, total = plain.start(functions), 0.0
        for steps, weight in ((10, 1.0), (10, 0.0), (5, 0.5)):
            losses, position = plain.unroll(functions, position, steps)
            position = position.detached()
            if weight > 0:
                loss = (losses @ torch.full((steps,), weight)).mean()
                adam.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
                adam.step()
                total += loss.item()
        totals.append(total)
    assert history.losses == totals
    assert all(map(torch.equal, ours.parameters(), plain.parameters()))


def test_it_learns_to_minimise():
    learner = small(40)
    functions = quadratics(dim=4, seed=7)
    before = trajectory(learner.rule, functions.restarted()(200), 40)[0].sum(1).mean()
    history = train(learner, 40)
    after = trajectory(learner.rule, functions.restarted()(200), 40)[0].sum(1).mean()
    assert after < 0.5 * before
    assert len(history.losses) == 40


def test_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    whole, resumed = small(), small()
    expected = train(whole, 6).losses
    path = tmp_path / "run.pt"
    train(small(), 2, checkpoint=path)
    assert train(resumed, 6, checkpoint=path).losses == expected
    assert all(map(torch.equal, whole.parameters(), resumed.parameters()))
    rising = [float(t) for t in range(30)]
    for other in (small(31), small(unroll=11), small(weights=rising), small(first_order=False)):
        with pytest.raises(CheckpointError, match=r"another run \(learner\)"):
            train(other, 6, checkpoint=path)


def test_a_rule_that_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="LearningToOptimize has no parameter to train"):
        train(LearningToOptimize(SGD(0.1), 5), 1)
    with pytest.raises(NonFiniteLossError, match="iteration 1"):
        train(LearningToOptimize(LSTMRule(scale=1e30), 30), 1)
