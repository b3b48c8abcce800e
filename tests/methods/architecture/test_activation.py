"""The learned activation: the spline, its rates, and the losses against a plain loop."""

import math

import numpy
import pytest
import torch
from torch import nn

from metanotes import LearnedActivation, meta_train, mse
from metanotes.data import sinusoid
from metanotes.methods.architecture import Sine, Spline, TensorRates
from metanotes.nets import mlp
from tests.plainly import relative_error


def test_a_spline_is_numpys_interpolation_between_its_knots():
    spline = Spline(torch.tanh, knots=7, bound=3.0).double()
    with torch.no_grad():
        spline.values.copy_(torch.randn(7, generator=torch.Generator().manual_seed(0)))
    x = torch.linspace(-3, 3, 101).double()
    knots = numpy.linspace(-3, 3, 7)
    expected = numpy.interp(x.numpy(), knots, spline.values.detach().numpy())
    torch.testing.assert_close(spline(x).detach(), torch.from_numpy(expected))


def test_beyond_the_last_knots_it_goes_on_straight():
    spline = Spline(torch.sin, knots=5, bound=2.0).double()
    for inside, edge, outside in ((1.5, 2.0, 3.5), (-1.5, -2.0, -4.0)):
        x = torch.tensor([inside, edge, outside]).double()
        a, b, c = spline(x).tolist()
        assert (c - b) / (outside - edge) == pytest.approx((b - a) / (edge - inside))


def test_a_splines_derivatives_are_those_of_differences():
    spline = Spline(torch.sin, knots=9, bound=2.0).double()
    x = torch.tensor([[-3.1, -1.9], [0.3, 2.6]]).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, values: torch.func.functional_call(spline, {"values": values}, (x,)),
        (x, spline.values),
    )

    def slope(x, values):
        return torch.autograd.grad(
            torch.func.functional_call(spline, {"values": values}, (x,)).sum(), x, create_graph=True
        )[0]

    assert torch.autograd.gradcheck(slope, (x, spline.values))


def test_rates_clip_the_gradient_of_each_task_by_itself():
    rule = TensorRates(["a.b", "c"], lr=0.2, clip=2.0)
    with torch.no_grad():
        rule.log_rates[1] = math.log(0.5)
    grads = {"a.b": torch.tensor([[0.6, 0.0], [3.0, 0.0]]), "c": torch.tensor([[[0.8]], [[4.0]]])}
    updates, state = rule(grads, ())
    assert state == ()
    torch.testing.assert_close(updates["a.b"], torch.tensor([[-0.12, 0.0], [-0.24, 0.0]]))
    torch.testing.assert_close(updates["c"], torch.tensor([[[-0.4]], [[-0.8]]]))


def plain_losses(model, spline, rates, theta, tasks, steps, clip):
    """One task after the other, by matrix products."""
    losses = []
    for n, (x, y, xq, yq) in enumerate(zip(*tasks.support, *tasks.query, strict=True)):
        w = {name: t[n].clone().requires_grad_() for name, t in theta.items()}

        def outputs(x, w):
            for place in (0, 2, 4):
                x = x @ w[f"{place}.weight"].T + w[f"{place}.bias"]
                x = x if place == 4 else spline(x)
            return x

        for _ in range(steps):
            loss = (outputs(x, w) - y).square().mean()
            grads = torch.autograd.grad(loss, list(w.values()), create_graph=True)
            norm = torch.cat([g.flatten() for g in grads]).norm()
            shrink = clip / norm if norm > clip else 1.0
            w = {
                name: p - rates[name] * shrink * g
                for (name, p), g in zip(w.items(), grads, strict=True)
            }
        losses.append((outputs(xq, w) - yq).square().mean())
    return torch.stack(losses)


@pytest.mark.parametrize("options", [{}, {"checkpoint": True}])
def test_losses_and_gradient_are_those_of_a_plain_loop(options, monkeypatch):
    spline = Spline(torch.tanh, knots=9, bound=2.0)
    model = mlp(1, 6, 5, 1, activation=lambda: spline).double()
    learner = LearnedActivation(model, 0.05, 3, clip=4.0, **options).double()
    with torch.no_grad():
        learner.rule.log_rates += 0.3 * torch.arange(6)
    drawn = sinusoid(shots=8, queries=5, seed=0)(4)
    drawn = drawn._replace(
        support=type(drawn.support)(*(t.double() for t in drawn.support)),
        query=type(drawn.query)(*(t.double() for t in drawn.query)),
    )
    torch.manual_seed(0)
    theta = learner.draw(4)
    monkeypatch.setattr(learner, "draw", lambda tasks: {n: t[:tasks] for n, t in theta.items()})
    rates = dict(zip(learner.rule.names, learner.rule.log_rates.exp(), strict=True))
    expected = plain_losses(model, spline, rates, theta, drawn, 3, 4.0)
    losses = learner(drawn)
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=0)
    phi = [spline.values, learner.rule.log_rates]
    right = torch.autograd.grad(expected.sum(), phi)
    assert relative_error(torch.autograd.grad(losses.sum(), phi), right) < 1e-9


def test_weights_are_drawn_anew_and_as_torch_draws_them():
    model = nn.Sequential(nn.Linear(4, 300), Spline(), nn.Linear(300, 2))
    learner = LearnedActivation(model, 0.1)
    torch.manual_seed(0)
    first, second = learner.draw(40), learner.draw(40)
    assert set(first) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    for name, bound in {"0.weight": 0.5, "0.bias": 0.5, "2.weight": 300**-0.5}.items():
        t = first[name]
        assert not torch.equal(t, second[name])
        assert not torch.equal(t[0], t[1])
        assert 0.99 * bound < t.abs().max() <= bound
        assert t.std() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_only_the_shape_and_the_rates_learn():
    spline = Spline(torch.tanh)
    learner = LearnedActivation(mlp(1, 8, 8, 1, activation=lambda: spline), 0.05, 2)
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    meta_train(learner, sinusoid(seed=0), 3, 4, progress=False)
    moved = {n for n, p in learner.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"model.1.values", "rule.log_rates"}


def test_on_sines_the_activation_learns_to_fall_again():
    """A short training from ReLU already lowers the loss that a ReLU has after learning."""
    spline = Spline(torch.relu)
    test = sinusoid(shots=10, queries=20, seed=1)(100)
    learners = {
        "learned": LearnedActivation(mlp(1, 16, 16, 1, activation=lambda: spline), 0.05, 5),
        "ReLU": LearnedActivation(mlp(1, 16, 16, 1), 0.05, 5),
    }
    losses = {}
    for name, learner in learners.items():
        torch.manual_seed(0)
        train = sinusoid(shots=10, queries=10, seed=0)
        meta_train(learner, train, 60, 8, meta_lr=0.03, clip=1.0, progress=False)
        torch.manual_seed(1)
        with torch.no_grad():
            losses[name] = float(learner(test).mean())
    assert losses["learned"] < 0.8 * losses["ReLU"]


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="no linear or convolutional layer"):
        LearnedActivation(nn.Sequential(Spline()), 0.1)
    with pytest.raises(ValueError, match="knots=1 must be"):
        Spline(knots=1)
    with pytest.raises(ValueError, match="bound=0 must be"):
        Spline(bound=0)
    with pytest.raises(ValueError, match="clip=-1 must be"):
        LearnedActivation(mlp(1, 4, 1), 0.1, clip=-1)
    assert Sine()(torch.zeros(2)).tolist() == [0, 0]
    assert LearnedActivation(mlp(1, 4, 1), 0.1).loss is mse


@pytest.mark.parametrize(
    "made",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.orthogonal,
    ],
)
def test_a_layer_whose_weight_is_made_of_others_is_refused(made):
    model = nn.Sequential(nn.Linear(2, 8), Spline(), made(nn.Linear(8, 1)))
    with pytest.raises(ValueError, match="the layer '2' is made of other parameters"):
        LearnedActivation(model, 0.01)


def test_transposed_convolutions_are_drawn_too():
    model = nn.Sequential(nn.ConvTranspose1d(1, 2, 3), Spline(), nn.Flatten(), nn.Linear(12, 1))
    assert list(LearnedActivation(model, 0.01).draw(2)) == [
        "0.weight",
        "0.bias",
        "3.weight",
        "3.bias",
    ]
