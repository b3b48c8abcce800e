"""Sine waves: MAML, first-order MAML and joint pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from metanotes.data import sinusoid
from metanotes.evaluation import evaluate
from metanotes.learner import mse
from metanotes.methods.initialization import MAML, Pretrained
from metanotes.nets import mlp
from metanotes.training import meta_train
from runs.jobs import Job, LongRun, Session

ITERATIONS, TASKS = 10_000, 25
SIZES = (1, 40, 40, 1)
SHOTS, QUERIES = 10, 10
TEST_STEPS, TEST_QUERIES = (0, 1, 5, 10), 50

# Name -> its class, and the arguments beside the network and the loss.
LEARNERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "MAML": (MAML, {"inner_lr": 0.01}),
    "First-order MAML": (MAML, {"inner_lr": 0.01, "first_order": True}),
    "Joint pre-training": (Pretrained, {"inner_lr": 0.01}),
}


def about() -> dict[str, Any]:
    """The words of the record."""
    return {
        "title": "Sine waves: the error after learning from ten points",
        "config": {
            "tasks": "a sin(x + b), a in [0.1, 5], b in [0, pi], x in [-5, 5]",
            "model": f"mlp{SIZES}",
            "inner_lr": 0.01,
            "inner steps in training": 1,
            "iterations": ITERATIONS,
            "tasks in a batch": TASKS,
            "optimizer": "Adam, rate 0.001",
        },
        "protocol": "600 test tasks, the same for all, 10 support and 50 query points each; mean "
        "squared error with the 95 % interval over tasks; the phi of the last iteration is judged.",
    }


def jobs(seeds: Sequence[int]) -> list[Job]:
    """A job a learner and seed."""
    return [
        Job(
            learner=name,
            seed=seed,
            rows=f"{name}, after",
            work=partial(_work, name),
            training={
                "learner": kind.__name__,
                "arguments": arguments,
                "sizes": SIZES,
                "data": ["sinusoid", SHOTS, QUERIES],
                "iterations": ITERATIONS,
                "tasks": TASKS,
            },
            judging={"steps": TEST_STEPS, "queries": TEST_QUERIES},
            trained=[name],
        )
        for name, (kind, arguments) in LEARNERS.items()
        for seed in seeds
    ]


def _work(name: str, session: Session) -> None:
    kind, arguments = LEARNERS[name]
    seed = session.seed
    learner = kind(mlp(*SIZES, seed=seed), loss=mse, **arguments)
    tasks = sinusoid(shots=SHOTS, queries=QUERIES, seed=seed)
    session.train(
        name,
        ITERATIONS,
        lambda until, path: meta_train(learner, tasks, until, tasks=TASKS, checkpoint=path),
        tasks=TASKS,
    )
    test = sinusoid(shots=SHOTS, queries=TEST_QUERIES, seed=1_000_000)
    for steps in TEST_STEPS:
        score = evaluate(learner, test, steps=steps)
        session.score(f"{name}, after {steps} step{'' if steps == 1 else 's'}", score, steps=steps)


RUN = LongRun("sine", "sine waves: MAML, first-order MAML, joint pre-training", about, jobs)
