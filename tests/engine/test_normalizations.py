"""The gradient of a meta-gradient, where a model normalises: right, or refused."""

import pytest
import torch
from torch import nn

from metanotes import MAML, Batch, Learner, Task, cross_entropy, mse, over_tasks
from metanotes.engine.normalizations import Differentiable

torch_functions = {
    "batch": lambda x, w, b: nn.functional.batch_norm(x, None, None, w, b, training=True),
    "low batch": lambda x, w, b: torch.batch_norm(x, w, b, None, None, True, 0.1, 1e-5, False),
    "instance": lambda x, w, b: nn.functional.instance_norm(x, weight=w, bias=b),
    "low instance": lambda x, w, b: torch.instance_norm(
        x, w, b, None, None, use_input_stats=True, momentum=0.1, eps=1e-5, cudnn_enabled=False
    ),
    "layer": lambda x, w, b: nn.functional.layer_norm(x, (4,), w, b),
    "low layer": lambda x, w, b: torch.layer_norm(x, (4,), w, b),
}


def third_differences(function, x, w, b, along):
    """The third derivative along a direction, by differences of the second one, which is right."""

    def second(x):
        x = x.requires_grad_()
        total = (function(x, w, b).sin() * torch.arange(x.numel()).view_as(x)).sum()
        (first,) = torch.autograd.grad(total, x, create_graph=True)
        return torch.autograd.grad((first * along).sum(), x)[0]

    h = 1e-5
    return (second(x + h * along) - second(x - h * along)) / (2 * h)


def third(function, x, w, b, along):
    x = x.clone().requires_grad_()
    total = (function(x, w, b).sin() * torch.arange(x.numel()).view_as(x)).sum()
    for _ in range(2):
        (gradient,) = torch.autograd.grad(total, x, create_graph=True)
        total = (gradient * along).sum()
    return torch.autograd.grad(total, x)[0]


@pytest.mark.parametrize("name", torch_functions)
def test_third_derivatives_are_those_of_differences_and_torchs_are_not(name):
    g = torch.Generator().manual_seed(0)
    shape = (5, 4) if "layer" in name or name == "batch" else (3, 4, 5)
    x, along = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    w, b = (torch.rand(4, generator=g, dtype=torch.float64) + 0.5 for _ in range(2))
    function = torch_functions[name]
    right = third_differences(function, x, w, b, along)
    with Differentiable():
        torch.testing.assert_close(function(x, w, b), function(x, w, b))
        exact = third(function, x, w, b, along)
    torch.testing.assert_close(exact, right, rtol=1e-6, atol=1e-6)
    wrong = third(function, x, w, b, along)
    assert (wrong - right).norm() > 0.05 * right.norm(), "torch has mended this: see normalizations"


def test_what_torch_refuses_is_refused_and_running_statistics_are_kept():
    norm = nn.BatchNorm1d(3)
    with Differentiable():
        norm(torch.randn(4, 3))
        assert norm.num_batches_tracked == 1
        assert norm.running_mean.any()
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            norm(torch.randn(1, 3))
        alone = nn.BatchNorm1d(3, track_running_stats=False)
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            alone(torch.randn(1, 3))
        assert alone(torch.randn(4, 3).bfloat16()).dtype == torch.bfloat16


MODELS = {
    "batch": lambda: nn.Sequential(
        nn.Linear(2, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Tanh(), nn.Linear(6, 1)
    ),
    "layer": lambda: nn.Sequential(nn.Linear(2, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 1)),
    "instance": lambda: nn.Sequential(
        nn.Linear(2, 6),
        nn.Unflatten(1, (2, 3)),
        nn.InstanceNorm1d(2),
        nn.Flatten(),
        nn.Linear(6, 1),
    ),
    "group": lambda: nn.Sequential(nn.Linear(2, 6), nn.GroupNorm(2, 6), nn.Tanh(), nn.Linear(6, 1)),
}


def tasks_of(name):
    g = torch.Generator().manual_seed(1)
    x, y = (torch.randn(3, 5, n, generator=g, dtype=torch.float64) for n in (2, 1))
    return Task(Batch(x, y), Batch(x.flip(1), y.cos()))


def length(learner, tasks, phi, create_graph=True):
    gradient = torch.autograd.grad(learner(tasks).mean(), phi, create_graph=create_graph)
    return sum(g.square().sum() for g in gradient)


@pytest.mark.parametrize("name", MODELS)
def test_a_kept_graph_gives_the_gradient_of_the_meta_gradient(name):
    torch.manual_seed(0)
    learner = MAML(MODELS[name]().double(), 0.2, 2, loss=mse, keep_graph=True)
    tasks, phi = tasks_of(name), list(learner.parameters())
    ours = torch.autograd.grad(length(learner, tasks, phi), phi)
    h, along = 1e-6, [torch.randn_like(p) for p in phi]
    lengths = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, a in zip(phi, along, strict=True):
                p += sign * h * a
        lengths.append(float(length(learner, tasks, phi, create_graph=False)))
        with torch.no_grad():
            for p, a in zip(phi, along, strict=True):
                p -= sign * h * a
    directional = float(sum((g * a).sum() for g, a in zip(ours, along, strict=True)))
    assert directional == pytest.approx((lengths[0] - lengths[1]) / (2 * h), rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_without_a_kept_graph_it_is_refused_where_torch_would_be_wrong(name):
    torch.manual_seed(0)
    learner = MAML(MODELS[name]().double(), 0.2, 2, loss=mse)
    tasks, phi = tasks_of(name), list(learner.parameters())
    if name == "group":
        kept = MAML(learner.model, 0.2, 2, loss=mse, keep_graph=True)
        right = torch.autograd.grad(length(kept, tasks, phi), phi)
        ours = torch.autograd.grad(length(learner, tasks, phi), phi)
        torch.testing.assert_close(ours, right)
        return
    with pytest.raises(RuntimeError, match="keep_graph=True"):
        length(learner, tasks, phi)


class Prototypes(Learner):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def adapt(self, support, steps=None):
        return over_tasks(self.body)(support.x)

    def predict(self, adapted, x):
        return -(over_tasks(self.body)(x)[:, :, None] - adapted[:, None]).square().sum(-1)


def test_second_derivatives_of_a_learner_without_a_descent_are_right_and_not_refused():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(2, 6), nn.LayerNorm(6)).double()
    x, y = tasks_of("layer").support.x, torch.arange(5).expand(3, 5)
    tasks, learner = Task(Batch(x, y), Batch(x.cos(), y)), Prototypes(body)
    phi = list(body.parameters())
    ours = torch.autograd.grad(length(learner, tasks, phi), phi)
    plain = [
        cross_entropy(-(body(q)[:, None] - body(s)[None]).square().sum(-1), y[0])
        for s, q in zip(x, x.cos(), strict=True)
    ]
    gradient = torch.autograd.grad(torch.stack(plain).mean(), phi, create_graph=True)
    right = torch.autograd.grad(sum(g.square().sum() for g in gradient), phi)
    torch.testing.assert_close(ours, right)
