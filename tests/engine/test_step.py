"""However a meta-step is worked out, it is the same meta-step."""

import copy
import pickle
import threading

import pytest
import torch
from torch import Tensor, nn

from metanotes import MAML, SGD, Batch, InnerLoopLearner, Task, cross_entropy, evaluate, mse
from metanotes.engine import groups, plan, plan_for
from metanotes.nets import conv4, mlp
from tests.plainly import (
    MODELS,
    image_tasks,
    in_groups_of,
    in_new_process,
    meta_gradient,
    plain_loop,
    relative_error,
    shaken,
    vector_tasks,
)


@pytest.fixture
def sizes(monkeypatch):
    """The sizes of the groups that are worked on."""
    seen = []
    split = plan.Plan.groups

    def watched(self, tasks):
        made = split(self, tasks)
        seen.extend(len(group.support.x) for group in made)
        return made

    monkeypatch.setattr(plan.Plan, "groups", watched)
    return seen


# --------------------------------------------------------------------------------- in groups


@pytest.mark.parametrize("name", MODELS)
def test_groups_give_the_gradient_of_the_plain_loop(name, sizes):
    tasks, model = image_tasks(tasks=5), shaken(MODELS[name]())
    learner = MAML(model, inner_lr=0.1, steps=2)
    expected = plain_loop(model, tasks, 0.1, 2, learner.loss)
    with in_groups_of(2):
        first = meta_gradient(learner, tasks)
    assert relative_error(first, expected) < 1e-10
    assert sizes == [2, 2, 1]
    assert all(map(torch.equal, meta_gradient(learner, tasks), first))  # and once more, bit by bit


def test_with_checkpoints_a_group_is_half_as_large():
    kept, again = (MAML(conv4(5), 0.1, checkpoint=checkpoint) for checkpoint in (False, True))
    flops = plan.GROUP // 12
    assert [plan._group(learner, flops) for learner in (kept, again)] == [12, 6]


def test_the_losses_keep_the_order_of_the_tasks():
    tasks, model = vector_tasks(tasks=7), shaken(mlp(2, 4, 1))
    together = MAML(model, inner_lr=0.1, steps=2, loss=mse)(tasks)
    with in_groups_of(2):
        parts = MAML(model, inner_lr=0.1, steps=2, loss=mse)(tasks)
    torch.testing.assert_close(parts, together, rtol=1e-12, atol=0)


@pytest.mark.parametrize("noise", [False, True])
def test_unequal_weights_of_the_tasks_reach_every_group(noise):
    model = shaken(nn.Sequential(nn.Linear(2, 6), nn.Dropout(0.3 * noise), nn.Linear(6, 1)))
    tasks, weights = vector_tasks(tasks=5), torch.arange(5.0).double()
    learner = MAML(model, inner_lr=0.1, steps=2, loss=mse)
    parameters = list(model.parameters())
    with in_groups_of(2):
        torch.manual_seed(1)
        losses = learner(tasks)
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


def test_work_done_a_second_time_sees_data_and_casts_as_they_were():
    model, tasks = shaken(conv4(5, channels=4)).float(), image_tasks(tasks=4)
    tasks = Task(*(Batch(x.float(), y) for x, y in tasks))
    weights = torch.arange(4.0)
    learner, phi = MAML(model, 0.1, 2), list(model.parameters())

    def gradient(refill: bool) -> list[Tensor]:
        with in_groups_of(2):
            losses = learner(tasks)
        if refill:
            tasks.support.x.mul_(2)
        return torch.autograd.grad((weights * losses).sum(), phi)

    gradient(refill=False)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradient(refill=True)
    with in_groups_of(2):
        losses = learner(tasks)
    learner.steps = 1
    with pytest.raises(RuntimeError, match="settings of the learner have changed"):
        torch.autograd.grad((weights * losses).sum(), phi)


def test_real_work_is_found_large_and_small_work_small():
    images, sines = image_tasks(tasks=2), vector_tasks()
    conv = MAML(conv4(5).double(), inner_lr=0.1)
    small = MAML(mlp(2, 4, 1).double(), inner_lr=0.1, loss=mse)
    assert plan_for(conv, images).group < 100
    assert plan_for(small, sines).group > 1e12


def test_evaluation_in_groups_is_that_of_all_tasks_at_once():
    tasks, model = image_tasks(tasks=5), shaken(conv4(5, channels=4))
    scores = []
    for size in (None, 2):
        learner = MAML(model, inner_lr=0.1, steps=2)
        with in_groups_of(size):
            for transductive in (False, True):
                score = evaluate(
                    learner, lambda n: tasks, 5, transductive=transductive, metric=learner.loss
                )
                scores.append(score.values)
    torch.testing.assert_close(scores[:2], scores[2:], rtol=1e-10, atol=0)


# --------------------------------------------------------------------------- plans


def test_a_plan_of_one_mode_says_nothing_of_another():
    """A model that vmap can batch in evaluation only trains as well before as after it."""

    class Branching(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y.sin() if self.training and x.mean() > 0 else y

    model, tasks = shaken(Branching(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))), vector_tasks()
    learner = MAML(model, 0.1, 2, loss=mse)
    for mode in (False, True, False, True):
        learner.train(mode)
        expected = plain_loop(model, tasks, 0.1, 2, mse)
        assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10
    assert [p.how.at_once for p in learner.workshop.plans.values()] == [True, False] or not any(
        p.how.at_once for p in learner.workshop.plans.values()
    )
    assert not any(name in vars(learner) for name in ("batchable", "_task_layers"))


def test_many_plans_are_forgotten_one_by_one(monkeypatch):
    monkeypatch.setattr(plan, "KEPT", 3)
    learner = MAML(mlp(2, 1).double(), inner_lr=0.1, loss=mse)
    for shots in range(1, 9):
        learner(vector_tasks(shots=shots))
    assert len(learner.workshop.plans) == 3


def test_a_copy_or_a_saved_learner_has_a_workshop_of_its_own():
    learner, tasks = MAML(mlp(2, 4, 1).double(), inner_lr=0.1, loss=mse), vector_tasks()
    expected = meta_gradient(learner, tasks)
    for twin in (copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))):
        assert not twin.workshop.plans
        assert all(map(torch.equal, meta_gradient(twin, tasks), expected))
    assert learner.workshop.plans


def test_what_vmap_gets_wrong_is_found_out_and_done_one_by_one():
    class Wrong(torch.autograd.Function):
        """Right by itself, and 3 % off under vmap."""

        generate_vmap_rule = False

        @staticmethod
        def forward(x):
            return x.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, g):
            return g

        @staticmethod
        def vmap(info, in_dims, x):
            return 1.03 * x, in_dims[0]

    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Wrong.apply(x)

    model = shaken(nn.Sequential(nn.Linear(2, 4), Layer(), nn.Tanh(), nn.Linear(4, 1)))
    learner, tasks = MAML(model, 0.1, 2, loss=mse), vector_tasks()
    expected = plain_loop(model, tasks, 0.1, 2, mse)
    assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10
    (made,) = learner.workshop.plans.values()
    assert not made.how.at_once


@pytest.mark.parametrize("examples", [(1, 1), (1, 7), (5, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_example_or_one_query_of_a_convolutional_network(examples, dtype):
    shots, queries = examples
    tasks = image_tasks(ways=shots, queries=queries)
    model = shaken(conv4(max(2, shots), channels=4)).to(dtype)
    tasks = Task(*(Batch(x.to(dtype), y.clamp(max=max(2, shots) - 1)) for x, y in tasks))
    truth = plain_loop(
        copy.deepcopy(model).double(),
        Task(*(Batch(x.double(), y) for x, y in tasks)),
        0.1,
        2,
        cross_entropy,
    )
    ours = meta_gradient(MAML(model, 0.1, 2), tasks)
    limit = 1e-3 if dtype.itemsize == 4 else 1e-10
    assert relative_error([g.double() for g in ours], truth) < limit


def beside_the_plain_loop(examples: int, keep_graph: bool) -> float:
    """How far off the gradient is where nothing is learned before a group normalization."""
    layers = [nn.Conv2d(1, 4, 3, 4), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4 * 49, 5)]
    model = shaken(nn.Sequential(*layers))
    model[0].requires_grad_(False)
    tasks = image_tasks(ways=examples)
    ours = meta_gradient(MAML(model, 0.1, 2, keep_graph=keep_graph), tasks)
    return relative_error(ours, plain_loop(model, tasks, 0.1, 2, cross_entropy))


@pytest.mark.parametrize("keep_graph", [False, True])
def test_group_normalization_after_frozen_layers(keep_graph):
    # With channels last, torch's own backward ends the process (2.13).
    assert in_new_process(beside_the_plain_loop, 5, keep_graph) < 1e-10


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def watched():
    """A learner that notes the threads of torch at work."""
    seen = []

    class Watched(MAML):
        def query_losses(self, tasks):
            seen.append(torch.get_num_threads())
            return super().query_losses(tasks)

    return Watched(mlp(2, 4, 1).double(), inner_lr=0.1, loss=mse), seen


def test_small_work_is_done_in_one_thread(two_threads, monkeypatch):
    (learner, seen), tasks = watched(), vector_tasks()
    plan_for(learner, tasks), seen.clear()
    learner(tasks)
    assert (seen, torch.get_num_threads()) == ([1], 2)
    monkeypatch.setattr(groups, "LARGE", 0)
    learner(tasks)
    assert (seen, torch.get_num_threads()) == ([1, 2], 2)
    monkeypatch.undo()
    with pytest.raises(RuntimeError):
        learner(Task(tasks.support, Batch(tasks.query.x.to(torch.complex64), tasks.query.y)))
    assert torch.get_num_threads() == 2


def test_learners_in_other_threads_leave_the_threads_of_torch_alone(two_threads):
    # A new thread takes the number that was set last by any, and would keep it.
    errors, seen = [], []

    def work() -> None:
        try:
            (learner, threads), tasks = watched(), vector_tasks()
            expected = plain_loop(learner.model, tasks, 0.1, 1, mse)
            for _ in range(30):
                assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10
            seen.extend([*threads, torch.get_num_threads()])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert set(seen) == {2}


# --------------------------------------------------------------------------- all that is learned


class ScaledLoss(nn.Module):
    """A loss with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5).double())

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self.scale * mse(outputs, y)


@pytest.mark.parametrize("options", [{}, {"checkpoint": True}, {"keep_graph": True}])
@pytest.mark.parametrize("size", [None, 2])
def test_a_loss_with_parameters_learns_inside_and_outside(options, size):
    model, loss, tasks = shaken(mlp(2, 4, 1)), ScaledLoss(), vector_tasks()
    learner = MAML(model, 0.1, 3, loss=loss, **options)
    with in_groups_of(size):
        (ours,) = torch.autograd.grad(learner(tasks).mean(), [loss.scale])
    values = []
    for h in (1e-6, -2e-6):
        with torch.no_grad():
            loss.scale += h
            values.append(learner(tasks).mean())
    expected = (values[0] - values[1]) / 2e-6
    assert abs(ours - expected) < 1e-6 * abs(expected)


def test_what_is_learned_outside_of_the_learner_gets_its_gradient_too():
    scale = torch.tensor(1.5).double().requires_grad_()
    for model, tasks, loss in (
        (shaken(mlp(2, 4, 1)), vector_tasks(), mse),
        (shaken(conv4(5, channels=4)), image_tasks(), cross_entropy),
    ):
        learner = MAML(model, 0.1, 2, loss=lambda out, y, loss=loss: scale * loss(out, y))
        (ours,) = torch.autograd.grad(learner(tasks).mean(), [scale])
        values = []
        for h in (1e-6, -2e-6):
            scale.data += h
            values.append(learner(tasks).mean().detach())
        scale.data += 1e-6
        expected = (values[0] - values[1]) / 2e-6
        assert abs(ours - expected) < 1e-5 * abs(expected)


@pytest.mark.parametrize("size", [None, 2])
def test_what_is_learned_outside_from_the_second_call_on_is_not_dropped(size):
    scale = torch.tensor(1.5).double()
    learner = MAML(shaken(mlp(2, 4, 1)), 0.1, 2, loss=lambda out, y: scale * mse(out, y))
    tasks = vector_tasks()
    with in_groups_of(size):
        before = learner(tasks).mean()
        scale.requires_grad_()
        if size is not None:  # worked on in groups, which keep no graph
            with pytest.raises(RuntimeError, match="not among learner"):
                learner(tasks)
            learner = copy.deepcopy(learner)
        after = learner(tasks).mean()
        assert torch.allclose(before, after)
        (ours,) = torch.autograd.grad(after, [scale])
        assert ours.abs() > 0


def test_with_checkpoints_what_is_learned_outside_of_the_learner_is_refused():
    scale = torch.tensor(1.5).double().requires_grad_()
    loss = lambda out, y: scale * mse(out, y)  # noqa: E731
    learner = MAML(shaken(mlp(2, 4, 1)), 0.1, 2, loss=loss, checkpoint=True)
    with pytest.raises(RuntimeError, match=r"checkpoint=True: .* register it in the learner"):
        learner(vector_tasks())


FOR_ONE_IMAGE = {
    "a kernel of one pixel": (nn.Upsample(scale_factor=2), nn.ConvTranspose2d(3, 4, 1)),
    "instance normalization": (nn.InstanceNorm2d(3, affine=True), nn.Conv2d(3, 2, 3)),
}


@pytest.mark.parametrize("adapts", [None, "3.weight"])
@pytest.mark.parametrize("name", FOR_ONE_IMAGE)
def test_weights_with_their_channels_last_and_a_single_image(name, adapts):
    torch.manual_seed(0)
    inside = nn.Sequential(*copy.deepcopy(FOR_ONE_IMAGE[name]), nn.Flatten())
    model = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), inside, nn.ReLU(), nn.LazyLinear(5))
    tasks = image_tasks()
    tasks = Task(tasks.support, Batch(tasks.query.x[:, :1], tasks.query.y[:, :1]))
    model.double()(tasks.query.x[0])
    model.to(memory_format=torch.channels_last)
    learner = MAML(model, 0.1, adapts=adapts)
    along = torch.randn_like(model[0].weight)
    (gradient,) = torch.autograd.grad(learner(tasks).mean(), [model[0].weight])
    values = []
    for h in (1e-6, -2e-6):
        model[0].weight.data += h * along
        values.append(learner(tasks).mean().detach())
    expected = (values[0] - values[1]) / 2e-6
    assert abs((gradient * along).sum() - expected) < 1e-5 * abs(expected)


def test_a_batch_of_one_example_is_refused_where_it_is_normalized():
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    model = nn.Sequential(nn.Linear(2, 4), norm, nn.Linear(4, 1)).double()
    tasks = vector_tasks()
    with pytest.raises(ValueError, match=r"single example.*batch=.*GroupNorm"):
        InnerLoopLearner(model, SGD(0.1), 2, loss=mse, batch=1)(tasks)
    assert InnerLoopLearner(model, SGD(0.1), 2, loss=mse, batch=2)(tasks).shape == (4,)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("size", [None, 2])
def test_inputs_and_targets_that_carry_a_graph_get_their_gradient(size, checkpoint):
    tasks, model = vector_tasks(), shaken(mlp(2, 4, 1))
    learner = MAML(model, 0.1, 2, loss=mse, checkpoint=checkpoint)
    x = tasks.support.x.clone().requires_grad_()
    y = tasks.query.y.clone().requires_grad_()
    with in_groups_of(size):
        for _ in range(2):
            losses = learner(Task(Batch(x, tasks.support.y), Batch(tasks.query.x, y)))
            ours = torch.autograd.grad(losses.mean(), [x, y])
    total = 0
    for n in range(4):
        theta = dict(model.named_parameters())
        for _ in range(2):
            value = mse(torch.func.functional_call(model, theta, (x[n],)), tasks.support.y[n])
            grads = torch.autograd.grad(value, list(theta.values()), create_graph=True)
            theta = {k: t - 0.1 * g for (k, t), g in zip(theta.items(), grads, strict=True)}
        total = total + mse(torch.func.functional_call(model, theta, (tasks.query.x[n],)), y[n]) / 4
    assert relative_error(ours, torch.autograd.grad(total, [x, y])) < 1e-10


@pytest.mark.parametrize("size", [None, 2])
def test_a_hook_on_a_parameter_acts_once(size):
    tasks, model, calls = vector_tasks(), shaken(mlp(2, 4, 1)), []
    learner = MAML(model, 0.1, 2, loss=mse)
    plain = meta_gradient(MAML(model, 0.1, 2, loss=mse), tasks)
    handle = model[0].weight.register_hook(lambda g: calls.append(1) or 2 * g)
    with in_groups_of(size):
        for _ in range(3):
            calls.clear()
            ours = meta_gradient(learner, tasks)
            assert len(calls) == 1
            torch.testing.assert_close(ours[0], 2 * plain[0])
            torch.testing.assert_close(ours[1:], plain[1:])
    handle.remove()


def test_phi_may_not_change_between_the_losses_and_their_gradient():
    learner = MAML(mlp(2, 4, 1).double(), inner_lr=0.1, loss=mse)
    loss = learner(vector_tasks()).mean()
    with torch.no_grad():
        learner.model[2].weight.add_(1.0)
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore")  # CUDA's libraries and the compiler have their own
@pytest.mark.parametrize("compile", [False, True])
def test_on_a_gpu_too(compile):
    model, tasks = shaken(conv4(5, channels=8)), image_tasks()
    expected = plain_loop(model, tasks, 0.1, 2, cross_entropy)
    learner = MAML(model.cuda(), inner_lr=0.1, steps=2, compile=compile)
    on_gpu = Task(*(Batch(*(t.cuda() for t in batch)) for batch in tasks))
    for _ in range(3):
        assert relative_error([g.cpu() for g in meta_gradient(learner, on_gpu)], expected) < 1e-9


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


class Looked(nn.Module):
    """Takes real numbers for the numbers of words."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(40, 3)

    def forward(self, x):
        return self.table(x.long()).mean(1)


def test_real_inputs_may_be_indices():
    """The noise of a trial would lead out of the table."""
    torch.manual_seed(0)
    x, y = torch.randint(20, 40, (3, 5, 2)).float(), torch.randint(0, 3, (3, 5))
    x[0, 0, 0] = 39.0
    learner = MAML(Looked(), inner_lr=0.1)
    tasks = Task(Batch(x, y), Batch(x, y))
    torch.testing.assert_close(learner(tasks), learner.query_losses(tasks))


def test_group_normalization_without_weights_after_layers_of_the_engine():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 1),
        nn.GroupNorm(3, 3, affine=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.LazyLinear(5),
    )
    x = torch.rand(2, 1, 1, 5, 6, dtype=torch.float64).expand(2, 5, 1, 5, 6)  # all alike in memory
    y = torch.arange(5).expand(2, 5)
    model.double()(x[0])
    learner = InnerLoopLearner(model, SGD(0.1), 2, batch=1)
    tasks = Task(Batch(x, y), Batch(x, y))
    assert evaluate(learner, lambda n: tasks, 2).values.shape == (2,)


def test_a_recurrent_model_of_whole_numbers_is_told_what_would_do():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTM(4, 2, batch_first=True)

        def forward(self, x):
            return self.cell(x)[0][:, -1]

    x, y = torch.ones(2, 3, 5, 4, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"x of torch.int64 .* x.float\(\)"):
        MAML(Last(), 0.1)(Task(Batch(x, y), Batch(x, y)))
