"""Reptile against a loop over tasks and minibatches, written with torch's own optimizers."""

import copy

import pytest
import torch
from torch import Tensor, nn

from metanotes import (
    SGD,
    Adam,
    Batch,
    LearnedRates,
    Pretrained,
    Reptile,
    Task,
    cross_entropy,
    meta_train,
    mse,
)
from metanotes.data import sinusoid
from metanotes.inner_loop_learner import minibatches
from metanotes.nets import conv4, mlp
from tests.plainly import (
    image_tasks,
    in_groups_of,
    meta_gradient,
    recorded_at_once,
    recordings,
    relative_error,
    shaken,
    vector_tasks,
)

RULES = {
    "sgd": (lambda: SGD(0.05), lambda phi: torch.optim.SGD(phi, lr=0.05)),
    "adam": (
        lambda: Adam(0.01, betas=(0, 0.999)),
        lambda phi: torch.optim.Adam(phi, lr=0.01, betas=(0.0, 0.999)),
    ),
}


def all_examples(tasks: Task) -> Batch:
    return Batch(*(torch.cat(pair, 1) for pair in zip(*tasks, strict=True)))


def walked(model, tasks, make_optimizer, steps, batch, loss, seed=0) -> list[list[Tensor]]:
    """phi - theta_k of every task: a copy of the model, trained by an optimizer of torch."""
    examples = all_examples(tasks)
    size = batch or examples.x.shape[1]
    torch.manual_seed(seed)
    drawn = minibatches(examples, size, steps) if batch else None
    away = []
    for n in range(len(examples.x)):
        own = copy.deepcopy(model)
        optimizer = make_optimizer(own.parameters())
        for t in range(steps):
            part = slice(t * size, (t + 1) * size)
            x, y = (b[n][part] for b in drawn) if drawn else (b[n] for b in examples)
            optimizer.zero_grad()
            loss(own(x), y).backward()
            optimizer.step()
        away.append([p - q for p, q in zip(trained(model), trained(own), strict=True)])
    return away


def trained(model: nn.Module) -> list[Tensor]:
    return [p.detach() for p in model.parameters()]


def mean(away: list[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(tensors).mean(0) for tensors in zip(*away, strict=True)]


# ------------------------------------------------------------------------------- the gradient


@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize("rule", RULES)
def test_the_gradient_is_phi_minus_theta(rule, batch):
    ours, theirs = RULES[rule]
    tasks, model = vector_tasks(), shaken(mlp(2, 5, 1))
    learner = Reptile(model, ours(), steps=5, batch=batch, loss=mse)
    away = walked(model, tasks, theirs, 5, batch, mse)
    torch.manual_seed(0)
    losses = learner(tasks)
    expected = [0.5 * sum(d.square().sum() for d in one) for one in away]
    torch.testing.assert_close(losses.detach(), torch.stack(expected), rtol=1e-10, atol=0)
    torch.manual_seed(0)
    assert relative_error(meta_gradient(learner, tasks), mean(away)) < 1e-12


def test_a_parameter_may_be_one_number():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.factor * x

    learner = Reptile(Scale(), SGD(0.1), steps=1, loss=mse)
    x = torch.ones(1, 4, 1)
    learner(Task(Batch(x, 5 * x), Batch(x, 5 * x))).sum().backward()
    # d/df (f - 5)^2 = -6 at 2, so the step goes up by 0.6
    assert torch.allclose(learner.model.factor.grad, torch.tensor(-0.6))


def test_gradient_descent_on_the_loss_is_the_published_update():
    epsilon, tasks, model = 0.3, vector_tasks(), shaken(mlp(2, 5, 1))
    away = mean(walked(model, tasks, RULES["sgd"][1], 3, 4, mse))
    expected = [p - epsilon * d for p, d in zip(trained(model), away, strict=True)]
    learner = Reptile(model, SGD(0.05), steps=3, batch=4, loss=mse)
    outer = torch.optim.SGD(learner.parameters(), lr=epsilon)
    torch.manual_seed(0)
    meta_train(learner, lambda _: tasks, 1, tasks=4, optimizer=outer, progress=False)
    assert relative_error(trained(model), expected) < 1e-12


def test_one_step_of_gradient_descent_is_joint_training():
    alpha, tasks, model = 0.05, vector_tasks(), shaken(mlp(2, 5, 1))
    joint = meta_gradient(Pretrained(model, inner_lr=alpha, loss=mse), tasks)
    one = meta_gradient(Reptile(model, SGD(alpha), steps=1, loss=mse), tasks)
    assert relative_error(one, [alpha * g for g in joint]) < 1e-12
    two = meta_gradient(Reptile(model, SGD(alpha), steps=2, loss=mse), tasks)
    assert relative_error(two, [2 * alpha * g for g in joint]) > 1e-3
    adam = meta_gradient(Reptile(model, Adam(alpha), steps=1, loss=mse), tasks)
    assert relative_error(adam, [alpha * g for g in joint]) > 1e-1


def test_the_gradient_of_tasks_with_weights():
    tasks, model = vector_tasks(), shaken(mlp(2, 5, 1))
    learner = Reptile(model, SGD(0.05), steps=5, batch=4, loss=mse)
    away = walked(model, tasks, RULES["sgd"][1], 5, 4, mse)
    weights = torch.tensor([0.5, 2.0, -1.0, 0.25], dtype=torch.float64)
    expected = [
        sum(w * d for w, d in zip(weights, ds, strict=True)) for ds in zip(*away, strict=True)
    ]
    for _ in range(3):  # plain, then recorded
        torch.manual_seed(0)
        losses = (weights * learner(tasks)).sum()
        torch.manual_seed(99)  # what is drawn in between does not matter
        gradient = torch.autograd.grad(losses, list(model.parameters()))
        assert relative_error(gradient, expected) < 1e-12


def test_weights_in_backward_with_dropout_take_the_same_masks():
    model = shaken(nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1)))
    learner = Reptile(model, SGD(0.05), steps=3, batch=4, loss=mse)
    tasks, phi = vector_tasks(), list(model.parameters())
    gradients = []
    for weights in ([1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]):
        torch.manual_seed(3)
        losses = learner(tasks)
        torch.manual_seed(99)
        total = (torch.tensor(weights, dtype=torch.float64) * losses).sum()
        gradients.append(torch.autograd.grad(total, phi))
    assert relative_error(
        [a + b for a, b in zip(*gradients[:2], strict=True)], gradients[2]
    ) < 1e-12  # fmt: skip


# -------------------------------------------------------------------------------- minibatches


def test_each_round_of_minibatches_takes_every_example_once():
    x = torch.arange(11.0).view(1, 11, 1).expand(6, 11, 1)
    size, steps = 4, 11  # 44 = 4 rounds of 11, and minibatches that reach into the next round
    torch.manual_seed(0)
    rows = minibatches(Batch(x, 10 * x), size, steps)
    assert rows.x.shape == (6, 44, 1)
    assert torch.equal(rows.y, 10 * rows.x)  # an example keeps its target
    rounds = rows.x.view(6, 4, 11)
    every = torch.arange(11.0).expand(6, 4, 11)
    assert torch.equal(rounds.sort(2).values, every)
    assert len({tuple(order) for order in rounds.flatten(0, 1).tolist()}) == 24  # all differ


def test_the_last_round_may_be_cut_short():
    x = torch.arange(10.0).view(1, 10, 1).expand(3, 10, 1)
    rows = minibatches(Batch(x, x), 4, 4).x[..., 0]  # 16 = 10 + 6
    assert rows.shape == (3, 16)
    for one in rows.tolist():
        assert sorted(one[:10]) == list(range(10))
        assert len(set(one[10:])) == 6


def test_the_order_is_drawn_from_the_global_generator_and_anew_in_every_step():
    tasks, model = vector_tasks(), shaken(mlp(2, 5, 1))
    learner = Reptile(model, SGD(0.05), steps=3, batch=4, loss=mse)
    torch.manual_seed(0)
    first, second = learner(tasks), learner(tasks)
    torch.manual_seed(0)
    again = learner(tasks)
    assert torch.equal(first, again)
    assert not torch.allclose(first, second, rtol=1e-6)


def test_support_and_query_are_one_set_of_examples():
    tasks, model = vector_tasks(), shaken(mlp(2, 5, 1))
    learner = Reptile(model, SGD(0.05), steps=3, loss=mse)
    exchanged = Task(tasks.query, tasks.support)
    assert relative_error(meta_gradient(learner, exchanged), meta_gradient(learner, tasks)) < 1e-12


def test_adapt_takes_the_whole_support_set_in_every_step():
    tasks, model = vector_tasks(), shaken(mlp(2, 5, 1))
    theta = Reptile(model, SGD(0.05), steps=2, batch=4, loss=mse).adapt(tasks.support, steps=3)
    own = copy.deepcopy(model)
    optimizer = torch.optim.SGD(own.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        mse(own(tasks.support.x[1]), tasks.support.y[1]).backward()
        optimizer.step()
    assert relative_error([t[1].detach() for t in theta.values()], trained(own)) < 1e-12


# ------------------------------------------------------------------- however it is worked out


@pytest.mark.parametrize("rule", RULES)
def test_groups_give_the_gradient_of_the_plain_loop(rule):
    ours, theirs = RULES[rule]
    tasks, model = image_tasks(tasks=5), shaken(conv4(5, channels=6))
    learner = Reptile(model, ours(), steps=3, batch=5)
    away = walked(model, tasks, theirs, 3, 5, cross_entropy)
    torch.manual_seed(0)
    with in_groups_of(1):
        gradient = meta_gradient(learner, tasks)
    # A bias before batch normalisation has the gradient 0, and Adam makes steps of its rounding.
    kept = [i for i, (name, _) in enumerate(model.named_parameters()) if not is_void(model, name)]
    expected = mean(away)
    tolerance = 1e-10 if rule == "sgd" else 1e-6
    assert relative_error([gradient[i] for i in kept], [expected[i] for i in kept]) < tolerance


def is_void(model: nn.Module, name: str) -> bool:
    module, kind = name.rsplit(".", 1)
    return kind == "bias" and isinstance(model.get_submodule(module), nn.Conv2d)


@pytest.mark.parametrize("batch", [None, 10])
@pytest.mark.parametrize("rule", RULES)
def test_recorded_and_not_it_is_the_same_step(rule, batch):
    ours, theirs = RULES[rule]
    model = shaken(mlp(1, 8, 8, 1))
    sines = sinusoid(shots=10, queries=15, seed=0, dtype=torch.float64)
    learner = Reptile(model, ours(), steps=4, batch=batch, loss=mse, record=True)
    recorded = []
    for call in range(4):  # of one shape, each with its own data, order and phi
        tasks = sines(3)
        away = walked(model, tasks, theirs, 4, batch, mse, seed=call)
        torch.manual_seed(call)
        with recorded_at_once():
            gradient = meta_gradient(learner, tasks)
        assert relative_error(gradient, mean(away)) < 1e-12
        recorded.append(len(recordings(learner)) > 0)
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradient, strict=True):
                p -= 0.5 * g
    assert recorded == [False, True, True, True]


def test_a_run_that_was_cut_off_goes_on_exactly(tmp_path):
    class Stop(Exception):
        pass

    def run(iterations, checkpoint=None, dies_at=None):
        learner = Reptile(mlp(1, 8, 1), Adam(0.01), steps=3, batch=4, loss=mse)
        sines, calls = sinusoid(seed=0), []

        def sample(tasks):
            calls.append(tasks)
            if len(calls) == dies_at:
                raise Stop
            return sines(tasks)

        sample.state_dict, sample.load_state_dict = sines.state_dict, sines.load_state_dict
        outer = torch.optim.SGD(learner.parameters(), lr=0.5)
        history = meta_train(
            learner, sample, iterations, tasks=3, optimizer=outer, progress=False,
            checkpoint=checkpoint, checkpoint_every=4,
        )  # fmt: skip
        return torch.cat([p.detach().flatten() for p in learner.parameters()]), history

    torch.manual_seed(0)
    whole, expected = run(10)
    path = tmp_path / "reptile.pt"
    torch.manual_seed(0)
    with pytest.raises(Stop):
        run(10, path, dies_at=7)
    torch.manual_seed(1234)  # another process has another random state
    resumed, history = run(10, path)
    assert torch.equal(resumed, whole)
    assert history.losses == expected.losses


# ------------------------------------------------------------------------------------- errors


def test_bad_arguments_say_what_they_are():
    model, rule = mlp(2, 5, 1), SGD(0.1)
    with pytest.raises(ValueError, match="steps=0 must be a whole number of at least 1"):
        Reptile(model, rule, steps=0, loss=mse)
    with pytest.raises(ValueError, match="batch=0 must be a whole number of at least 1"):
        Reptile(model, rule, steps=1, batch=0, loss=mse)
    with pytest.raises(ValueError, match="lr=-1 must be a finite number above 0"):
        Reptile(model, SGD(-1), steps=1)
    with pytest.raises(ValueError, match="running statistics"):
        Reptile(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), rule, steps=1)
    with pytest.raises(ValueError, match=r"would never learn .*rule"):
        Reptile(model, LearnedRates(dict(model.named_parameters()), lr=0.1), steps=1)


def test_bad_tasks_say_what_they_are():
    tasks = vector_tasks(shots=6, queries=3)
    learner = Reptile(mlp(2, 5, 1).double(), SGD(0.1), steps=2, batch=10, loss=mse)
    with pytest.raises(ValueError, match="batch=10 asks for more examples than the 9 of a task"):
        learner(tasks)
    with pytest.raises(ValueError, match="labels run from 0 to 4, but the model's outputs have 3"):
        Reptile(conv4(3, channels=4).double(), SGD(0.1), steps=1)(image_tasks())
