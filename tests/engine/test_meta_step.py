"""However a meta-step is worked out, it is the same meta-step."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

import metanotes.engine.step
from metanotes import MAML, Adam, Batch, Task, evaluate, mse
from metanotes.engine.step import record, turn_products
from metanotes.inner_loop_learner import InnerLoopLearner
from metanotes.nets import conv4, mlp
from tests.plainly import (
    MODELS,
    image_tasks,
    meta_gradient,
    plain_loop,
    relative_error,
    shaken,
    vector_tasks,
)


@pytest.fixture
def groups_of(monkeypatch):
    """Makes everything large, and groups of so many tasks; gives the sizes of those worked on."""
    sizes = []
    split = metanotes.engine.step.in_groups

    def watched(learner, tasks):
        groups = split(learner, tasks)
        sizes.extend(len(group.support.x) for group in groups)
        return groups

    def set_to(size: int, learner: InnerLoopLearner, tasks: Task) -> list[int]:
        flops = learner.trial(tasks.support).flops
        monkeypatch.setattr(metanotes.engine.step, "LARGE", -1)
        monkeypatch.setattr(metanotes.engine.step, "GROUP", size * flops)
        monkeypatch.setattr(metanotes.engine.step, "in_groups", watched)
        return sizes

    return set_to


# --------------------------------------------------------------------------------- in groups


@pytest.mark.parametrize("name", MODELS)
def test_groups_give_the_gradient_of_the_plain_loop(name, groups_of):
    tasks, model = image_tasks(tasks=5), shaken(MODELS[name]())
    learner = MAML(model, inner_lr=0.1, steps=2)
    expected = plain_loop(model, tasks, 0.1, 2, learner.loss)
    sizes = groups_of(2, learner, tasks)
    first = meta_gradient(learner, tasks)
    assert relative_error(first, expected) < 1e-10
    assert sizes == [2, 2, 1]
    assert all(map(torch.equal, meta_gradient(learner, tasks), first))  # and once more, bit by bit


def test_with_checkpoints_a_group_is_half_as_large(groups_of):
    tasks = image_tasks(tasks=5)
    learner = MAML(shaken(conv4(5, channels=4)), inner_lr=0.1, steps=2, checkpoint=True)
    sizes = groups_of(4, learner, tasks)
    meta_gradient(learner, tasks)
    assert sizes == [2, 2, 1]


def test_the_losses_keep_the_order_of_the_tasks(groups_of):
    tasks, model = vector_tasks(tasks=7), shaken(mlp(2, 4, 1))
    learner = MAML(model, inner_lr=0.1, steps=2, loss=mse)
    with torch.no_grad():
        together = learner(tasks)
    groups_of(2, learner, tasks)
    torch.testing.assert_close(learner(tasks).detach(), together, rtol=1e-12, atol=0)


@pytest.mark.parametrize("noise", [False, True])
def test_unequal_weights_of_the_tasks_reach_every_group(noise, groups_of):
    model = shaken(nn.Sequential(nn.Linear(2, 6), nn.Dropout(0.3 * noise), nn.Linear(6, 1)))
    tasks, weights = vector_tasks(tasks=5), torch.arange(5.0).double()
    learner = MAML(model, inner_lr=0.1, steps=2, loss=mse)
    sizes = groups_of(2, learner, tasks)
    parameters = list(model.parameters())
    torch.manual_seed(1)
    losses = learner(tasks)
    assert sizes == [2, 2, 1]
    weighted = torch.autograd.grad((weights * losses).sum(), parameters)
    each = []
    for n in range(5):  # the derivative of each loss by itself, with the same noise
        torch.manual_seed(1)
        losses = learner(tasks)
        each.append(torch.autograd.grad(losses[n], parameters))
    expected = [
        sum(w * g for w, g in zip(weights, gs, strict=True)) for gs in zip(*each, strict=True)
    ]
    assert relative_error(weighted, expected) < 1e-10


def test_real_work_is_found_large_and_small_work_small():
    images, sines = image_tasks(tasks=2), vector_tasks()
    conv = MAML(conv4(5).double(), inner_lr=0.1)
    small = MAML(mlp(2, 4, 1).double(), inner_lr=0.1, loss=mse)
    assert metanotes.engine.step.is_large(conv, images)
    assert not metanotes.engine.step.is_large(small, sines)


def test_evaluation_in_groups_is_that_of_all_tasks_at_once(monkeypatch):
    tasks = image_tasks(tasks=5)
    learner = MAML(shaken(conv4(5, channels=4)), inner_lr=0.1, steps=2)
    scores, group = [], 2 * learner.trial(tasks.support).flops
    monkeypatch.setattr(metanotes.engine.step, "GROUP", group)
    for large in (1e12, -1):
        monkeypatch.setattr(metanotes.engine.step, "LARGE", large)
        for transductive in (False, True):
            score = evaluate(
                learner, lambda n: tasks, 5, transductive=transductive, metric=learner.loss
            )
            scores.append(score.values)
    torch.testing.assert_close(scores[:2], scores[2:], rtol=1e-10, atol=0)


# -------------------------------------------------------------------------------- recordings


def is_recorded(learner: InnerLoopLearner) -> bool:
    return any(play is not None for play in learner.recordings.values())


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
def test_a_recording_gives_every_bit_of_what_it_recorded(name, rule):
    model = shaken(networks()[name])
    learner = MAML(model, inner_lr=0.1, steps=3, loss=mse)
    if rule == "adam":
        learner = InnerLoopLearner(model, Adam(0.01), steps=3, loss=mse)
    learner.trial(vector_tasks().support)
    gradients = []
    for scale in (1, 1, 1, 2):
        torch.manual_seed(5)
        tasks = vector_tasks()
        tasks = tasks._replace(query=Batch(tasks.query.x * scale, tasks.query.y))
        gradients.append([g.clone() for g in meta_gradient(learner, tasks)])
    assert is_recorded(learner)
    for played in gradients[1:3]:
        assert all(map(torch.equal, played, gradients[0]))
    fresh = MAML(model, 0.1, 3, loss=mse)
    if rule == "adam":
        fresh = InnerLoopLearner(model, Adam(0.01), steps=3, loss=mse)
    fresh.trial(tasks.support)
    torch.manual_seed(5)
    assert all(map(torch.equal, gradients[3], meta_gradient(fresh, tasks)))  # of other tasks, too


def test_a_recording_follows_phi_and_frozen_parameters_and_settings():
    model = nn.Sequential(nn.Linear(2, 4), nn.ELU(), nn.Dropout(0.5), nn.Linear(4, 1)).double()
    model[0].requires_grad_(False)
    learner, tasks = MAML(model, inner_lr=0.1, steps=2, loss=mse).eval(), vector_tasks()

    def check() -> None:
        for _ in range(3):
            torch.manual_seed(1)
            ours = meta_gradient(learner, tasks)
        if not model[2].training:
            assert relative_error(ours, plain_loop(model, tasks, 0.1, 2, mse)) < 1e-10
        torch.manual_seed(1)
        fresh = MAML(model, 0.1, 2, loss=mse).train(learner.training)
        fresh.trial(tasks.support)
        torch.manual_seed(1)
        assert all(map(torch.equal, ours, meta_gradient(fresh, tasks)))

    check()
    assert is_recorded(learner)
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


class Cooling(nn.Linear):
    """Looks at more than its tensors."""

    temperature = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / self.temperature


def test_a_readers_module_is_never_recorded():
    model, tasks = Cooling(2, 1).double(), vector_tasks()
    learner = MAML(model, inner_lr=0.1, loss=mse)
    for temperature in (1.0, 1.0, 2.0, 4.0):
        model.temperature = temperature
        expected = plain_loop(model, tasks, 0.1, 1, mse)
        assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10
    assert not is_recorded(learner)


def test_a_readers_loss_is_never_recorded():
    weight = [1.0]
    learner = MAML(mlp(2, 4, 1), 0.1, loss=lambda out, y: weight[0] * mse(out, y))
    tasks = Task(*(Batch(*(t.float() for t in batch)) for batch in vector_tasks()))
    before = [learner(tasks).sum().item() for _ in range(3)][-1]
    weight[0] = 3.0
    assert learner(tasks).sum().item() > 1.5 * before


def test_a_readers_activation_is_never_recorded():
    slope = [1.0]
    layer = nn.TransformerEncoderLayer(
        2, 1, 4, dropout=0.0, activation=lambda x: slope[0] * x.sin(), batch_first=True
    )
    model, tasks = nn.Sequential(layer, nn.Linear(2, 1)).double(), vector_tasks()
    learner = MAML(model, inner_lr=0.1, loss=mse)
    with sdpa_kernel(SDPBackend.MATH):  # torch's fast attention cannot be differentiated twice
        for slope[0] in (1.0, 1.0, 1.0, 2.0):
            expected = plain_loop(model, tasks, 0.1, 1, mse)
            assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10
    assert not is_recorded(learner)


@pytest.mark.parametrize("what", ["a forward of its own", "a hook of its backward pass"])
def test_a_changed_layer_is_never_recorded(what):
    model = shaken(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)))
    slope, tasks = [1.0], vector_tasks()
    if what == "a forward of its own":
        model[1].forward = lambda x: slope[0] * x.sin()
    else:
        model[1].register_full_backward_hook(lambda *_: None)
    learner = MAML(model, inner_lr=0.1, loss=mse)
    for slope[0] in (1.0, 1.0, 1.0, 2.0):
        expected = plain_loop(model, tasks, 0.1, 1, mse)
        assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10
    assert not is_recorded(learner)


def test_tasks_that_lie_otherwise_in_memory_have_a_recording_of_their_own():
    model, tasks = shaken(mlp(2, 6, 1)), vector_tasks()
    other = Task(*(Batch(*(t.mT.contiguous().mT for t in batch)) for batch in tasks))
    learner = MAML(model, inner_lr=0.1, steps=2, loss=mse)
    expected = plain_loop(model, tasks, 0.1, 2, mse)
    for these in (tasks, tasks, other, other):
        assert relative_error(meta_gradient(learner, these), expected) < 1e-10
    assert sum(play is not None for play in learner.recordings.values()) == 2


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_small_work_is_done_in_one_thread(two_threads, monkeypatch):
    seen, work = [], metanotes.engine.step.losses_and_gradient

    def watched(learner, tasks, weights=None):
        seen.append(torch.get_num_threads())
        return work(learner, tasks, weights)

    monkeypatch.setattr(metanotes.engine.step, "losses_and_gradient", watched)
    learner, tasks = MAML(mlp(2, 4, 1).double(), inner_lr=0.1, loss=mse), vector_tasks()
    learner(tasks)
    assert (seen, torch.get_num_threads()) == ([1], 2)
    monkeypatch.setattr(metanotes.engine.step, "LARGE", learner.trial(tasks.support).flops)
    learner(tasks)  # little work for each task, but there are several
    assert (seen, torch.get_num_threads()) == ([1, 2], 2)
    monkeypatch.undo()
    with pytest.raises(RuntimeError):
        learner(Task(tasks.support, Batch(tasks.query.x, tasks.query.y.to(torch.complex64))))
    assert torch.get_num_threads() == 2


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


def test_recording_leaves_out_what_changes_nothing():
    learner, tasks = MAML(mlp(2, 6, 6, 1), inner_lr=0.1, steps=2, loss=mse), vector_tasks()
    tasks = Task(*(Batch(*(t.float() for t in batch)) for batch in tasks))
    own, counts = [*learner.parameters()], []
    simplify = metanotes.engine.step.simplify

    def counting(graph, inputs):
        counts.append(len(graph.graph.nodes))
        simplify(graph, inputs)
        counts.append(len(graph.graph.nodes))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metanotes.engine.step, "simplify", counting)
        record(learner, tasks, own)
    assert counts[1] < 0.75 * counts[0]


def test_recordings_are_forgotten_one_by_one():
    learner = MAML(mlp(2, 1).double(), inner_lr=0.1, loss=mse)
    for shots in range(1, 40):
        learner(vector_tasks(shots=shots))
    assert len(learner.recordings) == metanotes.engine.step.KEPT


def test_a_learner_with_recordings_can_be_copied_and_saved():
    learner, tasks = MAML(mlp(2, 4, 1).double(), inner_lr=0.1, loss=mse), vector_tasks()
    for _ in range(3):
        expected = meta_gradient(learner, tasks)
    for twin in (copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))):
        assert not twin.recordings
        assert all(map(torch.equal, meta_gradient(twin, tasks), expected))
    assert is_recorded(learner)


# --------------------------------------------------------------------------- backward, options


@pytest.mark.parametrize("large", [False, True])
def test_unequal_weights_and_the_same_dropout_masks(large, monkeypatch):
    monkeypatch.setattr(metanotes.engine.step, "LARGE", -1 if large else 1e12)
    model = shaken(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, 1)))
    tasks, phi = vector_tasks(), list(model.parameters())
    learner = MAML(model, inner_lr=0.2, steps=2, loss=mse)
    kept = MAML(model, inner_lr=0.2, steps=2, loss=mse, keep_graph=True)
    weights = torch.tensor([0.1, 2.0, -1.0, 0.5]).double()
    learner.trial(tasks.support), kept.trial(tasks.support)
    for _ in range(3):
        gradients = []
        for which in (learner, kept):
            torch.manual_seed(7)
            gradients.append(torch.autograd.grad((weights * which(tasks)).sum(), phi))
        assert relative_error(*gradients) < 1e-10


def test_phi_may_not_change_between_the_losses_and_their_gradient():
    learner = MAML(mlp(2, 4, 1).double(), inner_lr=0.1, loss=mse)
    loss = learner(vector_tasks()).mean()
    with torch.no_grad():
        next(learner.parameters()).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradients_accumulate_and_losses_stay_what_they_were():
    learner, tasks = MAML(mlp(2, 4, 1).double(), inner_lr=0.1, loss=mse), vector_tasks()
    losses = [learner(tasks) for _ in range(4)]
    once = [g.clone() for g in meta_gradient(learner, tasks)]
    for loss in losses:
        loss.mean().backward()
    for p, g in zip(learner.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, 4 * g)
    assert all(torch.equal(loss, losses[0]) for loss in losses)


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
    assert is_recorded(learner)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_compiled_meta_step_draws_the_random_numbers_of_one_that_is_not():
    model = shaken(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, 1)))
    tasks, gradients = vector_tasks(), []
    weights = torch.tensor([0.1, 2.0, -1.0, 0.5]).double()
    for compile in (False, True):
        learner = MAML(model, inner_lr=0.2, steps=2, loss=mse, compile=compile)
        learner.trial(tasks.support)
        torch.manual_seed(7)
        losses = [learner(tasks) for _ in range(2)][-1]
        gradients.append(torch.autograd.grad(losses.sum(), learner.parameters(), retain_graph=True))
        gradients.append(torch.autograd.grad((weights * losses).sum(), learner.parameters()))
    assert relative_error(gradients[2], gradients[0]) < 1e-10
    assert relative_error(gradients[3], gradients[1]) < 1e-10


def test_autocast_is_obeyed_recorded_or_not():
    model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))
    tasks = Task(*(Batch(*(t.float() for t in batch)) for batch in vector_tasks()))
    learner = MAML(model, inner_lr=0.1, steps=2, loss=mse)
    exact = [meta_gradient(learner, tasks) for _ in range(3)][-1]
    with torch.autocast("cpu", torch.bfloat16):
        rough = [meta_gradient(learner, tasks) for _ in range(3)]
    assert all(map(torch.equal, rough[0], rough[2]))
    assert 1e-5 < relative_error(rough[0], exact) < 0.05
    assert all(map(torch.equal, meta_gradient(learner, tasks), exact))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compile", [False, True])
def test_on_a_gpu_too(compile):
    model, tasks = shaken(conv4(5, channels=8)), image_tasks()
    expected = plain_loop(model, tasks, 0.1, 2, MAML(model, 0.1).loss)
    learner = MAML(model.cuda(), inner_lr=0.1, steps=2, compile=compile)
    on_gpu = Task(*(Batch(*(t.cuda() for t in batch)) for batch in tasks))
    for _ in range(3):
        assert relative_error([g.cpu() for g in meta_gradient(learner, on_gpu)], expected) < 1e-9


def test_nothing_is_recorded_without_gradients():
    learner = MAML(mlp(2, 4, 1).double(), inner_lr=0.1, loss=mse)
    with torch.no_grad():
        for _ in range(3):
            assert not learner(vector_tasks()).requires_grad
    assert not learner.recordings


def test_a_readers_own_predict_is_called_and_what_it_learns_gets_its_gradient():
    class Scaled(MAML):
        def __init__(self) -> None:
            super().__init__(shaken(conv4(5, channels=4)), inner_lr=0.1)
            self.scale = nn.Parameter(torch.tensor(2.0).double())

        def predict(self, adapted, x):
            return self.scale * super().predict(adapted, x)

    learner, tasks = Scaled(), image_tasks()
    gradient = meta_gradient(learner, tasks)[0]  # of the scale
    values = []
    with torch.no_grad():
        for h in (1e-5, -2e-5):
            learner.scale += h
            values.append(learner(tasks).mean())
    torch.testing.assert_close(gradient, (values[0] - values[1]) / 2e-5, rtol=1e-5, atol=0)
