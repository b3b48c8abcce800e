"""Meta-Weight-Net's gradient against central differences, and its two turns."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from metanotes import Batch, MetaWeightNet, Task, evaluate, meta_train
from tests.methods.datapolicy.minibatches import (
    central_differences,
    losses_of_each,
    minibatches,
    net,
)


def learner_for(tasks, inner_lr=0.7):
    model = net()
    model(tasks.support.x[0])
    torch.manual_seed(5)
    policy = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1), nn.Sigmoid()).double()
    return MetaWeightNet(model, inner_lr, policy)


def plain_losses(learner, tasks):
    """Equations (1) and (2), written out."""
    model, V = learner.model, learner.policy
    names, theta = zip(*model.named_parameters(), strict=True)
    values = []
    for x, y, x_val, y_val in zip(*tasks.support, *tasks.query, strict=True):
        losses = F.cross_entropy(model(x), y, reduction="none")
        weighted = (V(losses.detach().view(-1, 1)).view(-1) * losses).sum() / len(y)
        g = torch.autograd.grad(weighted, theta, create_graph=True)
        moved = {n: p - learner.inner_lr * d for n, p, d in zip(names, theta, g, strict=True)}
        values.append(F.cross_entropy(functional_call(model, moved, (x_val,)), y_val))
    return torch.stack(values)


def test_the_meta_gradient_is_that_of_central_differences():
    tasks = minibatches()
    learner = learner_for(tasks)
    losses = learner(tasks)
    torch.testing.assert_close(losses, plain_losses(learner, tasks))
    gradients = torch.autograd.grad(losses.sum(), list(learner.policy.parameters()))
    for p, g in zip(learner.policy.parameters(), gradients, strict=True):
        right = central_differences(lambda: plain_losses(learner, tasks).sum(), p)
        torch.testing.assert_close(g, right, rtol=1e-6, atol=1e-9)
    assert max(g.abs().max() for g in gradients) > 1e-4


def test_the_loss_ahead_depends_on_the_policy_alone():
    tasks = minibatches()
    learner = learner_for(tasks)
    learner(tasks).sum().backward()
    assert all(p.grad is None for p in learner.model.parameters())


def test_without_gradients_the_loss_is_the_same():
    tasks = minibatches()
    learner = learner_for(tasks)
    with torch.no_grad():
        losses = learner(tasks)
    torch.testing.assert_close(losses, learner(tasks).detach())
    assert not losses.requires_grad


def test_the_model_descends_its_weighted_loss_with_the_new_policy():
    tasks = minibatches()
    learner = learner_for(tasks)
    turns = learner.turns(tasks)
    assert next(turns)[0] == "policy"
    with torch.no_grad():
        for p in learner.policy.parameters():  # the policy has taken its step
            p += 0.3
    name, losses = next(turns)
    assert name == "model"
    model, V = learner.model, learner.policy
    each = losses_of_each(model, tasks.support)
    weights = V(each.detach()[..., None])[..., 0].detach()
    torch.testing.assert_close(losses, (weights * each).mean(1))
    theta = list(model.parameters())
    right = torch.autograd.grad((weights * each).mean(1).sum(), theta)
    losses.sum().backward()
    assert all(p.grad is None for p in V.parameters())
    for p, g in zip(theta, right, strict=True):
        torch.testing.assert_close(p.grad, g)
    assert list(turns) == []


def sample_flipped(seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(400, 5, generator=g)
    y = (x[:, 0] > 0).long()
    noisy = torch.where(torch.rand(400, generator=g) < 0.2, 1 - y, y)

    def sample(T):
        rows = torch.randint(200, (T, 40), generator=g)
        clean = 200 + torch.arange(40).expand(T, -1)
        return Task(Batch(x[rows], noisy[rows]), Batch(x[clean], y[clean]))

    return sample, Batch(x[240:], y[240:])


def test_it_trains_by_turns():
    sample, test = sample_flipped()
    learner = MetaWeightNet(nn.Linear(5, 2), inner_lr=0.2)
    optimizers = {
        "policy": torch.optim.Adam(learner.policy.parameters(), lr=0.01),
        "model": torch.optim.SGD(learner.model.parameters(), lr=0.2),
    }
    before = learner.weights(torch.tensor([0.1, 2.0]))
    history = meta_train(learner, sample, 120, tasks=1, optimizer=optimizers, progress=False)
    assert len(history.losses) == 120
    assert not torch.allclose(before, learner.weights(torch.tensor([0.1, 2.0])), atol=0.05)
    assert evaluate(learner, test, progress=False).mean > 0.85


def test_running_statistics_see_the_step_and_not_the_trial():
    tasks = minibatches(T=1)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    learner = MetaWeightNet(model, 0.1).double()
    learner(tasks)
    assert model[1].num_batches_tracked == 0
    for _, losses in learner.turns(tasks):
        losses.sum().backward()
    assert model[1].num_batches_tracked == 1


def test_bad_arguments_are_refused():
    model = nn.Linear(5, 3).double()
    with pytest.raises(ValueError, match="inner_lr=0"):
        MetaWeightNet(model, 0)
    with pytest.raises(TypeError, match="policy is a float"):
        MetaWeightNet(model, 0.1, 0.5)
    with pytest.raises(ValueError, match="no parameter to train"):
        MetaWeightNet(nn.Tanh(), 0.1)
    (x, y), (x_val, y_val) = minibatches()
    with pytest.raises(ValueError, match="empty validation set"):
        MetaWeightNet(model, 0.1).double()(Task(Batch(x, y), Batch(x_val[:, :0], y_val[:, :0])))


def test_a_policy_that_gives_no_weight_for_each_example_is_refused():
    learner = MetaWeightNet(nn.Linear(5, 3).double(), 0.1, nn.Linear(1, 2).double())
    with pytest.raises(ValueError, match=r"policy gave \[7, 2\] for losses \[7, 1\]"):
        learner(minibatches())
