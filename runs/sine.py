"""Sine waves: MAML, first-order MAML and joint pre-training, each with an outer rate of its own.

Each is trained with every outer rate, and the training with the smallest error on validation waves
is judged; of joint pre-training its rate of descent is chosen so, too, which no training knows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from metanotes.data import sinusoid
from metanotes.evaluation import evaluate
from metanotes.learner import Learner, mse
from metanotes.methods.initialization import MAML, Pretrained
from metanotes.nets import mlp
from metanotes.training import History, meta_train
from runs.jobs import Job, LongRun, Session

ITERATIONS, TASKS = 10_000, 25
SIZES = (1, 40, 40, 1)
SHOTS, QUERIES = 10, 10
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # of Adam
INNER_LR, INNER_RATES = 0.01, (0.003, 0.01, 0.03, 0.1)  # MAML's, and joint pre-training's
TEST_STEPS, TEST_QUERIES, JUDGED_AT = (0, 1, 5, 10), 50, 10  # JUDGED_AT: steps, by which is chosen
SEEDS = {"validation": 2_000_000, "test": 5_000_000}
VALIDATION = 5000  # tasks: so many that a rate which diverges on few of them is found out

# Name -> its class, and the arguments beside the network, the inner rate and the loss.
LEARNERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "MAML": (MAML, {}),
    "First-order MAML": (MAML, {"first_order": True}),
    "Joint pre-training": (Pretrained, {}),
}


def about() -> dict[str, Any]:
    """The words of the record."""
    return {
        "title": "Sine waves: the error after learning from ten points",
        "config": {
            "tasks": "a sin(x + b), a in [0.1, 5], b in [0, pi], x in [-5, 5]",
            "model": f"mlp{SIZES}",
            "inner rate": f"{INNER_LR:g} as in the paper, 1 step in training; joint pre-training "
            f"descends in the test alone, with that of {', '.join(f'{r:g}' for r in INNER_RATES)} "
            f"which did best on validation waves after {JUDGED_AT} steps",
            "iterations": ITERATIONS,
            "tasks in a batch": TASKS,
            "outer rate": f"of Adam, constant: of {', '.join(f'{r:g}' for r in RATES)} that with "
            f"the smallest error on validation waves after {JUDGED_AT} steps, each trained in full",
        },
        "protocol": "600 test tasks, the same for all, 10 support and 50 query points each; mean "
        "squared error with the 95 % interval over tasks; the phi of the last iteration is judged. "
        f"Rates were chosen on {VALIDATION} other tasks.",
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
                "inner rate": INNER_LR,
                "sizes": SIZES,
                "data": ["sinusoid", SHOTS, QUERIES],
                "iterations": ITERATIONS,
                "tasks": TASKS,
                "rates": RATES,
            },
            judging={
                "steps": [TEST_STEPS, JUDGED_AT, VALIDATION],
                "queries": TEST_QUERIES,
                "seeds": SEEDS,
                "inner rates": _inner_rates(name),
            },
            trained=[_trained(name, rate) for rate in RATES],
        )
        for name, (kind, arguments) in LEARNERS.items()
        for seed in seeds
    ]


def _trained(name: str, rate: float) -> str:
    return f"{name}, outer rate {rate:g}"


def _inner_rates(name: str) -> tuple[float, ...]:
    """To choose from in testing: what has its inner rate in training keeps it."""
    return INNER_RATES if LEARNERS[name][0] is Pretrained else (INNER_LR,)


def _made(name: str, seed: int, inner_lr: float = INNER_LR) -> Learner:
    kind, arguments = LEARNERS[name]
    learner: Learner = kind(mlp(*SIZES, seed=seed), inner_lr, loss=mse, **arguments)
    return learner


def _after(name: str, session: Session, rate: float) -> tuple[Learner, float, float]:
    """A learner, trained; its inner rate in testing, and its error on validation waves."""
    learner = _made(name, session.seed)
    tasks = sinusoid(shots=SHOTS, queries=QUERIES, seed=session.seed)
    adam = torch.optim.Adam(learner.parameters(), lr=rate)

    def train_until(until: int, checkpoint: Path) -> History:
        return meta_train(learner, tasks, until, tasks=TASKS, optimizer=adam, checkpoint=checkpoint)

    session.train(_trained(name, rate), ITERATIONS, train_until, tasks=TASKS)
    validation = sinusoid(shots=SHOTS, queries=TEST_QUERIES, seed=SEEDS["validation"])

    def judged(inner_lr: float) -> tuple[Learner, float, float]:
        other = _made(name, session.seed, inner_lr)
        other.load_state_dict(learner.state_dict())
        error = evaluate(other, validation, VALIDATION, steps=JUDGED_AT).mean
        return other, inner_lr, error if math.isfinite(error) else math.inf

    return min(map(judged, _inner_rates(name)), key=lambda each: each[2])


def _work(name: str, session: Session) -> None:
    after = {rate: _after(name, session, rate) for rate in RATES}
    best = min(RATES, key=lambda rate: after[rate][2])
    learner, inner_lr, _ = after[best]
    tried = ", ".join(f"{rate:g}: {error:.3f}" for rate, (_, _, error) in after.items())
    session.note = f"outer rate {best:g} ({tried})"
    if len(_inner_rates(name)) > 1:
        session.note += f", inner rate {inner_lr:g}"
    test = sinusoid(shots=SHOTS, queries=TEST_QUERIES, seed=SEEDS["test"])
    for steps in TEST_STEPS:
        score = evaluate(learner, test, steps=steps)
        session.score(f"{name}, after {steps} step{'' if steps == 1 else 's'}", score, steps=steps)


RUN = LongRun("sine", "sine waves: MAML, first-order MAML, joint pre-training", about, jobs)
