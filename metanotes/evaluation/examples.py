"""A plain classifier, judged on labelled examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metanotes._ground.agreement import in_words
from metanotes._ground.nested import tensors_in
from metanotes._ground.precision import in_full
from metanotes._ground.progress import progress_bar
from metanotes._ground.ranks import Ranks
from metanotes.evaluation.score import (
    Judged,
    Metric,
    Score,
    judged,
    name_of,
    score_of,
    usual_metric,
)
from metanotes.learner import Learner, check_targets, cross_entropy
from metanotes.task import Batch, map_tensors, select, task_count

MINIBATCH = 500  # examples that a plain classifier is given at once


def on_examples(
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
                            how = _usual_metric(model, outputs, targets)
                    assert how is not None
                    each = map_tensors(lambda t: t[:, None], (outputs, targets))  # tasks of one
                    values.append(judged(how, *each).cpu())
                bar.update(len(targets))
        return Judged(values, name_of(how), first)

    return score_of(ranks, judge, transductive, of="examples")


def _usual_metric(model: nn.Module, outputs: Tensor, y: Tensor) -> Metric:
    """Accuracy for labels; for real numbers the learner's loss, or of a plain module the cross
    entropy if they are probabilities."""
    loss = model.loss if isinstance(model, Learner) else cross_entropy
    if loss is cross_entropy and y.is_floating_point():
        try:
            check_targets(loss, outputs.shape[1:], y[None])
        except ValueError as error:
            raise ValueError(
                f"targets are real numbers {list(y.shape)} and no probabilities of classes: "
                "metric= says how outputs are compared with them, such as metric=metanotes.mse"
            ) from error
    return usual_metric(loss, outputs.shape[1:], y[None])


def _refuse_mixing(outputs_of: Callable[[Any], Tensor], x: Any) -> None:
    """The last example and the first by themselves, the last in front; and among all."""
    ends = torch.tensor([-1, 0])
    with in_full(tensors_in(x)[0].device):
        few, together = outputs_of(select(x, ends)).double(), outputs_of(x)[ends].double()
    if float((few - together).abs().max()) > 1e-3 * max(float(together.abs().max()), 1e-6):
        raise ValueError(
            "the model's output for an example depends on the others in its batch (batch "
            "normalization without running statistics, or a recurrent layer that takes the batch "
            "for a sequence, perhaps): judged so, test examples would "
            "help each other. Use another model, or say transductive=True"
        )
