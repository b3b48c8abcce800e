"""How the hand-made rules are tuned, and what the MNIST record compares."""

import math

import pytest
import torch

from metanotes import SGD
from metanotes.data.functions import NetworkSampler
from metanotes.task import Batch
from runs import learned_optimizer
from runs.learned_optimizer import (
    HAND_MADE,
    convnet,
    end_loss,
    perceptron,
    rising,
    tuned,
)


@pytest.mark.parametrize("around", [None, 0.03, 3])
def test_the_best_rate_is_found(around):
    seen = []

    def goodness(rule: SGD) -> float:
        seen.append(rule.lr)
        return math.nan if rule.lr > 5 else abs(math.log(rule.lr / 0.3))

    assert tuned("SGD", goodness, around) == 0.3
    assert len(seen) == len(set(seen)) <= len(HAND_MADE["SGD"][1])


def test_a_best_rate_at_the_end_of_the_list_is_refused():
    with pytest.raises(ValueError, match=r"best rate of SGD is 0.003, at the end of"):
        tuned("SGD", lambda rule: rule.lr)


def test_weights_that_rise_sum_to_the_steps():
    assert torch.equal(rising(0), torch.ones(100))
    weights = rising(2)
    assert weights.argsort().tolist() == list(range(100))
    assert weights.sum().item() == pytest.approx(100, rel=0.02)
    assert weights[-1].item() == 3


def test_the_end_loss_is_that_of_each_network_on_all_images():
    g = torch.Generator().manual_seed(0)
    images = Batch(
        torch.randint(256, (30, 1, 28, 28), generator=g, dtype=torch.uint8),
        torch.randint(10, (30,), generator=g),
    )
    make = perceptron(784, 5, 10)
    sampler = learned_optimizer.networks(make, images, size=4, seed=1)
    assert isinstance(sampler, NetworkSampler)
    theta = sampler(3).theta
    for n, loss in enumerate(end_loss(sampler, theta, images)):
        model = make(0)
        model.load_state_dict({name: t[n] for name, t in theta.items()})
        expected = torch.nn.functional.cross_entropy(model(images.x / 255), images.y)
        torch.testing.assert_close(loss, expected)


def test_the_convolutional_network_is_as_large_as_it_says():
    assert sum(p.numel() for p in convnet(0).parameters()) == 7018
    assert convnet(0)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
