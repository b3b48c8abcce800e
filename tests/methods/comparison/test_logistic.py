"""Logistic regression: scikit-learn's answer, Newton's in a plain loop, and what each step does."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes import Batch, LogisticNetwork
from tests.methods.comparison.compared import assert_losses_and_gradient, body, uneven_tasks
from tests.plainly import in_groups_of


def objective(theta: Tensor, z: Tensor, y: Tensor, penalty: float) -> Tensor:
    """The loss of one task: theta `[ways, F + 1]` has the biases in its last column.

    The last term chooses one of the biases that give the same probabilities; it is 0 at the end.
    """
    scores = z @ theta[:, :-1].T + theta[:, -1]
    loss = F.cross_entropy(scores, y, reduction="sum")
    return loss + penalty / 2 * theta[:, :-1].square().sum() + theta[:, -1].sum() ** 2


def by_newton(z: Tensor, y: Tensor, ways: int, penalty: float) -> Tensor:
    """The minimum; the last step carries its derivative, by the implicit function theorem."""
    theta = torch.zeros(ways, z.shape[1] + 1, dtype=z.dtype)

    def step(theta: Tensor, z: Tensor) -> Tensor:
        theta = theta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(theta, z, y, penalty), theta, create_graph=True)
        H = torch.autograd.functional.hessian(
            lambda t: objective(t, z.detach(), y, penalty), theta.detach()
        )
        n = theta.numel()
        return theta.detach() - torch.linalg.solve(H.reshape(n, n), gradient.flatten()).view_as(
            theta
        )

    for _ in range(12):
        theta = step(theta, z.detach())
    return step(theta, z)


@pytest.mark.parametrize("size", [None, 1])
def test_losses_and_gradient_are_those_of_the_minimum_in_a_plain_loop(size):
    learner, tasks = LogisticNetwork(body(), ways=3, penalty=0.5, steps=300), uneven_tasks()
    plain = []
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        z, zq = (learner.body(t) / learner.body(t).norm(dim=1, keepdim=True) for t in (x, xq))
        theta = by_newton(z, y, 3, 0.5)
        plain.append(F.cross_entropy(zq @ theta[:, :-1].T + theta[:, -1], yq))
    with in_groups_of(size):
        assert_losses_and_gradient(learner, tasks, plain)


@pytest.mark.parametrize(("penalty", "steps"), [(10.0, 100), (1.0, 100), (0.1, 1000)])
def test_it_is_scikit_learns_regression(penalty, steps):
    g = torch.Generator().manual_seed(3)
    y = torch.stack([torch.randperm(20, generator=g) % 5 for _ in range(4)])
    x = torch.randn(4, 20, 12, generator=g, dtype=torch.float64)
    x += torch.eye(5, 12, dtype=torch.float64)[y]
    xq = torch.randn(4, 9, 12, generator=g, dtype=torch.float64)
    learner = LogisticNetwork(nn.Identity(), ways=5, penalty=penalty, steps=steps)
    z, a, b = adapted = learner.adapt(Batch(x, y))
    W, p = a.mT @ z, learner.predict(adapted, xq).softmax(2)
    for n in range(4):
        theirs = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000)
        theirs.fit(F.normalize(x[n], dim=1).numpy(), y[n].numpy())
        np.testing.assert_allclose(W[n], theirs.coef_, rtol=0, atol=1e-4)
        np.testing.assert_allclose(b[n, 0], theirs.intercept_, rtol=0, atol=1e-4)
        theirs_p = theirs.predict_proba(F.normalize(xq[n], dim=1).numpy())
        np.testing.assert_allclose(p[n], theirs_p, rtol=0, atol=1e-4)


def test_no_step_raises_the_loss():
    g = torch.Generator().manual_seed(5)
    z = F.normalize(torch.randn(2, 12, 6, generator=g, dtype=torch.float64), dim=2)
    y = torch.arange(12).repeat(2, 1) % 3
    learner = LogisticNetwork(nn.Identity(), ways=3, penalty=1e-3)
    before = [torch.inf, torch.inf]
    for steps in range(60):
        features, a, b = learner.adapt(Batch(z, y), steps=steps)
        theta = torch.cat([a.mT @ features, b.mT], 2)
        losses = [float(objective(theta[n], z[n], y[n], 1e-3)) for n in range(2)]
        assert all(now <= then + 1e-12 for now, then in zip(losses, before, strict=True))
        before = losses


def test_before_the_first_step_all_classes_are_alike():
    learner, tasks = LogisticNetwork(body(), ways=3), uneven_tasks()
    assert not learner.predict(learner.adapt(tasks.support, steps=0), tasks.query.x).any()


def test_the_weights_are_sums_of_the_support_features_as_labels_and_probabilities_differ():
    learner, tasks = LogisticNetwork(body(), ways=3, penalty=2.0, steps=300), uneven_tasks()
    z, a, b = learner.adapt(tasks.support)
    p = (z @ z.mT @ a + b).softmax(2)
    Y = F.one_hot(tasks.support.y, 3)
    torch.testing.assert_close(a, (Y - p) / 2, rtol=0, atol=1e-10)
    torch.testing.assert_close(a.sum(1), torch.zeros(3, 3).double(), rtol=0, atol=1e-10)


def test_the_length_of_features_does_not_matter():
    tasks = uneven_tasks()
    learner = LogisticNetwork(nn.Flatten(), ways=3)
    outputs = learner.predict(learner.adapt(tasks.support), tasks.query.x)
    longer = Batch(5 * tasks.support.x, tasks.support.y)
    torch.testing.assert_close(learner.predict(learner.adapt(longer), 7 * tasks.query.x), outputs)


@pytest.mark.parametrize("penalty", [0, -1.0, float("nan")])
def test_a_penalty_that_is_none_is_named(penalty):
    with pytest.raises(ValueError, match=f"penalty={penalty} must be"):
        LogisticNetwork(nn.Identity(), ways=3, penalty=penalty)


def test_steps_are_counted():
    with pytest.raises(ValueError, match="steps=-1 must be"):
        LogisticNetwork(nn.Identity(), ways=3, steps=-1)
