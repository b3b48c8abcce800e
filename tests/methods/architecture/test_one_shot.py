"""One-shot: a random path a minibatch, and every choice judged on the shared weights."""

from collections import Counter

import pytest
import torch
from torch import nn

from metanotes import cross_entropy, mse
from metanotes.methods.architecture import CellNetwork, MixedOperation, OneShot, only_path
from metanotes.task import Batch, Task


def network():
    torch.manual_seed(0)
    operations = {"skip": nn.Identity(), "tanh": nn.Tanh(), "linear": nn.Linear(4, 4)}
    return nn.Sequential(nn.Linear(3, 4), MixedOperation(operations), nn.Linear(4, 2))


def minibatches(T):
    batch = Batch(torch.randn(T, 6, 3), torch.randint(2, (T, 6)))
    return Task(batch, batch)


def test_every_minibatch_is_on_a_path_of_its_own():
    search, drawn = OneShot(network()), minibatches(8)
    torch.manual_seed(1)
    losses = search(drawn)
    torch.manual_seed(1)
    choices = [search.draw() for _ in range(8)]
    assert len(set(choices)) > 1
    for loss, choice, x, y in zip(losses, choices, *drawn.query, strict=True):
        with only_path(search.net, choice):
            torch.testing.assert_close(loss, cross_entropy(search.net(x), y))


def test_all_choices_are_drawn_equally_often():
    search = OneShot(CellNetwork())
    torch.manual_seed(0)
    counts = Counter(search.draw() for _ in range(64 * 30))
    assert len(counts) == 64
    chi_squared = sum((n - 30) ** 2 / 30 for n in counts.values())
    assert chi_squared < 63 + 4 * (2 * 63) ** 0.5


def test_an_operation_that_is_not_on_the_path_gets_no_gradient():
    search = OneShot(network())
    search.draw = lambda: ("tanh",)
    search(minibatches(2)).mean().backward()
    edge = search.net[1]
    assert edge.alpha.grad is None
    assert edge.operations[2].weight.grad is None
    assert search.net[0].weight.grad.abs().sum() > 0


def test_accuracy_is_that_of_the_path():
    search = OneShot(network())
    x, y = torch.randn(50, 3), torch.randint(2, (50,))
    with only_path(search.net, ["linear"]):
        right = (search.net(x).argmax(1) == y).double().mean()
    assert search.accuracy(["linear"], x, y) == pytest.approx(float(right))


def test_a_net_with_nothing_to_choose_is_refused():
    with pytest.raises(ValueError, match="Linear has no MixedOperation"):
        OneShot(nn.Linear(2, 2))


def test_targets_and_losses_are_those_of_any_learner():
    x, y = torch.randn(2, 6, 3), torch.randn(2, 6)
    with pytest.raises(ValueError, match="they must agree"):
        OneShot(network(), loss=mse)(Task(Batch(x, y), Batch(x, y)))
    with pytest.raises(ValueError, match=r"loss of one task is \[6\], not a scalar"):
        OneShot(network(), loss=nn.CrossEntropyLoss(reduction="none"))(minibatches(2))
