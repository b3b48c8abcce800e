"""The exact answer: by other routes, and that nothing does better."""

import math

import pytest
import torch

from metanotes import Batch, GaussianProcess, evaluate
from metanotes.data import linear_functions, sinusoid
from tests.methods.memory.sets import labelled_tasks, vector_tasks


def inner_products(x, z):
    return x @ z.mT


def waves(x, z):
    return torch.cos(x - z.mT)


def test_with_inner_products_it_is_ridge_regression():
    tasks, s = vector_tasks(), 0.7
    learner = GaussianProcess(inner_products, noise=s)
    predicted = learner.predict(learner.adapt(tasks.support), tasks.query.x)
    for n, (x, y, xq) in enumerate(zip(*tasks.support, tasks.query.x, strict=True)):
        # ridge in the primal, by least squares on the data with sqrt(penalty) I below it
        A = torch.cat([x, s * torch.eye(2).double()])
        b = torch.cat([y, torch.zeros(2, 3).double()])
        torch.testing.assert_close(predicted[n], xq @ torch.linalg.lstsq(A, b).solution)


def test_mean_and_deviation_are_those_of_the_joint_normal_distribution():
    """By inverting the covariance of (y, f(x)) and reading the conditional off its precision."""
    tasks, s = vector_tasks(), 0.4

    def kernel(x, z):
        return torch.exp(-torch.cdist(x, z).square() / 2)

    learner = GaussianProcess(kernel, noise=s)
    adapted = learner.adapt(tasks.support)
    answers = learner.distribution(adapted, tasks.query.x)
    torch.testing.assert_close(learner.predict(adapted, tasks.query.x), answers.mean)
    for n, (x, y, xq) in enumerate(zip(*tasks.support, tasks.query.x, strict=True)):
        for m, query in enumerate(xq):
            both = torch.cat([x, query[None]])
            covariance = kernel(both, both)
            covariance[:-1, :-1] += s**2 * torch.eye(len(x)).double()
            precision = torch.linalg.inv(covariance)
            torch.testing.assert_close(
                answers.mean[n, m], -precision[-1, :-1] @ y / precision[-1, -1]
            )
            torch.testing.assert_close(answers.stddev[n, m], precision[-1, -1].rsqrt().expand(3))


def test_the_posterior_of_a_weight_by_numerical_integration():
    """y = w x + noise with a single w: E[w | D] as a ratio of two integrals over w."""
    tasks, s = linear_functions(3, 4, dim=1, noise=0.5, dtype=torch.float64)(5), 0.5
    w = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
    learner = GaussianProcess(inner_products, noise=s)
    predicted = learner.predict(learner.adapt(tasks.support), tasks.query.x)
    for n, (x, y, xq) in enumerate(zip(*tasks.support, tasks.query.x, strict=True)):
        log_p = -(w**2) / 2 - ((y - x * w) ** 2).sum(0) / (2 * s**2)
        p = (log_p - log_p.max()).exp()
        torch.testing.assert_close(predicted[n], xq * (p @ w / p.sum()))


def test_two_points_decide_a_wave():
    two = sinusoid(2, 20, dtype=torch.float64, seed=1)
    exact = GaussianProcess(waves, noise=1e-5)
    tasks = two(200)
    # points that lie half a wave apart say the same twice, and decide little
    apart = torch.sin(tasks.support.x[:, 0] - tasks.support.x[:, 1]).abs()[:, 0] > 0.1
    errors = exact(tasks)[apart]
    assert len(errors) > 150
    assert errors.max() < 1e-6
    assert evaluate(exact, sinusoid(10, 20, dtype=torch.float64), 100).mean < 1e-8


@pytest.mark.parametrize("wrong", [0.2, 3.0])
def test_the_right_penalty_is_the_best(wrong):
    tasks = linear_functions(4, 10, dim=3, noise=0.6, dtype=torch.float64)
    right, other = (
        evaluate(GaussianProcess(inner_products, 0.6 * factor), tasks, 1000).values
        for factor in (1, wrong)
    )
    paired = other - right
    assert paired.mean() > 2 * paired.std() / math.sqrt(1000)


def test_its_own_error_is_what_it_says():
    tasks = linear_functions(4, 10, dim=3, noise=0.6, dtype=torch.float64)(2000)
    learner = GaussianProcess(inner_products, noise=0.6)
    answers = learner.distribution(learner.adapt(tasks.support), tasks.query.x)
    said, seen = answers.variance.mean(), (answers.mean - tasks.query.y).square().mean()
    assert abs(seen / said - 1) < 0.1


def test_bad_settings_are_named():
    tasks = vector_tasks()
    with pytest.raises(ValueError, match="noise=0 must be a finite number above 0"):
        GaussianProcess(inner_products, noise=0)
    with pytest.raises(ValueError, match="labels perhaps: this loss needs real ones"):
        GaussianProcess(inner_products, noise=1).adapt(labelled_tasks().support)
    with pytest.raises(ValueError, match=r"the kernel gives \[6, 2\] for 6 examples"):
        GaussianProcess(lambda x, z: x, noise=1).adapt(tasks.support)
    with pytest.raises(ValueError, match=r"whose targets are \[\]"):
        GaussianProcess(inner_products, 1).adapt(Batch(tasks.support.x, tasks.support.y[..., 0]))


def test_a_kernel_that_is_not_symmetric_is_refused():
    W = torch.tensor([[1.0, 0.3], [-0.3, 1.0]])
    tasks = linear_functions(shots=5, dim=2, noise=0.3, seed=0)(2)
    with pytest.raises(ValueError, match="it must be symmetric"):
        GaussianProcess(lambda x, z: x @ W @ z.mT, noise=1.5).adapt(tasks.support)
