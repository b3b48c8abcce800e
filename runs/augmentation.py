"""Augmentation: digits that are upright in training and turned where they are judged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from metanotes.data import digits
from metanotes.evaluation import evaluate
from metanotes.methods.datapolicy import AffineAugmentation, LearnedAugmentation
from metanotes.nets import mlp
from metanotes.task import Batch, Task
from metanotes.training import meta_train
from runs.data_policy import standing
from runs.few_shot_entry import as_text
from runs.jobs import Job, LongRun, Session

TRUE = 40.0  # degrees
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)  # of SGD, momentum 0.9, and of the step ahead
POLICY_RATE, MOMENTUM = 0.02, 0.9
TRAIN, SHOWN, CHOICE = 700, 200, 100
HIDDEN, SIZE, SHOWN_SIZE, STEPS, MARKS = 128, 50, 100, 1000, 50

NONE, BOTH = "no augmentation", "both trained on"
LEARNED, CHOSEN = "learned ranges", "learned ranges and choice"
RANGES = {f"turned up to {degrees}": float(degrees) for degrees in (20, 40, 60, 90)}
METHODS = (NONE, *RANGES, BOTH, LEARNED, CHOSEN)


def turning(degrees: float) -> AffineAugmentation:
    """Turns by up to so many degrees, either way; nothing in it is learned."""
    return AffineAugmentation(turn=degrees, subpolicies=[["turn"]]).requires_grad_(False)


@cache
def images() -> Batch:
    """All 1797 digits of scikit-learn, 16x16 in a margin of 2 pixels."""
    parts = [digits("sklearn", part, size=16) for part in ("train", "test")]
    x = torch.cat([each.x for each in parts]) / 255
    return Batch(pad(x, (2, 2, 2, 2)), torch.cat([each.y for each in parts]))


class Data(NamedTuple):
    """Upright examples, and three sets of turned ones."""

    train: Batch
    shown: Batch
    choice: Batch
    test: Batch


def data(seed: int) -> Data:
    """The examples of a seed: torch's global generator is seeded, and turns them."""
    torch.manual_seed(seed)
    of = images()
    rows = torch.randperm(len(of.y))
    split = rows.split([TRAIN, SHOWN, CHOICE, len(rows) - TRAIN - SHOWN - CHOICE])
    train, *others = (Batch(of.x[part], of.y[part]) for part in split)
    return Data(train, *(Batch(turning(TRUE)(x), y) for x, y in others))


class Ordinary(nn.Module):
    """Training on images as they are, or altered by a fixed augmentation."""

    def __init__(self, model: nn.Module, alter: nn.Module | None) -> None:
        super().__init__()
        self.model, self.alter = model, alter

    def forward(self, tasks: Task) -> Tensor:
        ((x,), (y,)), _ = tasks
        return cross_entropy(self.model(x if self.alter is None else self.alter(x)), y)[None]


def policy(method: str) -> AffineAugmentation:
    """Where the learned ranges begin."""
    if method == LEARNED:
        return AffineAugmentation(turn=5.0, shift=0.02, scale=0.02)
    parts = [["turn"], ["shift"], ["scale"], []]
    return AffineAugmentation(turn=5.0, shift=0.02, scale=0.02, subpolicies=parts)


def training(method: str, seed: int, rate: float) -> tuple[nn.Module, Data, list[list[float]]]:
    """The model at the end, its data, and the ranges at each mark, if they are learned."""
    drawn = data(seed)
    (x, y), shown = drawn.train, drawn.shown
    if method == BOTH:
        x, y = torch.cat([x, shown.x]), torch.cat([y, shown.y])

    def sample(tasks: int) -> Task:
        rows = torch.randint(len(y), (tasks, SIZE))
        others = torch.randint(len(shown.y), (tasks, SHOWN_SIZE))
        return Task(Batch(x[rows], y[rows]), Batch(shown.x[others], shown.y[others]))

    model = nn.Sequential(nn.Flatten(), mlp(x[0].numel(), HIDDEN, 10, seed=seed))
    optimizer: Any = torch.optim.SGD(model.parameters(), rate, MOMENTUM)
    path: list[list[float]] = []
    learner: nn.Module = Ordinary(model, turning(RANGES[method]) if method in RANGES else None)
    if method in (LEARNED, CHOSEN):
        augment = policy(method)
        learner = LearnedAugmentation(model, rate, augment)
        adam = torch.optim.Adam(augment.parameters(), POLICY_RATE)
        optimizer = {"policy": adam, "model": optimizer}

    def note(iteration: int, loss: float, _: nn.Module) -> None:
        if isinstance(learner, LearnedAugmentation) and iteration % (STEPS // MARKS) == 0:
            m = augment.magnitudes().diagonal() if method == CHOSEN else augment.magnitudes()[0]
            path.append([*m.tolist(), *augment.probabilities().tolist()])

    meta_train(learner, sample, STEPS, 1, optimizer=optimizer, callback=note, progress=False)
    return model, drawn, path


def about() -> dict[str, Any]:
    """The words of the record."""
    return {
        "title": "Learned augmentation: upright digits, judged turned",
        "config": {
            "data": f"scikit-learn's digits, 20x20: {TRAIN} upright ones to train on; turned by "
            f"U(-{TRUE:g}, {TRUE:g}) degrees: {SHOWN} to learn ranges from, {CHOICE} to choose "
            "rates by, the rest to test on",
            "model": f"one hidden layer of {HIDDEN} units, {STEPS} steps of {SIZE} images",
            "optimizer": f"SGD, momentum {MOMENTUM:g}, rate chosen from {RATES}; Adam, rate "
            f"{POLICY_RATE:g}, for the ranges, from 5 degrees, 2 % of the side, 2 % in scale; the "
            "step ahead is of the model's rate",
            "choice": "of nothing, turn, shift and scale, by Gumbel-softmax at temperature 0.5",
        },
        "protocol": "Accuracy on the turned test images at the end, with the 95 % interval over "
        "them. The rate of each method and seed is that of the best accuracy, then the least loss, "
        "on the choosing set.",
        "published": [],
        "curve_label": "learned ranges",
    }


def jobs(seeds: Sequence[int]) -> list[Job]:
    """A job a seed and method."""
    return [
        Job(
            learner=method,
            seed=seed,
            rows=f"{re.escape(method)}(:|$)",
            work=partial(_work, method),
            training={
                "method": method,
                "data": [TRUE, TRAIN, SHOWN, CHOICE],
                "recipe": [HIDDEN, SIZE, SHOWN_SIZE, STEPS, MOMENTUM, POLICY_RATE],
                "rates": RATES,
            },
            judging={"marks": MARKS},
        )
        for seed in seeds
        for method in METHODS
    ]


def _work(method: str, session: Session) -> None:
    made = {rate: training(method, session.seed, rate) for rate in RATES}
    stood = {rate: standing(model, drawn.choice) for rate, (model, drawn, _) in made.items()}
    best = max(RATES, key=lambda rate: stood[rate])
    model, drawn, path = made[best]
    tried = as_text({rate: accuracy for rate, (accuracy, _) in stood.items()})
    session.score(method, evaluate(model, drawn.test), note=f"rate {best:g} ({tried})")
    names = ["turn", "shift", "scale"]
    names += [f"share of {name}" for name in (*names, "nothing")] if method == CHOSEN else []
    for name, values in zip(names, zip(*path, strict=True), strict=False):
        session.curve(f"{method}: {name}", values)


RUN = LongRun(
    "augmentation",
    "augmentation: learned ranges and fixed ones, on digits that are turned",
    about,
    jobs,
    seeds=(5, 6, 7, 8, 9),  # others were looked at with fewer rates
)
