"""The teacher that learns to teach: its loss is the loss of the student that it has taught.

    theta'(phi) = theta - alpha grad_theta l_KD(theta, phi; D_train)         the pilot step   (1)
    L(phi) = CE(theta'(phi); D_quiz)                                         the quiz         (2)
    theta <- theta - alpha grad_theta l_KD(theta, phi; D_train)              with the new phi (3)

theta are the weights of the student and phi those of the teacher; l_KD is `distillation_loss`. A
copy of the student takes a step (1) on the teacher's answers and is asked other questions (2). The
teacher moves down the gradient of (2) through the step, and then the student takes the step anew,
from where it was. Where w is the weight of the imitation, tau its temperature, p_i the softened
answer of the teacher to the i-th example and v = grad CE(theta'), the gradient is

    grad_phi L = alpha w tau d/dphi mean_i p_i . dz_i                                         (4)
    dz_i = d z_student(x_i)/dtheta v,    the change of the student's scores along v

Along v the loss on the quiz grows. So the teacher, who moves against (4), takes weight from those
classes whose scores would rise along v, and gives it to those whose scores would fall.

Source: Zhou, Xu and McAuley, "BERT Learns to Teach: Knowledge Distillation with Meta Learning", ACL
2022 (MetaDistil).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor, nn

from metanotes._ground.checks import positive
from metanotes.engine import plain_attention_only
from metanotes.learner import (
    Learner,
    check_outputs,
    check_targets,
    cross_entropy,
    keep_frozen,
    refuse_running_statistics,
)
from metanotes.methods.teaching.distillation import distillation_loss, mixing
from metanotes.task import Batch, Inputs, Task, check_judged, select
from metanotes.theta import buffers_apart, call, over_tasks, trainable
from metanotes.theta.gradients import one_number_each, one_step_ahead
from metanotes.theta.parameters import Theta
from metanotes.theta.seen import Look
from metanotes.update_rules import step_size


class MetaDistillation(Learner):
    """A student and a teacher, which learn by turns.

    The losses are (2) and (3) of the module. A task is a minibatch that the student is taught, its
    support set, and a quiz, its query set. `meta_train` takes a turn of "teacher" and a turn of
    "student" on each. With several tasks a batch, each has a pilot step of its own.

    On the map:
        phi: a teacher
        adapts: a student, a step ahead
        outer loss: of other examples, after the step
        needs: second derivatives; a set that neither is trained on

    Args:
        student: any module from `[N, ...]` to scores `[N, C]`; its parameters are theta.
        inner_lr: alpha, the size of the pilot step, above 0; as a rule the student's own rate.
        teacher: any module with the same inputs and classes; as a rule trained already. Its
            parameters are phi.
        temperature, weight: of the distillation loss; the weight is above 0.

    Raises:
        TypeError: `student` or `teacher` is no module.
        ValueError: one of them has nothing to train, or keeps running statistics, into which the
            pilot step would leak; a number out of range; in use, a teacher whose classes are not
            the student's, or an empty quiz set.

    Source: see the module's.

    >>> from metanotes import MetaDistillation, meta_train
    >>> x, y = torch.randn(1, 40, 5), torch.randint(3, (1, 40))
    >>> tasks = Task(Batch(x[:, 10:], y[:, 10:]), Batch(x[:, :10], y[:, :10]))
    >>> learner = MetaDistillation(nn.Linear(5, 3), 0.1, teacher=nn.Linear(5, 3))
    >>> optimizer = {
    ...     "teacher": torch.optim.Adam(learner.teacher.parameters(), lr=1e-4),
    ...     "student": torch.optim.SGD(learner.student.parameters(), lr=0.1),
    ... }
    >>> history = meta_train(learner, lambda _: tasks, 3, 1, optimizer=optimizer, progress=False)
    >>> len(history.losses)
    3
    """

    def __init__(
        self,
        student: nn.Module,
        inner_lr: float,
        teacher: nn.Module,
        *,
        temperature: float = 4.0,
        weight: float = 0.5,
    ) -> None:
        super().__init__(cross_entropy)
        for name, network in (("student", student), ("teacher", teacher)):
            if not isinstance(network, nn.Module):
                raise TypeError(f"{name} is a {type(network).__name__}; it must be a module")
            if not trainable(network):
                raise ValueError(
                    f"{name}={type(network).__name__} has no parameter to train: both learn here; "
                    "a teacher that stays as it is needs no more than distillation_loss"
                )
            refuse_running_statistics(network)
        self.student, self.teacher = student, teacher
        self.look = Look()
        self.inner_lr = step_size("inner_lr", inner_lr)
        self.temperature, self.weight = positive("temperature", temperature), mixing(weight)
        if self.weight == 0:
            raise ValueError(
                f"weight={weight} leaves the teacher out of the pilot step, so that it has nothing "
                "to learn from: give a weight above 0, at most 1"
            )

    def train(self, mode: bool = True) -> Self:
        """As of any module; but layers with running statistics, which came frozen, stay frozen."""
        super().train(mode)
        keep_frozen(self)
        return self

    def adapt(self, support: Batch, steps: int | None = None) -> None:
        """Nothing: the student is what was learned."""

    def predict(self, adapted: None, x: Inputs) -> Tensor:
        """The student's scores: x `[T, M, ...]` to `[T, M, C]`."""
        return over_tasks(lambda x: call(self.student, {}, x))(x)

    def turns(self, tasks: Task) -> Iterator[tuple[str, Tensor]]:
        """The teacher's turn, the quiz (2), and then the student's, (3): losses `[T]`."""
        yield "teacher", self(tasks)
        yield "student", self.student_losses(tasks)

    def forward(self, tasks: Task) -> Tensor:
        """(2), the loss on the quiz after the pilot step: `[T]`, differentiable in phi alone."""
        self.check_taught(tasks)
        lesson, quiz = tasks
        with buffers_apart(self), plain_attention_only():  # a step that is only tried out
            stepped = one_step_ahead(self.taught_loss, self.student, self.inner_lr, *lesson)
            losses = one_number_each(over_tasks(self.quiz_loss)(stepped, *quiz))
        self.look(self.student, self.loss, *select(quiz, 0))
        return losses

    def student_losses(self, tasks: Task) -> Tensor:
        """l_KD, which the student descends: `[T]`, differentiable in theta alone."""
        self.check_taught(tasks)
        theta = trainable(self.student)

        def loss(x: Inputs, y: Tensor) -> Tensor:
            with torch.no_grad():
                answers = call(self.teacher, {}, x)
            return self.imitation(call(self.student, theta, x), answers, y)

        return one_number_each(over_tasks(loss)(*tasks.support))

    def taught_loss(self, theta: Theta, x: Inputs, y: Tensor) -> Tensor:
        """l_KD(theta, phi) of one minibatch, a scalar, differentiable in both."""
        return self.imitation(call(self.student, theta, x), call(self.teacher, {}, x), y)

    def imitation(self, student: Tensor, teacher: Tensor, y: Tensor) -> Tensor:
        """`distillation_loss` with this temperature and weight."""
        return distillation_loss(
            student, teacher, y, temperature=self.temperature, weight=self.weight
        )

    def quiz_loss(self, theta: Theta, x: Inputs, y: Tensor) -> Tensor:
        """The cross entropy of the student with the weights theta on one quiz, a scalar."""
        outputs = call(self.student, theta, x)
        check_targets(self.loss, check_outputs(outputs, y), y[None])
        return self.loss(outputs, y)

    def check_taught(self, tasks: Task) -> None:
        """Refuse what nothing can be taught by, and networks that the pilot step would alter."""
        check_judged(tasks, "an empty quiz set: the teacher learns from the student's loss there")
        refuse_running_statistics(self)

    def extra_repr(self) -> str:
        return f"inner_lr={self.inner_lr}, temperature={self.temperature}, weight={self.weight}"
