"""Recordings: asked for, checked, and dropped."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from metanotes import MAML, Adam, Batch, Task, meta_train, mse
from metanotes.data import sinusoid
from metanotes.engine import recording, recordings
from metanotes.engine.graph import turn_products
from metanotes.inner_loop_learner import InnerLoopLearner
from metanotes.nets import mlp
from tests.plainly import (
    meta_gradient,
    plain_loop,
    recorded_at_once,
    relative_error,
    shaken,
    vector_tasks,
)
from tests.plainly import recordings as recordings_of


def networks() -> dict[str, nn.Module]:
    tied = mlp(2, 6, 6, 6, 1)
    tied[4].weight = tied[2].weight
    frozen = mlp(2, 6, 6, 1)
    frozen[0].requires_grad_(False)
    return {
        "multi-layer perceptron": mlp(2, 6, 1),
        "layer norm": nn.Sequential(nn.Linear(2, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 1)),
        "dropout": nn.Sequential(nn.Linear(2, 9), nn.Tanh(), nn.Dropout(0.4), nn.Linear(9, 1)),
        "in place": nn.Sequential(nn.Linear(2, 6), nn.ReLU(inplace=True), nn.Linear(6, 1)),
        "shared weights": tied,
        "frozen parameters": frozen,
        "batch norm": nn.Sequential(
            nn.Linear(2, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 1)
        ),
    }


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize("name", networks())
def test_a_recording_gives_what_it_recorded(name, rule):
    model = shaken(networks()[name])

    def make(**options: bool) -> InnerLoopLearner:
        if rule == "adam":
            return InnerLoopLearner(model, Adam(0.01), steps=3, loss=mse, **options)
        return MAML(model, inner_lr=0.1, steps=3, loss=mse, **options)

    learner, plain = make(record=True), make()
    with recorded_at_once():
        for scale in (1, 1, 1, 2):
            tasks = vector_tasks()
            tasks = tasks._replace(query=Batch(tasks.query.x * scale, tasks.query.y))
            gradients = []
            for which in (learner, plain):
                torch.manual_seed(5)
                gradients.append(meta_gradient(which, tasks))
            assert relative_error(*gradients) < 1e-12
    assert len(recordings_of(learner)) == 1
    assert not recordings_of(plain)


def test_nothing_is_recorded_that_was_not_asked_for():
    learner, tasks = MAML(mlp(2, 4, 1).double(), inner_lr=0.1, loss=mse), vector_tasks()
    with recorded_at_once():
        for _ in range(4):
            learner(tasks)
        assert not learner.workshop.recordings
        with recording(learner):
            for _ in range(4):
                learner(tasks)
            assert len(recordings_of(learner)) == 1
        assert not learner.workshop.recordings  # dropped at the end


def test_a_shape_is_recorded_after_it_was_seen_often():
    learner, tasks = MAML(mlp(2, 1).double(), inner_lr=0.1, loss=mse, record=True), vector_tasks()
    for _ in range(recordings.SIGHTS):
        learner(tasks)
    assert not recordings_of(learner)
    learner(tasks)
    assert len(recordings_of(learner)) == 1


def test_meta_train_asks_for_recordings_and_drops_them(monkeypatch):
    model, played = mlp(1, 4, 1), []
    learner = MAML(model, inner_lr=0.01, loss=mse)
    play = recordings.Recording.play
    monkeypatch.setattr(recordings.Recording, "play", lambda *a: played.append(1) or play(*a))
    with recorded_at_once():
        meta_train(learner, sinusoid(seed=0), iterations=5, tasks=4, progress=False)
    assert len(played) == 4
    assert not learner.workshop.recordings


def test_a_recording_follows_settings_that_change():
    model = nn.Sequential(nn.Linear(2, 4), nn.ELU(), nn.Dropout(0.5), nn.Linear(4, 1)).double()
    model[0].requires_grad_(False)
    learner = MAML(model, inner_lr=0.1, steps=2, loss=mse, record=True).eval()
    tasks, lr = vector_tasks(), 0.1

    def check() -> None:
        with recorded_at_once():
            for _ in range(3):
                torch.manual_seed(1)
                ours = meta_gradient(learner, tasks)
        if not model[2].training:
            assert relative_error(ours, plain_loop(model, tasks, lr, learner.steps, mse)) < 1e-10

    check()
    with torch.no_grad():
        model[3].weight += 0.1
    check()
    with torch.no_grad():
        model[0].weight += 0.1
    check()
    model[1].alpha = 0.3
    check()
    model[3].bias.requires_grad_(False)
    check()
    learner.train()
    check()
    learner.eval()
    for lr in torch.linspace(0.05, 0.2, 4).double().numpy():
        learner.rule.lr = lr
        check()
    learner.steps = torch.tensor(3).numpy()[()]
    check()
    model[1] = nn.Tanh()
    check()
    assert len(recordings_of(learner)) > 5


class Cooling(nn.Linear):
    """Looks at more than its tensors."""

    temperature = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / self.temperature


def foreign(what: str) -> tuple[nn.Module, object]:
    """A model of which nobody can know what it looks at, and its loss."""
    model, loss = shaken(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))), mse
    if what == "a module":
        model[2] = Cooling(4, 1).double()
    elif what == "a loss":
        return model, lambda out, y: mse(out, y)
    elif what == "an activation":
        model[1] = nn.TransformerEncoderLayer(
            4, 1, 4, dropout=0.0, activation=lambda x: x.sin(), batch_first=True
        ).double()
    elif what == "a forward of its own":
        model[1].forward = lambda x: x.sin()
    elif what == "a hook":
        model[1].register_forward_hook(lambda *_: None)
    return model, loss


@pytest.mark.parametrize(
    "what", ["a module", "a loss", "an activation", "a forward of its own", "a hook"]
)
def test_a_training_loop_never_records_what_may_look_at_more_than_tensors(what):
    model, loss = foreign(what)
    learner, tasks = MAML(model, inner_lr=0.1, loss=loss), vector_tasks()
    with recorded_at_once(), recording(learner):
        for _ in range(4):
            learner(tasks)
        assert not recordings_of(learner)


def test_what_changes_behind_a_recording_is_an_error():
    model, tasks = Cooling(2, 1).double(), vector_tasks()
    learner = MAML(model, inner_lr=0.1, loss=mse, record=True)
    with recorded_at_once():
        for _ in range(3):
            learner(tasks)
        assert recordings_of(learner)
        Cooling.temperature = 2.0  # of the class: no setting of the module
        try:
            with pytest.raises(RuntimeError, match="recorded operations give other losses"):
                learner(tasks)
        finally:
            Cooling.temperature = 1.0


def test_tasks_that_lie_otherwise_in_memory_have_a_recording_of_their_own():
    model, tasks = shaken(mlp(2, 6, 1)), vector_tasks()
    other = Task(*(Batch(*(t.mT.contiguous().mT for t in batch)) for batch in tasks))
    learner = MAML(model, inner_lr=0.1, steps=2, loss=mse, record=True)
    expected = plain_loop(model, tasks, 0.1, 2, mse)
    with recorded_at_once():
        for these in (tasks, tasks, other, other):
            assert relative_error(meta_gradient(learner, these), expected) < 1e-10
    assert len(recordings_of(learner)) == 2


def test_products_are_turned_where_their_transpose_is_asked_for():
    a, b, c, d = (torch.rand(2, *shape).double() for shape in ((3, 4), (4, 5), (3, 6), (6, 5)))

    def function(a, b, c, d):
        kept = a.bmm(b)  # used as it is, too
        other = b.transpose(1, 2).bmm(a.transpose(1, 2)).transpose(1, 2)
        return (c.bmm(d) + other).transpose(1, 2) + kept.transpose(1, 2), kept.exp()

    graph = make_fx(function)(a, b, c, d)
    before = graph(a, b, c, d)
    turn_products(graph)
    for result, was in zip(graph(a, b, c, d), before, strict=True):
        torch.testing.assert_close(result, was, rtol=1e-12, atol=0)
    aten = torch.ops.aten
    turned = [n.args[0] for n in graph.graph.nodes if n.target is aten.transpose.int]
    products = [n for n in turned if n.target is aten.bmm.default]
    assert len(products) == 1
    assert len(products[0].users) == 2  # the one that is kept
    assert not any(n.target is aten.add.Tensor for n in turned)


def test_recording_leaves_out_what_changes_nothing(monkeypatch):
    learner, counts = MAML(mlp(2, 6, 6, 1), inner_lr=0.1, steps=2, loss=mse, record=True), []
    tasks = Task(*(Batch(*(t.float() for t in batch)) for batch in vector_tasks()))
    simplify = recordings.simplify

    def counting(graph, inputs):
        counts.append(len(graph.graph.nodes))
        simplify(graph, inputs)
        counts.append(len(graph.graph.nodes))

    monkeypatch.setattr(recordings, "simplify", counting)
    with recorded_at_once():
        learner(tasks), learner(tasks)
    assert counts[1] < 0.85 * counts[0]


def test_recordings_are_forgotten_one_by_one(monkeypatch):
    monkeypatch.setattr(recordings, "KEPT", 3)
    learner = MAML(mlp(2, 1).double(), inner_lr=0.1, loss=mse, record=True)
    with recorded_at_once():
        for shots in range(1, 8):
            for _ in range(2):
                learner(vector_tasks(shots=shots))
    assert len(recordings_of(learner)) == 3


def test_a_learner_with_recordings_can_be_copied_and_saved():
    learner = MAML(mlp(2, 4, 1).double(), inner_lr=0.1, loss=mse, record=True)
    tasks = vector_tasks()
    with recorded_at_once():
        for _ in range(3):
            expected = meta_gradient(learner, tasks)
    for twin in (copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))):
        assert not twin.workshop.recordings
        assert relative_error(meta_gradient(twin, tasks), expected) < 1e-12
    assert recordings_of(learner)


@pytest.mark.parametrize("recorded", [False, True])
def test_unequal_weights_and_the_same_dropout_masks(recorded):
    model = shaken(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, 1)))
    tasks, phi = vector_tasks(), list(model.parameters())
    learner = MAML(model, inner_lr=0.2, steps=2, loss=mse, record=recorded)
    kept = MAML(model, inner_lr=0.2, steps=2, loss=mse, keep_graph=True)
    weights = torch.tensor([0.1, 2.0, -1.0, 0.5]).double()
    with recorded_at_once():
        for _ in range(3):
            gradients = []
            for which in (learner, kept):
                torch.manual_seed(7)
                gradients.append(torch.autograd.grad((weights * which(tasks)).sum(), phi))
            assert relative_error(*gradients) < 1e-10


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of torch.compile's own making
def test_a_compiled_meta_step_gives_the_same_gradient():
    tasks, model = vector_tasks(), shaken(mlp(2, 6, 1))
    other = Task(*(Batch(*(t.mT.contiguous().mT for t in batch)) for batch in tasks))
    learner = MAML(model, inner_lr=0.1, steps=2, loss=mse, compile=True)
    for these in (tasks, tasks, other):
        ours = meta_gradient(learner, these)
        assert relative_error(ours, plain_loop(model, tasks, 0.1, 2, mse)) < 1e-10
        with torch.no_grad():
            model[0].weight += 0.1
    assert recordings_of(learner)
    learner.rule.lr, learner.steps = 0.2, 1  # each is seen, and compiled anew
    expected = plain_loop(model, tasks, 0.2, 1, mse)
    assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_compiled_meta_step_draws_the_random_numbers_of_one_that_is_not():
    model = shaken(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, 1)))
    tasks, gradients = vector_tasks(), []
    weights = torch.tensor([0.1, 2.0, -1.0, 0.5]).double()
    for compile in (False, True):
        learner = MAML(model, inner_lr=0.2, steps=2, loss=mse, compile=compile)
        torch.manual_seed(7)
        losses = [learner(tasks) for _ in range(2)][-1]
        gradients.append(torch.autograd.grad(losses.sum(), learner.parameters(), retain_graph=True))
        gradients.append(torch.autograd.grad((weights * losses).sum(), learner.parameters()))
    assert relative_error(gradients[2], gradients[0]) < 1e-10
    assert relative_error(gradients[3], gradients[1]) < 1e-10


def test_autocast_is_obeyed_recorded_or_not():
    model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))
    tasks = Task(*(Batch(*(t.float() for t in batch)) for batch in vector_tasks()))
    learner = MAML(model, inner_lr=0.1, steps=2, loss=mse, record=True)
    with recorded_at_once():
        exact = [meta_gradient(learner, tasks) for _ in range(3)][-1]
        with torch.autocast("cpu", torch.bfloat16):
            rough = [meta_gradient(learner, tasks) for _ in range(3)]
        assert relative_error(rough[0], rough[2]) < 1e-2
        assert 1e-5 < relative_error(rough[0], exact) < 0.05
        assert relative_error(meta_gradient(learner, tasks), exact) < 1e-5


def test_nothing_is_recorded_without_gradients():
    learner = MAML(mlp(2, 4, 1).double(), inner_lr=0.1, loss=mse, record=True)
    with recorded_at_once(), torch.no_grad():
        for _ in range(3):
            assert not learner(vector_tasks()).requires_grad
    assert not learner.workshop.recordings
