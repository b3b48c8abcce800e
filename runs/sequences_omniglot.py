"""Omniglot in sequences of 50: an external memory, an LSTM, a transformer, and a memory module.

All stand on the same features, which are meta-learned beforehand and then frozen. So what is
compared is how a learner binds a label to what it sees, not how it sees.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes.data import embedded, episodes, sequences
from metanotes.evaluation import Score
from metanotes.methods.memory import (
    MANN,
    Counting,
    MemoryModule,
    SequenceLearner,
    by_presentation,
    presentation_accuracy,
)
from metanotes.nets import conv4, feature_count, lstm, sinusoids, transformer
from metanotes.task import Batch, Task
from metanotes.training import History, meta_train
from runs.jobs import Job, LongRun, Session, checkpoints
from runs.omniglot import omniglot_classes
from runs.record import digest

NAME = "sequences_omniglot"
WAYS, LENGTH = 5, 50
BODY = {"iterations": 800, "ways": 20, "queries": 5, "lr": 3e-3}
ITERATIONS, BATCH = 10_000, 16
SEARCH = 2000  # iterations of each rate and scale that is tried
RATES, SCALES = (5e-4, 1e-3, 2e-3, 4e-3), (0.25, 1.0)
GRID = tuple(product(RATES, SCALES))
CLIP = 10.0
PRESENTATIONS = (1, 2, 3, 5, 10)
VALIDATION, TEST = 400, 1000  # sequences
STREAMS, STREAM_SLOTS = 5, (128, 512, 4096)
STREAM_PRESENTATIONS = (2, 3, 6, 11, 20)

# Name -> the learner's arguments.
LEARNERS: dict[str, dict[str, Any]] = {
    "MANN": {"hidden": 128, "slots": 64, "width": 40, "heads": 1},
    "LSTM": {"hidden": 200},
    "transformer": {"width": 64, "heads": 4, "layers": 2},
    "memory module": {"slots": LENGTH, "features": 64, "margin": 0.1},
}


class Prototypes(nn.Module):
    """The body's training: a class is the mean of its examples (Snell et al. 2017)."""

    def __init__(self, body: nn.Module, ways: int) -> None:
        super().__init__()
        self.body, self.ways = body, ways

    def forward(self, tasks: Task) -> Tensor:
        (x, y), (x_query, y_query) = tasks
        z = self.body(torch.cat([x, x_query], 1).flatten(0, 1)).unflatten(0, (len(x), -1))
        z, z_query = z.split([x.shape[1], x_query.shape[1]], 1)
        of_class = F.one_hot(y, self.ways).to(z)  # [T, N, ways]
        prototypes = of_class.mT @ z / of_class.sum(1)[..., None]
        logits = -torch.cdist(z_query, prototypes).square()
        return F.cross_entropy(logits.mT, y_query, reduction="none").mean(1)


class Features(NamedTuple):
    """Features of the characters for training, for validation and for the test."""

    train: Batch
    validation: Batch
    test: Batch

    def times(self, scale: float) -> Features:
        """Each feature with this deviation."""
        return Features(*(Batch(scale * x, y) for x, y in self))


@cache
def features(seed: int) -> Features:
    """A body is trained, and sees every image once; each feature gets mean 0 and deviation 1."""
    classes = omniglot_classes()
    body = conv4(ways=None, seed=seed, running_statistics=True)
    ways, iterations = int(BODY["ways"]), int(BODY["iterations"])
    adam = torch.optim.Adam(body.parameters(), lr=BODY["lr"])
    meta_train(
        Prototypes(body, ways),
        episodes(classes.train, ways, 1, int(BODY["queries"]), rotations="classes", seed=seed),
        iterations,
        1,
        optimizer=adam,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(adam, iterations),
        clip=CLIP,
        checkpoint=checkpoints(NAME, "features") / f"{seed}-{digest(BODY)}.pt",
    )
    train = embedded(classes.train, body, rotations="classes")
    mean, deviation = train.x.mean(0), train.x.std(0).clamp(min=1e-3)
    others = (embedded(images, body) for images in (classes.validation, classes.test))
    return Features(*(Batch((x - mean) / deviation, y) for x, y in (train, *others)))


def make(name: str, seed: int) -> SequenceLearner | MemoryModule:
    """A learner of `LEARNERS`, new."""
    size, arguments = feature_count(conv4(ways=None)), LEARNERS[name]
    if name == "MANN":
        return MANN(size, WAYS, **arguments, seed=seed)
    if name == "memory module":
        torch.manual_seed(seed)
        body = nn.Linear(size, arguments["features"])
        return MemoryModule(body, arguments["slots"], arguments["margin"])
    if name == "LSTM":
        return SequenceLearner(lstm(size + WAYS, WAYS, **arguments, seed=seed), WAYS)
    net = transformer(size + WAYS, WAYS, **arguments, seed=seed, causal=True, positions=LENGTH)
    with torch.no_grad():  # from random ones it only counts after 28 800 sequences
        positions = 0.2 * sinusoids(LENGTH, arguments["width"])
        dict(net.named_parameters())["1.positions"].copy_(positions)
    return SequenceLearner(net, WAYS)


def about() -> dict[str, Any]:
    """The words of the record."""
    sizes = {
        name: sum(p.numel() for p in make(name, 0).parameters() if p.requires_grad)
        for name in LEARNERS
    }
    return {
        "title": "Omniglot in sequences: what a memory has learned by the second presentation",
        "config": {
            "data": "Omniglot, 1200/423 characters, of the 1200 100 for validation; training "
            "characters in four rotations, each a class; test characters upright",
            "sequences": f"{LENGTH} drawings of {WAYS} characters, in random order, each with the "
            "label of the one before; labels shuffled from sequence to sequence",
            "features": f"of conv4 with running statistics, trained as a {BODY['ways']}-way 1-shot "
            f"prototypical network for {BODY['iterations']} episodes, then frozen and standardised",
            "learners": "; ".join(
                f"{name}: {', '.join(f'{key} {value}' for key, value in arguments.items())}, "
                f"{sizes[name]} parameters"
                for name, arguments in LEARNERS.items()
            )
            + "; the transformer's positions are learned, from sinusoids on",
            "iterations": f"{ITERATIONS}, {BATCH} sequences each",
            "optimizer": f"Adam, gradients clipped at norm {CLIP:g}; the rate falls to 0 "
            "over the last quarter",
            "chosen": f"rate of {', '.join(f'{rate:g}' for rate in RATES)} and deviation of the "
            f"features of {', '.join(f'{scale:g}' for scale in SCALES)}: those that are best on "
            f"{VALIDATION} validation sequences after {SEARCH} iterations, for each learner and "
            "seed",
        },
        "protocol": f"{TEST} sequences of the 423 unseen characters; accuracy at a character's "
        "1st, 2nd, ... presentation, with the 95 % interval over sequences; the phi of the last "
        "iteration is judged. The baseline that counts names the class shown least often so far. "
        f"Life-long: {STREAMS} streams of all 423 characters with 20 drawings each, through one "
        "memory that is never cleared; the interval is over streams. The published figures are of "
        "networks that see raw pixels.",
        "published": [
            {"name": "MANN, presentation 2", "value": "82.8 %", "cite": "santoro2016mann"},
            {"name": "MANN, presentation 5", "value": "94.9 %", "cite": "santoro2016mann"},
        ],
        "curve_label": f"accuracy from the 2nd presentation on, {VALIDATION} validation sequences",
    }


def jobs(seeds: Sequence[int]) -> list[Job]:
    """A job a learner and seed, and one for the baseline that counts."""
    data: dict[str, Any] = {
        "data": "omniglot 1200/423, 1100 classes in four rotations",
        "sequences": [WAYS, LENGTH],
    }
    training = {
        **data,
        "body": BODY,
        "iterations": [ITERATIONS, BATCH, SEARCH],
        "grid": GRID,
        "clip": CLIP,
    }
    judging = {**data, "sequences to judge": [VALIDATION, TEST], "presentations": PRESENTATIONS}
    streams = {"streams": [STREAMS, STREAM_SLOTS, STREAM_PRESENTATIONS]}
    made = [
        Job(
            learner=name,
            seed=seed,
            rows=f"{re.escape(name)}, ",
            work=partial(_work, name),
            training={**training, "learner": [name, arguments]},
            judging={**judging, **(streams if name == "memory module" else {})},
            trained=["features", name, *(_trial(name, *settings) for settings in GRID)],
        )
        for name, arguments in LEARNERS.items()
        for seed in seeds
    ]
    return [*made, Job("counting", None, "counting, ", _count, judging=judging)]


def _trial(name: str, rate: float, scale: float) -> str:
    return f"{name}, rate {rate:g}, scale {scale:g}, {SEARCH} iterations"


def _score_of(learner: Any, data: Batch, number: int, seed: int) -> list[Score]:
    return by_presentation(learner, sequences(data, WAYS, LENGTH, seed=seed), number)


def _work(name: str, session: Session) -> None:
    seed = session.seed

    def validate(learner: Any, scale: float) -> float:
        scores = _score_of(learner, features(seed).times(scale).validation, VALIDATION, 2_000_000)
        return sum(score.mean for score in scores[1:]) / len(scores[1:])

    def train(what: str, rate: float, scale: float, iterations: int, legs: int | None) -> Any:
        learner = make(name, seed)
        adam = torch.optim.Adam(learner.parameters(), lr=rate)
        falling = torch.optim.lr_scheduler.LambdaLR(
            adam, lambda done: min(1, 4 * (1 - done / iterations))
        )
        drawn = sequences(features(seed).times(scale).train, WAYS, LENGTH, seed=seed)

        def train_until(until: int, checkpoint: Path) -> History:
            return meta_train(
                learner,
                drawn,
                until,
                BATCH,
                optimizer=adam,
                scheduler=falling,
                clip=CLIP,
                checkpoint=checkpoint,
            )

        judge: Callable[[], float] | None = (lambda: validate(learner, scale)) if legs else None
        session.train(what, iterations, train_until, tasks=BATCH, judge=judge, legs=legs)
        return learner

    trials = {
        (rate, scale): validate(train(_trial(name, rate, scale), rate, scale, SEARCH, None), scale)
        for rate, scale in GRID
    }
    rate, scale = max(GRID, key=lambda settings: trials[settings])
    learner = train(name, rate, scale, ITERATIONS, 20)
    tried = ", ".join(f"{r:g} / {s:g}: {100 * value:.1f} %" for (r, s), value in trials.items())
    test = features(seed).times(scale).test
    _score(session, name, learner, test, note=f"rate / scale {rate:g} / {scale:g} ({tried})")
    if isinstance(learner, MemoryModule):
        _stream(session, name, learner, test)


def _score(session: Session, name: str, learner: Any, test: Batch, **more: Any) -> None:
    scores = _score_of(learner, test, TEST, 1_000_000)
    for presentation in PRESENTATIONS:
        session.score(f"{name}, presentation {presentation}", scores[presentation - 1], **more)
    session.curve(f"{name}, by presentation", (score.mean for score in scores))


def _stream(session: Session, name: str, learner: MemoryModule, test: Batch) -> None:
    """All test characters, one after the other in random order, through one memory."""
    ways = len(test.y.unique())
    drawn = sequences(test, ways, len(test.y), seed=1_000_000)(STREAMS)
    learner.eval()
    for slots in STREAM_SLOTS:
        with torch.no_grad():
            answers = MemoryModule(learner.body, slots).eval().answers(drawn)
        accuracies = presentation_accuracy(answers, drawn)  # [streams, presentations]
        label = f"{name}, life-long, {slots} slots"
        for presentation in STREAM_PRESENTATIONS:
            score = Score(accuracies[:, presentation - 1], "accuracy", False, of="streams")
            session.score(f"{label}, presentation {presentation}", score)
        session.curve(f"{label}, by presentation", accuracies.mean(0).tolist())


def _count(session: Session) -> None:
    _score(session, "counting", Counting(WAYS), _upright(), note="never sees a drawing")


def _upright() -> Batch:
    """The test characters as they are: who counts does not look at them."""
    images = omniglot_classes().test
    return Batch(images.x, images.y)


RUN = LongRun(NAME, "sequences of Omniglot: MANN, LSTM, transformer, memory module", about, jobs)
