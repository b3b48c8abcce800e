"""The hyper-representation against a plain loop: a head from zero, whatever weights it has."""

import pytest
import torch
from torch import nn

from metanotes import HyperRepresentation, cross_entropy
from metanotes.engine import plan_for
from metanotes.nets import CosineHead, conv4
from tests.plainly import image_tasks, relative_error, shaken


def plain_losses(model, tasks, inner_lr, steps, first_order):
    body, head = model[:-1], model[-1]
    losses = []
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        w, b = torch.zeros_like(head.weight), torch.zeros_like(head.bias)
        for _ in range(steps):
            w, b = w.requires_grad_(), b.requires_grad_()
            loss = cross_entropy(body(x) @ w.T + b, y)
            grads = torch.autograd.grad(loss, [w, b], create_graph=not first_order)
            w, b = w - inner_lr * grads[0], b - inner_lr * grads[1]
        losses.append(cross_entropy(body(xq) @ w.T + b, yq))
    return torch.stack(losses)


@pytest.fixture
def model():
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    body = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Tanh(), nn.Flatten())
    features = body(image_tasks().support.x[0].float()).shape[1]
    return shaken(nn.Sequential(*body, nn.Linear(features, 5)))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_losses_and_gradient_are_those_of_a_plain_loop(model, steps, first_order):
    tasks, phi = image_tasks(), list(model[:-1].parameters())
    learner = HyperRepresentation(model, 0.3, steps, first_order=first_order)
    losses, expected = learner(tasks), plain_losses(model, tasks, 0.3, steps, first_order)
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=0)
    if steps == 0:  # a head of zeros says nothing of the body
        assert not any(g.any() for g in torch.autograd.grad(losses.sum(), phi))
        return
    right = torch.autograd.grad(expected.sum(), phi)
    assert relative_error(torch.autograd.grad(losses.sum(), phi), right) < 1e-9


def test_the_weights_of_the_head_do_not_matter_and_are_left_alone(model):
    before = [p.clone() for p in model[-1].parameters()]
    HyperRepresentation(model, 0.3, 2)(image_tasks()).sum().backward()
    assert all(map(torch.equal, before, model[-1].parameters()))
    assert not any(p.grad.any() for p in model[-1].parameters())


def test_its_tasks_are_worked_on_in_groups(model):
    learner = HyperRepresentation(model, 0.3, 2)
    assert not plan_for(learner, image_tasks()).whole


def test_another_head_serves_other_ways():
    tasks, model = image_tasks(), conv4(ways=20).double()
    head = nn.Linear(256, 5).double()
    five = HyperRepresentation(nn.Sequential(*model[:-1], head), inner_lr=0.1, steps=2)
    outputs = five.predict(five.adapt(tasks.support), tasks.query.x)
    assert outputs.shape == (3, 7, 5)
    twenty = HyperRepresentation(model, inner_lr=0.1, steps=2)
    assert twenty.predict(twenty.adapt(tasks.support), tasks.query.x).shape == (3, 7, 20)


def test_a_head_that_needs_a_direction_is_refused():
    with pytest.raises(ValueError, match="takes the directions of its weights"):
        HyperRepresentation(nn.Sequential(nn.Linear(4, 6), CosineHead(6, 3)), 0.1)
