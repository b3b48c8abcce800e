"""The goodness of F_phi: the mean over test tasks, with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from metanotes.engine.step import in_groups
from metanotes.inner_loop_learner import InnerLoopLearner
from metanotes.learner import Learner
from metanotes.task import Batch, Task, check_tasks, task_to
from metanotes.training import progress_bar

Metric = Callable[[Tensor, Tensor], Tensor]

BLOCK = (
    25  # tasks drawn and worked on at once: always as many, since a sampler's tasks depend on it
)


@dataclass(frozen=True)
class Score:
    """The score of a learner on test tasks.

    Args:
        values: the score of every task, `[tasks]`: a fraction for accuracy.
        metric: "accuracy", or the name of the loss.
        transductive: whether a query was predicted in one batch with the other queries.

    >>> score = Score(torch.tensor([0.8, 1.0, 0.9, 0.9]), "accuracy", transductive=False)
    >>> print(score)
    90.0 ± 8.0 % (4 tasks, not transductive)
    """

    values: Tensor
    metric: str
    transductive: bool

    @property
    def mean(self) -> float:
        """The mean over tasks."""
        return float(self.values.mean())

    @property
    def ci95(self) -> float:
        """Half the width of the 95 % interval of the mean, over tasks: 1.96 s / sqrt(n)."""
        return float(1.96 * self.values.std() / math.sqrt(len(self.values)))

    def __str__(self) -> str:
        how = "transductive" if self.transductive else "not transductive"
        if self.metric == "accuracy":
            value = f"{100 * self.mean:.1f} ± {100 * self.ci95:.1f} %"
        else:
            value = f"{self.mean:.3g} ± {self.ci95:.2g} {self.metric}"
        return f"{value} ({len(self.values)} tasks, {how})"


def accuracy(outputs: Tensor, y: Tensor) -> Tensor:
    """The fraction of right answers of one task: outputs `[M, ways]`, labels `[M]`, to a scalar."""
    return (outputs.argmax(-1) == y).double().mean()


def evaluate(
    learner: Learner,
    sample_tasks: Callable[[int], Task],
    tasks: int = 600,
    *,
    steps: int | None = None,
    transductive: bool = False,
    metric: Metric | None = None,
    progress: bool = False,
) -> Score:
    """Learn every test task from its support set and judge it on its query set.

    A model with batch normalisation lets a query see the batch it comes in. With
    `transductive=True` that batch is all queries of the task, as in MAML's published figures; by
    default each query is predicted on its own, beside the support set (as in Reptile's figures
    without transduction), so that nothing leaks from one query to another.

    A sampler of `metanotes.data` is started again at its seed, so that the same sampler always
    gives the same tasks, and scores can be compared task by task: with more `tasks`, the first ones
    stay what they were.

    Args:
        learner: what to judge. It is judged in evaluation mode, and left as it was.
        sample_tasks: from a number of tasks to a `Task`.
        tasks: how many test tasks, at least 2.
        steps: inner steps, for learners that descend; default: as in training.
        transductive: see above.
        metric: from outputs `[M, ...]` and targets of one task to a scalar; default: accuracy
            where the targets are labels, else the learner's loss.
        progress: show a progress bar.

    Returns:
        A `Score`: `mean`, `ci95`, `values`; printed as
        "97.1 ± 0.3 % (600 tasks, not transductive)".

    Raises:
        ValueError: fewer than 2 tasks, or `steps` for a learner that does not descend.

    >>> from metanotes import MAML, evaluate, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> learner = MAML(mlp(1, 40, 40, 1), inner_lr=0.01, loss=mse)
    >>> score = evaluate(learner, sinusoid(shots=10, queries=50, seed=1), tasks=100, steps=3)
    >>> score.values.shape
    torch.Size([100])
    """
    if tasks < 2:
        raise ValueError(f"tasks={tasks} is too few for an interval: at least 2")
    if steps is not None and not isinstance(learner, InnerLoopLearner):
        raise ValueError(f"steps={steps} is for learners that descend; this is {type(learner)}")
    if hasattr(sample_tasks, "restarted"):
        sample_tasks = sample_tasks.restarted()
    device = next((p.device for p in learner.parameters()), torch.device("cpu"))
    training = learner.training
    learner.eval()
    values: list[Tensor] = []
    try:
        with torch.no_grad(), progress_bar(tasks, "evaluating", progress) as bar:
            while (done := sum(map(len, values))) < tasks:
                drawn = task_to(_first(sample_tasks(BLOCK), tasks - done), device)
                check_tasks(drawn)
                groups = [drawn]
                if isinstance(learner, InnerLoopLearner):
                    groups = in_groups(learner, drawn)
                outputs = torch.cat([_predict(learner, g, steps, transductive) for g in groups])
                y = drawn.query.y
                if metric is None:
                    metric = learner.loss if y.is_floating_point() else accuracy
                values.append(vmap(metric)(outputs, y).cpu())
                bar.update(len(y))
    finally:
        learner.train(training)
    name = getattr(metric, "__name__", type(metric).__name__).removesuffix("_loss")
    return Score(torch.cat(values).double(), name, transductive)


def _first(tasks: Task, n: int) -> Task:
    """The first n of some tasks."""
    return Task(*(Batch(*(tensor[:n] for tensor in batch)) for batch in tasks))


def _predict(learner: Learner, tasks: Task, steps: int | None, transductive: bool) -> Tensor:
    """The outputs for all queries, `[T, M, ...]`."""
    support: Batch = tasks.support
    if isinstance(learner, InnerLoopLearner):
        adapted = learner.adapt(support, steps)
    else:
        adapted = learner.adapt(support)
    if transductive:
        return learner.predict(adapted, tasks.query.x)

    def one_query(x: Tensor) -> Tensor:  # one query of every task, [T, ...]
        return learner.predict(adapted, torch.cat([support.x, x[:, None]], 1))[:, -1]

    if not learner.batchable:
        return torch.stack([one_query(x) for x in tasks.query.x.unbind(1)], 1)
    return vmap(one_query, in_dims=1, out_dims=1)(tasks.query.x)
