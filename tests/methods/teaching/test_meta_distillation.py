"""The teacher's gradient against central differences, its closed form, and the two turns."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.autograd.functional import jvp
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from metanotes import Batch, MetaDistillation, Task, evaluate, meta_train
from metanotes.nets import mlp
from tests.methods.teaching.differences import central_differences, vectors


def learner_for(inner_lr: float = 0.7, **settings: float) -> MetaDistillation:
    """Twice differentiable networks in float64, so that differences converge."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    teacher = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return MetaDistillation(student, inner_lr, teacher, **settings)


def soft_cross_entropy(learner: MetaDistillation, outputs: Tensor, x: Tensor) -> Tensor:
    """KL(p || q) up to the entropy of p, which no student changes."""
    tau = learner.temperature
    p = (learner.teacher(x) / tau).softmax(1)
    return -(p * (outputs / tau).log_softmax(1)).sum(1).mean()


def plain_losses(learner: MetaDistillation, tasks: Task) -> Tensor:
    """Equations (1) and (2), written out."""
    theta, w = dict(learner.student.named_parameters()), learner.weight
    values = []
    for x, y, x_quiz, y_quiz in zip(*tasks.support, *tasks.query, strict=True):
        outputs = learner.student(x)
        imitation = learner.temperature**2 * soft_cross_entropy(learner, outputs, x)
        loss = (1 - w) * F.cross_entropy(outputs, y) + w * imitation
        g = torch.autograd.grad(loss, list(theta.values()))
        stepped = {n: t - learner.inner_lr * d for (n, t), d in zip(theta.items(), g, strict=True)}
        values.append(F.cross_entropy(functional_call(learner.student, stepped, (x_quiz,)), y_quiz))
    return torch.stack(values)


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.5, "weight": 1.0}])
def test_the_teachers_gradient_is_that_of_central_differences(settings: dict[str, float]) -> None:
    tasks, learner = vectors(), learner_for(**settings)
    losses = learner(tasks)
    torch.testing.assert_close(losses, plain_losses(learner, tasks))
    phi = list(learner.teacher.parameters())
    gradients = torch.autograd.grad(losses.sum(), phi)
    for p, g in zip(phi, gradients, strict=True):
        right = central_differences(lambda: plain_losses(learner, tasks).sum(), p)
        torch.testing.assert_close(g, right, rtol=1e-6, atol=1e-9)
    assert max(g.abs().max() for g in gradients) > 1e-3


def test_the_gradient_raises_what_the_quiz_wants() -> None:
    """Equation (4)."""
    tasks, learner = vectors(T=1), learner_for()
    x, y = (t[0] for t in tasks.support)
    x_quiz, y_quiz = (t[0] for t in tasks.query)
    theta = {n: p.detach() for n, p in learner.student.named_parameters()}
    theta = {n: t.requires_grad_() for n, t in theta.items()}
    g = torch.autograd.grad(
        learner.taught_loss(theta, x, y), list(theta.values()), materialize_grads=True
    )
    stepped = {n: t - 0.7 * d for (n, t), d in zip(theta.items(), g, strict=True)}
    quiz = F.cross_entropy(functional_call(learner.student, stepped, (x_quiz,)), y_quiz)
    v = dict(zip(theta, torch.autograd.grad(quiz, list(stepped.values())), strict=True))
    _, dz = jvp(
        lambda *at: functional_call(learner.student, dict(zip(theta, at, strict=True)), (x,)),
        tuple(theta.values()),
        tuple(v.values()),
    )
    p = (learner.teacher(x) / 4).softmax(1)
    phi = list(learner.teacher.parameters())
    right = torch.autograd.grad(0.7 * 0.5 * 4 * (p * dz.detach()).sum(1).mean(), phi)
    for mine, theirs in zip(torch.autograd.grad(learner(tasks).sum(), phi), right, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_quiz_moves_the_teacher_alone_and_the_lesson_the_student_alone() -> None:
    tasks, learner = vectors(), learner_for()
    turns = learner.turns(tasks)
    name, losses = next(turns)
    losses.sum().backward()
    assert name == "teacher"
    assert all(p.grad is None for p in learner.student.parameters())
    learner.zero_grad()
    with torch.no_grad():
        for p in learner.teacher.parameters():
            p.add_(0.1)
    name, losses = next(turns)  # with the new teacher
    losses.sum().backward()
    assert name == "student"
    assert all(p.grad is None for p in learner.teacher.parameters())
    x, y = (t[1] for t in tasks.support)
    p, q = ((net(x) / 4).log_softmax(1) for net in (learner.teacher, learner.student))
    right = 0.5 * F.cross_entropy(learner.student(x), y) + 8 * (p.exp() * (p - q)).sum(1).mean()
    torch.testing.assert_close(losses[1], right)
    assert list(turns) == []


def test_without_gradients_the_loss_is_the_same() -> None:
    tasks, learner = vectors(), learner_for()
    with torch.no_grad():
        losses = learner(tasks)
    assert not losses.requires_grad
    torch.testing.assert_close(losses, learner(tasks).detach())


def test_a_teacher_learns_to_teach_one_student_one_step() -> None:
    tasks, learner = vectors(T=1), learner_for(inner_lr=2.0, weight=1.0)
    optimizer = torch.optim.Adam(learner.teacher.parameters(), lr=0.05)
    before = learner(tasks).item()
    for _ in range(60):
        optimizer.zero_grad()
        learner(tasks).sum().backward()
        optimizer.step()
    assert learner(tasks).item() < 0.7 * before


def test_it_trains_by_turns_on_digits() -> None:
    x, y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    x = x.float() / 16
    g = torch.Generator().manual_seed(0)

    def sample(T: int) -> Task:
        taught, quiz = (low + torch.randint(400, (T, 32), generator=g) for low in (0, 400))
        return Task(Batch(x[taught], y[taught]), Batch(x[quiz], y[quiz]))

    torch.manual_seed(0)
    learner = MetaDistillation(mlp(64, 8, 10), 0.1, mlp(64, 32, 10), temperature=2.0)
    optimizer = {
        "teacher": torch.optim.Adam(learner.teacher.parameters(), lr=3e-3),
        "student": torch.optim.Adam(learner.student.parameters(), lr=1e-2),
    }
    history = meta_train(learner, sample, 150, tasks=1, optimizer=optimizer, progress=False)
    assert sum(history.losses[-20:]) < 0.6 * sum(history.losses[:20])
    outputs = learner.predict(None, x[None, 800:])[0]
    assert (outputs.argmax(1) == y[800:]).double().mean() > 0.7
    assert evaluate(learner, sample, tasks=5).mean > 0.7


def test_wrong_arguments_are_refused() -> None:
    net = nn.Linear(5, 3)
    with pytest.raises(ValueError, match="inner_lr=0"):
        MetaDistillation(net, 0, nn.Linear(5, 3))
    with pytest.raises(TypeError, match="teacher is a float; it must be a module"):
        MetaDistillation(net, 0.1, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="student=Tanh has no parameter to train"):
        MetaDistillation(nn.Tanh(), 0.1, net)
    with pytest.raises(ValueError, match="temperature=0 must be a finite number above 0"):
        MetaDistillation(net, 0.1, nn.Linear(5, 3), temperature=0)
    with pytest.raises(ValueError, match=r"weight=0 leaves the teacher out.* above 0"):
        MetaDistillation(net, 0.1, nn.Linear(5, 3), weight=0)
    with pytest.raises(ValueError, match="running statistics"):
        MetaDistillation(nn.Sequential(net, nn.BatchNorm1d(3)), 0.1, nn.Linear(5, 3))


def test_what_cannot_be_taught_is_refused() -> None:
    (x, y), (x_quiz, y_quiz) = tasks = vectors()
    learner = learner_for()
    with pytest.raises(ValueError, match=r"query.y is \[2, 0\], an empty quiz set.*at least one"):
        learner(Task(Batch(x, y), Batch(x_quiz[:, :0], y_quiz[:, :0])))
    with pytest.raises(ValueError, match=r"labels run from .* to 8"):
        learner(Task(Batch(x, y), Batch(x_quiz, y_quiz.clamp(min=8))))
    other = MetaDistillation(learner.student, 0.1, nn.Linear(5, 2).double())
    for _ in range(2):
        with pytest.raises(ValueError, match=r"teacher has scores \[7, 2\] and student \[7, 3\]"):
            other(tasks)
    with pytest.raises(ValueError, match="teacher has scores"):
        other.student_losses(tasks)


class Counting(nn.Linear):
    """Notes how often it was called."""

    def __init__(self) -> None:
        super().__init__(5, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


def test_the_pilot_step_leaves_no_trace() -> None:
    student = Counting()
    learner = MetaDistillation(student, 0.7, nn.Linear(5, 3)).double()
    learner(vectors())
    assert student.calls == 0


def test_what_came_frozen_stays_frozen_in_training() -> None:
    student = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()
    learner = MetaDistillation(student, 0.7, nn.Linear(5, 3)).double()
    meta_train(
        learner,
        lambda T: vectors(),
        1,
        progress=False,
        optimizer={
            "teacher": torch.optim.SGD(learner.teacher.parameters(), 0.1),
            "student": torch.optim.SGD(learner.student.parameters(), 0.1),
        },
    )
    assert int(student[1].num_batches_tracked) == 0


class Recomputing(nn.Sequential):
    """Works everything out again in the backward pass, when its own weights are back."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


@pytest.mark.parametrize("gradients", [True, False])
def test_a_student_that_does_not_see_the_stepped_weights_is_refused(gradients: bool) -> None:
    learner = MetaDistillation(Recomputing(nn.Linear(5, 3), nn.Tanh()), 0.7, nn.Linear(5, 3))
    with torch.set_grad_enabled(gradients), pytest.raises(ValueError, match="sees its own weights"):
        learner.double()(vectors())
