"""The score: what is averaged, over what, and what a query may see."""

import math

import pytest
import torch
from torch import Tensor, nn

from metanotes import MAML, Batch, Classifier, Learner, Score, Task, evaluate, mse
from metanotes.data import Images, sinusoid
from metanotes.evaluation import accuracy
from metanotes.nets import conv4, mlp
from tests.plainly import vector_tasks


def image_tasks(tasks: int) -> Task:
    g = torch.Generator().manual_seed(tasks)
    x, xq = (torch.randn(tasks, n, 1, 16, 16, generator=g) for n in (3, 6))
    y, yq = torch.arange(3).expand(tasks, 3), (torch.arange(6) % 3).expand(tasks, 6)
    return Task(Batch(x, y), Batch(xq, yq))


class Nearest(Learner):
    """1-nearest neighbour on pixels: no inner loop, nothing learned."""

    def adapt(self, support: Batch) -> Batch:
        return support

    def predict(self, adapted: Batch, x: Tensor) -> Tensor:
        d = torch.cdist(x.flatten(2), adapted.x.flatten(2))  # [T, M, N]
        others = adapted.y[:, None, None] != torch.arange(3)[:, None]  # [T, 1, 3, N]
        return -d[:, :, None].masked_fill(others, torch.inf).amin(-1)  # [T, M, 3]


def test_mean_and_interval_are_those_of_the_tasks():
    score = Score(torch.tensor([0.2, 0.4, 0.9]), "accuracy", False)
    assert score.mean == pytest.approx(0.5)
    assert score.ci95 == pytest.approx(1.96 * math.sqrt(0.13) / math.sqrt(3), rel=1e-6)
    assert str(score) == "50.0 ± 40.8 % (3 tasks, not transductive)"
    error = Score(torch.tensor([1.0, 2.0]), "mse", True)
    assert str(error) == "1.5 ± 0.98 mse (2 tasks, transductive)"


def test_accuracy_is_the_fraction_of_right_queries():
    tasks = image_tasks(4)
    learner = Nearest()
    d = (tasks.query.x.flatten(2)[:, :, None] - tasks.support.x.flatten(2)[:, None]).norm(dim=-1)
    expected = (d.argmin(-1) == tasks.query.y).double().mean(1)
    score = evaluate(learner, lambda n: image_tasks(4), tasks=4)
    torch.testing.assert_close(score.values, expected)
    assert score.metric == "accuracy"


def test_real_targets_are_judged_by_the_loss():
    learner, sampler = MAML(mlp(1, 8, 1), inner_lr=0.05, steps=2, loss=mse), sinusoid(seed=3)
    score = evaluate(learner, sampler, tasks=25)
    with torch.no_grad():
        losses = learner(sampler(25)).double()
    torch.testing.assert_close(score.values, losses, rtol=1e-5, atol=1e-6)
    assert score.metric == "mse"


def test_the_same_sampler_gives_the_same_tasks_however_many():
    learner, sampler = MAML(mlp(1, 8, 1), inner_lr=0.05, loss=mse), sinusoid(seed=3)
    few = evaluate(learner, sampler, tasks=6)
    sampler(5)
    many = evaluate(learner, sampler, tasks=60)
    assert len(many.values) == 60
    torch.testing.assert_close(many.values[:6], few.values)
    assert len(many.values.unique()) == 60  # and no task comes twice


def test_steps_are_those_of_the_call():
    learner = MAML(mlp(1, 8, 1), inner_lr=0.05, steps=1, loss=mse)
    more = MAML(learner.model, inner_lr=0.05, steps=4, loss=mse)
    sampler = sinusoid(seed=3)
    scores = evaluate(learner, sampler, 5, steps=4), evaluate(more, sampler, 5)
    assert torch.equal(scores[0].values, scores[1].values)


def test_without_transduction_a_query_does_not_see_the_others():
    """Batch statistics mix a batch: changing one query may change no other query's answer."""

    def answers(last: float, transductive: bool) -> Tensor:
        tasks = image_tasks(2)
        tasks.query.x[:, -1] = last
        learner = MAML(conv4(3, channels=4, size=16), inner_lr=0.1)
        first = {"metric": lambda outputs, y: outputs[0, 0]}
        return evaluate(learner, lambda n: tasks, 2, transductive=transductive, **first).values

    assert torch.equal(answers(0.0, False), answers(9.0, False))
    assert not torch.allclose(answers(0.0, True), answers(9.0, True))


def test_without_transduction_each_query_is_predicted_beside_the_support_set():
    tasks = image_tasks(2)
    learner = MAML(conv4(3, channels=4, size=16), inner_lr=0.1).eval()
    score = evaluate(learner, lambda n: tasks, tasks=2, metric=lambda o, y: o[4, 1])
    with torch.no_grad():
        theta = learner.adapt(tasks.support)
        x = torch.cat([tasks.support.x, tasks.query.x[:, 4:5]], 1)
        expected = learner.predict(theta, x)[:, -1, 1]
    torch.testing.assert_close(score.values, expected.double(), rtol=1e-4, atol=1e-5)


def test_models_that_vmap_cannot_batch_are_judged_too():
    class Branching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (2 if x.mean() > 0 else 1)

    learner = MAML(Branching(1, 1), inner_lr=0.05, loss=mse)
    assert evaluate(learner, sinusoid(seed=3), tasks=4).values.isfinite().all()


def test_evaluation_leaves_the_learner_as_it_was():
    learner = MAML(mlp(1, 8, 1), inner_lr=0.05, loss=mse)
    before = {name: t.clone() for name, t in learner.state_dict().items()}
    learner.train()
    evaluate(learner, sinusoid(seed=3), tasks=4)
    assert learner.training
    assert all(torch.equal(t, before[name]) for name, t in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": 1}, "tasks=1 is too few for an interval"),
        ({"tasks": 4, "steps": -1}, "steps=-1 must be a whole number of at least 0"),
        ({"tasks": 4, "metric": "accuracy"}, "metric='accuracy' must be a function of the outputs"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(MAML(mlp(1, 8, 1), inner_lr=0.05, loss=mse), sinusoid(), **options)


def test_steps_for_a_learner_that_does_not_descend_are_refused():
    with pytest.raises(ValueError, match="steps=3 is for learners that descend"):
        evaluate(Nearest(), lambda n: image_tasks(n), tasks=4, steps=3)


# ------------------------------------------------------------------- what is no accuracy


def labelled(y: Tensor, ways: int = 3) -> tuple[MAML, Task]:
    """A learner of so many ways, and tasks with these labels of the queries, `[4, M, ...]`."""
    tasks = vector_tasks()
    support = Batch(tasks.support.x, torch.arange(6).remainder(ways).repeat(4, 1))
    learner = MAML(mlp(2, ways).double(), 0.1)
    return learner, Task(support, Batch(tasks.query.x, y))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.full((4, 3), -100), "labels run from -100 to -100"),
        (torch.full((4, 3), -1), "labels run from -1 to -1"),
        (torch.full((4, 3), 17), "labels run from 17 to 17"),
        (torch.zeros(4, 3, 3, dtype=torch.long), r"a label has the shape \[3\]"),
    ],
)
def test_labels_that_are_no_classes_are_refused(y, message):
    learner, tasks = labelled(y)
    with pytest.raises(ValueError, match=message):
        evaluate(learner, lambda n: tasks, 4)


def test_outputs_and_labels_that_would_broadcast_are_refused():
    class Everything(Learner):
        def adapt(self, support, steps=None):
            return None

        def predict(self, adapted, x):
            return x.new_zeros(*x.shape[:2], 4, 3)

    _, tasks = labelled(torch.zeros(4, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="metric="):
        evaluate(Everything(loss=lambda out, y: out.mean()), lambda n: tasks, 4)
    own = evaluate(
        Everything(loss=lambda out, y: out.mean()),
        lambda n: tasks,
        4,
        metric=lambda out, y: out.sum(),
    )
    assert own.mean == 0


def test_a_metric_of_the_readers_own_sees_any_labels():
    learner, tasks = labelled(torch.full((4, 3), 17))
    score = evaluate(learner, lambda n: tasks, 4, metric=lambda out, y: y.double().mean())
    assert score.mean == 17


# ---------------------------------------------------------------- a plain classifier


def test_a_plain_classifier_is_judged_on_labelled_examples():
    g = torch.Generator().manual_seed(0)
    x = torch.randint(256, (1203, 1, 6, 6), generator=g, dtype=torch.uint8)
    images = Images(x, torch.randint(4, (1203,), generator=g), tuple("abcd"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    right = (model(x.float() / 255).argmax(1) == images.y).double()
    for judged in (model, Classifier(model)):
        score = evaluate(judged, images)
        assert torch.equal(score.values, right)
        assert str(score).endswith("(1203 examples, not transductive)")
    assert score.ci95 == pytest.approx(1.96 * float(right.std()) / 1203**0.5)


def test_a_classifier_is_judged_in_evaluation_mode_and_left_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.9))
    model[1].eval()
    modes = [module.training for module in model.modules()]
    images = Batch(torch.randn(40, 2, 2), torch.arange(40) % 3)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    assert torch.equal(evaluate(model, images).values, evaluate(model, images).values)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_examples_that_help_each_other_are_refused():
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), norm)
    images = Batch(torch.randn(40, 2, 2), torch.arange(40) % 3)
    with pytest.raises(ValueError, match="depends on the others in its batch"):
        evaluate(model, images)
    assert evaluate(model, images, transductive=True).transductive


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (3, r"neither a sampler of tasks, .* nor labelled examples"),
        (Batch(torch.zeros(3, 2), torch.zeros(4)), "as many, at least 2"),
        (Batch(torch.randn(3, 2), torch.tensor([0, 1, 9])), "labels run from 0 to 9"),
    ],
)
def test_what_is_no_set_of_examples_is_refused(what, message):
    with pytest.raises(ValueError, match=message):
        evaluate(nn.Linear(2, 3), what)


def test_tasks_need_a_learner():
    with pytest.raises(ValueError, match="Linear learns nothing from a task"):
        evaluate(nn.Linear(2, 3), lambda n: vector_tasks(), 4)


class Watched(nn.Linear):
    """How many examples it has seen."""

    seen = 0

    def forward(self, x: Tensor) -> Tensor:
        Watched.seen += x.shape[0]
        return super().forward(x)


def test_queries_that_do_not_mix_are_predicted_together():
    learner, tasks = MAML(Watched(2, 1).double(), 0.1, loss=mse), vector_tasks(queries=50)
    calls = []
    for transductive in (False, True):
        evaluate(learner, lambda n: tasks, 4, transductive=transductive)  # its plan
        Watched.seen = 0
        evaluate(learner, lambda n: tasks, 4, transductive=transductive)
        calls.append(Watched.seen)
    assert calls[0] < calls[1] + 6 * 7 * 4  # but for the trial on three queries


def test_that_a_model_mixes_is_found_out_once():
    model = nn.Sequential(Watched(2, 4), nn.BatchNorm1d(4, track_running_stats=False))
    learner = MAML(nn.Sequential(*model, nn.Linear(4, 1)).double(), 0.1, loss=mse)
    tasks = vector_tasks(queries=50)
    scores, calls = [], []
    for _ in range(3):
        Watched.seen = 0
        scores.append(evaluate(learner, lambda n: tasks, 4).values)
        calls.append(Watched.seen)
    assert calls[0] > calls[1] == calls[2]
    torch.testing.assert_close(scores[1], scores[0])


class Gated(nn.Module):
    """Adds the mean of the batch to each example, through a gate that begins closed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.gate = nn.Linear(2, 1), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y + self.gate * y.mean(0)


def test_a_model_may_begin_to_mix():
    learner, tasks = MAML(Gated().double(), 0.1, steps=0, loss=mse), vector_tasks(queries=8)
    evaluate(learner, lambda n: tasks, 4)  # all queries at once
    with torch.no_grad():
        learner.model.gate.fill_(1.0)
    score = evaluate(learner, lambda n: tasks, 4)
    with torch.no_grad():
        for n, value in enumerate(score.values):
            support, (x, y) = (Batch(t.x[n], t.y[n]) for t in tasks)
            alone = [learner.model(torch.cat([support.x, q[None]]))[-1:] for q in x]
            torch.testing.assert_close(value, mse(torch.cat(alone), y))


def test_examples_with_real_targets_are_judged_by_the_learners_loss_or_not_at_all():
    net = nn.Linear(3, 1).double()
    x, y = torch.randn(40, 3).double(), torch.randn(40, 1).double()
    score = evaluate(Classifier(net, loss=mse), Batch(x, y))
    torch.testing.assert_close(score.values, (net(x) - y).square()[:, 0].detach())
    assert score.metric == "mse"
    for judged in (net, Classifier(net)):
        with pytest.raises(ValueError, match=r"real numbers \[40, 1\] .* metric=metanotes.mse"):
            evaluate(judged, Batch(x, y))
    assert evaluate(net, Batch(x, y), metric=mse).mean == pytest.approx(score.mean)


def test_probabilities_are_judged_by_the_cross_entropy():
    net = nn.Linear(3, 4).double()
    x, y = torch.randn(40, 3).double(), torch.rand(40, 4).double().softmax(1)
    score = evaluate(net, Batch(x, y))
    expected = -(net(x).log_softmax(1) * y).sum(1)
    torch.testing.assert_close(score.values, expected.detach())


def test_accuracy_needs_labels():
    net = nn.Linear(3, 4)
    one_hot = torch.eye(4)[torch.arange(40) % 4]
    with pytest.raises(ValueError, match=r"whole numbers \[40, 1\], and not with torch.float32"):
        evaluate(net, Batch(torch.randn(40, 3), one_hot), metric=accuracy)
    with pytest.raises(ValueError, match=r"y\.argmax\(-1\)"):
        accuracy(torch.eye(4), torch.arange(4)[:, None])


class Previous(nn.Module):
    """Answers with the example before."""

    def forward(self, x):
        return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


class Sequence(nn.Module):
    """Takes the batch for a sequence, as an LSTM does without batch_first."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


@pytest.mark.parametrize("model", [Previous(), Sequence()])
def test_examples_that_see_those_before_them_are_refused(model):
    with pytest.raises(ValueError, match="depends on the others in its batch"):
        evaluate(model, Batch(torch.randn(40, 3), torch.arange(40) % 3))
