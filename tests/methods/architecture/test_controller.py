"""The controllers' estimate of REINFORCE against the gradient by enumeration; the baseline."""

from itertools import product

import pytest
import torch

from metanotes import Controller, meta_train
from metanotes.methods.architecture import Softmaxes, policy_search
from tests.plainly import relative_error

CHOICES = (2, 3, 4)
EVERY = torch.tensor(list(product(*map(range, CHOICES))))


def policies():
    lstm = Controller(CHOICES, hidden=6, layers=2, seed=3).double()
    softmaxes = Softmaxes(CHOICES).double()
    torch.manual_seed(0)
    for policy in (lstm, softmaxes):
        with torch.no_grad():
            for p in policy.parameters():
                p.copy_(torch.randn_like(p) / 2)
    return lstm, softmaxes


def rewards_of(cells):
    """Something between 0 and 1 in which the choices work together."""
    return ((cells * torch.tensor([3, 5, 7])).sum(1) % 11).double() / 11


each = pytest.mark.parametrize("policy", policies(), ids=["LSTM", "softmaxes"])


@each
def test_the_probabilities_of_all_architectures_sum_to_1(policy):
    total = policy.log_prob(EVERY).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


@each
def test_it_draws_as_its_probabilities_say(policy):
    torch.manual_seed(0)
    n = 20_000
    drawn = policy.sample(n)
    index = (drawn * torch.tensor([12, 4, 1])).sum(1)
    counts = torch.bincount(index, minlength=24).double()
    expected = n * policy.log_prob(EVERY).exp().detach()
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 23 + 4 * (2 * 23) ** 0.5


@each
@pytest.mark.parametrize("baseline", [0.0, 0.4])
def test_the_mean_of_the_estimate_is_the_gradient_whatever_the_baseline(policy, baseline):
    """Over all architectures by their probabilities: with no sampling, to the last digits."""
    phi = list(policy.parameters())
    J = (policy.log_prob(EVERY).exp() * rewards_of(EVERY)).sum()
    right = torch.autograd.grad(J, phi)
    policy.baseline.fill_(baseline)
    losses = policy((EVERY, rewards_of(EVERY)))
    weights = policy.log_prob(EVERY).exp().detach()
    mean = torch.autograd.grad(-(weights * losses).sum(), phi)
    assert relative_error(mean, right) < 1e-10


@each
def test_the_mean_over_samples_is_the_gradient_within_its_interval(policy):
    phi = list(policy.parameters())
    J = (policy.log_prob(EVERY).exp() * rewards_of(EVERY)).sum()
    right = torch.cat([g.flatten() for g in torch.autograd.grad(J, phi)])
    torch.manual_seed(1)
    estimates = []
    for _ in range(60):
        policy.baseline.fill_(0.5)
        cells = policy.sample(200)
        grads = torch.autograd.grad(-policy((cells, rewards_of(cells))).mean(), phi)
        estimates.append(torch.cat([g.flatten() for g in grads]))
    values = torch.stack(estimates) @ (right / right.norm())
    error = values.std() / 60**0.5
    assert abs(values.mean() - right.norm()) < 4 * error
    assert right.norm() > 5 * error  # so that the interval excludes 0


def test_the_lstm_remembers_its_choices_and_softmaxes_do_not():
    lstm, softmaxes = (policy.log_prob(EVERY).view(CHOICES).log_softmax(2) for policy in policies())
    assert (lstm[0, 1] - lstm[1, 1]).abs().max() > 1e-3  # the last choice knows of the first
    torch.testing.assert_close(softmaxes, softmaxes[:1, :1].expand(CHOICES))


def test_what_is_drawn_has_the_probability_that_is_given_with_it():
    for policy in policies():
        cells, log_probs = policy.draw(10)
        torch.testing.assert_close(log_probs, policy.log_prob(cells))


def test_the_lstm_starts_near_the_uniform_distribution():
    log_probs = Controller(CHOICES).log_prob(EVERY)
    torch.testing.assert_close(log_probs.exp() * 24, torch.ones(24), rtol=0.2, atol=0)
    weights = torch.cat([p.flatten() for p in Controller(CHOICES).parameters()])
    assert weights.abs().max() <= 0.08


def test_the_baseline_is_a_moving_mean_of_rewards_before():
    policy = Softmaxes([2, 2], decay=0.75)
    cells = torch.tensor([[0, 0], [1, 1]])
    assert (policy((cells, torch.tensor([0.2, 0.6]))).sum() - 0).abs() < 1e-6  # their own mean
    assert float(policy.baseline) == pytest.approx(0.4)
    losses = policy((cells, torch.tensor([1.0, 0.0])))
    log_probs = policy.log_prob(cells)
    torch.testing.assert_close(losses, -log_probs * torch.tensor([0.6, -0.4]))
    assert float(policy.baseline) == pytest.approx(0.75 * 0.4 + 0.25 * 0.5)
    assert "baseline" in policy.state_dict()


def test_a_training_that_was_interrupted_goes_on_to_the_same_policy(tmp_path):
    def trained(*until):
        torch.manual_seed(0)
        for iterations in until:
            policy = Controller(CHOICES, seed=1)

            def rewarded(n, policy=policy):
                cells = policy.sample(n)
                return cells, rewards_of(cells)

            path = tmp_path / f"{len(until)}.pt"
            meta_train(policy, rewarded, iterations, 4, checkpoint=path, progress=False)
        return policy

    once, twice = trained(6), trained(3, 6)
    assert torch.equal(once.baseline, twice.baseline)
    pairs = zip(once.parameters(), twice.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("kind", [Controller, Softmaxes])
def test_a_search_comes_to_the_best_architecture(kind):
    policy = kind([4, 4, 4])
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.02 if kind is Controller else 0.05)
    torch.manual_seed(0)
    trail = policy_search(policy, lambda cell: sum(cell) / 9, 200, optimizer)
    assert len(trail.cells) == 200
    assert trail.best() == (3, 3, 3)
    assert sum(trail.rewards[-50:]) > 2 + sum(trail.rewards[:50])


def test_what_cannot_work_is_refused():
    for kind in (Controller, Softmaxes):
        with pytest.raises(ValueError, match=r"choices=\[1, 1\] is a space with a single"):
            kind([1, 1])
        with pytest.raises(ValueError, match=r"decay=1.0 must be in \[0, 1\)"):
            kind([2, 2], decay=1.0)
    policy = Softmaxes([2, 2])
    with pytest.raises(ValueError, match=r"cells \[1, 3\] must be \[n, 2\]"):
        policy.log_prob(torch.zeros(1, 3).long())
    with pytest.raises(ValueError, match="a cell has a choice outside"):
        policy.log_prob(torch.tensor([[0, 2]]))
    with pytest.raises(ValueError, match=r"rewards \[2\] must be finite.*1 cells"):
        policy((torch.zeros(1, 2).long(), torch.zeros(2)))
    with pytest.raises(ValueError, match=r"rewards .* must be finite"):
        policy((torch.zeros(1, 2).long(), torch.tensor([torch.nan])))
