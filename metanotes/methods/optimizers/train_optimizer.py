"""Training an update rule on windows of its way: truncated backpropagation through time.

An episode descends T steps on functions drawn anew. After every `unroll` of them phi takes a step
on the loss of that window. theta and the rule's state go on into the next window; their
derivatives do not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from metanotes.methods.optimizers.unroll import LearningToOptimize
from metanotes.task import Functions
from metanotes.training import History, Run, check_training
from metanotes.update_rules import positive


def train_optimizer(
    learner: LearningToOptimize,
    sample: Callable[[int], Functions],
    episodes: int,
    tasks: int = 16,
    *,
    unroll: int = 20,
    meta_lr: float = 3e-3,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    clip: float | None = 10.0,
    validate: Callable[[Any], float] | None = None,
    validate_every: int = 20,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 20,
    progress: bool = True,
) -> History:
    """Train the rule of a learner, and leave it there.

    Args:
        learner: the rule, the steps T of an episode and their weights.
        sample: from a number to so many functions; for an exact resume a sampler as those of
            `metanotes.data`.
        episodes: how many, counted from the first start; at least 1.
        tasks: functions of an episode.
        unroll: steps between two steps of phi; the last window of an episode may be shorter.
        meta_lr: the step size of Adam, above 0.
        optimizer: of the rule's parameters, in place of Adam; `meta_lr` is then its own affair.
        scheduler: of that optimizer's rate, stepped after every episode.
        clip: bound on the norm of a window's gradient, or None.
        validate: from the learner to a score, where more is better. The phi of the best is kept.
        validate_every: episodes between two validations.
        checkpoint: the file, from which the run goes on when called again with the same arguments:
            the parameters are then, bit for bit, those of a run that was never interrupted.
        checkpoint_every: episodes between two saves; the end of the run saves too.
        progress: show a progress bar.

    Returns:
        The `History`: the loss of every episode, a mean over its functions, as `learner` weighs it.

    Raises:
        ValueError: a count below 1, or a rule without parameters.
        CheckpointError: the file is not of this learner and these functions, or is truncated.
        NonFiniteLossError: a loss or its gradient is NaN or infinite.

    >>> from metanotes import LSTMRule
    >>> from metanotes.data import quadratics
    >>> learner = LearningToOptimize(LSTMRule(preprocess=None), steps=40)
    >>> history = train_optimizer(learner, quadratics(seed=0), episodes=2, progress=False)
    >>> len(history.losses)
    2
    """
    check_training(
        learner.rule,
        clip,
        optimizer,
        scheduler,
        episodes=episodes,
        tasks=tasks,
        unroll=unroll,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
    )
    phi = [p for p in learner.parameters() if p.requires_grad]
    optimizer = optimizer or torch.optim.Adam(phi, lr=positive("meta_lr", meta_lr))
    windows = f"{tasks} functions, {unroll} steps at once, clip {clip}"
    run = Run(learner, optimizer, scheduler, sample, clip, checkpoint, windows=windows)
    for episode in run.iterations(
        episodes, "training the rule", progress, validate, validate_every, None, checkpoint_every
    ):
        functions, total = sample(tasks), 0.0
        position = learner.start(functions)
        for window in learner.weights.split(unroll):
            losses, position = learner.unroll(functions, position, len(window))
            position = position.detached()
            each = losses @ window.to(losses.dtype)
            if window.any():
                total += run.step(each, f"episode {episode}")
            else:
                run.check_finite(each.sum(), f"the loss of episode {episode}", each)
        run.history.losses.append(total)
    return run.history
