"""REINFORCE against exact integrals and enumeration; the controller against plain descent."""

import copy
import itertools
from itertools import repeat

import numpy as np
import pytest
import torch

from metanotes import Batch, StepSizeController, meta_train, reinforce
from metanotes.data import Functions, quadratics


def scattered(controller: StepSizeController) -> StepSizeController:
    weight = torch.tensor([0.1, 0.2, -0.4, 0.3], dtype=torch.float64)
    controller.weight = torch.nn.Parameter(weight)
    return controller


def one_function(copies: int) -> Functions:
    """A quadratic of two numbers, as often as rollouts are wanted."""
    W = torch.tensor([[1.0, 0.3], [-0.2, 2.0]], dtype=torch.float64)
    y = torch.tensor([1.0, -1.0], dtype=torch.float64)
    batch = Batch(W.expand(copies, 2, 2), y.expand(copies, 2))
    theta = {"theta": torch.full((copies, 2), 0.1, dtype=torch.float64)}
    return Functions(quadratics(2)(1).loss, theta, repeat(batch))


def test_the_estimate_is_the_gradient_of_the_expected_reward_by_quadrature():
    """Both sides of (2) as integrals over the noise of three steps, Gauss-Hermite, 24^3 nodes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    noise = torch.tensor(list(itertools.product(nodes, repeat=3)))  # [24^3, 3]
    mass = torch.tensor([np.prod(w) for w in itertools.product(weights, repeat=3)])
    mass /= mass.sum()
    controller = scattered(StepSizeController(lr=0.05, steps=3, spread=0.1))

    def expected(weight):
        controller.weight = torch.nn.Parameter(weight)
        with torch.no_grad():
            return (mass * controller.rollout(one_function(len(mass)), noise).rewards.sum(1)).sum()

    weight = controller.weight.detach().clone()
    h = 1e-5
    exact = torch.stack(
        [(expected(weight + h * e) - expected(weight - h * e)) / (2 * h) for e in torch.eye(4)]
    )
    controller.weight = torch.nn.Parameter(weight)
    rollout = controller.rollout(one_function(len(mass)), noise)
    loss = (mass * reinforce(rollout.log_probs, rollout.rewards, baseline=False)).sum()
    (estimate,) = torch.autograd.grad(loss, controller.weight)
    torch.testing.assert_close(-estimate, exact, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("baseline", [True, False])
def test_the_estimate_is_unbiased_by_enumeration(baseline):
    """Two rollouts of a policy with 3 actions and 2 steps: all 9^2 outcomes, exactly."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, generator=g, dtype=torch.float64, requires_grad=True)
    reward = torch.randn(3, 3, generator=g, dtype=torch.float64)  # of the first and second action
    second = torch.randn(3, 3, generator=g, dtype=torch.float64)
    log_p = logits.log_softmax(1)
    ways = list(itertools.product(range(3), repeat=2))
    p = [(log_p[0, a] + log_p[1, b]).exp() for a, b in ways]
    J = sum(q * (reward[a, a] + second[a, b]) for q, (a, b) in zip(p, ways, strict=True))
    (exact,) = torch.autograd.grad(J, logits, retain_graph=True)
    total = torch.zeros_like(logits)
    for (m, one), (n, two) in itertools.product(enumerate(ways), repeat=2):
        log_probs = torch.stack([torch.stack([log_p[0, a], log_p[1, b]]) for a, b in (one, two)])
        rewards = torch.stack([torch.stack([reward[a, a], second[a, b]]) for a, b in (one, two)])
        loss = reinforce(log_probs, rewards, baseline).mean()
        (estimate,) = torch.autograd.grad(loss, logits, retain_graph=True)
        total -= (p[m] * p[n]).detach() * estimate
    torch.testing.assert_close(total, exact, rtol=1e-12, atol=1e-12)


def test_without_noise_and_weights_it_is_gradient_descent():
    functions = quadratics(3, seed=0, dtype=torch.float64)(5)
    W, y = next(functions.batches)
    with torch.no_grad():
        rollout = StepSizeController(lr=0.02, steps=4).rollout(functions, torch.zeros(5, 4))
    theta, losses = torch.zeros(5, 3, dtype=torch.float64), []
    for _ in range(5):
        rest = torch.einsum("tij,tj->ti", W, theta) - y
        losses.append(rest.square().sum(1))
        theta = theta - 0.02 * 2 * torch.einsum("tij,ti->tj", W, rest)
    torch.testing.assert_close(rollout.losses, torch.stack(losses, 1))
    torch.testing.assert_close(rollout.rewards.sum(1), (losses[0] / losses[-1]).log())
    torch.testing.assert_close(rollout.rates, torch.full_like(rollout.rates, 0.02))


def test_the_loss_has_one_entry_a_function_and_its_own_rollouts_as_baseline():
    controller = scattered(StepSizeController(steps=3, copies=4))
    functions = quadratics(3, seed=1, dtype=torch.float64)(5)
    torch.manual_seed(3)
    loss = controller(functions)
    assert loss.shape == (5,)
    torch.manual_seed(3)
    copied = Functions(
        functions.loss,
        {"theta": functions.theta["theta"].repeat_interleave(4, 0)},
        repeat(Batch(*(t.repeat_interleave(4, 0) for t in next(functions.batches)))),
    )
    rollout = controller.rollout(copied)
    for n in range(5):
        rows = slice(4 * n, 4 * n + 4)
        by_hand = reinforce(rollout.log_probs[rows], rollout.rewards[rows]).mean()
        torch.testing.assert_close(loss[n], by_hand)


def test_training_is_a_plain_loop_and_finds_a_better_step_size():
    test = quadratics(seed=9)
    controller = StepSizeController(lr=0.0005, steps=10)

    def end():
        with torch.no_grad():
            return controller.rollout(test.restarted()(100), torch.zeros(100, 10)).losses[:, -1]

    before = end().log().mean()
    torch.manual_seed(0)
    plain = copy.deepcopy(controller)
    options = {"meta_lr": 0.03, "clip": 1.0, "progress": False}
    history = meta_train(controller, quadratics(seed=0), 60, **options)
    assert end().log().mean() < before - 0.5

    torch.manual_seed(0)
    sampler, adam, losses = quadratics(seed=0), torch.optim.Adam(plain.parameters(), lr=0.03), []
    for _ in range(60):
        loss = plain(sampler(16)).mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        adam.step()
        losses.append(loss.item())
    assert history.losses == losses
    assert torch.equal(controller.weight, plain.weight)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="lr=0"):
        StepSizeController(lr=0)
    with pytest.raises(ValueError, match="copies=1 must be a whole number of at least 2"):
        StepSizeController(copies=1)
    with pytest.raises(ValueError, match="1 is too few"):
        reinforce(torch.zeros(1, 2), torch.zeros(1, 2))
    for steps in (0, 2.5, True):
        with pytest.raises(ValueError, match=f"steps={steps} must be a whole number"):
            StepSizeController(steps=steps)
        with pytest.raises(ValueError, match=f"steps={steps} must be a whole number"):
            StepSizeController().rollout(quadratics()(2), steps=steps)
    with pytest.raises(TypeError, match="positional"):
        StepSizeController(0.1, 3, 0.2)
    with pytest.raises(ValueError, match=r"lr=Parameter[^>]* must be a number above 0"):
        StepSizeController(lr=torch.nn.Parameter(torch.tensor(0.1)))
    for shape in ((2, 2), (2, 4), (3, 3), ()):
        with pytest.raises(ValueError, match=r"for 2 functions and 3 steps it must be \[2, 3\]"):
            StepSizeController(steps=3).rollout(quadratics()(2), torch.zeros(shape))
    for shape in ((2, 1), (3, 2), (3,)):
        with pytest.raises(ValueError, match=r"log_probs .* and rewards .* must both be"):
            reinforce(torch.zeros(2, 3), torch.zeros(shape))
    with pytest.raises(ValueError, match="of n rollouts of k steps"):
        reinforce(torch.zeros(3), torch.zeros(3))
    negative = Functions(
        lambda theta, x, y: -(theta["w"] ** 2).sum(),
        {"w": torch.ones(2, 3)},
        repeat(Batch(torch.zeros(2, 1), torch.zeros(2, 1))),
    )
    with pytest.raises(ValueError, match="needs > 0"):
        StepSizeController().rollout(negative)


def test_rewards_and_noise_of_other_kinds_of_numbers():
    log_probs = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    rewards = torch.tensor([[1, 0], [0, 1]])
    for same in (rewards.bool(), rewards.float(), rewards.numpy()):
        torch.testing.assert_close(
            reinforce(log_probs, same).float(), reinforce(log_probs, rewards)
        )
    functions, noise = quadratics(3)(2), np.linspace(-1, 1, 4).reshape(2, 2)
    with torch.no_grad():
        by_numpy = StepSizeController(steps=2).rollout(functions, noise)
        by_torch = StepSizeController(steps=2).rollout(functions, torch.tensor(noise).float())
    assert torch.equal(by_numpy.losses, by_torch.losses)
