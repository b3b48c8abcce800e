"""Every test task learned from its support set, and judged on its query set."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils._pytree import tree_map

from metanotes._ground.agreement import in_words
from metanotes._ground.precision import in_full
from metanotes._ground.progress import progress_bar
from metanotes._ground.ranks import Ranks
from metanotes.engine import Itself, Plan, plan_for, slow_rules_refused
from metanotes.evaluation.score import (
    Judged,
    Metric,
    Score,
    judged,
    name_of,
    score_of,
    usual_metric,
)
from metanotes.learner import Learner
from metanotes.task import (
    Batch,
    Inputs,
    Task,
    check_tasks,
    map_tensors,
    select,
    task_count,
    task_to,
    tensors_of,
)

Together = Literal["all", "several", "none"]  # queries: in one batch, each alone by vmap or a loop

# Tasks that are drawn at once: always as many, since a sampler's tasks depend on it.
BLOCK = 25
# Floating-point operations of the queries that are predicted at once, about. glibc gives larger
# blocks of memory back to the system after each layer, which takes longer than the layer.
WORK = 20_000_000


def on_tasks(
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
        before: list[tuple[Tensor, int]] = []
        with progress_bar(tasks, "evaluating", progress and ranks.first) as bar:
            while done < tasks:
                whole = sample(BLOCK)
                drawn = task_to(select(whole, slice(tasks - done)), ranks.device)
                check_tasks(drawn)
                if _same(whole, before):
                    few = task_count(whole)
                    raise ValueError(
                        f"sample_tasks gave the same {few} tasks again: with tasks={tasks} each "
                        f"would count several times. tasks={few} judges each once"
                    )
                before = [(t, t._version) for t in tensors_of(whole)]
                plan = plan_for(learner, drawn if metric is None else _with_any_labels(drawn))
                if together is None:
                    with in_full(ranks.device):
                        together = _together(learner, drawn, steps, plan)
                if block == 0 and ranks.size > 1:
                    first = in_words(drawn)
                if block % ranks.size == ranks.rank:
                    with ranks.randomness(block):
                        groups = plan.groups(drawn)
                        outputs = [_predict(learner, g, steps, together, plan) for g in groups]
                    y = drawn.query.y
                    if how is None:
                        how = usual_metric(learner.loss, outputs[0].shape[2:], y)
                    values.append(judged(how, torch.cat(outputs), y).cpu())
                done, block = done + task_count(drawn), block + 1
                bar.update(task_count(drawn))
        return Judged(values, name_of(how), first)

    return score_of(ranks, judge, transductive)


def _same(tasks: Task, before: list[tuple[Tensor, int]]) -> bool:
    """Whether all of it are the tensors of the block before, and nothing was written to them."""
    now = tensors_of(tasks)
    return len(now) == len(before) and all(
        t is known and t._version == version
        for t, (known, version) in zip(now, before, strict=True)
    )


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
        with plan.at_work(at_once=_at_once(plan)):
            return learner.predict(adapted, tasks.query.x)
    return _each_alone(learner, adapted, tasks, plan, together)


def _at_once(plan: Plan) -> bool:
    """Whether predictions for several tasks are: where convolutions go apart, not."""
    return plan.how.at_once and not plan.how.apart


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
    # Torch's batch normalisation, under vmap, reorders the memory twice; its formula does not.
    with plan._replace(differentiable=True).at_work(layers=nullcontext, at_once=_at_once(plan)):
        if together == "none":
            alone = [map_tensors(lambda t: t[:, 0], part(m, 1)) for m in range(queries)]
            return torch.stack([one_query(x) for x in alone], 1)
        # A query goes through the model beside the support set: a part of what a task costs.
        at_once = task_count(tasks) if _at_once(plan) else 1
        work = plan.flops * at_once * (support + 1) // (support + queries)
        size = max(1, WORK // max(1, work))
        several = vmap(one_query, in_dims=1, out_dims=1, randomness="different")
        return torch.cat([several(part(m, size)) for m in range(0, queries, size)], 1)


def _together(learner: Learner, tasks: Task, steps: int | None, plan: Plan) -> Together:
    """How queries may be predicted, so that each is as it would be by itself.

    Tried on three queries of two tasks (one task would be worked on otherwise), with the learner as
    it is. Where its predictions are all alike there is nothing to see, and it may mix them. That it
    does is found out once; that it does not may change as it learns.
    """
    found = learner.workshop.mixing
    if (known := found.get(Itself(plan))) is not None:
        return cast(Together, known)
    two = map_tensors(lambda t: t[:2], tasks)
    few = Task(two.support, map_tensors(lambda t: t[:, :3], two.query))
    with plan.at_work():
        adapted = _adapt(learner, two.support, steps)
    with plan.at_work(at_once=_at_once(plan)):
        among_all = learner.predict(adapted, two.query.x)[:, :3].double()
    right = _each_alone(learner, adapted, few, plan, "none").double()
    spread = float((right - right.mean(1, keepdim=True)).abs().max())
    scale = max(spread, 1e-3 * float(right.abs().max()))
    seen = spread == scale
    if seen and float((among_all - right).abs().max()) <= 1e-4 * scale:
        return "all"
    together: Together = "none"
    # There may be no batching rule, or a branch on data.
    with suppress(RuntimeError, NotImplementedError, UserWarning), slow_rules_refused():
        several = _each_alone(learner, adapted, few, plan, "several").double()
        if float((several - right).abs().max()) <= 1e-4 * scale:
            together = "several"
    if seen:
        found[Itself(plan)] = together
    return together
