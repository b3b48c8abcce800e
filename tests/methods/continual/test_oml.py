"""OML against a plain loop: a head from zero, one example a step, judged on all classes."""

import pytest
import torch
from torch import nn

from metanotes import OML, HyperRepresentation, cross_entropy, evaluate, meta_train
from metanotes.data import episodes, glyphs
from metanotes.methods.continual import accuracy_matrix, average_accuracy
from metanotes.nets import CosineHead, mlp
from tests.methods.continual.test_stream_learner import net, streams
from tests.plainly import recorded_at_once, recordings, relative_error


def plain_losses(model, tasks, lr, first_order):
    body, head = model[:-1], model[-1]
    losses = []
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        w, b = torch.zeros_like(head.weight), torch.zeros_like(head.bias)
        for x_t, y_t in zip(x, y, strict=True):
            w, b = w.requires_grad_(), b.requires_grad_()
            loss = cross_entropy(body(x_t[None]) @ w.T + b, y_t[None])
            dw, db = torch.autograd.grad(loss, [w, b], create_graph=not first_order)
            w, b = w - lr * dw, b - lr * db
        losses.append(cross_entropy(body(xq) @ w.T + b, yq))
    return torch.stack(losses)


@pytest.mark.parametrize("first_order", [False, True])
def test_losses_and_gradient_are_those_of_a_plain_loop(first_order):
    model, tasks = net(), streams()
    learner = OML(model, 0.3, first_order=first_order)
    losses, expected = learner(tasks), plain_losses(model, tasks, 0.3, first_order)
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=0)
    phi = list(model[:-1].parameters())
    right = torch.autograd.grad(expected.sum(), phi)
    assert relative_error(torch.autograd.grad(losses.sum(), phi), right) < 1e-9


def test_recorded_operations_give_the_same_numbers():
    model, tasks = net(), streams()
    phi = list(model[:-1].parameters())
    plain, recorded = OML(model, 0.3), OML(model, 0.3, record=True)
    with recorded_at_once():
        for _ in range(4):
            ours = torch.autograd.grad(recorded(tasks).sum(), phi)
    assert recordings(recorded)
    assert relative_error(ours, torch.autograd.grad(plain(tasks).sum(), phi)) < 1e-12


def test_a_stream_of_one_batch_is_one_step_of_a_hyper_representation():
    model, tasks = net(), streams()
    whole = OML(model, 0.3, batch=12)
    torch.testing.assert_close(whole(tasks), HyperRepresentation(model, 0.3, steps=1)(tasks))


def test_it_learns_to_forget_less():
    images = glyphs("background")

    def sample(seed):
        return episodes(images, ways=8, shots=3, queries=3, seed=seed)

    body = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), mlp(49, 64, 64), nn.ReLU())
    learner = OML(nn.Sequential(body, nn.Linear(64, 8)), inner_lr=0.3)

    test = sample(1)(40)

    def at_the_end():
        return float(average_accuracy(accuracy_matrix(learner, test, stages=8)).mean())

    before = at_the_end()
    meta_train(learner, sample(0), iterations=60, tasks=4, meta_lr=3e-3, progress=False)
    assert at_the_end() > before + 0.1
    score = evaluate(learner, lambda n: test, tasks=40)
    assert score.mean == pytest.approx(at_the_end())  # the stages are of one size


TIED = nn.Linear(6, 6)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))),
            "of several layers",
        ),
        (nn.Sequential(nn.Linear(4, 6), CosineHead(6, 3)), "takes the directions of its weights"),
        (nn.Sequential(TIED, nn.ReLU(), TIED), "shares a weight with the body"),
    ],
)
def test_a_head_that_cannot_start_at_zero_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        OML(model, 0.1)


def test_a_head_that_is_frozen_in_part_is_refused():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    model[1].bias.requires_grad_(False)
    with pytest.raises(ValueError, match="a part of it is frozen"):
        OML(model, 0.1)
