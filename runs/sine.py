"""Sine waves: MAML, first-order MAML and joint pre-training, each with an outer rate of its own.

Of some outer rates each takes the one with the smallest error on validation waves after a tenth of
the training; joint pre-training its rate of descent, too, which its training does not know.
"""

from __future__ import annotations

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

ITERATIONS, PART, TASKS = 10_000, 10, 25  # PART: how many times as short a trial is
SIZES = (1, 40, 40, 1)
SHOTS, QUERIES = 10, 10
RATES = (3e-4, 1e-3, 3e-3, 1e-2)  # of Adam
INNER_LR, INNER_RATES = 0.01, (0.003, 0.01, 0.03, 0.1)  # MAML's, and joint pre-training's
TEST_STEPS, TEST_QUERIES, JUDGED_AT = (0, 1, 5, 10), 50, 10  # JUDGED_AT: steps, by which is chosen
SEEDS = {"validation": 2_000_000, "test": 3_000_000}

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
            f"the smallest error on validation waves after {JUDGED_AT} steps and 1/{PART} of the "
            "training",
        },
        "protocol": "600 test tasks, the same for all, 10 support and 50 query points each; mean "
        "squared error with the 95 % interval over tasks; the phi of the last iteration is judged. "
        "Rates were chosen on 600 other tasks.",
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
                "iterations": [ITERATIONS, PART],
                "tasks": TASKS,
                "rates": RATES,
            },
            judging={
                "steps": [TEST_STEPS, JUDGED_AT],
                "queries": TEST_QUERIES,
                "seeds": SEEDS,
                "inner rates": _inner_rates(name),
            },
            trained=[*(_trial(name, rate) for rate in RATES), name],
        )
        for name, (kind, arguments) in LEARNERS.items()
        for seed in seeds
    ]


def _trial(name: str, rate: float) -> str:
    return f"{name}, outer rate {rate:g}, 1/{PART} as long"


def _inner_rates(name: str) -> tuple[float, ...]:
    """To choose from in testing: what has its inner rate in training keeps it."""
    return INNER_RATES if LEARNERS[name][0] is Pretrained else (INNER_LR,)


def _made(name: str, seed: int, inner_lr: float = INNER_LR) -> Learner:
    kind, arguments = LEARNERS[name]
    learner: Learner = kind(mlp(*SIZES, seed=seed), inner_lr, loss=mse, **arguments)
    return learner


def _after(name: str, session: Session, rate: float, part: int = 1) -> tuple[Learner, float, float]:
    """A learner after its training, or so small a part of one; its inner rate in testing, and its
    error on validation waves."""
    learner = _made(name, session.seed)
    tasks = sinusoid(shots=SHOTS, queries=QUERIES, seed=session.seed)
    adam = torch.optim.Adam(learner.parameters(), lr=rate)

    def train_until(until: int, checkpoint: Path) -> History:
        return meta_train(learner, tasks, until, tasks=TASKS, optimizer=adam, checkpoint=checkpoint)

    what = name if part == 1 else _trial(name, rate)
    session.train(what, ITERATIONS // part, train_until, tasks=TASKS)
    errors = {}
    for inner_lr in _inner_rates(name):
        judged = _made(name, session.seed, inner_lr)
        judged.load_state_dict(learner.state_dict())
        validation = sinusoid(shots=SHOTS, queries=TEST_QUERIES, seed=SEEDS["validation"])
        errors[inner_lr] = judged, evaluate(judged, validation, steps=JUDGED_AT).mean
    best = min(errors, key=lambda inner_lr: errors[inner_lr][1])
    return errors[best][0], best, errors[best][1]


def _work(name: str, session: Session) -> None:
    errors = {rate: _after(name, session, rate, PART)[2] for rate in RATES}
    best = min(RATES, key=lambda rate: errors[rate])
    learner, inner_lr, _ = _after(name, session, best)
    tried = ", ".join(f"{rate:g}: {error:.3f}" for rate, error in errors.items())
    session.note = f"outer rate {best:g} ({tried})"
    if len(_inner_rates(name)) > 1:
        session.note += f", inner rate {inner_lr:g}"
    test = sinusoid(shots=SHOTS, queries=TEST_QUERIES, seed=SEEDS["test"])
    for steps in TEST_STEPS:
        score = evaluate(learner, test, steps=steps)
        session.score(f"{name}, after {steps} step{'' if steps == 1 else 's'}", score, steps=steps)


RUN = LongRun("sine", "sine waves: MAML, first-order MAML, joint pre-training", about, jobs)
