"""ANIL against a plain loop, task by task, that adapts the head alone."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from metanotes import ANIL, MAML, Batch, Task, cross_entropy, evaluate, mse
from metanotes.engine.task_layers import TaskLayers
from metanotes.nets import conv4, mlp
from tests.plainly import (
    MODELS,
    image_tasks,
    in_groups_of,
    meta_gradient,
    recorded_at_once,
    recordings,
    relative_error,
    shaken,
    vector_tasks,
)


def plain_head(model, x, y, inner_lr, steps, loss, first_order=False) -> dict[str, Tensor]:
    """theta_k of one task; the body works anew in every step."""
    theta = {n: p for n, p in model[-1].named_parameters() if p.requires_grad}
    for _ in range(steps):
        value = loss(functional_call(model[-1], theta, (model[:-1](x),)), y)
        grads = torch.autograd.grad(value, list(theta.values()), create_graph=True)
        if first_order:
            grads = [g.detach() for g in grads]
        theta = {n: t - inner_lr * g for (n, t), g in zip(theta.items(), grads, strict=True)}
    return theta


def plain_anil(model, tasks, inner_lr, steps, loss, first_order=False, weights=None):
    """The meta-gradient: one for every parameter that requires it, body and head."""
    count = len(tasks.support.x)
    if weights is None:
        weights = torch.full((count,), 1 / count, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for w, x, y, xq, yq in zip(weights, *tasks.support, *tasks.query, strict=True):
        theta = plain_head(model, x, y, inner_lr, steps, loss, first_order)
        total = total + w * loss(functional_call(model[-1], theta, (model[:-1](xq),)), yq)
    return torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad])


def with_head(body: nn.Module) -> nn.Sequential:
    return shaken(nn.Sequential(body, nn.Tanh(), nn.Linear(5, 5)))


def small_vector_model() -> nn.Sequential:
    norm = nn.BatchNorm1d(6, track_running_stats=False)
    return shaken(nn.Sequential(nn.Linear(2, 6), norm, nn.ELU(), nn.Linear(6, 1)))


# ---------------------------------------------------------------------------- the meta-gradient


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_meta_gradient_is_that_of_a_plain_loop_over_the_head(name, steps, first_order):
    tasks, model = image_tasks(), with_head(MODELS[name]())
    expected = plain_anil(model, tasks, 0.3, steps, cross_entropy, first_order)
    learner = ANIL(model, 0.3, steps, first_order=first_order)
    assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10


@pytest.mark.parametrize("pool", ["stride", "max"])
def test_conv4_is_a_body_and_a_head(pool):
    tasks, model = image_tasks(), shaken(conv4(5, channels=6, pool=pool))
    learner = ANIL(model, 0.3, steps=2)
    ours = meta_gradient(learner, tasks)
    assert relative_error(ours, plain_anil(model, tasks, 0.3, 2, cross_entropy)) < 1e-10
    assert [plan.how.layers for plan in learner.workshop.plans.values()] == [TaskLayers]
    first_order = plain_anil(model, tasks, 0.3, 2, cross_entropy, first_order=True)
    assert relative_error(ours, first_order) > 0.01  # the two are told apart
    kept = meta_gradient(ANIL(model, 0.3, steps=2, keep_graph=True), tasks)
    assert relative_error(kept, ours) < 1e-10


def test_colour_images_go_through_the_same_layers():
    g = torch.Generator().manual_seed(3)
    x, xq = (torch.randn(2, n, 3, 18, 20, generator=g).double() for n in (4, 7))
    y, yq = torch.arange(4).repeat(2, 1), torch.randint(4, (2, 7), generator=g)
    body = nn.Sequential(
        nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 0)),
        nn.BatchNorm2d(5, track_running_stats=False),
        nn.Conv2d(5, 4, 3, bias=False),
        nn.AdaptiveAvgPool2d(2),
    )
    model = shaken(nn.Sequential(body, nn.Flatten(), nn.Linear(16, 4)))
    tasks = Task(Batch(x, y), Batch(xq, yq))
    expected = plain_anil(model, tasks, 0.3, 2, cross_entropy)
    assert relative_error(meta_gradient(ANIL(model, 0.3, 2), tasks), expected) < 1e-10


class Viewed(nn.Module):
    """Looks at its images in their usual memory order, which fast layers do not keep."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


def test_a_body_that_needs_the_usual_memory_order_gets_it():
    conv = nn.Sequential(nn.Conv2d(1, 3, 3, 5), nn.BatchNorm2d(3, track_running_stats=False))
    model = shaken(nn.Sequential(conv, Viewed(), nn.Linear(3 * 36, 5)))
    tasks, learner = image_tasks(), ANIL(model, 0.3, 2)
    expected = plain_anil(model, tasks, 0.3, 2, cross_entropy)
    assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10
    (plan,) = learner.workshop.plans.values()
    assert plan.how.at_once
    assert plan.how.layers is not TaskLayers


def test_with_a_body_that_learns_nothing_anil_is_maml():
    tasks = image_tasks()
    model = shaken(nn.Sequential(nn.Flatten(), nn.Linear(784, 5)))
    ours, mamls = (meta_gradient(make(model, 0.1, 3), tasks) for make in (ANIL, MAML))
    assert relative_error(ours, mamls) < 1e-10


def test_a_frozen_body_leaves_a_gradient_for_the_head_alone():
    tasks, model = image_tasks(), shaken(conv4(5, channels=4))
    model[:-1].requires_grad_(False)
    ours = meta_gradient(ANIL(model, 0.3, 2), tasks)
    assert len(ours) == 2
    assert relative_error(ours, plain_anil(model, tasks, 0.3, 2, cross_entropy)) < 1e-10


def test_a_part_of_the_head_may_be_frozen():
    tasks, model = image_tasks(), shaken(conv4(5, channels=4))
    model[-1].bias.requires_grad_(False)
    learner = ANIL(model, 0.3, 2)
    expected = plain_anil(model, tasks, 0.3, 2, cross_entropy)
    assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10
    assert list(learner.adapt(tasks.support)) == ["13.weight"]


def test_a_kept_graph_can_be_differentiated_twice():
    tasks = vector_tasks()

    def penalty(learner: ANIL) -> Tensor:
        phi = list(learner.parameters())
        grads = torch.autograd.grad(learner(tasks).mean(), phi, create_graph=True)
        return sum(g.square().sum() for g in grads)

    learner = ANIL(small_vector_model(), 0.1, 2, loss=mse, keep_graph=True)
    penalty(learner).backward()
    weight, h = learner.model[0].weight, 1e-5
    ours, values = weight.grad[1, 0].item(), []
    for sign in (1, -2):
        with torch.no_grad():
            weight[1, 0] += sign * h
        values.append(penalty(learner).item())
    assert abs((values[0] - values[1]) / (2 * h) - ours) < 1e-6 * abs(ours)


# ------------------------------------------------------------ however the work is divided


@pytest.mark.parametrize("name", [*MODELS, "conv4"])
def test_groups_give_the_same_gradient(name):
    tasks = image_tasks(tasks=5)
    model = shaken(conv4(5, channels=5)) if name == "conv4" else with_head(MODELS[name]())
    with in_groups_of(1):
        ours = meta_gradient(ANIL(model, 0.3, steps=2), tasks)
    assert relative_error(ours, plain_anil(model, tasks, 0.3, 2, cross_entropy)) < 1e-10


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", ["vectors"])
def test_a_recording_follows_the_data_and_the_parameters(kind, steps):
    model = small_vector_model() if kind == "vectors" else shaken(conv4(5, channels=4))
    tasks, loss = (vector_tasks(), mse) if kind == "vectors" else (image_tasks(), cross_entropy)
    learner = ANIL(model, 0.2, steps, loss=loss, record=True)
    with recorded_at_once():
        for _ in range(4):
            expected = plain_anil(model, tasks, 0.2, steps, loss)
            assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10
            tasks = Task(*(Batch(x.flip(0) * 1.1, y.flip(0)) for x, y in tasks))
            with torch.no_grad():
                for p in model.parameters():
                    p += 0.05 * p.cos()
    assert len(recordings(learner)) == (kind == "vectors")


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", ["conv, affine batch norm", "branches on data"])
def test_tasks_may_have_unequal_weights(name, large):
    tasks, model = image_tasks(), with_head(MODELS[name]())
    weights = torch.tensor([0.1, 2.0, -1.0]).double()
    expected = plain_anil(model, tasks, 0.3, 2, cross_entropy, weights=weights)
    learner, phi = ANIL(model, 0.3, 2), list(model.parameters())
    with in_groups_of(1 if large else None):
        losses = learner(tasks)
    ours = torch.autograd.grad((weights * losses).sum(), phi)
    assert relative_error(ours, expected) < 1e-10


class Counting(nn.Linear):
    """How often it was called, all copies together."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Counting.calls += 1
        return super().forward(x)


@pytest.mark.parametrize("first_order", [False, True])
def test_the_body_works_once_on_each_set_however_many_steps_follow(first_order):
    model = shaken(nn.Sequential(Counting(2, 4), nn.Tanh(), nn.Linear(4, 1)))
    learner = ANIL(model, 0.1, steps=7, first_order=first_order, loss=mse)
    tasks = vector_tasks()
    meta_gradient(learner, tasks), learner.adapt(tasks.support)  # plans
    Counting.calls = 0
    meta_gradient(learner, tasks)
    assert Counting.calls == 2
    learner.adapt(tasks.support)
    assert Counting.calls == 3


def test_dropout_in_the_body_is_one_mask_for_all_steps():
    body = nn.Sequential(nn.Linear(2, 50), nn.Dropout(0.5))
    model = shaken(nn.Sequential(body, nn.Linear(50, 1)))
    learner, tasks = ANIL(model, 0.1, 2, loss=mse), vector_tasks()
    learner.adapt(tasks.support)  # its plan
    state = torch.get_rng_state()
    theta = learner.adapt(tasks.support)
    torch.set_rng_state(state)
    z = learner.features(tasks.support.x)
    for n in range(4):
        alone = plain_head(
            nn.Sequential(nn.Identity(), model[-1]), z[n], tasks.support.y[n], 0.1, 2, mse
        )
        torch.testing.assert_close(theta["1.weight"][n], alone["weight"], rtol=1e-10, atol=1e-12)


# --------------------------------------------------------------- adapt, predict, evaluate


@pytest.mark.parametrize("name", ["conv, affine batch norm", "branches on data"])
def test_adapt_and_predict_are_those_of_each_task_alone(name):
    tasks, model = image_tasks(), with_head(MODELS[name]())
    learner = ANIL(model, 0.3, steps=2)
    for steps in (None, 0, 4):
        theta = learner.adapt(tasks.support, steps)
        outputs = learner.predict(theta, tasks.query.x)
        for n in range(3):
            x, y = tasks.support.x[n], tasks.support.y[n]
            alone = plain_head(model, x, y, 0.3, 2 if steps is None else steps, cross_entropy)
            for key, t in alone.items():
                ours = theta[f"{len(model) - 1}.{key}"][n]
                torch.testing.assert_close(ours, t, rtol=1e-10, atol=1e-12)
            expected = functional_call(model[-1], alone, (model[:-1](tasks.query.x[n]),))
            torch.testing.assert_close(outputs[n], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("transductive", [False, True])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", ["conv, affine batch norm", "branches on data"])
def test_evaluation_normalises_queries_as_it_says(name, large, transductive):
    tasks, model = image_tasks(), with_head(MODELS[name]())
    learner = ANIL(model, 0.3, steps=2)
    options = {"steps": 3, "transductive": transductive, "metric": cross_entropy}
    with in_groups_of(1 if large else None):
        learner(tasks).mean().backward()  # as after training
        score = evaluate(learner, lambda n: tasks, 3, **options)
    for value, x, y, xq, yq in zip(score.values, *tasks.support, *tasks.query, strict=True):
        theta, body = plain_head(model, x, y, 0.3, 3, cross_entropy), model[:-1]
        if transductive:
            z = body(xq)
        else:
            z = torch.stack([body(torch.cat([x, query[None]]))[-1] for query in xq])
        expected = cross_entropy(functional_call(model[-1], theta, (z,)), yq)
        torch.testing.assert_close(value, expected.detach(), rtol=1e-10, atol=0)


def test_training_moves_body_and_head_and_the_loss_falls():
    tasks, model = image_tasks(), shaken(conv4(5, channels=4))
    before, learner = copy.deepcopy(model), ANIL(model, 0.3, steps=3)
    optimizer, losses = torch.optim.Adam(learner.parameters(), 0.01), []
    for _ in range(12):
        optimizer.zero_grad()
        losses.append(learner(tasks).mean())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert not torch.equal(model[0].weight, before[0].weight)
    assert not torch.equal(model[-1].weight, before[-1].weight)


# -------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(2, 1), r"model=Linear must be an nn.Sequential .* nn.Sequential\(body, head\)"),
        (nn.Sequential(nn.Linear(2, 1)), "model=Sequential must be an nn.Sequential"),
        (nn.Sequential(nn.Linear(2, 1), nn.ReLU()), r"last module, ReLU\(\), has no parameter"),
        (
            nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1).requires_grad_(False)),
            "has no parameter to adapt",
        ),
        (
            nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)),
            r"layers \['1'\].*track_running_stats=False",
        ),
    ],
)
def test_a_model_without_a_body_and_a_head_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        ANIL(model, inner_lr=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_lr": -0.1}, "inner_lr=-0.1 must be a finite number above 0"),
        ({"inner_lr": 0.1, "steps": -1}, "steps=-1 must be a whole number of at least 0"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ANIL(mlp(2, 3, 1), **options)


def test_bad_labels_and_targets_are_refused():
    tasks = image_tasks()
    with pytest.raises(ValueError, match=r"labels run from 0 to 4, but .* 3 classes"):
        ANIL(conv4(3, channels=4).double(), 0.1)(tasks)
    with pytest.raises(ValueError, match=r"labels run from 0 to 4, but .* 3 classes"):
        ANIL(conv4(3, channels=4).double(), 0.1).adapt(tasks.support)
    with pytest.raises(ValueError, match=r"target has the shape \[1\], the model's output \[2\]"):
        ANIL(mlp(2, 4, 2).double(), 0.1, loss=mse)(vector_tasks())
