"""How the runs train an update rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from metanotes.methods.optimizers import LearningToOptimize
from metanotes.training import History, meta_train
from runs.jobs import Session


def train_rule(
    session: Session,
    what: str,
    learner: LearningToOptimize,
    functions: Callable[[int], Any],
    episodes: int,
    tasks: int,
    lr: float,
    validate: Callable[[LearningToOptimize], float],
    *,
    clip: float = 10.0,
    every: int = 20,
) -> None:
    """Train by Adam with a rate that falls to a twentieth; the best of the validations is kept.

    Args:
        session: of the job.
        what: names the training.
        learner: the rule, and how it is unrolled.
        functions: their sampler.
        episodes: how many.
        tasks: functions of an episode.
        lr: Adam's rate at first.
        validate: from the learner to a score, where more is better.
        clip: bound on the norm of a window's gradient.
        every: episodes between two validations, and between two saves.
    """
    adam = torch.optim.Adam(learner.parameters(), lr=lr)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, episodes, lr / 20)

    def train_until(until: int, checkpoint: Path) -> History:
        return meta_train(
            learner,
            functions,
            until,
            tasks,
            optimizer=adam,
            scheduler=falling,
            clip=clip,
            validate=validate,
            validate_every=every,
            checkpoint=checkpoint,
            checkpoint_every=every,
        )

    session.train(what, episodes, train_until, tasks=tasks)
