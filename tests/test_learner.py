"""A reader's own learner, in fifteen lines: it gets the engine's checks, groups and speed."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes import MAML, Batch, Learner, Task, cross_entropy, evaluate, over_tasks
from metanotes.nets import conv4
from tests.plainly import (
    MODELS,
    image_tasks,
    in_groups_of,
    in_new_process,
    meta_gradient,
    relative_error,
    shaken,
)


class Prototypes(Learner):
    """A class is the mean of its examples' features (Snell, Swersky and Zemel 2017)."""

    def __init__(self, body: nn.Module, ways: int = 5) -> None:
        super().__init__()
        self.body, self.ways = body, ways

    def adapt(self, support: Batch, steps: int | None = None) -> Tensor:
        z = over_tasks(self.body)(support.x)  # [T, N, F]
        member = F.one_hot(support.y, self.ways).to(z.dtype)  # [T, N, ways]
        return member.mT @ z / member.sum(1)[..., None]  # [T, ways, F]

    def predict(self, adapted: Tensor, x: Tensor) -> Tensor:
        return -torch.cdist(over_tasks(self.body)(x), adapted).square()  # [T, M, ways]


def plain_prototypes(body: nn.Module, tasks: Task) -> list[Tensor]:
    """The meta-gradient, task by task."""
    total = 0
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        z = body(x)
        means = torch.stack([z[y == k].mean(0) for k in range(5)])
        logits = -((body(xq)[:, None] - means) ** 2).sum(2)
        total = total + cross_entropy(logits, yq) / len(tasks.support.x)
    return list(torch.autograd.grad(total, list(body.parameters())))


@pytest.mark.parametrize("size", [None, 2, 1])
@pytest.mark.parametrize("name", MODELS)
def test_its_gradient_is_that_of_a_plain_loop(name, size):
    tasks, body = image_tasks(tasks=5), shaken(MODELS[name]())
    body.requires_grad_()
    with in_groups_of(size):
        ours = meta_gradient(Prototypes(body), tasks)
    assert relative_error(ours, plain_prototypes(body, tasks)) < 1e-8


@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("transductive", [False, True])
@pytest.mark.parametrize("name", ["conv, affine batch norm", "group norm", "branches on data"])
def test_it_is_judged_as_the_score_says(name, transductive, size):
    tasks, body = image_tasks(), shaken(MODELS[name]())
    with in_groups_of(size):
        score = evaluate(
            Prototypes(body), lambda n: tasks, 3, transductive=transductive, metric=cross_entropy
        )
    for value, x, y, xq, yq in zip(score.values, *tasks.support, *tasks.query, strict=True):
        z = body(x)
        means = torch.stack([z[y == k].mean(0) for k in range(5)])
        if transductive:
            zq = body(xq)
        else:
            zq = torch.stack([body(torch.cat([x, query[None]]))[-1] for query in xq])
        expected = cross_entropy(-((zq[:, None] - means) ** 2).sum(2), yq)
        torch.testing.assert_close(value, expected.detach(), rtol=1e-8, atol=0)


TASKS = 10  # judged


def held(learner: str, transductive: bool) -> int:
    """Bytes that an evaluation of conv4-64 holds at most, in a process of its own."""
    from benchmarks.measure import Machine

    g = torch.Generator().manual_seed(0)
    x, xq = (torch.rand(TASKS, n, 1, 28, 28, generator=g) for n in (5, 35))
    y, yq = (torch.arange(5).repeat(n).repeat(TASKS, 1) for n in (1, 7))
    tasks = Task(Batch(x, y), Batch(xq, yq))
    model = conv4(5)
    made = MAML(model, 0.4) if learner == "MAML" else Prototypes(model[:-1])

    def step() -> None:
        evaluate(made, lambda n: tasks, TASKS, transductive=transductive)

    step()
    peak = Machine("cpu", 1).peak(step)
    return peak if peak is not None else 0


@pytest.mark.slow
@pytest.mark.parametrize("transductive", [False, True])
def test_its_evaluation_holds_about_as_much_as_mamls(transductive):
    ours, mamls = (in_new_process(held, who, transductive) for who in ("prototypes", "MAML"))
    assert ours < 1.3 * mamls + 2e6


@pytest.mark.parametrize(
    ("dtype", "message"),
    [(torch.float32, "x is torch.float32 and"), (torch.uint8, "cannot work with x of torch.uint8")],
)
def test_numbers_of_another_type_are_refused_in_our_words(dtype, message):
    learner, tasks = Prototypes(nn.Linear(3, 2).double()), image_tasks(queries=2)
    tasks = Task(*(Batch(torch.ones(3, len(y[0]), 3).to(dtype), y) for _, y in tasks))
    with pytest.raises(ValueError, match=message):
        learner(tasks)


def test_steps_for_a_learner_that_takes_none_are_refused():
    with pytest.raises(ValueError, match="Prototypes takes no steps"):
        evaluate(Prototypes(nn.Flatten()), lambda n: image_tasks(), 3, steps=2)


def test_a_loss_that_is_a_class_is_refused():
    with pytest.raises(ValueError, match=r"loss=MSELoss is a class: make one, MSELoss\(\)"):
        Learner(loss=nn.MSELoss)


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(), F.l1_loss])
def test_losses_that_would_stretch_a_target_refuse_it(loss):
    x, y = torch.randn(3, 5, 1), torch.randn(3, 5)
    with pytest.raises(ValueError, match="they must agree"):
        MAML(nn.Linear(1, 1), 0.1, loss=loss)(Task(Batch(x, y), Batch(x, y)))
