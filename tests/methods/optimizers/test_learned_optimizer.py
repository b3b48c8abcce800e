"""A rule in an ordinary training loop."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from metanotes import SGD, Adam, LearnedOptimizer, LSTMRule, Momentum
from metanotes.nets import mlp


def data() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(20, 3, generator=g), torch.randn(20, 2, generator=g)


def run(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    x, y = data()
    losses = []
    for _ in range(steps):
        loss = mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("nesterov", [False, True])
def test_hand_made_rules_are_those_of_torch(nesterov):
    for rule, theirs in (
        (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (
            Momentum(0.1, 0.9, nesterov),
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=nesterov),
        ),
        (Adam(0.1), lambda p: torch.optim.Adam(p, 0.1)),
    ):
        a, b = mlp(3, 4, 2), mlp(3, 4, 2)
        ours = run(a, LearnedOptimizer(a.parameters(), rule), 8)
        assert ours == pytest.approx(run(b, theirs(b.parameters()), 8), rel=1e-5)


def test_it_is_the_rule_in_a_plain_loop():
    rule = LSTMRule(scale=0.5)
    model = mlp(3, 4, 2)
    theta = {n: p.detach().clone()[None] for n, p in model.named_parameters()}
    run(model, LearnedOptimizer(model.parameters(), rule), 5)
    state, (x, y) = rule.init(theta), data()
    for _ in range(5):
        theta = {n: t.detach().requires_grad_() for n, t in theta.items()}
        one = {n: t[0] for n, t in theta.items()}
        loss = mse_loss(torch.func.functional_call(mlp(3, 4, 2), one, x), y)
        grads = torch.autograd.grad(loss, list(theta.values()))
        with torch.no_grad():
            updates, state = rule(dict(zip(theta, grads, strict=True)), state)
            theta = {n: t + updates[n] for n, t in theta.items()}
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), theta[n][0])


def test_saved_and_loaded_it_goes_on_as_if_nothing_had_happened(tmp_path):
    model = mlp(3, 4, 2)
    optimizer = LearnedOptimizer(model.parameters(), LSTMRule(scale=0.5, seed=3), lr=0.7)
    run(model, optimizer, 4)
    torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "saved.pt")
    expected = run(model, optimizer, 4)
    weights, state = torch.load(tmp_path / "saved.pt", weights_only=True)
    again = mlp(3, 4, 2, seed=9)
    again.load_state_dict(weights)
    other = LearnedOptimizer(again.parameters(), LSTMRule(scale=0.5, seed=8))  # other weights
    other.load_state_dict(state)
    assert other.param_groups[0]["lr"] == 0.7
    assert run(again, other, 4) == expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_states_of_a_rule_keep_their_own_precision(dtype, tmp_path):
    """torch's optimizers cast what they load to the type of the parameter."""
    x, y = (t.to(dtype) for t in data())

    def train(model: nn.Module, optimizer: LearnedOptimizer) -> list[torch.Tensor]:
        for _ in range(3):
            optimizer.zero_grad()
            mse_loss(model(x), y).backward()
            optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    model = mlp(3, 4, 2).to(dtype)
    optimizer = LearnedOptimizer(model.parameters(), LSTMRule(scale=0.5))
    train(model, optimizer)
    torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "saved.pt")
    expected = train(model, optimizer)
    weights, state = torch.load(tmp_path / "saved.pt", weights_only=True)
    again = mlp(3, 4, 2).to(dtype)
    again.load_state_dict(weights)
    other = LearnedOptimizer(again.parameters(), LSTMRule(scale=0.5, seed=8))
    other.load_state_dict(state)
    assert all(map(torch.equal, train(again, other), expected))
    train(again, other)
    for saved in state["state"].values():  # what was loaded is not what is worked on
        assert all(t.dtype == torch.float32 for t in saved["rule"][0].values())


def test_it_can_be_copied():
    model = mlp(3, 4, 2)
    optimizer = LearnedOptimizer(model.parameters(), LSTMRule())
    run(model, optimizer, 2)
    model_2, optimizer_2 = copy.deepcopy((model, optimizer))
    assert run(model, optimizer, 2) == run(model_2, optimizer_2, 2)


def test_groups_have_rules_and_rates_of_their_own():
    model = mlp(3, 4, 2)
    groups = [
        {"params": model[0].parameters(), "rule": SGD(0.1), "lr": 2.0},
        {"params": model[2].parameters()},
    ]
    twin = mlp(3, 4, 2)
    theirs = torch.optim.SGD(
        [{"params": twin[0].parameters(), "lr": 0.2}, {"params": twin[2].parameters(), "lr": 0.3}]
    )
    ours = run(model, LearnedOptimizer(groups, SGD(0.3)), 5)
    assert ours == pytest.approx(run(twin, theirs, 5), rel=1e-5)


def test_a_scheduler_scales_the_steps():
    model, twin = mlp(3, 4, 2), mlp(3, 4, 2)
    ours = LearnedOptimizer(model.parameters(), SGD(0.1))
    theirs = torch.optim.SGD(twin.parameters(), 0.1)
    for optimizer, net in ((ours, model), (theirs, twin)):
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for _ in range(3):
            run(net, optimizer, 1)
            schedule.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_a_parameter_without_gradient_stays():
    model = mlp(3, 4, 2)
    optimizer = LearnedOptimizer(model.parameters(), LSTMRule())
    before = model[2].bias.detach().clone()
    model[0](data()[0]).sum().backward()
    optimizer.step()
    assert torch.equal(model[2].bias, before)
    assert len(optimizer.state) == 2


def test_a_closure_gives_the_loss():
    model, (x, y) = mlp(3, 4, 2), data()
    optimizer = LearnedOptimizer(model.parameters(), LSTMRule())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = mse_loss(model(x), y)
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > 0


def test_the_rule_has_no_part_in_the_training():
    model, rule = mlp(3, 4, 2), LSTMRule()
    before = [p.clone() for p in rule.parameters()]
    run(model, LearnedOptimizer(model.parameters(), rule), 3)
    assert all(map(torch.equal, rule.parameters(), before))
    assert all(p.grad is None for p in rule.parameters())


@pytest.mark.parametrize("setting", [{"weight_decay": 0.1}, {"maximize": True}, {"nesterov": True}])
def test_a_setting_of_a_group_that_would_have_no_effect_is_refused(setting):
    params, (name,) = [nn.Parameter(torch.ones(2))], setting
    with pytest.raises(ValueError, match=rf"sets \['{name}'\], which would have no effect"):
        LearnedOptimizer([{"params": params, **setting}], SGD(0.1))
    LearnedOptimizer([{"params": params, "weight_decay": 0.0, "name": "all"}], SGD(0.1))


def test_what_does_not_fit_is_refused():
    model = mlp(3, 4, 2)
    with pytest.raises(ValueError, match="must be an UpdateRule"):
        LearnedOptimizer(model.parameters(), 0.1)
    with pytest.raises(TypeError, match=r"params is a Sequential; give its \.parameters\(\)"):
        LearnedOptimizer(model, LSTMRule())
    with pytest.raises(ValueError, match=r"lr=Parameter[^>]* must be a number above 0"):
        LearnedOptimizer(model.parameters(), LSTMRule(), lr=nn.Parameter(torch.tensor(0.1)))
    with pytest.raises(ValueError, match=r"is of torch\.complex64"):
        LearnedOptimizer([nn.Parameter(torch.ones(2).cfloat())], LSTMRule())
    with pytest.raises(ValueError, match="lr=0 must be a finite number above 0"):
        LearnedOptimizer(model.parameters(), LSTMRule(), lr=0)
    optimizer = LearnedOptimizer(model.parameters(), LSTMRule())
    smaller = LearnedOptimizer(model.parameters(), LSTMRule(hidden=5))
    with pytest.raises(ValueError, match="make it with the same arguments"):
        smaller.load_state_dict(optimizer.state_dict())
    one = LearnedOptimizer([{"params": [p]} for p in model.parameters()], LSTMRule())
    with pytest.raises(ValueError, match="4 groups of parameters, this optimizer has 1"):
        optimizer.load_state_dict(one.state_dict())
