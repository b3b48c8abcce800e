"""The goodness of F_phi: the mean over test tasks, with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils._pytree import tree_map

from metanotes._ground.agreement import in_words, own_places, same_call, same_tensors
from metanotes._ground.checkpoints import described
from metanotes._ground.checks import count
from metanotes._ground.nested import tensors_in
from metanotes._ground.precision import in_full
from metanotes._ground.progress import progress_bar
from metanotes._ground.ranks import Ranks, present_ranks
from metanotes.engine import Plan, plan_for, slow_rules_refused
from metanotes.learner import Learner, cross_entropy, mse
from metanotes.task import (
    Batch,
    Inputs,
    Task,
    check_tasks,
    map_tensors,
    select,
    task_count,
    task_to,
)

__all__ = ["Score", "accuracy", "evaluate"]

Metric = Callable[[Tensor, Tensor], Tensor]
Together = Literal["all", "several", "none"]  # queries: in one batch, each alone by vmap or a loop

# Tasks that are drawn at once: always as many, since a sampler's tasks depend on it.
BLOCK = 25
MINIBATCH = 500  # examples that a plain classifier is given at once
WORK = 250_000_000  # floating-point operations of the queries that are predicted at once, about


@dataclass(frozen=True)
class Score:
    """The score of a learner on test tasks, or of a classifier on test examples.

    Args:
        values: the score of every task, `[tasks]`: a fraction for accuracy.
        metric: "accuracy", or the name of the loss.
        transductive: whether a query was predicted in one batch with the other queries.
        of: what `values` are of: "tasks" or "examples".

    >>> score = Score(torch.tensor([0.8, 1.0, 0.9, 0.9]), "accuracy", transductive=False)
    >>> print(score)
    90.0 ± 8.0 % (4 tasks, not transductive)
    """

    values: Tensor
    metric: str
    transductive: bool
    of: str = "tasks"

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
        return f"{value} ({len(self.values)} {self.of}, {how})"


def accuracy(outputs: Tensor, y: Tensor) -> Tensor:
    """The fraction of right answers of one task: outputs `[M, ways]`, labels `[M]`, to a scalar.

    >>> accuracy(torch.eye(4), torch.tensor([0, 1, 2, 2]))
    tensor(0.7500, dtype=torch.float64)
    """
    return (outputs.argmax(-1) == y).double().mean()


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
    ranks = present_ranks(next((p.device for p in learner.parameters()), torch.device("cpu")))
    own_places(ranks, learner)
    how = f"{tasks=}, {steps=}, {transductive=}, metric={described(metric)}"
    same_call(ranks, {"call": f"evaluate, {how}", "learner": described(learner)})
    same_tensors(ranks, learner)
    training = {module: module.training for module in learner.modules()}
    learner.eval()
    try:
        with torch.no_grad():
            if callable(sample_tasks):
                return _on_tasks(
                    learner, sample_tasks, tasks, steps, transductive, metric, progress, ranks
                )
            return _on_examples(learner, sample_tasks, transductive, metric, progress, ranks)
    finally:
        for module, mode in training.items():
            module.training = mode


# ------------------------------------------------------------------------------------ on tasks


def _on_tasks(
    learner: nn.Module,
    sample_tasks: Callable[[int], Task],
    tasks: int,
    steps: int | None,
    transductive: bool,
    metric: Metric | None,
    progress: bool,
    ranks: Ranks,
) -> Score:
    if not isinstance(learner, Learner):
        raise ValueError(
            f"{type(learner).__name__} learns nothing from a task: tasks need a learner with "
            "adapt and predict. A plain classifier is judged on labelled examples: "
            "evaluate(model, images)"
        )
    if steps is not None and not learner.takes_steps:
        raise ValueError(
            f"steps={steps} is for learners that descend; {type(learner).__name__} takes no steps"
        )
    sample = getattr(sample_tasks, "restarted", lambda: sample_tasks)()

    def judge() -> Judged:
        how = metric
        together: Together | None = "all" if transductive else None
        values: list[Tensor] = []
        first, done, block = "", 0, 0
        with progress_bar(tasks, "evaluating", progress and ranks.first) as bar:
            while done < tasks:
                drawn = task_to(select(sample(BLOCK), slice(tasks - done)), ranks.device)
                check_tasks(drawn)
                plan = plan_for(learner, drawn if metric is None else _with_any_labels(drawn))
                if together is None:
                    together = _together(learner, drawn, steps, plan)
                if block == 0 and ranks.size > 1:
                    first = in_words(drawn)
                if block % ranks.size == ranks.rank:
                    with ranks.randomness(block):
                        groups = plan.groups(drawn)
                        outputs = [_predict(learner, g, steps, together, plan) for g in groups]
                    y = drawn.query.y
                    if how is None:
                        how = _usual_metric(learner.loss, outputs[0].shape[2:], y)
                    values.append(_judged(how, torch.cat(outputs), y).cpu())
                done, block = done + task_count(drawn), block + 1
                bar.update(task_count(drawn))
        return Judged(values, _name(how), first)

    return _score(ranks, judge, transductive)


def _with_any_labels(tasks: Task) -> Task:
    """With a metric of the reader's, the labels of queries need not be the learner's classes."""
    x, y = tasks.query
    return tasks if y.is_floating_point() else Task(tasks.support, Batch(x, torch.zeros_like(y)))


def _predict(
    learner: Learner, tasks: Task, steps: int | None, together: Together, plan: Plan
) -> Tensor:
    """The outputs for all queries, `[T, M, ...]`."""
    with plan.at_work():
        adapted = _adapt(learner, tasks.support, steps)
        if together == "all":
            return learner.predict(adapted, tasks.query.x)
    return _each_alone(learner, adapted, tasks, plan, together)


def _adapt(learner: Learner, support: Batch, steps: int | None) -> Any:
    return learner.adapt(support) if steps is None else learner.adapt(support, steps)


def _each_alone(
    learner: Learner, adapted: Any, tasks: Task, plan: Plan, together: Together
) -> Tensor:
    """Each query beside the support set, and no other query: `[T, M, ...]`."""

    def one_query(x: Inputs) -> Tensor:  # one query of every task, [T, ...]
        both = tree_map(lambda s, q: torch.cat([s, q[:, None]], 1), tasks.support.x, x)
        return learner.predict(adapted, both)[:, -1]

    def part(first: int, number: int) -> Inputs:
        inputs: Inputs = map_tensors(lambda t: t[:, first : first + number], tasks.query.x)
        return inputs

    (_, support), (_, queries) = (batch.y.shape[:2] for batch in tasks)
    with plan.at_work(layers=nullcontext):
        if together == "none":
            alone = [map_tensors(lambda t: t[:, 0], part(m, 1)) for m in range(queries)]
            return torch.stack([one_query(x) for x in alone], 1)
        # A query goes through the model beside the support set: a part of what a task costs.
        work = plan.flops * task_count(tasks) * (support + 1) // (support + queries)
        size = max(1, WORK // max(1, work))
        several = vmap(one_query, in_dims=1, out_dims=1, randomness="different")
        return torch.cat([several(part(m, size)) for m in range(0, queries, size)], 1)


def _together(learner: Learner, tasks: Task, steps: int | None, plan: Plan) -> Together:
    """How queries may be predicted, so that each is as it would be by itself.

    Tried on three queries of two tasks (one task would be worked on otherwise), with the learner as
    it is. Where its predictions are all alike there is nothing to see, and it may mix them.
    """
    two = map_tensors(lambda t: t[:2], tasks)
    few = Task(two.support, map_tensors(lambda t: t[:, :3], two.query))
    with in_full(tasks.query.y.device):
        with plan.at_work():
            adapted = _adapt(learner, two.support, steps)
            among_all = learner.predict(adapted, two.query.x)[:, :3].double()
        right = _each_alone(learner, adapted, few, plan, "none").double()
        try:
            with slow_rules_refused():
                several = _each_alone(learner, adapted, few, plan, "several").double()
        except (RuntimeError, NotImplementedError, UserWarning):  # no rule, a branch on data
            return "none"
    spread = float((right - right.mean(1, keepdim=True)).abs().max())
    scale = max(spread, 1e-3 * float(right.abs().max()))
    if spread == scale and float((among_all - right).abs().max()) <= 1e-4 * scale:
        return "all"
    return "several" if float((several - right).abs().max()) <= 1e-4 * scale else "none"


# --------------------------------------------------------------------------------- on examples


def _on_examples(
    model: nn.Module,
    examples: Any,
    transductive: bool,
    metric: Metric | None,
    progress: bool,
    ranks: Ranks,
) -> Score:
    try:
        x, y = examples.x, examples.y
        number = len(y)
    except (AttributeError, TypeError):
        raise ValueError(
            f"an object of type {type(examples).__name__} is neither a sampler of tasks, to be "
            "called with a number, nor labelled examples with .x and .y"
        ) from None
    if number < 2 or number != task_count(x):
        raise ValueError(f"x has {task_count(x)} examples and y {number}: as many, at least 2")
    if isinstance(model, Learner):
        learner, support = model, Batch(None, y[:0])

        def outputs_of(x: Any) -> Tensor:
            adapted = learner.adapt(support)
            return learner.predict(adapted, map_tensors(lambda t: t[None], x))[0]
    else:

        def outputs_of(x: Any) -> Tensor:
            out: Tensor = model(**x) if isinstance(x, dict) else model(x)
            return out

    def ready(t: Tensor) -> Tensor:
        t = t.to(ranks.device)
        return t.float().div(255) if t.dtype == torch.uint8 else t

    def judge() -> Judged:
        how, first = metric, ""
        values: list[Tensor] = []
        with progress_bar(number, "evaluating", progress and ranks.first) as bar:
            for block, start in enumerate(range(0, number, MINIBATCH)):
                part = map_tensors(ready, select(x, slice(start, start + MINIBATCH)))
                targets = y[start : start + MINIBATCH].to(ranks.device)
                if block == 0 and ranks.size > 1:
                    first = in_words((part, targets))
                if block % ranks.size == ranks.rank:
                    outputs = outputs_of(part)
                    if not values:
                        if not transductive:
                            _refuse_mixing(outputs_of, part)
                        if how is None:
                            how = _usual_metric(cross_entropy, outputs.shape[1:], targets[None])
                    assert how is not None
                    each = map_tensors(lambda t: t[:, None], (outputs, targets))  # tasks of one
                    values.append(_judged(how, *each).cpu())
                bar.update(len(targets))
        return Judged(values, _name(how), first)

    return _score(ranks, judge, transductive, of="examples")


def _refuse_mixing(outputs_of: Callable[[Any], Tensor], x: Any) -> None:
    with in_full(tensors_in(x)[0].device):
        few, together = outputs_of(select(x, slice(2))).double(), outputs_of(x)[:2].double()
    if float((few - together).abs().max()) > 1e-3 * max(float(together.abs().max()), 1e-6):
        raise ValueError(
            "the model's output for an example depends on the others in its batch (batch "
            "normalization without running statistics, perhaps): judged so, test examples would "
            "help each other. Use another model, or say transductive=True"
        )


# ------------------------------------------------------------------------------- of all ranks


class Judged(NamedTuple):
    """What one rank has judged.

    Args:
        values: of every R-th block of tasks, if there are R ranks.
        metric: its name; "" where the rank had no block.
        first: the first block in words, which all ranks draw.
    """

    values: list[Tensor]
    metric: str
    first: str


def _score(
    ranks: Ranks, judge: Callable[[], Judged], transductive: bool, of: str = "tasks"
) -> Score:
    every = ranks.gathered(judge)
    same_call(ranks, {"tasks": every[ranks.rank].first})
    rounds = zip_longest(*(judged.values for judged in every))
    values = [block for each in rounds for block in each if block is not None]
    return Score(torch.cat(values).double(), every[0].metric, transductive, of)


# ------------------------------------------------------------------------------------- metrics


def _usual_metric(loss: Metric, output: torch.Size, y: Tensor) -> Metric:
    """Accuracy for labels, the learner's loss for real numbers.

    Args:
        loss: the learner's.
        output: the shape of its output for one example.
        y: targets, `[T, M, ...]`.

    Raises:
        ValueError: neither would be what its name says.
    """
    if y.is_floating_point():
        if loss in (mse, cross_entropy) and y.shape[2:] != output:
            raise ValueError(
                f"a target has the shape {list(y.shape[2:])} and an output {list(output)}: they "
                "must agree, or metric= says how they are compared"
            )
        return loss
    if y.shape[2:] or len(output) != 1:
        raise ValueError(
            f"targets {list(y.shape)} and outputs of the shape {list(output)} an example are no "
            "single label for each query: metric= says how they are compared"
        )
    if output[0] < 2:
        raise ValueError(
            f"targets are labels, {y.dtype}, and the model gives one number an example, whose "
            "accuracy would mean nothing: metric= says how they are compared"
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= output[0]:
        raise ValueError(
            f"labels run from {low} to {high}, and the outputs have {output[0]} classes: "
            f"accuracy needs labels 0 to {output[0] - 1} (not hidden ones, such as -1 or -100, "
            "global class ids, or a domain with more classes); or metric= says how they are "
            "compared"
        )
    return accuracy


def _judged(metric: Metric, outputs: Tensor, y: Tensor) -> Tensor:
    """The metric of every task, `[T]`."""
    if metric is accuracy:  # also in the blocks after the first
        _usual_metric(metric, outputs.shape[2:], y)
        return (outputs.argmax(-1) == y).double().mean(1)
    values = [torch.as_tensor(metric(*pair)) for pair in zip(outputs, y, strict=True)]
    if any(value.ndim for value in values):
        raise ValueError(
            f"metric gave {list(values[0].shape)} for a task, not a scalar: take the mean"
        )
    return torch.stack(values)


def _name(metric: Metric | None) -> str:
    return (
        ""
        if metric is None
        else getattr(metric, "__name__", type(metric).__name__).removesuffix("_loss")
    )
