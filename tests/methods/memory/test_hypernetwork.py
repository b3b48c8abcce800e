"""The hypernetwork: the weights it writes, and that they depend on the set alone."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy as nll
from torch.nn.functional import one_hot
from torch.utils.checkpoint import checkpoint

from metanotes import HyperNetwork, Task, cross_entropy, evaluate, meta_train, mse
from metanotes.data import sinusoid
from metanotes.nets import mlp
from tests.methods.memory.sets import (
    assert_same_losses_and_gradient,
    in_turn,
    labelled_tasks,
    shuffled,
    vector_tasks,
)


def learner_64(**settings) -> HyperNetwork:
    return HyperNetwork(mlp(2, 5, 3, seed=7), inputs=2, outputs=3, hidden=8, **settings).double()


def written_by_hand(learner, x, y):
    """theta of one task: each example by itself, the numbers taken one parameter after another."""
    code = sum(in_turn(learner.h, torch.cat(pair)) for pair in zip(x, y, strict=True)) / len(x)
    numbers, theta, first = in_turn(learner.g, code), {}, 0
    for name, p in learner.model.named_parameters():
        theta[name] = p + numbers[first : first + p.numel()].reshape(p.shape)
        first += p.numel()
    assert first == len(numbers)
    return theta


def test_losses_and_gradient_are_those_of_a_loop_over_tasks():
    learner, tasks = learner_64(), vector_tasks()
    losses = []
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        theta = written_by_hand(learner, x, y)
        losses.append((functional_call(learner.model, theta, (xq,)) - yq).square().mean())
    assert_same_losses_and_gradient(learner, tasks, losses)


def test_labels_are_told_as_ones_and_zeros():
    learner, tasks = learner_64(loss=cross_entropy), labelled_tasks()
    losses = []
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        theta = written_by_hand(learner, x, one_hot(y, 3).double())
        losses.append(nll(functional_call(learner.model, theta, (xq,)), yq))
    assert_same_losses_and_gradient(learner, tasks, losses)


def test_the_order_of_the_examples_does_not_matter():
    learner, tasks = learner_64(), vector_tasks()
    ours, theirs = (learner.adapt(support) for support in (tasks.support, shuffled(tasks.support)))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])
    other = learner.adapt(tasks.query)
    assert all((ours[name] - other[name]).abs().max() > 1e-4 for name in ours)


def test_it_begins_near_the_models_own_parameters():
    learner, tasks = learner_64(), vector_tasks()
    theta = learner.adapt(tasks.support)
    for name, p in learner.model.named_parameters():
        assert (theta[name] - p).square().mean() < 0.3 * p.square().mean()


def test_a_frozen_parameter_is_not_written():
    model = mlp(2, 5, 3)
    model[0].weight.requires_grad_(False)
    learner = HyperNetwork(model, inputs=2, outputs=3, hidden=8).double()
    assert set(learner.adapt(vector_tasks().support)) == {"0.bias", "2.weight", "2.bias"}


def test_it_learns_to_write_networks():
    learner, test = HyperNetwork(mlp(1, 16, 16, 1), inputs=1, hidden=64), sinusoid(10, 20, seed=9)
    before = evaluate(learner, test, 100).mean
    meta_train(learner, sinusoid(10, 20, seed=0), 300, 32, meta_lr=3e-3, clip=10, progress=False)
    assert evaluate(learner, test, 100).mean < 0.5 * before


def test_bad_settings_are_named():
    tasks = vector_tasks()
    with pytest.raises(ValueError, match="hidden=0 must be a whole number of at least 1"):
        HyperNetwork(mlp(2, 3), inputs=2, hidden=0)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        HyperNetwork(nn.ReLU(), inputs=2)
    with pytest.raises(ValueError, match="keep running statistics"):
        HyperNetwork(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), inputs=2, outputs=3)
    with pytest.raises(
        ValueError, match=r"an input has the shape \[2\]; this learner is for \[4\]"
    ):
        HyperNetwork(mlp(2, 3), inputs=4, outputs=3).double()(tasks)
    with pytest.raises(
        ValueError, match=r"a target has the shape \[3\]; this learner is for \[1\]"
    ):
        HyperNetwork(mlp(2, 3), inputs=2).double()(tasks)
    with pytest.raises(ValueError, match=r"labels run from 0 to 2, .* 2 classes"):
        HyperNetwork(mlp(2, 2), inputs=2, outputs=2, loss=cross_entropy).double()(labelled_tasks())


def test_statistics_that_run_on_after_they_came_frozen_are_refused():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()
    learner = HyperNetwork(model, inputs=2, outputs=3).double()
    tasks: Task = vector_tasks()
    learner.eval()
    assert learner(tasks).shape == (4,)
    with pytest.raises(ValueError, match="keep running statistics"):
        learner.train()(tasks)
    assert learner.loss is mse


class Recomputing(nn.Module):
    """Works its body out again in the backward pass, when its own weights are back."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(1, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.b(checkpoint(lambda x: self.a(x).tanh(), x, use_reentrant=False))


class Listed(nn.Module):
    """Reaches its weight by a list too."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(1, 1)
        self.ws = [self.a.weight]

    def forward(self, x):
        return x @ self.ws[0] + self.a.bias


@pytest.mark.parametrize("model", [Recomputing, Listed])
def test_a_model_that_does_not_see_the_written_weights_is_refused(model):
    with pytest.raises(ValueError, match="sees its own weights"):
        HyperNetwork(model(), 1, hidden=8)(sinusoid(seed=0)(3))
