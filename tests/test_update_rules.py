"""The rules against torch.optim."""

import pytest
import torch

from metanotes import SGD, Adam, Momentum, RMSprop


@pytest.mark.parametrize(
    ("rule", "reference"),
    [
        (SGD(0.03), lambda p: torch.optim.SGD(p, lr=0.03)),
        (Momentum(0.003), lambda p: torch.optim.SGD(p, lr=0.003, momentum=0.9)),
        (
            Momentum(0.004, 0.8, nesterov=True),
            lambda p: torch.optim.SGD(p, lr=0.004, momentum=0.8, nesterov=True),
        ),
        (RMSprop(0.02), lambda p: torch.optim.RMSprop(p, lr=0.02)),
        (
            RMSprop(0.01, decay=0.9, eps=1e-3),
            lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, eps=1e-3),
        ),
        (Adam(0.02), lambda p: torch.optim.Adam(p, lr=0.02)),
        (
            Adam(0.02, betas=(0.0, 0.9), eps=1e-4),
            lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.0, 0.9), eps=1e-4),
        ),
    ],
)
def test_a_rule_steps_as_torch_optim_does_for_a_hundred_steps(rule, reference):
    g = torch.Generator().manual_seed(0)
    target = torch.randn(3, 4, generator=g, dtype=torch.float64)  # 3 tasks
    theta = {"w": torch.zeros(3, 4, dtype=torch.float64)}
    w = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    state, optimizer = rule.init(theta), reference([w])
    for _ in range(100):
        updates, state = rule({"w": 4 * (theta["w"] - target) ** 3}, state)
        theta = {"w": theta["w"] + updates["w"]}
        optimizer.zero_grad()
        (w - target).pow(4).sum().backward()
        optimizer.step()
    torch.testing.assert_close(theta["w"], w.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", [Adam(0.1), RMSprop(0.1)])
def test_a_rule_has_a_derivative_where_the_gradient_is_zero(rule):
    g = torch.zeros(2, 3, requires_grad=True)
    updates, _ = rule({"w": g}, rule.init({"w": g.detach()}))
    (d,) = torch.autograd.grad(updates["w"].sum(), g)
    assert torch.isfinite(d).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(0), "lr=0 must be a finite number above 0"),
        (lambda: Adam(float("inf")), "lr=inf"),
        (lambda: Momentum(0.1, momentum=1.0), r"momentum=1.0 must be in \[0, 1\)"),
        (lambda: RMSprop(0.1, decay=-0.1), r"decay=-0.1 must be in \[0, 1\)"),
        (lambda: RMSprop(0.1, eps=0.0), "eps=0.0 must be a finite number above 0"),
        (lambda: Adam(betas=(0.9, 1.0)), r"betas=\(0.9, 1.0\) must both be in \[0, 1\)"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
