"""Prototypical networks: a plain loop, the linear classifier that they are, and Bregman's mean."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from metanotes import Batch, PrototypicalNetwork
from tests.methods.comparison.compared import assert_losses_and_gradient, body, uneven_tasks
from tests.plainly import in_groups_of


def prototypes(z: Tensor, y: Tensor) -> Tensor:
    """Of one task, class by class."""
    return torch.stack([z[y == k].mean(0) for k in range(3)])


@pytest.mark.parametrize("size", [None, 1, 2])
def test_losses_and_gradient_are_those_of_a_plain_loop(size):
    learner, tasks = PrototypicalNetwork(body(), ways=3), uneven_tasks()
    plain = []
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        c, zq = prototypes(learner.body(x), y), learner.body(xq)
        distances = torch.stack([torch.stack([(z - c_k) @ (z - c_k) for c_k in c]) for z in zq])
        plain.append(cross_entropy(-distances, yq))
    with in_groups_of(size):
        assert_losses_and_gradient(learner, tasks, plain)


def test_each_class_has_the_mean_of_its_own_examples_however_many():
    learner, tasks = PrototypicalNetwork(body(), ways=3), uneven_tasks()
    for c, x, y in zip(learner.adapt(tasks.support), *tasks.support, strict=True):
        torch.testing.assert_close(c, prototypes(learner.body(x), y), rtol=1e-12, atol=1e-14)


def test_it_is_a_linear_classifier_with_weights_2c_and_bias_minus_c_squared():
    learner, tasks = PrototypicalNetwork(body(), ways=3), uneven_tasks()
    c = learner.adapt(tasks.support)
    logits = learner.predict(c, tasks.query.x)
    for n in range(3):
        head = nn.Linear(6, 3).double()
        head.weight.data, head.bias.data = 2 * c[n].data, -c[n].data.square().sum(1)
        linear = head(learner.body(tasks.query.x[n])).softmax(1)
        torch.testing.assert_close(logits[n].softmax(1), linear, rtol=1e-10, atol=1e-14)


def _logistic(z: Tensor, c: Tensor) -> Tensor:
    """The divergence of phi(p) = p log p + (1 - p) log(1 - p): KL between Bernoullis."""
    pairs = [(torch.stack([p, 1 - p]), torch.stack([q, 1 - q])) for p, q in zip(z, c, strict=True)]
    return sum(kl_div(q.log(), p, reduction="sum") for p, q in pairs)


@pytest.mark.parametrize(
    "divergence",
    [
        lambda z, c: (z - c).square().sum(),
        lambda z, c: (z / c - (z / c).log() - 1).sum(),  # Itakura and Saito's
        _logistic,
    ],
)
def test_the_mean_is_the_point_with_the_least_bregman_divergence_from_the_examples(divergence):
    g = torch.Generator().manual_seed(0)
    z = 0.1 + 0.8 * torch.rand(5, 4, generator=g, dtype=torch.float64)
    support = Batch(z[None].repeat(2, 2, 1), torch.tensor([[0] * 5 + [1] * 5] * 2))
    c = PrototypicalNetwork(nn.Identity(), ways=2).adapt(support)[0, 0].requires_grad_()
    least = sum(divergence(z_i, c) for z_i in z)
    (gradient,) = torch.autograd.grad(least, c)
    assert gradient.abs().max() < 1e-10
    for _ in range(20):
        other = c.detach() + 0.05 * torch.randn(4, generator=g, dtype=torch.float64)
        assert sum(divergence(z_i, other.clamp(0.01, 0.99)) for z_i in z) > least


def test_the_mean_is_not_what_the_distance_itself_asks_for():
    z = torch.tensor([[0.0], [0.0], [3.0]], dtype=torch.float64)
    assert (z - z.mean()).abs().sum() > (z - z.median()).abs().sum()
