"""What the learners of this room share: a body, the labels of a support set, the score of a class.

z = body(x),    s_k = a function of the scores of the support examples whose label is k
"""

from __future__ import annotations

import copy
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn

from metanotes._ground.checks import count
from metanotes.engine import Computing, Workshop
from metanotes.learner import Learner, Loss, check_targets, cross_entropy
from metanotes.task import Batch, Inputs, Task
from metanotes.theta import call, over_tasks


def features_of(body: nn.Module, x: Inputs) -> Tensor:
    """The body on the examples of every task: `[T, N, ...]` to `[T, N, ...]`."""
    return over_tasks(lambda x: call(body, {}, x))(x)


def is_class(y: Tensor, ways: int) -> Tensor:
    """Which labels `[T, N]` are those of each class: true and false, `[T, ways, N]`."""
    return y[:, None, :] == torch.arange(ways, device=y.device)[:, None]


def sums(z: Tensor, y: Tensor, ways: int) -> Tensor:
    """The sum of the features of each class: z `[T, N, ...]` to `[T, ways, ...]`."""
    return (is_class(y, ways).to(z) @ z.flatten(2)).unflatten(2, z.shape[2:])


def means(z: Tensor, y: Tensor, ways: int) -> Tensor:
    """The mean of the features of each class: z `[T, N, F]` to `[T, ways, F]`."""
    return sums(z, y, ways) / is_class(y, ways).sum(2, keepdim=True)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_m - b_n|^2: a `[T, M, F]` and b `[T, N, F]` to `[T, M, N]`."""
    return (a[:, :, None] - b[:, None]).square().sum(3)


def by_class(scores: Tensor, y: Tensor, ways: int) -> Tensor:
    """Scores of the support examples `[T, M, N]`, class by class: `[T, M, ways, N]`.

    What belongs to other classes is -inf, so that `amax(3)` and `logsumexp(3)` are of a class.
    """
    return scores[:, :, None].masked_fill(~is_class(y, ways)[:, None], -torch.inf)


def check_support(y: Tensor, ways: int) -> None:
    """Refuse labels of a support set that leave a class without an example.

    Args:
        y: labels, `[T, N]`.
        ways: classes of a task.

    Raises:
        ValueError: names the task and the class; or labels that are none of the classes.
    """
    if y.is_floating_point():
        raise ValueError(f"support.y is {y.dtype}: a class is an integer label, y.long()")
    check_targets(cross_entropy, torch.Size([ways]), y)
    missing = (~is_class(y, ways).any(2)).nonzero()
    if len(missing):
        task, label = missing[0].tolist()
        raise ValueError(
            f"class {label} has no example in the support set of task {task}, and nothing to be "
            f"compared with: each of the ways={ways} classes, 0 to {ways - 1}, needs at least one"
        )


class Comparing(Learner):
    """A learner that compares a query's features with those of the support set.

    A kind of it says what it keeps of a support set (`represent`), and how a query is compared
    with that (`predict`).

    Args:
        body: any module from `[N, ...]` to features `[N, ...]`.
        ways: classes of a task, at least 2.
        loss: of one task.
        keep_graph, checkpoint, record, compile, group: see `metanotes.engine.Options`.

    Raises:
        ValueError: fewer than 2 ways.

    >>> class Nearest(Comparing):
    ...     def represent(self, support):
    ...         return means(features_of(self.body, support.x), support.y, self.ways)
    ...     def predict(self, adapted, x):
    ...         return -torch.cdist(features_of(self.body, x), adapted)
    >>> learner = Nearest(nn.Linear(4, 3), ways=2)
    >>> batch = Batch(torch.rand(5, 6, 4), torch.tensor([[0, 0, 0, 1, 1, 1]]).expand(5, -1))
    >>> learner(Task(batch, batch)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        body: nn.Module,
        ways: int,
        *,
        loss: Loss = cross_entropy,
        **computing: Unpack[Computing],
    ) -> None:
        super().__init__(loss, **computing)
        self.body, self.ways = body, count("ways", ways, least=2)

    def with_ways(self, ways: int) -> Self:
        """The same phi, for tasks of so many classes: what is trained on 20 of them serves 5.

        The parameters are the same ones, not copies.
        """
        other = copy.copy(self)
        other.ways, other.workshop = count("ways", ways, least=2), Workshop()
        return other

    def represent(self, support: Batch) -> Any:
        """What is kept of a support set whose labels have been checked."""
        raise NotImplementedError

    def adapt(self, support: Batch, steps: int | None = None) -> Any:
        """What queries are compared with: see `represent`.

        Raises:
            ValueError: labels outside the ways, or a class without an example.
        """
        check_support(support.y, self.ways)
        return self.represent(support)

    def query_losses(self, tasks: Task) -> Tensor:
        """`forward`, plainly written; its labels are those that `check` has seen."""
        outputs = self.predict(self.represent(tasks.support), tasks.query.x)
        return self.task_losses(outputs, tasks.query.y)

    def check(self, tasks: Task, output: torch.Size) -> None:
        """Refuse labels outside the ways, and a class without a support example in any task."""
        check_support(tasks.support.y, self.ways)
        check_targets(cross_entropy, torch.Size([self.ways]), tasks.query.y)

    def extra_repr(self) -> str:
        return f"ways={self.ways}"
