"""Models that a reader may well have: the value is that of a plain loop, or an error says why."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from metanotes import MAML, Adam, Batch, InnerLoopLearner, PrototypicalNetwork, Task, evaluate, mse
from metanotes.methods.optimizers import trajectory
from metanotes.task import Functions, select
from metanotes.update_rules import SGD
from tests.plainly import meta_gradient, plain_loop, relative_error, vector_tasks


class Recomputing(nn.Module):
    """Works its first layer out again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 6), nn.Linear(6, 1)

    def forward(self, x):
        return self.b(checkpoint(lambda x: torch.tanh(self.a(x)), x, use_reentrant=False))


class Listed(nn.Module):
    """Reaches its weight by a list too."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(1, 2))
        self.ws = [self.w]

    def forward(self, x):
        return torch.tanh(F.linear(x, self.ws[0]))


class Tied(nn.Module):
    """A decoder that holds the encoder's weight as an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.decode = partial(F.linear, weight=self.a.weight)

    def forward(self, x):
        return self.decode(torch.tanh(self.a(x))).sum(1, keepdim=True)


@pytest.mark.parametrize("model", [Recomputing, Listed, Tied])
@pytest.mark.parametrize("options", [{}, {"first_order": True}, {"checkpoint": True}])
def test_a_model_that_somewhere_sees_its_own_weights_is_refused(model, options) -> None:
    made = model().double()
    before = copy.deepcopy(made.state_dict())
    with pytest.raises(ValueError, match="sees its own weights and not those of the inner step"):
        MAML(made, 0.1, 2, loss=mse, **options)(vector_tasks())
    assert all(torch.equal(t, before[name]) for name, t in made.state_dict().items())


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, 1, dtype=torch.complex64))

    def forward(self, x):
        return (x.to(self.w) @ self.w).abs()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Complex(), r"'w' is torch\.complex64: keep real parameters"),
        (
            nn.Sequential(nn.Embedding(9, 3, sparse=True), nn.Flatten(), nn.Linear(6, 1)),
            r"embedding '0' has sparse=True.*sparse=False",
        ),
        (nn.EmbeddingBag(9, 1, sparse=True), r"embedding 'EmbeddingBag' has sparse=True"),
    ],
)
def test_parameters_that_no_inner_step_can_work_with_are_refused(model, message) -> None:
    with pytest.raises(ValueError, match=message):
        MAML(model, 0.1, 2, loss=mse)


def test_a_sparse_embedding_that_is_frozen_is_no_obstacle() -> None:
    model = nn.Sequential(nn.Embedding(9, 3, sparse=True), nn.Flatten(), nn.Linear(6, 1))
    model[0].requires_grad_(False)
    x, y = torch.randint(9, (4, 5, 2)), torch.randn(4, 5, 1)
    learner = MAML(model, 0.1, 2, loss=mse, adapts="head")
    assert learner(Task(Batch(x, y), Batch(x, y))).isfinite().all()


class Headed(nn.Module):
    """No nn.Sequential, and a parameter with the name of a part of one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(2, 3), nn.Parameter(torch.randn(3, 1))

    def forward(self, x):
        return torch.tanh(self.a(x)) @ self.head


def test_a_parameter_that_is_called_head_may_adapt() -> None:
    learner = MAML(Headed().double(), 0.1, 2, loss=mse, adapts="head")
    assert list(learner.phi()) == ["head"]
    assert list(learner.adapt(vector_tasks().support)) == ["head"]


def test_a_cache_of_parametrizations_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    parametrize.register_parametrization(model[0], "weight", nn.Tanh())
    learner = MAML(model, 0.1, 2, loss=mse)
    learner(vector_tasks())
    with parametrize.cached(), pytest.raises(ValueError, match=r"parametrize\.cached\(\)"):
        learner(vector_tasks())


class Averaging(nn.Module):
    """Assigns a running mean to its buffer."""

    def __init__(self, out: int = 1) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 4), nn.Linear(4, out)
        self.register_buffer("mu", torch.zeros(4))

    def forward(self, x):
        h = torch.tanh(self.a(x))
        self.mu = 0.9 * self.mu + 0.1 * h.mean(0)
        return self.b(h - self.mu)


def test_a_buffer_that_is_assigned_is_seen_and_the_model_left_whole() -> None:
    model = Averaging().double()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"writes to its buffers \['mu'\]"):
        MAML(model, 0.1, 2, loss=mse)(vector_tasks())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    copy.deepcopy(model)(torch.ones(3, 2).double())
    tasks = vector_tasks()
    labels = (torch.arange(t.shape[1]).remainder(2).expand(t.shape[:2]) for _, t in tasks)
    labelled = Task(*(Batch(x, y) for (x, _), y in zip(tasks, labels, strict=True)))
    PrototypicalNetwork(Averaging(3).double(), 2)(labelled)  # no dead tensor of vmap's is left


def test_a_parameter_that_is_written_is_seen() -> None:
    words = [Batch(torch.randint(9, y.shape[:2]), y.expand(-1, -1, 3)) for _, y in vector_tasks()]
    learner = MAML(nn.Embedding(9, 3, max_norm=50.0).double(), 0.1, loss=mse)
    with pytest.raises(ValueError, match=r"parameters \['weight'\], as max_norm= of an embedding"):
        learner(Task(*words))


def test_an_overridden_loss_is_given_the_inputs_and_not_features() -> None:
    class Doubled(MAML):
        def task_loss(self, theta, x, y, model=None):
            return super().task_loss(theta, 2 * x, y, model)

    class Whole(nn.Module):
        def __init__(self, m) -> None:
            super().__init__()
            self.m = m

        def forward(self, x):
            return self.m(x)

    net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    split = Doubled(net, 0.1, 2, loss=mse, adapts="head")
    whole = Doubled(Whole(net), 0.1, 2, loss=mse, adapts="m.2")
    gradients = [meta_gradient(learner, vector_tasks()) for learner in (split, whole)]
    assert relative_error(*gradients) < 1e-12


class Energy(nn.Module):
    """Puts out the slope of what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1, bias=False))

    def forward(self, x):
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
        return slope.sum(1, keepdim=True)


class Guarded(nn.Module):
    """Checks its inputs."""

    def __init__(self, net: nn.Module, bound: float) -> None:
        super().__init__()
        self.net, self.bound = net, bound

    def forward(self, x):
        assert (x.abs() <= self.bound).all()
        return self.net(x)


def test_a_model_that_differentiates_and_one_that_checks_its_inputs_are_right() -> None:
    tasks, net = vector_tasks(), nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1))
    bound = float(max(x.abs().max() for x, _ in tasks))
    for model in (Energy().double(), Guarded(net.double(), bound)):
        ours = meta_gradient(MAML(model, 0.1, 2, loss=mse), tasks)
        assert relative_error(ours, plain_loop(model, tasks, 0.1, 2, mse)) < 1e-10


def test_a_loss_that_is_linear_in_theta_has_its_gradient() -> None:
    def hinge(outputs, y):
        return (1 - outputs * y.sign()).clamp(min=0).mean()

    tasks, model = vector_tasks(), nn.Linear(2, 1).double()
    ours = meta_gradient(MAML(model, 0.01, 2, loss=hinge), tasks)
    assert relative_error(ours, plain_loop(model, tasks, 0.01, 2, hinge)) < 1e-10


def test_frequencies_of_tokens_are_those_of_each_task() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(5, (4, 6, 3), generator=g)
    x[1] += 5  # the first two tasks share no token, and later ones do
    y = torch.randn(4, 6, 1, generator=g).double()
    tasks = Task(Batch(x, y), Batch(x.flip(1), y.flip(1)))
    net = nn.Sequential(
        nn.Embedding(10, 4, scale_grad_by_freq=True), nn.Flatten(1), nn.Linear(12, 1)
    ).double()
    learner = MAML(net, 0.1, loss=mse, adapts="head")
    ours = meta_gradient(learner, tasks)
    alone = [meta_gradient(learner, select(tasks, slice(n, n + 1))) for n in range(4)]
    mean = [sum(parts) / 4 for parts in zip(*alone, strict=True)]
    assert relative_error(ours, mean) < 1e-12


def test_padding_in_later_functions_only_is_heeded() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(1, 7, (3, 5, 3), generator=g)
    x[2, :, 0] = 0
    y = torch.randn(3, 5, generator=g).double()
    theta = {"e": torch.randn(3, 7, 4, generator=g).double()}

    def f(theta, x, y):
        return (F.embedding(x, theta["e"], padding_idx=0).sum((1, 2)) - y).square().mean()

    def ends(part: slice) -> torch.Tensor:
        batch = Batch(x[part], y[part])
        functions = Functions(f, {"e": theta["e"][part]}, iter([batch] * 4))
        return trajectory(SGD(0.05), functions, 3)[0][:, -1]

    alone = torch.cat([ends(slice(n, n + 1)) for n in range(3)])
    torch.testing.assert_close(ends(slice(None)), alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adam_moves_in_low_precision_as_torchs_does(dtype) -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 1).to(dtype)
    tasks = Task(*(Batch(x.to(dtype), y.to(dtype)) for x, y in vector_tasks()))
    learner = InnerLoopLearner(model, Adam(0.01), 3, loss=mse)
    moved = learner.adapt(tasks.support)["weight"] - model.weight
    assert 0.02 < moved.abs().max() < 0.04
    learner(tasks).mean().backward()
    assert torch.isfinite(model.weight.grad).all()


def test_the_same_tasks_again_are_not_counted_again_and_nan_is_no_class() -> None:
    y = torch.arange(6).remainder(3).expand(5, 6)
    tasks = Task(Batch(torch.randn(5, 6, 2), y), Batch(torch.randn(5, 6, 2), y))
    learner = MAML(nn.Linear(2, 3), 0.1)
    assert len(evaluate(learner, lambda _: tasks, tasks=5).values) == 5
    with pytest.raises(ValueError, match=r"gave the same 5 tasks again.*tasks=5 judges each once"):
        evaluate(learner, lambda _: tasks, tasks=600)

    def labels_stay(n: int) -> Task:
        return Task(Batch(torch.randn(5, 6, 2), y), Batch(torch.randn(5, 6, 2), y))

    def refilled(n: int) -> Task:
        tasks.query.x.normal_()
        return tasks

    for sampler in (labels_stay, refilled):  # other tasks in the same tensors
        assert len(evaluate(learner, sampler, tasks=20).values) == 20
    with torch.no_grad():
        learner.model.weight.fill_(math.nan)
    assert evaluate(learner, lambda _: tasks, tasks=5).mean == 0


class OwnStatistics(nn.Module):
    """Writes to its buffers as torch's normalizations do, without a new version of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(3, 1)
        self.register_buffer("mu", torch.zeros(3))
        self.register_buffer("nu", torch.ones(3))

    def forward(self, x):
        return self.b(F.batch_norm(self.a(x), self.mu, self.nu, training=True))


def test_statistics_of_the_readers_own_are_refused() -> None:
    with pytest.raises(ValueError, match=r"writes to its buffers \['mu', 'nu'\]"):
        MAML(OwnStatistics().double(), 0.1, loss=mse)(vector_tasks())
