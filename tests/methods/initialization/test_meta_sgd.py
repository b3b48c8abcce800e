"""Meta-SGD against a plain loop with a step size for every parameter."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from metanotes import MAML, LearnedRates, MetaSGD, cross_entropy, meta_train, mse
from metanotes.data import sinusoid
from metanotes.nets import conv4, mlp
from tests.plainly import (
    image_tasks,
    meta_gradient,
    recorded_at_once,
    recordings,
    relative_error,
    shaken,
    vector_tasks,
)


def plain_meta_sgd(model, rates, tasks, steps, loss, first_order=False) -> list[Tensor]:
    """The meta-gradient of phi, then of the rates, by name."""
    start = {n: p for n, p in model.named_parameters() if p.requires_grad}
    rates = {n: r.detach().clone().requires_grad_() for n, r in rates.items()}
    assert list(rates) == list(start)
    total = torch.zeros((), dtype=torch.float64)
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        theta = dict(start)
        for _ in range(steps):
            value = loss(functional_call(model, theta, (x,)), y)
            grads = torch.autograd.grad(value, list(theta.values()), create_graph=True)
            if first_order:
                grads = [g.detach() for g in grads]
            theta = {n: t - rates[n] * g for (n, t), g in zip(theta.items(), grads, strict=True)}
        total = total + loss(functional_call(model, theta, (xq,)), yq) / len(tasks.support.x)
    return list(torch.autograd.grad(total, [*start.values(), *rates.values()]))


def scattered(learner: MetaSGD) -> MetaSGD:
    """Rates of every size and sign, and zeros."""
    g = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for rate in learner.rule.rates.values():
            rate += 0.3 * torch.randn(rate.shape, generator=g, dtype=rate.dtype)
            rate.view(-1)[0] = 0.0
    return learner


class Nested(nn.Module):
    """Names with several dots, and names that dictionaries have methods of."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), nn.Linear(3, 4))
        self.keys = nn.Parameter(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))
        self.values = nn.Parameter(torch.randn(5, 1, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) @ self.keys).softmax(-1) @ self.values


MODELS = {
    "conv4": (lambda: conv4(5, channels=4), image_tasks, cross_entropy),
    "perceptron": (lambda: mlp(2, 4, 1), vector_tasks, mse),
    "nested": (Nested, vector_tasks, mse),
}


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_meta_gradient_of_phi_and_of_the_rates_is_that_of_a_plain_loop(name, steps, first_order):
    make, tasks, loss = MODELS[name]
    tasks, model = tasks(), shaken(make())
    for options in ({}, {"checkpoint": True}, {"keep_graph": True}):
        learner = scattered(
            MetaSGD(model, 0.1, steps, first_order=first_order, loss=loss, **options)
        )
        expected = plain_meta_sgd(model, learner.rule.rates, tasks, steps, loss, first_order)
        ours = meta_gradient(learner, tasks)
        half = len(expected) // 2
        assert relative_error(ours[:half], expected[:half]) < 1e-10
        assert relative_error(ours[half:], expected[half:]) < 1e-10


def test_a_recording_follows_the_rates():
    tasks, model = vector_tasks(), shaken(mlp(2, 4, 1))
    learner = scattered(MetaSGD(model, 0.1, 2, loss=mse, record=True))
    with recorded_at_once():
        for _ in range(4):
            expected = plain_meta_sgd(model, learner.rule.rates, tasks, 2, mse)
            assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10
            with torch.no_grad():
                for p in learner.parameters():
                    p += 0.05 * p.cos()
    assert recordings(learner)


@pytest.mark.parametrize("first_order", [False, True])
def test_with_equal_rates_it_is_maml(first_order):
    tasks, model = image_tasks(), shaken(conv4(5, channels=4))
    ours = meta_gradient(MetaSGD(model, 0.2, 2, first_order=first_order), tasks)
    mamls = meta_gradient(MAML(model, 0.2, 2, first_order=first_order), tasks)
    assert len(ours) == 2 * len(mamls)
    assert relative_error(ours[: len(mamls)], mamls) < 1e-10


def test_a_rate_of_zero_does_not_adapt_and_a_negative_one_goes_uphill():
    tasks, model = vector_tasks(), shaken(mlp(2, 4, 1))
    learner = MetaSGD(model, 0.1, loss=mse)
    with torch.no_grad():
        learner.rule.rates["0.weight"].zero_()
        learner.rule.rates["2.bias"].neg_()
    ours = learner.adapt(tasks.support)
    mamls = MAML(model, 0.1, loss=mse).adapt(tasks.support)
    start = dict(model.named_parameters())
    torch.testing.assert_close(ours["2.weight"], mamls["2.weight"])
    assert torch.equal(ours["0.weight"], start["0.weight"].expand_as(ours["0.weight"]))
    torch.testing.assert_close(ours["2.bias"] - start["2.bias"], start["2.bias"] - mamls["2.bias"])


def test_the_rates_are_trained_and_saved_with_phi():
    learner = MetaSGD(mlp(1, 8, 1), inner_lr=0.01, loss=mse)
    meta_train(learner, sinusoid(seed=0), 3, tasks=4, meta_lr=0.003, progress=False)
    for name, rate in learner.rule.rates.items():
        assert rate.shape == dict(learner.model.named_parameters())[name].shape
        assert (rate != 0.01).any(), name
    twin = MetaSGD(mlp(1, 8, 1, seed=5), inner_lr=0.5, loss=mse)
    twin.load_state_dict(learner.state_dict())
    tasks = sinusoid(seed=1)(3)
    assert torch.equal(learner(tasks), twin(tasks))


def test_a_frozen_parameter_has_no_rate():
    model = shaken(mlp(2, 4, 3, 1))
    model[2].requires_grad_(False)
    learner, tasks = scattered(MetaSGD(model, 0.1, steps=2, loss=mse)), vector_tasks()
    assert list(learner.rule.rates) == ["0.weight", "0.bias", "4.weight", "4.bias"]
    expected = plain_meta_sgd(model, learner.rule.rates, tasks, 2, mse)
    assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10


def test_the_rates_have_the_type_of_the_parameters_and_move_with_them():
    learner = MetaSGD(mlp(2, 3, 1).double(), inner_lr=0.1, loss=mse)
    assert {rate.dtype for rate in learner.rule.rates.values()} == {torch.float64}
    assert {rate.dtype for rate in learner.float().rule.rates.values()} == {torch.float32}


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf")])
def test_a_bad_first_rate_is_named(bad):
    with pytest.raises(ValueError, match=f"inner_lr={bad} must be a finite number above 0"):
        MetaSGD(mlp(2, 1), inner_lr=bad)
    with pytest.raises(ValueError, match=f"lr={bad} must be a finite number above 0"):
        LearnedRates({"w": torch.zeros(2)}, lr=bad)


def test_a_model_with_nothing_to_adapt_is_refused():
    with pytest.raises(ValueError, match="nothing to adapt"):
        MetaSGD(mlp(2, 1).requires_grad_(False), inner_lr=0.1)
