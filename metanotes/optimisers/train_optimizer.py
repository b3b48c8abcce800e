"""Training an update rule on windows of its way: truncated backpropagation through time.

An episode descends T steps on functions drawn anew. After every `unroll` of them phi takes a step
on the loss of that window. theta and the rule's state go on into the next window; their
derivatives do not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metanotes.data.functions import Functions
from metanotes.optimisers.unroll import LearningToOptimise
from metanotes.training import History, _check_finite, _Run, progress_bar
from metanotes.update_rules import positive


def train_optimizer(
    learner: LearningToOptimise,
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
    >>> learner = LearningToOptimise(LSTMRule(preprocess=None), steps=40)
    >>> history = train_optimizer(learner, quadratics(seed=0), episodes=2, progress=False)
    >>> len(history.losses)
    2
    """
    for name, count in {
        "episodes": episodes,
        "tasks": tasks,
        "unroll": unroll,
        "validate_every": validate_every,
        "checkpoint_every": checkpoint_every,
    }.items():
        if count < 1:
            raise ValueError(f"{name}={count} must be at least 1")
    if clip is not None:
        positive("clip", clip)
    if scheduler is not None and scheduler.optimizer is not optimizer:
        raise ValueError("scheduler= must be of the optimizer that is given as optimizer=")
    phi = [p for p in learner.parameters() if p.requires_grad]
    if not phi:
        raise ValueError(f"{type(learner.rule).__name__} has no parameter to train: phi is empty")
    optimizer = optimizer or torch.optim.Adam(phi, lr=positive("meta_lr", meta_lr))
    run = _Run(learner, optimizer, scheduler, sample, History())
    run.description["windows"] = f"{tasks} functions, {unroll} steps at once, clip {clip}"
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        if path.exists():
            run.load(path)
        run.save(path)  # a folder that cannot be written to is found out before any work
    history = run.history
    with progress_bar(episodes, "training the rule", progress, len(history.losses)) as bar:
        while len(history.losses) < episodes:
            episode, total = len(history.losses) + 1, 0.0
            functions = sample(tasks)
            position = learner.start(functions)
            for window in learner.weights.split(unroll):
                losses, position = learner.unroll(functions, position, len(window))
                position = position.detached()
                each = losses @ window.to(losses.dtype)
                _check_finite(each.sum(), f"the loss of episode {episode}", each, path)
                total += each.mean().item()
                if not window.any():
                    continue
                optimizer.zero_grad()
                each.mean().backward()
                norm = nn.utils.get_total_norm([p.grad for p in phi if p.grad is not None])
                _check_finite(norm, f"the gradient of episode {episode}", each, path)
                if clip is not None:
                    nn.utils.clip_grads_with_norm_(phi, clip, norm)
                optimizer.step()
            if scheduler is not None:
                scheduler.step()
            history.losses.append(total)
            bar.set_postfix(loss=f"{total:.3g}", refresh=False)
            bar.update()
            if validate is not None and episode % validate_every == 0:
                run.validated(float(validate(learner)), None)
            if path is not None and episode % checkpoint_every == 0:
                run.save(path)
    if path is not None:
        run.save(path)
    if run.best is not None:
        learner.load_state_dict(run.best)
    return history
