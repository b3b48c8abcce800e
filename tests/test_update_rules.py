"""The rules against torch.optim."""

import pytest
import torch

from metanotes import Adam, Sgd


@pytest.mark.parametrize(
    ("rule", "reference"),
    [
        (Sgd(0.03), lambda p: torch.optim.SGD(p, lr=0.03)),
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


def test_adam_has_a_derivative_where_the_gradient_is_zero():
    rule, g = Adam(0.1), torch.zeros(2, 3, requires_grad=True)
    updates, _ = rule({"w": g}, rule.init({"w": g.detach()}))
    (d,) = torch.autograd.grad(updates["w"].sum(), g)
    assert torch.isfinite(d).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sgd(0), "lr=0 must be a finite number above 0"),
        (lambda: Adam(float("inf")), "lr=inf"),
        (lambda: Adam(betas=(0.9, 1.0)), r"betas=\(0.9, 1.0\) must both be in \[0, 1\)"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
