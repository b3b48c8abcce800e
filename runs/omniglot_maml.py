"""Omniglot, 5-way 1-shot: one long run of second-order MAML."""

from __future__ import annotations

from typing import Any

import torch

from metanotes.data import Images, episodes, omniglot
from metanotes.data.episodes import EpisodeSampler
from metanotes.evaluation import evaluate
from metanotes.methods.initialization import MAML
from metanotes.nets import conv4
from metanotes.training import meta_train
from runs.record import Record, Stopwatch


def omniglot_5way_1shot() -> None:
    """Second-order MAML on Omniglot, 5-way 1-shot, on characters that it has never seen."""
    config = {
        "data": "Omniglot, 1200/423 characters, of the 1200 100 for validation; training "
        "characters in four rotations, each a class; test characters upright",
        "model": "conv4(ways=5): 64 channels, stride 2, batch statistics",
        "second order": True,
        "inner_lr": 0.4,
        "inner steps in training / testing": "1 / 3",
        "queries a class in training": 5,
        "tasks in a batch": 8,
        "iterations": 6000,
        "optimizer": "Adam, rate 0.001",
    }
    seeds = [0]
    record = Record(
        "omniglot",
        title="Omniglot, 5-way 1-shot: second-order MAML on unseen characters",
        config=config,
        protocol="600 test tasks of the 423 unseen characters, 15 queries a class; accuracy with "
        "the 95 % interval over tasks. Phi is chosen by validation on the 100 characters kept "
        "for it, never on test characters. Transductive: the queries of a task share one batch, "
        "and so its statistics, as in the paper's figure; not transductive: each query is "
        "predicted on its own, beside the support set.",
        seeds=seeds,
        published=[
            {"name": "MAML, transductive", "value": "98.7 ± 0.4 %", "cite": "finn2017maml"},
        ],
    )
    train, validation = split_classes(omniglot("train", protocol="1200/423"), 1100, seed=0)
    test = omniglot("test", protocol="1200/423")

    def five_way(images: Images, seed: int, queries: int, rotations: Any = None) -> EpisodeSampler:
        return episodes(images, 5, 1, queries, seed=seed, rotations=rotations)

    for seed in seeds:
        learner = MAML(conv4(ways=5, seed=seed), inner_lr=0.4, steps=1)
        watch = Stopwatch(record.runs / f"{seed}.seconds")
        held_out = five_way(validation, 2_000_000, 15)

        def validate(
            learner: MAML, held_out: EpisodeSampler = held_out, watch: Stopwatch = watch
        ) -> float:
            watch.note()
            return evaluate(learner, held_out, tasks=100, steps=3, transductive=True).mean

        history = meta_train(
            learner,
            five_way(train, seed, queries=5, rotations="classes"),
            iterations=6000,
            tasks=8,
            validate=validate,
            validate_every=250,
            checkpoint=record.runs / f"{seed}.pt",
            checkpoint_every=250,
        )
        watch.note()
        record.content["wall_seconds"].append(round(watch.seconds()))
        iterations, values = zip(*history.validation, strict=True)
        record.content["curve"] = {
            "iteration": iterations,
            "value": [round(v, 4) for v in values],
            "label": "accuracy, 100 validation tasks",
        }
        for steps in (1, 3):
            for transductive in (True, False):
                score = evaluate(
                    learner, five_way(test, 1_000_000, 15), steps=steps, transductive=transductive
                )
                plural = "" if steps == 1 else "s"
                record.add(f"MAML, {steps} inner step{plural}", score, seed, steps=steps)
        record.write()


def split_classes(images: Images, first: int, seed: int) -> tuple[Images, Images]:
    """The images of `first` classes drawn at random, and those of the other classes."""
    order = torch.randperm(len(images.names), generator=torch.Generator().manual_seed(seed))
    parts = []
    for classes in (order[:first].sort().values, order[first:].sort().values):
        rows = torch.isin(images.y, classes)
        names = tuple(images.names[c] for c in classes)
        parts.append(Images(images.x[rows], torch.searchsorted(classes, images.y[rows]), names))
    return parts[0], parts[1]
