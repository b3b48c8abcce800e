"""The rules against torch.optim."""

import pytest
import torch

from metanotes import (
    SGD,
    Adam,
    InnerLoopLearner,
    LearningToOptimize,
    Momentum,
    RMSprop,
    UpdateRule,
    mse,
)
from metanotes.data import quadratics, sinusoid
from metanotes.methods.optimizers import trajectory
from metanotes.nets import mlp


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


class Normed(UpdateRule):
    """A step of one length, which is meant to be each task's."""

    def forward(self, grads, state):
        whole = torch.cat([g.flatten() for g in grads.values()]).norm()
        return {name: -0.1 * g / whole for name, g in grads.items()}, state


class Averaged(UpdateRule):
    """Mixes tasks by what it remembers, from the second step on."""

    def init(self, theta):
        return ({name: torch.zeros_like(t) for name, t in theta.items()},)

    def forward(self, grads, state):
        mean = {name: g.mean(0, keepdim=True).expand_as(g) for name, g in grads.items()}
        return {name: -0.1 * (g + state[0][name]) for name, g in grads.items()}, (mean,)


class Counting(UpdateRule):
    """Keeps the time where it goes on from one task to the next."""

    t = 0

    def forward(self, grads, state):
        self.t += 1
        return {name: -0.1 / self.t * g for name, g in grads.items()}, state


class Summed(UpdateRule):
    """An update that would be stretched over what it belongs to."""

    def forward(self, grads, state):
        return {name: -0.1 * g.mean(-1, keepdim=True) for name, g in grads.items()}, state


class Langevin(UpdateRule):
    """Its noise comes from torch's generator."""

    def forward(self, grads, state):
        return {name: -0.1 * g + torch.randn_like(g) for name, g in grads.items()}, state


class Persistent(SGD):
    """Takes its last gradients into the next task, as moments that are kept; and says when."""

    last = None

    def forward(self, grads, state):
        if self.last is not None:
            grads = {name: g + self.last[name] for name, g in grads.items()}
        if self.training:
            self.last = {name: g.detach().sum(0, keepdim=True) for name, g in grads.items()}
        return super().forward(grads, state)


class Apart(UpdateRule):
    """A step of one length for each task."""

    def forward(self, grads, state):
        whole = sum(g.flatten(1).square().sum(1) for g in grads.values()).sqrt()  # [T]
        each = {name: whole.view(-1, *[1] * (g.ndim - 1)) for name, g in grads.items()}
        return {name: -0.1 * g / each[name] for name, g in grads.items()}, state


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Normed, "rule Normed mixes tasks"),
        (Averaged, "rule Averaged mixes tasks"),
        (Counting, "rule Counting gives something else"),
        (Summed, r"rule Summed gives updates .* of its shape"),
    ],
)
def test_a_rule_of_the_readers_that_does_not_keep_tasks_apart_is_refused(rule, message):
    learner = InnerLoopLearner(mlp(1, 4, 1, seed=0), rule(), 3, loss=mse)
    with pytest.raises(ValueError, match=message):
        learner(sinusoid(seed=0)(3))
    with pytest.raises(ValueError, match=message):
        learner.adapt(sinusoid(seed=0)(3).support)
    for first_order in (True, False):
        optimizing = LearningToOptimize(rule(), 5, first_order=first_order)
        with pytest.raises(ValueError, match=message):
            optimizing(quadratics(seed=0)(3))
    with pytest.raises(ValueError, match=message):
        trajectory(rule(), quadratics(seed=0)(3), 5)


def test_the_look_at_a_rule_leaves_no_trace_in_what_it_remembers():
    first, later = sinusoid(seed=0)(1), sinusoid(seed=1)(1)
    used = InnerLoopLearner(mlp(1, 4, 1, seed=0), Persistent(0.01), 1, loss=mse)
    used(first)
    gradient = used.rule.last
    looked = InnerLoopLearner(mlp(1, 4, 1, seed=0), Persistent(0.01), 1, loss=mse).eval()
    looked(first)
    assert looked.rule.last is None
    looked.rule.last = gradient
    torch.testing.assert_close(used(later), looked(later))


@pytest.mark.parametrize("rule", [Langevin, Apart])
def test_a_rule_of_the_readers_that_does_is_taken(rule):
    torch.manual_seed(0)
    learner = InnerLoopLearner(mlp(1, 4, 1, seed=0), rule(), 3, loss=mse)
    assert learner(sinusoid(seed=0)(3)).isfinite().all()
    assert trajectory(rule(), quadratics(seed=0)(3), 5)[0].isfinite().all()
