"""The inner loop against a plain loop, for any module, in float64."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from metanotes import MAML, SGD, Adam, Batch, UpdateRule, cross_entropy, mse
from metanotes.inner_loop import Descent, descend
from metanotes.inner_loop_learner import InnerLoopLearner
from metanotes.nets import conv4, conv_encoder, mlp
from metanotes.theta import How, in_force
from tests.plainly import (
    MODELS,
    image_tasks,
    meta_gradient,
    plain_loop,
    relative_error,
    shaken,
    vector_tasks,
)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("name", MODELS)
def test_meta_gradient_is_that_of_a_plain_loop(name, steps):
    tasks, model = image_tasks(), shaken(MODELS[name]())
    expected = plain_loop(model, tasks, 0.1, steps, cross_entropy)
    for options in ({}, {"checkpoint": True}, {"keep_graph": True}):
        learner = MAML(model, inner_lr=0.1, steps=steps, **options)
        assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10


@pytest.mark.parametrize("tasks", [1, 2])
def test_small_images_with_a_group_for_each_channel(tasks):
    """vmap has no group norm of convolutions' outputs that lie channels last."""
    tasks = image_tasks(tasks, ways=2, queries=3, size=8)
    model = shaken(nn.Sequential(conv_encoder(1, 8, (4, 6)), nn.Linear(24, 2)))
    expected = plain_loop(model, tasks, 0.1, 2, cross_entropy)
    for options in ({}, {"keep_graph": True}):
        learner = MAML(model, inner_lr=0.1, steps=2, **options)
        assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10


@pytest.mark.parametrize("steps", [1, 3])
def test_first_order_holds_the_inner_gradients_constant(steps):
    tasks, model = image_tasks(), shaken(conv4(5, channels=6))
    learner = MAML(model, inner_lr=0.1, steps=steps, first_order=True)
    expected = plain_loop(model, tasks, 0.1, steps, cross_entropy, first_order=True)
    second_order = plain_loop(model, tasks, 0.1, steps, cross_entropy)
    assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10
    assert relative_error(expected, second_order) > 0.01  # the two are told apart


def test_meta_gradient_is_that_of_finite_differences():
    tasks, model = (
        vector_tasks(),
        shaken(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))),
    )
    learner = MAML(model, inner_lr=0.2, steps=3, loss=mse)
    gradient = torch.cat([g.flatten() for g in meta_gradient(learner, tasks)])
    numeric, h = [], 1e-6
    for p in model.parameters():
        for i in range(p.numel()):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    p.view(-1)[i] += sign * h
                    values.append(float(learner(tasks).mean()))
                    p.view(-1)[i] -= sign * h
            numeric.append((values[0] - values[1]) / (2 * h))
    torch.testing.assert_close(gradient, torch.tensor(numeric).double(), rtol=1e-6, atol=1e-8)


def test_every_task_may_ask_for_its_own_gradient():
    tasks, model = vector_tasks(), shaken(mlp(2, 4, 1))
    learner = MAML(model, inner_lr=0.1, steps=2, loss=mse)
    losses, phi = learner(tasks), list(model.parameters())
    each = [torch.autograd.grad(loss, phi, retain_graph=True) for loss in losses]
    mean = [torch.stack(g).mean(0) for g in zip(*each, strict=True)]
    assert relative_error(mean, plain_loop(model, tasks, 0.1, 2, mse)) < 1e-10


def test_dropout_sees_the_same_masks_when_a_step_is_computed_again():
    tasks = vector_tasks()
    model = shaken(nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 1)))
    gradients = []
    for options in ({}, {"checkpoint": True}, {"keep_graph": True}):
        learner = MAML(model, inner_lr=0.3, steps=2, loss=mse, **options)
        learner.adapt(tasks.support)
        torch.manual_seed(3)
        gradients.append(meta_gradient(learner, tasks))
    assert relative_error(gradients[1], gradients[0]) < 1e-12
    assert relative_error(gradients[2], gradients[0]) < 1e-12
    torch.manual_seed(4)
    assert relative_error(meta_gradient(learner, tasks), gradients[0]) > 0.01


class LearnedMomentum(UpdateRule):
    """A rule with two parameters and a state: u = -e^a m, m <- sigmoid(b) m + g."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(-2.0).double())
        self.b = nn.Parameter(torch.tensor(0.3).double())

    def init(self, theta):
        return ({name: torch.zeros_like(t) for name, t in theta.items()},)

    def forward(self, grads, state):
        m = {name: self.b.sigmoid() * state[0][name] + g for name, g in grads.items()}
        return {name: -self.a.exp() * t for name, t in m.items()}, (m,)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("rule", [LearnedMomentum, lambda: Adam(lr=0.05), lambda: SGD(0.1)])
def test_the_adjoint_goes_through_the_state_and_the_parameters_of_a_rule(rule, first_order):
    tasks, model, rule = vector_tasks(), shaken(mlp(2, 4, 1)), rule()
    gradients = [
        meta_gradient(
            InnerLoopLearner(model, rule, 3, loss=mse, first_order=first_order, **options), tasks
        )
        for options in ({}, {"checkpoint": True}, {"keep_graph": True})
    ]
    assert relative_error(gradients[0], gradients[2]) < 1e-10
    assert relative_error(gradients[1], gradients[2]) < 1e-10
    assert len(gradients[0]) == 4 + len(list(rule.parameters()))


def test_a_kept_graph_can_be_differentiated_again():
    tasks, model = vector_tasks(), shaken(mlp(2, 4, 1, activation=nn.Tanh))
    phi = list(model.parameters())
    learner = MAML(model, 0.1, 2, loss=mse, keep_graph=True)

    def penalty() -> Tensor:
        grads = torch.autograd.grad(learner(tasks).mean(), phi, create_graph=True)
        return sum(g.square().sum() for g in grads)

    ours = torch.autograd.grad(penalty(), phi)[0][0, 0]
    values, h = [], 1e-5
    for sign in (1, -2):
        with torch.no_grad():
            phi[0][0, 0] += sign * h
        values.append(penalty().detach())
    torch.testing.assert_close(ours, (values[0] - values[1]) / (2 * h), rtol=1e-5, atol=0)


def test_no_steps_leave_phi_and_no_grad_keeps_nothing():
    tasks, model = vector_tasks(), shaken(mlp(2, 4, 1))
    learner = MAML(model, inner_lr=0.1, steps=1, loss=mse)
    for name, theta in learner.adapt(tasks.support, steps=0).items():
        assert theta.shape[0] == 4
        assert torch.equal(theta[1], dict(model.named_parameters())[name])
    with torch.no_grad():
        assert not any(t.requires_grad for t in learner.adapt(tasks.support).values())


def test_theta_is_the_same_with_checkpoints():
    tasks, model = vector_tasks(), shaken(mlp(2, 4, 1))
    learner = MAML(model, inner_lr=0.1, loss=mse)
    descent = Descent(learner.task_loss, learner.rule, [tasks.support], 4)
    a, b = (descend(learner.phi(), descent, checkpoint=again) for again in (False, True))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-12, atol=0)


def minibatches() -> list[Batch]:
    """Three for four tasks, of unequal sizes."""
    g = torch.Generator().manual_seed(9)
    x = torch.randn(4, 9, 2, generator=g).double()
    y = x.sin() @ torch.tensor([[1.0], [-2.0]]).double()
    return [
        Batch(*parts) for parts in zip(x.split([2, 4, 3], 1), y.split([2, 4, 3], 1), strict=True)
    ]


def plain_minibatches(model, batches, query, inner_lr, steps, loss, first_order) -> list[Tensor]:
    """The meta-gradient, where step t takes minibatch t, and the first after the last."""
    phi = dict(model.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    for n in range(len(query.x)):
        theta, t = dict(phi), 0
        while t < steps:
            for x, y in batches:
                if t == steps:
                    break
                value = loss(functional_call(model, theta, (x[n],)), y[n])
                grads = torch.autograd.grad(value, list(theta.values()), create_graph=True)
                if first_order:
                    grads = [g.detach() for g in grads]
                theta = {
                    k: p - inner_lr * g for (k, p), g in zip(theta.items(), grads, strict=True)
                }
                t += 1
        total = total + loss(functional_call(model, theta, (query.x[n],)), query.y[n])
    return list(torch.autograd.grad(total, list(phi.values())))


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_each_step_takes_the_next_minibatch_and_then_the_first_again(steps, first_order, loop):
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    model = shaken(nn.Sequential(nn.Linear(2, 4), norm, nn.Tanh(), nn.Linear(4, 1)))
    batches, query = minibatches(), vector_tasks().query
    expected = plain_minibatches(model, batches, query, 0.2, steps, mse, first_order)
    learner = MAML(model, inner_lr=0.2, loss=mse)
    descent = Descent(learner.task_loss, learner.rule, batches, steps, first_order)
    phi = learner.phi()
    for checkpoint in (False, True):
        with in_force(How(at_once=not loop)):
            theta = descend(phi, descent, checkpoint=checkpoint)
        total = learner.losses_at(theta, query).sum()
        ours = torch.autograd.grad(total, list(phi.values()))
        assert relative_error(ours, expected) < 1e-10
    whole = [Batch(torch.cat([b.x for b in batches], 1), torch.cat([b.y for b in batches], 1))]
    other = plain_minibatches(model, whole, query, 0.2, steps, mse, first_order)
    assert relative_error(other, expected) > 0.01  # the two are told apart


def test_a_second_backward_pass_with_checkpoints_computes_the_steps_once_more():
    model = shaken(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, 1)))
    tasks, runs, gradients = vector_tasks(), [], []
    learner = MAML(model, inner_lr=0.2, loss=mse)

    def loss(theta, x, y):
        runs.append(torch.is_grad_enabled())
        return learner.task_loss(theta, x, y)

    descent = Descent(loss, learner.rule, [tasks.support], 3)
    phi = learner.phi()
    for checkpoint in (False, True):
        torch.manual_seed(6)
        runs.clear()
        theta = descend(phi, descent, checkpoint=checkpoint)
        total = sum(t.square().sum() for t in theta.values())
        for _ in range(2):
            gradients.append(torch.autograd.grad(total, list(phi.values()), retain_graph=True))
    assert len(runs) == 4 * (3 + 2 + 3)  # forwards; backwards all but the last; backwards all
    for gradient in gradients[1:]:
        assert relative_error(gradient, gradients[0]) < 1e-10


def test_minibatches_of_images_go_through_the_fast_layers():
    tasks, model = image_tasks(), shaken(conv4(5, channels=4))
    parts = (t.split([2, 3], 1) for t in tasks.support)
    batches = [Batch(*part) for part in zip(*parts, strict=True)]
    expected = plain_minibatches(model, batches, tasks.query, 0.1, 5, cross_entropy, False)
    for options in ({}, {"checkpoint": True}, {"keep_graph": True}):
        learner = MAML(model, inner_lr=0.1, **options)
        total = learner.losses_at(learner.descend(batches, 5), tasks.query).sum()
        ours = torch.autograd.grad(total, list(model.parameters()))
        assert relative_error(ours, expected) < 1e-10


def test_running_statistics_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"layers \['1'\].*track_running_stats=False.*GroupNorm"):
        MAML(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), inner_lr=0.1)


def test_frozen_running_statistics_in_evaluation_mode_are_welcome():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3).eval(), nn.Linear(3, 1)).double()
    learner = MAML(model, inner_lr=0.1, steps=2, loss=mse)
    expected = plain_loop(model, vector_tasks(), 0.1, 2, mse)
    assert relative_error(meta_gradient(learner, vector_tasks()), expected) < 1e-10


def test_a_model_that_writes_to_its_buffers_is_refused_and_left_as_it_was():
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 1)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    model = Counting().double()
    with pytest.raises(ValueError, match=r"writes to its buffers \['calls'\]"):
        MAML(model, inner_lr=0.1, loss=mse)(vector_tasks())
    assert model.calls == 0


@pytest.mark.parametrize("where", ["support", "query"])
def test_labels_outside_the_ways_are_refused(where):
    tasks = image_tasks()
    bad = getattr(tasks, where).y.clone()
    bad[1, 2] = 5
    tasks = tasks._replace(**{where: getattr(tasks, where)._replace(y=bad)})
    with pytest.raises(ValueError, match=r"labels run from 0 to 5, but .* 5 classes"):
        MAML(conv4(5, channels=4).double(), inner_lr=0.1)(tasks)


def test_targets_that_would_be_broadcast_are_refused():
    tasks = vector_tasks()
    flat = tasks._replace(support=tasks.support._replace(y=tasks.support.y[..., 0]))
    with pytest.raises(ValueError, match=r"target has the shape \[\], the model's output \[1\]"):
        MAML(mlp(2, 1).double(), inner_lr=0.1, loss=mse)(flat)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_lr": 0.0}, "inner_lr=0.0 must be a finite number above 0"),
        ({"inner_lr": float("nan")}, "inner_lr=nan"),
        ({"inner_lr": 0.1, "steps": -1}, "steps=-1 must be a whole number of at least 0"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MAML(mlp(2, 1), **options)


def test_a_model_with_nothing_to_adapt_is_refused():
    with pytest.raises(ValueError, match="nothing to adapt"):
        MAML(mlp(2, 1).requires_grad_(False), inner_lr=0.1)


def test_a_model_that_was_frozen_afterwards_is_refused():
    learner = MAML(mlp(2, 1), inner_lr=0.1)
    learner.model.requires_grad_(False)
    with pytest.raises(ValueError, match="there is nothing to adapt"):
        learner.adapt(Batch(torch.zeros(1, 3, 2), torch.zeros(1, 3, dtype=torch.long)))


@pytest.mark.parametrize("kind", [torch.int32, torch.bool])
def test_labels_of_another_kind_of_whole_numbers_are_refused(kind):
    labels = torch.zeros(1, 3, dtype=kind)
    with pytest.raises(ValueError, match=rf"labels are {kind}: .*y\.long\(\)"):
        MAML(mlp(2, 5), inner_lr=0.1).adapt(Batch(torch.zeros(1, 3, 2), labels))
