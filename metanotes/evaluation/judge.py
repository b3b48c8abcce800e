"""`evaluate`: tasks or examples, in evaluation mode, by one process or several."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from metanotes._ground.agreement import own_places, same_call, same_tensors
from metanotes._ground.checkpoints import described
from metanotes._ground.checks import count
from metanotes._ground.modes import in_mode
from metanotes._ground.ranks import present_ranks
from metanotes.evaluation.examples import on_examples
from metanotes.evaluation.score import Metric, Score
from metanotes.evaluation.tasks import on_tasks


def evaluate(
    learner: nn.Module,
    sample_tasks: Any,
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
    without transduction), so that nothing leaks from one query to another. A model that does not
    mix examples is found out, and predicts all queries at once, which is then the same.

    A sampler of `metanotes.data` is started again at its seed, so that the same sampler always
    gives the same tasks, and scores can be compared task by task: with more `tasks`, the first ones
    stay what they were.

    A plain classifier is judged on labelled examples instead of tasks: `evaluate(model, images)`.

    Where `torch.distributed.init_process_group` was called, all ranks call it alike. They share the
    tasks, and each returns the whole score, task by task that of one process.

    Args:
        learner: what to judge. It is judged in evaluation mode, and left as it was. With labelled
            examples, any module from `[n, ...]` to `[n, classes]`, or a learner that learns nothing
            from a support set.
        sample_tasks: from a number of tasks to a `Task`; or labelled examples, `.x` `[n, ...]`
            (uint8 counts as 0..1) and `.y` `[n]`, such as `metanotes.data.digits(...)`.
        tasks: how many test tasks, at least 2; of labelled examples, all are taken.
        steps: inner steps, for learners that descend; default: as in training.
        transductive: see above.
        metric: from outputs `[M, ...]` and targets of one task to a scalar; default: accuracy
            where the targets are labels, else the learner's loss.
        progress: show a progress bar.

    Returns:
        A `Score`: `mean`, `ci95`, `values`; printed as
        "97.1 ± 0.3 % (600 tasks, not transductive)".

    Raises:
        ValueError: fewer than 2 tasks, labels that are no classes of the outputs, outputs and
            targets that cannot be compared, or examples that a classifier mixes.

    >>> from metanotes import MAML, evaluate, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> learner = MAML(mlp(1, 40, 40, 1), inner_lr=0.01, loss=mse)
    >>> score = evaluate(learner, sinusoid(shots=10, queries=50, seed=1), tasks=100, steps=3)
    >>> score.values.shape
    torch.Size([100])
    """
    if count("tasks", tasks) < 2:
        raise ValueError(f"tasks={tasks} is too few for an interval: at least 2")
    if steps is not None:
        count("steps", steps, least=0)
    if metric is not None and not callable(metric):
        raise ValueError(
            f"metric={metric!r} must be a function of the outputs and targets of one task; "
            "accuracy needs none where the targets are labels"
        )
    ranks = present_ranks(next((p.device for p in learner.parameters()), torch.device("cpu")))
    own_places(ranks, learner)
    how = f"{tasks=}, {steps=}, {transductive=}, metric={described(metric)}"
    same_call(ranks, {"call": f"evaluate, {how}", "learner": described(learner)})
    same_tensors(ranks, learner)
    with in_mode(learner, training=False), torch.no_grad():
        if callable(sample_tasks):
            return on_tasks(
                learner, sample_tasks, tasks, steps, transductive, metric, progress, ranks
            )
        return on_examples(learner, sample_tasks, transductive, metric, progress, ranks)
