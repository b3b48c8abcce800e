"""Omniglot, 5-way 1-shot: one long run of second-order MAML."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch

from metanotes.data import Images, Sampler, episodes, omniglot
from metanotes.evaluation import evaluate
from metanotes.learner import Learner
from metanotes.methods.initialization import MAML
from metanotes.nets import conv4
from metanotes.training import meta_train
from runs.jobs import Job, LongRun, Session

ITERATIONS, TASKS = 6000, 8
WAYS, SHOTS, QUERIES, TEST_QUERIES = 5, 1, 5, 15
INNER_LR, STEPS, TEST_STEPS = 0.4, 1, (1, 3)
EVERY = 250  # iterations between two validations


class Classes(NamedTuple):
    """Images of classes for training, for validation and for the test."""

    train: Images
    validation: Images
    test: Images


@cache
def omniglot_classes() -> Classes:
    """Omniglot's 1200/423 characters; of the 1200, 100 are for validation."""
    train, validation = split_classes(omniglot("train", protocol="1200/423"), 1100, seed=0)
    return Classes(train, validation, omniglot("test", protocol="1200/423"))


def split_classes(images: Images, first: int, seed: int) -> tuple[Images, Images]:
    """The images of `first` classes drawn at random, and those of the other classes."""
    order = torch.randperm(len(images.names), generator=torch.Generator().manual_seed(seed))
    parts = []
    for classes in (order[:first].sort().values, order[first:].sort().values):
        rows = torch.isin(images.y, classes)
        names = tuple(images.names[c] for c in classes)
        parts.append(Images(images.x[rows], torch.searchsorted(classes, images.y[rows]), names))
    return parts[0], parts[1]


def about() -> dict[str, Any]:
    """The words of the record."""
    return {
        "title": "Omniglot, 5-way 1-shot: second-order MAML on unseen characters",
        "config": {
            "data": "Omniglot, 1200/423 characters, of the 1200 100 for validation; training "
            "characters in four rotations, each a class; test characters upright",
            "model": "conv4(ways=5): 64 channels, stride 2, batch statistics",
            "second order": True,
            "inner_lr": INNER_LR,
            "inner steps in training / testing": f"{STEPS} / {TEST_STEPS[-1]}",
            "queries a class in training": QUERIES,
            "tasks in a batch": TASKS,
            "iterations": ITERATIONS,
            "optimizer": "Adam, rate 0.001",
        },
        "protocol": "600 test tasks of the 423 unseen characters, 15 queries a class; accuracy "
        "with the 95 % interval over tasks. Phi is chosen by validation on the 100 characters kept "
        "for it, never on test characters. Transductive: the queries of a task share one batch, "
        "and so its statistics, as in the paper's figure; not transductive: each query is "
        "predicted on its own, beside the support set.",
        "published": [
            {"name": "MAML, transductive", "value": "98.7 ± 0.4 %", "cite": "finn2017maml"},
        ],
        "curve_label": "accuracy, 100 validation tasks",
    }


def jobs(seeds: Sequence[int]) -> list[Job]:
    """A job a seed."""
    training = {
        "data": "omniglot 1200/423, 1100 classes in four rotations",
        "episodes": [WAYS, SHOTS, QUERIES],
        "inner": [INNER_LR, STEPS],
        "iterations": ITERATIONS,
        "tasks": TASKS,
        "validated every": EVERY,
    }
    judging = {"steps": TEST_STEPS, "queries": TEST_QUERIES}
    return [
        Job("MAML", seed, "MAML, ", _work, training, judging, trained=["MAML"]) for seed in seeds
    ]


def _held_out(images: Images, seed: int) -> Sampler:
    return episodes(images, WAYS, SHOTS, TEST_QUERIES, seed=seed)


def _work(session: Session) -> None:
    seed, classes = session.seed, omniglot_classes()
    learner = MAML(conv4(ways=WAYS, seed=seed), INNER_LR, STEPS)
    tasks = episodes(classes.train, WAYS, SHOTS, QUERIES, seed=seed, rotations="classes")
    validation = _held_out(classes.validation, 2_000_000)
    test = _held_out(classes.test, 1_000_000)

    def validate(learner: Learner) -> float:
        return evaluate(learner, validation, tasks=100, steps=3, transductive=True).mean

    session.train(
        "MAML",
        ITERATIONS,
        lambda until, path: meta_train(
            learner,
            tasks,
            until,
            TASKS,
            validate=validate,
            validate_every=EVERY,
            checkpoint=path,
            checkpoint_every=EVERY,
        ),
        tasks=TASKS,
    )
    for steps in TEST_STEPS:
        for transductive in (True, False):
            score = evaluate(learner, test, steps=steps, transductive=transductive)
            name = f"MAML, {steps} inner step{'' if steps == 1 else 's'}"
            session.score(name, score, steps=steps)


RUN = LongRun("omniglot", "5-way 1-shot: second-order MAML on real Omniglot", about, jobs, (0,))
