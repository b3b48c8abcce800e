"""Functions of one task on the tensors of all tasks: the value of each alone, or given up."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metanotes import MAML, Batch, Task, cross_entropy, mse
from metanotes.engine import plan_for
from metanotes.engine.stacked import Stacked
from metanotes.nets import mlp
from metanotes.theta import How, in_force, over_tasks
from metanotes.theta.task_axis import NotStackable

T, N, IN, OUT = 3, 4, 5, 2


def random(*shape, seed=0):
    g = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()


labels = torch.randint(OUT, (T, N), generator=torch.Generator().manual_seed(0))
some_ignored = labels.masked_fill(torch.arange(T * N).view(T, N) % 3 == 0, -100)
FUNCTIONS = {
    "linear": (F.linear, random(T, N, IN), random(T, OUT, IN), random(T, OUT)),
    "without a bias": (F.linear, random(T, N, IN), random(T, OUT, IN)),
    "flat": (lambda x, w: F.linear(x.flatten(1), w), random(T, N, IN, 3), random(T, OUT, 15)),
    "activations": (lambda x: F.silu(torch.tanh(F.gelu(x).sigmoid())), random(T, N, IN)),
    "mean squares": (F.mse_loss, random(T, N, IN), random(T, N, IN, seed=1)),
    "labels": (F.cross_entropy, random(T, N, OUT), labels),
    "some ignored": (F.cross_entropy, random(T, N, OUT), some_ignored),
    "a loss module": (nn.CrossEntropyLoss(), random(T, N, OUT), labels),
    "probabilities": (F.cross_entropy, random(T, N, OUT), random(T, N, OUT).detach().softmax(-1)),
}


def derivatives(function, inputs, how):
    """The values, their gradients, and what is pulled back through these."""
    inputs = [t.detach().requires_grad_(t.is_floating_point()) for t in inputs]
    real = [t for t in inputs if t.requires_grad]
    with in_force(how):
        y = over_tasks(function)(*inputs)
    first = torch.autograd.grad(y, real, random(*y.shape), create_graph=True)
    total = sum((g * random(*g.shape)).sum() for g in first)
    second = torch.autograd.grad(total, real, materialize_grads=True)
    return [y, *first, *second]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_derivatives_are_those_of_each_task_alone(name):
    function, *inputs = FUNCTIONS[name]
    stacked = derivatives(function, inputs, How(at_once=True, stacked=Stacked, on_trial=True))
    for a, b in zip(stacked, derivatives(function, inputs, How()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_parameters_that_all_tasks_share_stay_as_they_are():
    shared, bias = random(OUT, IN), random(OUT)
    for b in (None, bias, random(T, OUT)):
        args = (random(T, N, IN),) if b is None or b.ndim == 1 else (random(T, N, IN), b)

        def function(x, own=b):
            return F.linear(x, shared, own)

        stacked = derivatives(function, args, How(at_once=True, stacked=Stacked, on_trial=True))
        for a, right in zip(stacked, derivatives(function, args, How()), strict=True):
            torch.testing.assert_close(a, right, rtol=1e-12, atol=1e-12)


def test_a_hook_may_ask_what_is_the_same_for_all_tasks():
    kinds = []
    model = nn.Sequential(nn.Linear(IN, OUT))
    model.register_forward_hook(lambda m, x, y: kinds.append((y.dtype, y.requires_grad)))
    learner = MAML(model, 0.1)
    assert plan_for(learner, tasks_of()).how.stacked is Stacked
    kinds.clear()
    learner(tasks_of())
    assert kinds == [(torch.float32, True)] * 2


REFUSED = {
    "a product": lambda x: 2 * x,
    "a shape": lambda x: F.relu(x) if x.shape[0] == N else x,
    "a number of examples": lambda x: F.relu(x) if len(x) == N else x,
    "an index": lambda x: x[:2],
    "a mean over the examples": lambda x: F.relu(x).mean(0),
    "all axes flat": lambda x: x.flatten(),
    "a loss that is not a mean": lambda x: F.mse_loss(x, x, reduction="sum"),
    "smoothed labels": lambda x: F.cross_entropy(x, torch.zeros(N).long(), label_smoothing=0.1),
    "outputs and targets that broadcast": lambda x: F.mse_loss(x, torch.zeros(1)),
    "dropout": lambda x: F.dropout(x, 0.5),
    "softmax": lambda x: F.softmax(x, 0),
}


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", REFUSED)
def test_whatever_else_is_given_up_and_worked_out_one_by_one(name):
    function, x = REFUSED[name], random(T, N, IN)
    with (
        in_force(How(at_once=True, stacked=Stacked, on_trial=True)),
        pytest.raises(NotStackable),
    ):
        over_tasks(function)(x)
    results = []
    for how in (How(at_once=True, stacked=Stacked), How()):
        torch.manual_seed(0)
        with in_force(how):
            results.append(over_tasks(function)(x))
    assert torch.equal(*results)


def tasks_of(learner_input=IN):
    x, y = random(T, N, learner_input).detach().float(), labels
    return Task(Batch(x, y), Batch(x + 1, y))


def test_a_dense_network_is_stacked_and_one_that_mixes_examples_is_not():
    def stacked(model, loss=cross_entropy):
        return plan_for(MAML(model, 0.1, loss=loss), tasks_of()).how.stacked is Stacked

    assert stacked(mlp(IN, 6, OUT))
    assert stacked(nn.Sequential(nn.Flatten(), nn.Linear(IN, 6), nn.Tanh(), nn.Linear(6, OUT)))
    assert not stacked(nn.Sequential(nn.Linear(IN, OUT), nn.Softmax(0)))
    assert not stacked(mlp(IN, 6, OUT), lambda o, y: 2 * cross_entropy(o, y))


def test_what_changes_after_the_plan_is_not_missed():
    tasks, model = tasks_of(), mlp(IN, 6, OUT)
    learner = MAML(model, 0.1, 2)
    learner(tasks)
    learner.loss = lambda o, y: 2 * cross_entropy(o, y)
    assert torch.allclose(learner(tasks), MAML(model, 0.1, 2, loss=learner.loss)(tasks))
    model[1].forward = lambda x: x * x  # of the same class, so that the plan is the same
    plain = MAML(model, 0.1, 2, loss=learner.loss)
    assert torch.allclose(learner(tasks), plain.query_losses(tasks), rtol=1e-5)
    learner.loss = mse
    with pytest.raises(ValueError, match=r"a target has the shape"):
        learner(tasks)
