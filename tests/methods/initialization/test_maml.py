"""MAML and joint pre-training against their equations."""

import pytest
import torch
from torch import nn

from metanotes import MAML, Batch, Pretrained, Task, evaluate, mse
from metanotes.data import sinusoid
from metanotes.nets import mlp


def linear_tasks() -> Task:
    g = torch.Generator().manual_seed(0)
    x, xq = (torch.randn(3, n, 2, generator=g, dtype=torch.float64) for n in (5, 4))
    w = torch.randn(3, 2, 1, generator=g, dtype=torch.float64)
    return Task(Batch(x, x @ w), Batch(xq, xq @ w))


def linear_model() -> nn.Linear:
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.constant_(model.weight, 0.3)
    return model


def test_one_step_of_maml_has_the_closed_form_of_linear_regression():
    tasks, model, alpha = linear_tasks(), linear_model(), 0.1
    gradient = torch.zeros(2, 1, dtype=torch.float64)
    phi = model.weight.detach().T  # [2, 1]
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        hessian = 2 * x.T @ x / len(x)
        theta = phi - alpha * 2 * x.T @ (x @ phi - y) / len(x)
        query_gradient = 2 * xq.T @ (xq @ theta - yq) / len(xq)
        gradient += (torch.eye(2) - alpha * hessian) @ query_gradient / 3
    MAML(model, inner_lr=alpha, steps=1, loss=mse)(tasks).mean().backward()
    torch.testing.assert_close(model.weight.grad.T, gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("batch", [None, 2])
def test_pretraining_is_the_loss_of_phi_on_all_data(batch):
    tasks, model = linear_tasks(), linear_model()
    losses = Pretrained(model, inner_lr=0.1, steps=3, loss=mse, batch=batch)(tasks)
    for n in range(3):
        x = torch.cat([tasks.support.x[n], tasks.query.x[n]])
        y = torch.cat([tasks.support.y[n], tasks.query.y[n]])
        torch.testing.assert_close(losses[n], (model(x) - y).pow(2).mean())


def test_pretraining_is_fine_tuned_as_maml_is():
    tasks, model = linear_tasks(), linear_model()
    a, b = Pretrained(model, 0.1, steps=3, loss=mse), MAML(model, 0.1, steps=3, loss=mse)
    assert torch.equal(a.adapt(tasks.support)["weight"], b.adapt(tasks.support)["weight"])
    sampler = sinusoid(seed=0)
    net = mlp(1, 8, 1)
    scores = [
        evaluate(make(net, 0.01, loss=mse), sampler, 5, steps=2) for make in (MAML, Pretrained)
    ]
    assert torch.equal(scores[0].values, scores[1].values)
