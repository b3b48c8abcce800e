"""Sine waves: MAML, first-order MAML and joint pre-training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metanotes.data import sinusoid
from metanotes.evaluation import evaluate
from metanotes.learner import mse
from metanotes.methods.initialization import MAML, Pretrained
from metanotes.nets import mlp
from metanotes.training import meta_train
from runs.record import Record, Stopwatch


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
