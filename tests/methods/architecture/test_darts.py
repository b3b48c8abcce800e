"""DARTS's gradient against the hypergradient, central differences and its own exact product."""

import pytest
import torch
from torch import nn

from metanotes import DARTS, cross_entropy, hypergradient, meta_train, mse
from metanotes.methods.architecture import CellNetwork, MixedOperation
from metanotes.task import Batch, Task
from metanotes.theta import call
from tests.plainly import relative_error

XI = 0.3


def net(seed=0):
    torch.manual_seed(seed)

    def edge(alpha=None):
        operations = {"skip": nn.Identity(), "tanh": nn.Tanh(), "linear": nn.Linear(5, 5)}
        return MixedOperation(operations, alpha)

    first = edge()
    model = nn.Sequential(
        nn.Linear(3, 5), first, nn.Softplus(), edge(first.alpha), edge(), nn.Linear(5, 4)
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) / 2)
    return model


def tasks(T=2):
    generator = torch.Generator().manual_seed(T)

    def batch(n):
        x = torch.randn(T, n, 3, generator=generator, dtype=torch.double)
        return Batch(x, torch.randint(4, (T, n), generator=generator))

    return Task(batch(7), batch(9))


def alpha_gradient(learner, tasks):
    return torch.autograd.grad(learner(tasks).sum(), list(learner.alphas.values()))


def test_exact_second_order_is_the_hypergradient_of_one_step():
    learner, both = DARTS(net(), XI, mixed_product="exact"), tasks(1)
    (x, y), (xq, yq) = both

    def inner(w, alphas):
        return cross_entropy(call(learner.net, {**w, **alphas}, x[0]), y[0])

    def outer(w, alphas):
        return cross_entropy(call(learner.net, {**w, **alphas}, xq[0]), yq[0])

    def own(theta):
        return {name: p.detach().clone() for name, p in theta.items()}

    right = hypergradient(outer, inner, own(learner.weights), own(learner.alphas), steps=1, lr=XI)
    torch.testing.assert_close(learner(both)[0], right.outer, rtol=1e-12, atol=0)
    assert relative_error(alpha_gradient(learner, both), right.gradient.values()) < 1e-12


@pytest.mark.parametrize("mixed_product", ["exact", "finite difference"])
def test_second_order_is_the_slope_of_the_loss_after_a_step(mixed_product):
    learner, both = DARTS(net(), XI, mixed_product=mixed_product), tasks()
    gradient = alpha_gradient(learner, both)
    exact = DARTS(learner.net, XI, mixed_product="exact")
    d, slopes = 1e-5, []
    for alpha in learner.alphas.values():
        for k in range(len(alpha)):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    alpha[k] += sign * d
                    before = alpha.clone()
                values.append(exact(both).sum().item())
                with torch.no_grad():
                    torch.testing.assert_close(alpha, before)
                    alpha[k] -= sign * d
            slopes.append((values[0] - values[1]) / (2 * d))
    bound = 1e-6 if mixed_product == "exact" else 1e-4
    assert relative_error([torch.cat(gradient)], [torch.tensor(slopes).double()]) < bound


def test_the_finite_difference_closes_in_on_the_exact_product_quadratically():
    model, both = net(), tasks()
    exact = alpha_gradient(DARTS(model, XI, mixed_product="exact"), both)
    first_order = alpha_gradient(DARTS(model), both)
    errors = []
    for length in (0.04, 0.02, 0.01):
        gradient = alpha_gradient(DARTS(model, XI, length=length), both)
        errors.append(relative_error(gradient, exact))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.02)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.02)
    assert errors[2] < 1e-4 < 0.1 < relative_error(first_order, exact)


def test_first_order_is_the_slope_where_the_weights_stand():
    model, both = net(), tasks()
    learner = DARTS(model)
    losses = [cross_entropy(model(x), y) for x, y in zip(*both.query, strict=True)]
    torch.testing.assert_close(learner(both), torch.stack(losses), rtol=1e-12, atol=0)
    right = torch.autograd.grad(sum(losses), list(learner.alphas.values()))
    assert relative_error(alpha_gradient(learner, both), right) < 1e-12


@pytest.mark.parametrize("inner_lr", [0.0, XI])
def test_each_turn_moves_its_own_level(inner_lr):
    learner = DARTS(net(), inner_lr)
    alphas, weights = dict(learner.alphas), dict(learner.weights)
    assert len(alphas) == 2
    assert not alphas.keys() & weights.keys()
    assert len(alphas) + len(weights) == len(list(learner.net.parameters()))
    rate, both = 0.1, tasks()
    gradient = dict(zip(alphas, alpha_gradient(learner, both), strict=True))
    expected = {name: p.detach() - rate * gradient[name] / 2 for name, p in alphas.items()}
    theta = {name: p.detach().requires_grad_() for name, p in weights.items()}
    losses = [
        cross_entropy(call(learner.net, {**theta, **expected}, x), y)
        for x, y in zip(*both.support, strict=True)
    ]
    steps = torch.autograd.grad(sum(losses) / 2, list(theta.values()))
    expected |= {n: p - rate * g for (n, p), g in zip(theta.items(), steps, strict=True)}
    optimizer = {
        "alpha": torch.optim.SGD(alphas.values(), lr=rate),
        "weights": torch.optim.SGD(weights.values(), lr=rate),
    }
    meta_train(learner, lambda _: both, 1, 2, optimizer=optimizer, progress=False)
    for name, p in {**alphas, **weights}.items():
        torch.testing.assert_close(p.detach(), expected[name].detach(), rtol=1e-10, atol=1e-12)


def test_it_chooses_the_operation_that_the_data_was_made_with():
    torch.manual_seed(0)
    edge = MixedOperation({"skip": nn.Identity(), "square": Square()})
    learner = DARTS(nn.Sequential(edge, nn.Linear(2, 1)), 0.1, loss=nn.functional.mse_loss)
    x = torch.randn(1, 64, 2)
    y = x.square().sum(2, keepdim=True)
    both = Task(Batch(x[:, :32], y[:, :32]), Batch(x[:, 32:], y[:, 32:]))
    optimizer = {
        "alpha": torch.optim.Adam(learner.alphas.values(), lr=0.05),
        "weights": torch.optim.SGD(learner.weights.values(), lr=0.1),
    }
    meta_train(learner, lambda _: both, 60, 1, optimizer=optimizer, progress=False)
    assert learner.choice() == ("square",)
    assert edge.alpha.softmax(0)[1] > 0.9


class Square(nn.Module):
    def forward(self, x):
        return x.square()


def test_exact_second_order_goes_through_batch_normalization_and_pooling():
    """Along one direction of alpha, so short that no ReLU changes sides."""
    net = CellNetwork().double()
    learner = DARTS(net, 0.05, mixed_product="exact")
    x = torch.rand(2, 12, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    y = torch.arange(24).view(2, 12) % 10
    both = Task(Batch(x[:1], y[:1]), Batch(x[1:], y[1:]))
    gradient = alpha_gradient(learner, both)
    along = [torch.randn_like(g) for g in gradient]
    values = []
    for sign in (1, -2, 1):
        with torch.no_grad():
            for alpha, direction in zip(learner.alphas.values(), along, strict=True):
                alpha += sign * 1e-7 * direction
        values.append(learner(both).item())
    slope = (values[0] - values[1]) / 2e-7
    expected = sum((g * d).sum() for g, d in zip(gradient, along, strict=True))
    assert slope == pytest.approx(float(expected), rel=1e-5)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="Linear has no MixedOperation"):
        DARTS(nn.Linear(2, 2))
    edge = MixedOperation({"skip": nn.Identity(), "tanh": nn.Tanh()})
    with pytest.raises(ValueError, match="no parameters but its alphas"):
        DARTS(nn.Sequential(edge))
    with pytest.raises(ValueError, match="inner_lr=-1 must be"):
        DARTS(net(), -1)
    with pytest.raises(ValueError, match="length=0 must be"):
        DARTS(net(), XI, length=0)
    with pytest.raises(ValueError, match="mixed_product='Hessian' must be"):
        DARTS(net(), mixed_product="Hessian")


def with_dropout():
    torch.manual_seed(0)
    edge = MixedOperation({"linear": nn.Linear(3, 3), "tanh": nn.Tanh()})
    return nn.Sequential(edge, nn.Dropout(0.3), nn.Linear(3, 4)).double()


def test_both_ends_of_the_difference_drop_what_the_step_ahead_drops():
    gradients = []
    for settings in ({"mixed_product": "exact"}, {"length": 1e-4}):
        darts = DARTS(with_dropout(), XI, **settings)
        torch.manual_seed(5)
        losses = darts(tasks(1))
        gradients.append(torch.autograd.grad(losses.sum(), list(darts.alphas.values())))
    assert relative_error(gradients[1], gradients[0]) < 1e-5


def test_a_validation_loss_that_asks_for_nothing_is_no_nan():
    model = with_dropout().float().eval()
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.copy_(torch.tensor([200.0, -200.0, -200.0, -200.0]))
    x = torch.randn(1, 8, 3)
    both = Task(Batch(x, torch.randint(4, (1, 8))), Batch(x, torch.zeros(1, 8).long()))
    darts = DARTS(model, XI)
    losses = darts(both)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert all(alpha.grad.isfinite().all() for alpha in darts.alphas.values())


@pytest.mark.parametrize(
    "settings", [{}, {"inner_lr": XI}, {"inner_lr": XI, "mixed_product": "exact"}]
)
def test_targets_and_losses_are_those_of_any_learner(settings):
    x, y = torch.randn(1, 8, 3).double(), torch.randn(1, 8).double()
    with pytest.raises(ValueError, match="they must agree"):
        DARTS(net(), loss=mse, **settings)(Task(Batch(x, y), Batch(x, y)))
    with pytest.raises(ValueError, match=r"loss of one task is \[9\], not a scalar"):
        DARTS(net(), loss=nn.CrossEntropyLoss(reduction="none"))(tasks())


@pytest.mark.parametrize(
    "settings", [{}, {"inner_lr": XI}, {"inner_lr": XI, "mixed_product": "exact"}]
)
def test_what_alphas_turn_tries_out_leaves_no_trace_in_running_statistics(settings):
    model = nn.Sequential(nn.BatchNorm1d(3), net()).double()
    darts = DARTS(model, **settings)
    turns = darts.turns(tasks(1))
    next(turns)
    assert int(model[0].num_batches_tracked) == 0
    next(turns)
    assert int(model[0].num_batches_tracked) == 1
