"""What every descending learner can do: a part adapts, minibatches, inputs by name, any module."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from metanotes import (
    ANIL,
    MAML,
    SGD,
    Adam,
    Batch,
    InnerLoopLearner,
    MetaSGD,
    Pretrained,
    Reptile,
    Task,
    cross_entropy,
    evaluate,
    mse,
)
from metanotes.nets import conv4, mlp
from tests.plainly import (
    image_tasks,
    in_groups_of,
    meta_gradient,
    plain_loop,
    relative_error,
    shaken,
    vector_tasks,
)

# ------------------------------------------------------------------------------- a part adapts


def plain_part(model, tasks, names, inner_lr, steps, loss, first_order=False) -> list[Tensor]:
    """The meta-gradient where the parameters of these names adapt, and all are learned."""
    phi = {n: p for n, p in model.named_parameters() if p.requires_grad}
    total = torch.zeros((), dtype=torch.float64)
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        theta = dict(phi)
        for _ in range(steps):
            value = loss(functional_call(model, theta, (x,)), y)
            grads = torch.autograd.grad(value, [theta[n] for n in names], create_graph=True)
            if first_order:
                grads = [g.detach() for g in grads]
            moved = {n: theta[n] - inner_lr * g for n, g in zip(names, grads, strict=True)}
            theta = {**theta, **moved}
        total = total + loss(functional_call(model, theta, (xq,)), yq) / len(tasks.support.x)
    return list(torch.autograd.grad(total, list(phi.values())))


PARTS = {
    "the head": ("head", ["4.weight", "4.bias"]),
    "the body": ("body", ["0.weight", "0.bias", "2.weight", "2.bias"]),
    "a module": (lambda model: model[2], ["2.weight", "2.bias"]),
    "a name": ("2", ["2.weight", "2.bias"]),
    "a parameter": ("0.bias", ["0.bias"]),
    "several": (["0.bias", "4"], ["0.bias", "4.weight", "4.bias"]),
}


@pytest.mark.parametrize("options", [{}, {"checkpoint": True}, {"keep_graph": True}])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_adapts_and_the_rest_is_learned(part, first_order, options):
    tasks, model = vector_tasks(), shaken(mlp(2, 4, 3, 1, activation=nn.Tanh))
    adapts, names = PARTS[part]
    adapts = adapts(model) if callable(adapts) else adapts
    learner = MAML(model, 0.3, 3, loss=mse, first_order=first_order, adapts=adapts, **options)
    ours = meta_gradient(learner, tasks)
    expected = plain_part(model, tasks, names, 0.3, 3, mse, first_order)
    assert relative_error(ours, expected) < 1e-10
    assert list(learner.adapt(tasks.support)) == names
    whole = plain_part(model, tasks, dict(model.named_parameters()), 0.3, 3, mse, first_order)
    assert relative_error(ours, whole) > 0.01  # the two are told apart


@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("part", ["3", "4", "body", "head"])
def test_a_part_of_a_convolutional_network_adapts(part, size):
    tasks, model = image_tasks(), shaken(conv4(5, channels=4))
    names = [
        name
        for name, _ in model.named_parameters()
        if {"head": name.startswith("13."), "body": not name.startswith("13.")}.get(
            part, name.startswith(f"{part}.")
        )
    ]
    learner = MAML(model, 0.3, 2, adapts=part)
    with in_groups_of(size):
        ours = meta_gradient(learner, tasks)
    expected = plain_part(model, tasks, names, 0.3, 2, cross_entropy)
    assert relative_error(ours, expected) < 1e-10


def test_anil_is_maml_whose_head_adapts():
    tasks, model = image_tasks(), shaken(conv4(5, channels=4))
    ours = meta_gradient(ANIL(model, 0.3, 3), tasks)
    mamls = meta_gradient(MAML(model, 0.3, 3, adapts=model[-1]), tasks)
    assert all(map(torch.equal, ours, mamls))


def test_step_sizes_are_those_of_the_part_that_adapts():
    model = shaken(mlp(2, 4, 1))
    learner = MetaSGD(model, 0.1, 2, loss=mse, adapts="head")
    assert list(learner.rule.rates) == ["2.weight", "2.bias"]
    ours = meta_gradient(learner, vector_tasks())
    expected = plain_part(model, vector_tasks(), ["2.weight", "2.bias"], 0.1, 2, mse)
    assert relative_error(ours[:4], expected) < 1e-10


@pytest.mark.parametrize(
    ("adapts", "message"),
    [
        ("nose", r"adapts='nose' names no part of the model: its modules are \['0', '1', '2'\]"),
        (nn.Linear(2, 2), r"adapts=Linear.* is no part of the model"),
        ("1", r"adapts='1' has no parameter that requires a gradient"),
        (["0", "nose"], "adapts='nose' names no part"),
    ],
)
def test_what_is_no_part_of_the_model_is_refused(adapts, message):
    with pytest.raises(ValueError, match=message):
        MAML(mlp(2, 4, 1), 0.1, adapts=adapts)


def test_reptile_refuses_what_it_would_never_learn():
    model = mlp(2, 4, 1)
    with pytest.raises(ValueError, match=r"would never learn \['model.0.weight', 'model.0.bias'\]"):
        Reptile(model, SGD(0.1), 2, loss=mse, adapts="head")
    model[0].requires_grad_(False)
    Reptile(model, SGD(0.1), 2, loss=mse, adapts="head")


# --------------------------------------------------------------------------------- minibatches


def test_each_step_takes_a_fresh_minibatch_of_the_support_set():
    tasks, model = vector_tasks(shots=6), shaken(mlp(2, 4, 1))
    learner = MAML(model, 0.2, 5, loss=mse, batch=2)
    torch.manual_seed(3)
    ours = meta_gradient(learner, tasks)
    torch.manual_seed(3)  # the order is drawn from the global generator: two rounds of six
    order = torch.cat([torch.rand(4, 6).argsort(1) for _ in range(2)], 1)
    total, phi = 0, dict(model.named_parameters())
    for n in range(4):
        theta = dict(phi)
        for t in range(5):
            rows = order[n, 2 * t : 2 * t + 2]
            out = functional_call(model, theta, (tasks.support.x[n, rows],))
            grads = torch.autograd.grad(
                mse(out, tasks.support.y[n, rows]), list(theta.values()), create_graph=True
            )
            theta = {k: p - 0.2 * g for (k, p), g in zip(theta.items(), grads, strict=True)}
        out = functional_call(model, theta, (tasks.query.x[n],))
        total = total + mse(out, tasks.query.y[n]) / 4
    assert relative_error(ours, torch.autograd.grad(total, list(phi.values()))) < 1e-10
    torch.manual_seed(3)
    with in_groups_of(2):  # however the tasks are grouped
        again = meta_gradient(MAML(model, 0.2, 5, loss=mse, batch=2), tasks)
    assert relative_error(again, ours) < 1e-12


def test_a_minibatch_larger_than_a_task_is_refused():
    learner = MAML(mlp(2, 1).double(), 0.1, loss=mse, batch=7)
    with pytest.raises(ValueError, match="batch=7 asks for more examples than the 6 of a task"):
        learner(vector_tasks(shots=6))


def test_minibatches_in_adapt_too():
    learner = MAML(shaken(mlp(2, 4, 1)), 0.2, 3, loss=mse, batch=2)
    thetas = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        thetas.append(learner.adapt(vector_tasks().support)["0.weight"])
    assert torch.equal(thetas[0], thetas[1])
    assert not torch.equal(thetas[0], thetas[2])


# --------------------------------------------------------------------------- inputs by name


class Named(nn.Module):
    """A bag of tokens with a mask, as language models take them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weights = attention_mask / attention_mask.sum(1, keepdim=True)
        return self.head((weights[..., None] * self.embedding(input_ids)).sum(1))


def token_tasks() -> tuple[Task, Task]:
    """Tasks with inputs by name; and the same with the two tensors in one, for a plain loop."""
    g = torch.Generator().manual_seed(0)

    def batch(n: int) -> Batch:
        ids = torch.randint(7, (4, n, 5), generator=g)
        mask = (torch.rand(4, n, 5, generator=g) < 0.7).double()
        mask[..., 0] = 1
        x = {"input_ids": ids, "attention_mask": mask}
        return Batch(x, torch.randint(3, (4, n), generator=g))

    tasks = Task(batch(6), batch(3))
    packed = Task(
        *(
            Batch(torch.stack([b.x["input_ids"].double(), b.x["attention_mask"]], 2), b.y)
            for b in tasks
        )
    )
    return tasks, packed


class Unpacked(nn.Module):
    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(input_ids=x[:, 0].long(), attention_mask=x[:, 1])


@pytest.mark.parametrize("size", [None, 2])
def test_a_dict_of_inputs_is_given_to_the_model_by_name(size):
    model = shaken(Named())
    tasks, packed = token_tasks()
    with in_groups_of(size):
        learner = MAML(model, 0.5, 2)
        ours = meta_gradient(learner, tasks)
        assert (
            relative_error(ours, plain_loop(Unpacked(model), packed, 0.5, 2, cross_entropy)) < 1e-10
        )
        mine, theirs = (
            evaluate(
                which, lambda n, t=these: t, 4, transductive=transductive, metric=cross_entropy
            )
            for which, these in ((learner, tasks), (MAML(Unpacked(model), 0.5, 2), packed))
            for transductive in (True,)
        )
    torch.testing.assert_close(mine.values, theirs.values)
    alone = evaluate(learner, lambda n: tasks, 4, metric=cross_entropy)
    torch.testing.assert_close(alone.values, mine.values)


# ----------------------------------------------------------------------------- any module


class Twice(nn.Module):
    """One module under two names, one activation in two places, two weights that are one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = self.first
        act = nn.PReLU()
        self.layers = nn.Sequential(nn.Linear(2, 3), act, nn.Linear(3, 3), act, nn.Linear(3, 1))
        self.layers[2].bias = self.layers[0].bias

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.second(self.first(x)))


def snapshot(model: nn.Module) -> list:
    parts = [
        (name, id(p), p.requires_grad) for name, p in model.named_parameters(remove_duplicate=False)
    ]
    return [*parts, [(id(m), m.training, sorted(vars(m))) for m in model.modules()]]


@pytest.mark.parametrize("options", [{}, {"checkpoint": True}, {"keep_graph": True}])
def test_what_is_registered_twice_is_one_thing_and_stays_so(options):
    model, tasks = shaken(Twice()), vector_tasks()
    before = snapshot(model)
    # On a copy: torch's own functional_call leaves such a model broken.
    expected = plain_loop(copy.deepcopy(model), tasks, 0.2, 2, mse)
    learner = MAML(model, 0.2, 2, loss=mse, **options)
    assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10
    evaluate(learner, lambda n: tasks, 4)
    assert snapshot(model) == before
    bad = Task(tasks.support, Batch(tasks.query.x[..., :1], tasks.query.y))
    with pytest.raises(RuntimeError):
        learner(bad)
    assert snapshot(model) == before


def attention_model() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    return shaken(
        nn.Sequential(
            nn.Linear(2, 4), nn.Unflatten(1, (1, 4)), layer, nn.Flatten(), nn.Linear(4, 1)
        )
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("again", [True, False])
def test_a_transformer_of_torchs_works_in_training_and_in_evaluation(training, first_order, again):
    model, tasks = attention_model(), vector_tasks()
    learner = MAML(model, 0.1, 2, loss=mse, first_order=first_order, checkpoint=again)
    learner.train(training)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = plain_loop(model.train(), tasks, 0.1, 2, mse, first_order)
    learner.train(training)
    assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10
    learner.train(training)
    scores = [evaluate(learner, lambda n: tasks, 4, transductive=t).values for t in (True, False)]
    torch.testing.assert_close(*scores)
    assert torch.backends.mha.get_fastpath_enabled()


def test_an_embedding_with_padding_is_right_in_every_task():
    g = torch.Generator().manual_seed(0)
    x, xq = (torch.randint(5, (4, n, 6), generator=g) for n in (8, 5))
    y, yq = (torch.randint(3, t.shape[:2], generator=g) for t in (x, xq))
    model = shaken(nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Flatten(), nn.Linear(18, 3)))
    tasks = Task(Batch(x, y), Batch(xq, yq))
    expected = plain_loop(model, tasks, 0.5, 3, cross_entropy)
    learner = MAML(model, 0.5, 3)
    assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10
    # Nor does it matter what the first tasks were like, on which the plan was made.
    learner = MAML(model, 0.5, 3)
    meta_gradient(learner, Task(Batch(x.clamp(min=1), y), Batch(xq.clamp(min=1), yq)))
    assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10


def test_functions_of_torch_called_by_keyword():
    class ByName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = (
                nn.Conv2d(1, 3, 3, 3),
                nn.BatchNorm2d(3, track_running_stats=False),
            )
            self.head = nn.Linear(3 * 16, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.conv2d(
                input=x, weight=self.conv.weight, bias=self.conv.bias, stride=3
            )
            x = nn.functional.batch_norm(
                input=x,
                running_mean=None,
                running_var=None,
                weight=self.norm.weight,
                bias=self.norm.bias,
                training=True,
            )
            return self.head(nn.functional.max_pool2d(input=x, kernel_size=2).flatten(1))

    tasks, model = image_tasks(), shaken(ByName())
    expected = plain_loop(model, tasks, 0.2, 2, cross_entropy)
    assert relative_error(meta_gradient(MAML(model, 0.2, 2), tasks), expected) < 1e-10


def test_a_model_that_keeps_its_activations_keeps_nothing_of_vmaps():
    class Keeping(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            self.last = super().forward(x)
            return self.last

    model, tasks = shaken(Keeping(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))), vector_tasks()
    expected = plain_loop(model, tasks, 0.1, 2, mse)
    learner = MAML(model, 0.1, 2, loss=mse)
    for _ in range(3):
        assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10
    assert model.last.sum().isfinite()


def test_settings_may_change_from_one_call_to_the_next():
    model, tasks = shaken(mlp(2, 4, 1)), vector_tasks()
    learner = MAML(model, 0.1, 2, loss=mse)
    for lr in np.linspace(0.05, 0.3, 4):
        learner.rule.lr = lr
        assert (
            relative_error(meta_gradient(learner, tasks), plain_loop(model, tasks, lr, 2, mse))
            < 1e-10
        )
    learner.steps = np.int64(3)
    assert (
        relative_error(meta_gradient(learner, tasks), plain_loop(model, tasks, lr, 3, mse)) < 1e-10
    )


# ------------------------------------------------------------------------------- refusals


class Many(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = super().forward(x)
        return y, y


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": Many(2, 1).double()}, "returns a tuple, not a tensor: wrap it"),
        ({"loss": nn.MSELoss(reduction="none")}, r"loss of one task is \[.*\], not a scalar"),
        ({"loss": cross_entropy}, "for regression use loss=metanotes.mse"),
        ({"model": mlp(2, 1)}, "x is torch.float64 and the model's parameters are torch.float32"),
    ],
)
def test_what_cannot_be_right_is_refused_in_the_readers_words(change, message):
    settings = {"model": mlp(2, 1).double(), "loss": mse} | change
    learner = MAML(settings["model"], 0.1, loss=settings["loss"])
    for call in (lambda: learner(vector_tasks()), lambda: learner.adapt(vector_tasks().support)):
        with pytest.raises((ValueError, TypeError), match=message):
            call()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MAML(mlp(2, 1), 0.1, loss=None), "loss=None must be a function"),
        (lambda: MAML(mlp(2, 1), nn.Parameter(torch.tensor(0.1))), "is a tensor: .*MetaSGD"),
        (lambda: MAML(mlp(2, 1), 0.1, 1.5), "steps=1.5 must be a whole number"),
        (
            lambda: InnerLoopLearner(
                mlp(2, 1), torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
            ),
            "must be an UpdateRule",
        ),
        (lambda: Pretrained(mlp(2, 1), 0.1, batch=0), "batch=0 must be a whole number"),
    ],
)
def test_bad_settings_say_what_would_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_after_the_steps_every_argument_has_its_name():
    with pytest.raises(TypeError, match="positional arguments"):
        MAML(mlp(2, 1), 0.01, 1, mse)
    with pytest.raises(TypeError, match="nonsense"):
        MAML(mlp(2, 1), 0.01, nonsense=True)


@pytest.mark.parametrize("y", [torch.rand(4, 6, 3).double(), -torch.ones(4, 6, 3).double()])
def test_real_targets_under_cross_entropy_are_probabilities_or_refused(y):
    tasks, model = vector_tasks(), mlp(2, 3).double()
    tasks = Task(Batch(tasks.support.x, y), Batch(tasks.query.x, y[:, :3]))
    with pytest.raises(ValueError, match="probabilities over two or more classes that sum to 1"):
        MAML(model, 0.1)(tasks)
    soft = y.softmax(2)
    tasks = Task(Batch(tasks.support.x, soft), Batch(tasks.query.x, soft[:, :3]))
    expected = plain_loop(model, tasks, 0.1, 1, cross_entropy)
    assert relative_error(meta_gradient(MAML(model, 0.1), tasks), expected) < 1e-10


@pytest.mark.parametrize("rule", [SGD(0.1), Adam(0.01)])
def test_a_copy_of_a_learner_is_a_learner_of_its_own(rule):
    learner = InnerLoopLearner(shaken(mlp(2, 4, 1)), rule, 2, loss=mse)
    tasks = vector_tasks()
    first = meta_gradient(learner, tasks)
    twin = copy.deepcopy(learner)
    with torch.no_grad():
        twin.model[0].weight += 1
    assert all(map(torch.equal, meta_gradient(learner, tasks), first))
    assert relative_error(meta_gradient(twin, tasks), first) > 1e-3
