"""The long runs whose records the book shows: `python -m metanotes.results omniglot`.

A run is made of one learner and seed at a time, is saved as it goes, and goes on where it was when
the command is given again. Its record, `results/<name>.json`, holds the configuration, the
protocol, every score with its interval, the learning curve and the time it took.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from metanotes.data import Images, cache_folder, episodes, omniglot, sinusoid
from metanotes.data.episodes import EpisodeSampler
from metanotes.evaluation import Score, evaluate
from metanotes.initialisation import MAML, Pretrained
from metanotes.learner import mse
from metanotes.nets import conv4, mlp
from metanotes.training import meta_train

RESULTS = Path("results")


class Record:
    """A record in `results/`, and how to add to it without ever leaving half of one."""

    def __init__(self, name: str, **about: Any) -> None:
        self.path = RESULTS / f"{name}.json"
        self.runs = cache_folder() / "runs" / name
        threads = torch.get_num_threads()
        self.content: dict[str, Any] = {
            **about,
            "command": f"python -m metanotes.results {name}",
            "machine": f"{os.cpu_count()} CPU cores, {threads} of them used, "
            f"torch {torch.__version__.split('+')[0]}, Python {platform.python_version()}",
            "wall_seconds": [],
            "rows": [],
        }

    def add(self, name: str, score: Score, seed: int, **more: Any) -> None:
        """A row: one score of one learner and seed."""
        self.content["rows"].append(
            {
                "name": name,
                "value": round(score.mean, 4),
                "ci95": round(score.ci95, 4),
                "unit": score.metric,
                "tasks": len(score.values),
                "transductive": score.transductive if score.metric == "accuracy" else None,
                "seed": seed,
                **more,
            }
        )
        print(f"{name}, seed {seed}: {score}", flush=True)

    def write(self) -> None:
        """Write the record to a temporary name beside its own, then rename it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")
        os.replace(temporary, self.path)


class Stopwatch:
    """Seconds that a run has taken over all its starts, kept in a file beside its checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path, self.start = path, time.monotonic()
        self.before = float(path.read_text()) if path.exists() else 0.0

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start

    def note(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(str(self.seconds()))


def sine() -> None:
    """MAML, first-order MAML and joint pre-training on sine waves, 10 000 iterations each."""
    iterations, seeds = 10_000, [0, 1, 2]
    record = Record(
        "sine",
        title="Sine waves: the error after learning from ten points",
        config={
            "tasks": "a sin(x + b), a in [0.1, 5], b in [0, pi], x in [-5, 5]",
            "model": "mlp(1, 40, 40, 1)",
            "inner_lr": 0.01,
            "inner steps in training": 1,
            "iterations": iterations,
            "tasks in a batch": 25,
            "optimizer": "Adam, rate 0.001",
        },
        protocol="600 test tasks, the same for all, 10 support and 50 query points each; mean "
        "squared error with the 95 % interval over tasks; the phi of the last iteration is judged.",
        seeds=seeds,
        published=[],
    )
    learners: dict[str, Callable[[int], Any]] = {
        "MAML": lambda seed: MAML(mlp(1, 40, 40, 1, seed=seed), inner_lr=0.01, loss=mse),
        "First-order MAML": lambda seed: MAML(
            mlp(1, 40, 40, 1, seed=seed), inner_lr=0.01, loss=mse, first_order=True
        ),
        "Joint pre-training": lambda seed: Pretrained(
            mlp(1, 40, 40, 1, seed=seed), inner_lr=0.01, loss=mse
        ),
    }
    test = sinusoid(shots=10, queries=50, seed=1_000_000)
    for name, make in learners.items():
        for seed in seeds:
            run = f"{name.lower().replace(' ', '-')}-{seed}"
            learner, watch = make(seed), Stopwatch(record.runs / f"{run}.seconds")
            train = sinusoid(shots=10, queries=10, seed=seed)
            meta_train(learner, train, iterations, tasks=25, checkpoint=record.runs / f"{run}.pt")
            watch.note()
            record.content["wall_seconds"].append(round(watch.seconds()))
            for steps in (0, 1, 5, 10):
                score = evaluate(learner, test, steps=steps)
                plural = "" if steps == 1 else "s"
                record.add(f"{name}, after {steps} step{plural}", score, seed, steps=steps)
            record.write()


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


RUNS = {"sine": sine, "omniglot": omniglot_5way_1shot}


def main(arguments: list[str] | None = None) -> None:
    """Make the records that are named."""
    parser = argparse.ArgumentParser(prog="python -m metanotes.results", description=__doc__)
    parser.add_argument("name", nargs="+", choices=RUNS)
    parser.add_argument("--threads", type=int, default=None, help="threads that torch may use")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    for name in options.name:
        RUNS[name]()


if __name__ == "__main__":
    main()
