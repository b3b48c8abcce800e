"""Weights for examples: flipped labels and a rare class, against rivals that know as much."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metanotes.data import digits, printed_digits
from metanotes.evaluation import Score
from metanotes.methods.datapolicy import L2RW, MetaWeightNet
from metanotes.nets import mlp
from metanotes.task import Batch, Task
from metanotes.training import meta_train
from runs.jobs import Job, LongRun, Session

POLICY_RATE = 1e-2  # of Meta-Weight-Net's Adam
MOMENTUM, MARKS = 0.9, 20  # a training is judged so many times
COPIES = 10  # of each clean example, where they are trained on together with the others
FLIPPED, CLEAN = 0.4, 50
FOURS, NINES, OF_EACH, TEST = 5, 995, 5, 400  # clean ones and test images: of each class

# Name -> examples to train on, units of the hidden layer, images of a minibatch, steps.
MEMORISES, TOO_SMALL = "40 % flipped, it memorises", "40 % flipped, it cannot"
RARE = "4 against 9"
SETTINGS = {
    MEMORISES: (600, 256, 50, 1000),
    TOO_SMALL: (1200, 10, 50, 1000),
    RARE: (FOURS + NINES, 64, 100, 500),
}
# Of SGD, the same for every method; a best rate at the end of its row has made it longer.
RATES = {
    MEMORISES: (0.003, 0.01, 0.03, 0.1),
    TOO_SMALL: (0.01, 0.03, 0.1),
    RARE: (0.003, 0.01, 0.03, 0.1, 0.3),
}
PLAIN, CLEAN_ONLY, BOTH = "plain", "clean only", f"both, clean x {COPIES}"
INVERSE, ORACLE = "inverse frequency", "no flips"
METHODS = (PLAIN, CLEAN_ONLY, BOTH, INVERSE, ORACLE, "L2RW", "Meta-Weight-Net")


class Data(NamedTuple):
    """What a method is given, and what it is judged on.

    Args:
        train: examples with flipped labels, or with a rare class.
        odd: which of them are flipped, or rare: `[N]`.
        clean: the examples that L2RW and Meta-Weight-Net are steered by.
        choice: as many more, by which rates and the end of a training are chosen.
        test: clean, too.
    """

    train: Batch
    odd: Tensor
    clean: Batch
    choice: Batch
    test: Batch


@cache
def handwritten() -> Batch:
    """All 1797 digits of scikit-learn, 8x8."""
    parts = [digits("sklearn", part, size=8) for part in ("train", "test")]
    x = torch.cat([images.x for images in parts]).flatten(1) / 255
    return Batch(x, torch.cat([images.y for images in parts]))


@cache
def printed() -> Batch:
    """Fours and nines in print, 16x16, labelled 0 and 1."""
    per_class = NINES + 2 * OF_EACH + TEST
    images = printed_digits(10 * per_class, size=16, ground=False)
    own = (images.y == 4) | (images.y == 9)
    return Batch(images.x[own].flatten(1) / 255, (images.y[own] == 9).long())


def part(of: Batch, rows: Tensor) -> Batch:
    return Batch(of.x[rows], of.y[rows])


def data(setting: str, seed: int) -> Data:
    """The examples of a setting, drawn anew for each seed."""
    g = torch.Generator().manual_seed(seed)
    if setting == RARE:
        of = printed()
        parts: list[list[Tensor]] = [[], [], [], []]
        for label, number in ((0, FOURS), (1, NINES)):
            rows = (of.y == label).nonzero().flatten()
            sizes = [number, OF_EACH, OF_EACH, TEST]
            rows = rows[torch.randperm(len(rows), generator=g)][: sum(sizes)]
            for each, some in zip(parts, rows.split(sizes), strict=True):
                each.append(some)
        train, *others = (part(of, torch.cat(each)) for each in parts)
        return Data(train, train.y == 0, *others)
    of, n = handwritten(), SETTINGS[setting][0]
    rows = torch.randperm(len(of.y), generator=g)
    split = rows.split([n, CLEAN, CLEAN, len(rows) - n - 2 * CLEAN])
    train, *others = (part(of, each) for each in split)
    odd = torch.rand(n, generator=g) < FLIPPED
    shift = torch.randint(1, 10, (n,), generator=g)
    return Data(Batch(train.x, torch.where(odd, (train.y + shift) % 10, train.y)), odd, *others)


def methods(setting: str) -> list[str]:
    """Those of a setting: there are no flips to leave out where a class is rare."""
    return [m for m in METHODS if m != (ORACLE if setting == RARE else INVERSE)]


class Ordinary(nn.Module):
    """Training without a policy, each example weighted by its class."""

    def __init__(self, model: nn.Module, weights: Tensor | None) -> None:
        super().__init__()
        self.model, self.weights = model, weights

    def forward(self, tasks: Task) -> Tensor:
        ((x,), (y,)), _ = tasks
        return cross_entropy(self.model(x), y, self.weights)[None]


class Run(NamedTuple):
    """A training, judged at its marks.

    Args:
        rate: of the model.
        chosen_by: accuracy and minus the loss on the choosing set at each mark, `[MARKS, 2]`.
        right: whether each test example was right, `[MARKS, n]`.
        weights: mean weight of the odd examples and of the others, where all have the mean 1,
            `[MARKS, 2]`; nothing for methods without weights.
    """

    rate: float
    chosen_by: list[tuple[float, float]]
    right: list[Tensor]
    weights: list[list[float]]


def training(setting: str, method: str, seed: int, rate: float) -> Run:
    """One training."""
    drawn, (_, hidden, size, steps) = data(setting, seed), SETTINGS[setting]
    (x, y), (x_clean, y_clean) = drawn.train, drawn.clean
    if method == CLEAN_ONLY:
        x, y = drawn.clean
    elif method == BOTH:
        x, y = torch.cat([x, x_clean.repeat(COPIES, 1)]), torch.cat([y, y_clean.repeat(COPIES)])
    elif method == ORACLE:
        x, y = x[~drawn.odd], y[~drawn.odd]
    g = torch.Generator().manual_seed(seed)

    def sample(tasks: int) -> Task:
        rows = torch.randint(len(y), (tasks, size), generator=g)
        return Task(Batch(x[rows], y[rows]), Batch(x_clean[None], y_clean[None]))

    model = mlp(x.shape[1], hidden, 2 if setting == RARE else 10, seed=seed)
    optimizer: Any = torch.optim.SGD(model.parameters(), rate, MOMENTUM)
    learner: nn.Module
    if method == "L2RW":
        learner = L2RW(model)
    elif method == "Meta-Weight-Net":
        learner = MetaWeightNet(model, rate)
        policy = torch.optim.Adam(learner.policy.parameters(), POLICY_RATE)
        optimizer = {"policy": policy, "model": optimizer}
    else:
        counts = torch.bincount(y).float()
        learner = Ordinary(model, 1 / counts if method == INVERSE else None)
    run = Run(rate, [], [], [])

    def judge(iteration: int, loss: float, _: nn.Module) -> None:
        if iteration % (steps // MARKS) == 0:
            look(run, learner, model, drawn)

    meta_train(learner, sample, steps, 1, optimizer=optimizer, callback=judge, progress=False)
    return run


@torch.no_grad()
def standing(model: nn.Module, choice: Batch) -> tuple[float, float]:
    """By what rates and marks are chosen: accuracy, then minus the loss, on the choosing set."""
    logits = model(choice.x)
    accuracy = (logits.argmax(1) == choice.y).double().mean()
    return float(accuracy), -float(cross_entropy(logits, choice.y))


def look(run: Run, learner: nn.Module, model: nn.Module, drawn: Data) -> None:
    """What is seen of a model at a mark."""
    x, y = drawn.train
    with torch.no_grad():
        run.chosen_by.append(standing(model, drawn.choice))
        run.right.append((model(drawn.test.x).argmax(1) == drawn.test.y).double())
        w = None
        if isinstance(learner, MetaWeightNet):
            w = learner.weights(cross_entropy(model(x), y, reduction="none"))
        elif isinstance(learner, L2RW):
            w = learner.weights(
                Task(Batch(x[None], y[None]), Batch(*(t[None] for t in drawn.clean)))
            )[0]
        if w is not None:
            w = w / w.mean().clamp(min=1e-12)
            run.weights.append([float(w[drawn.odd].mean()), float(w[~drawn.odd].mean())])


def about() -> dict[str, Any]:
    """The words of the record."""
    return {
        "title": "Weights for examples: flipped labels, and a rare class",
        "config": {
            "flipped labels": f"scikit-learn's digits, 8x8: {100 * FLIPPED:g} % of the labels to "
            f"train on replaced by another; {CLEAN} clean ones, {CLEAN} more to choose "
            "by, the rest to test on",
            "4 against 9": f"printed digits, 16x16: {NINES} nines and {FOURS} fours to train on; "
            f"{OF_EACH} + {OF_EACH} clean ones, {OF_EACH} + {OF_EACH} more to choose by, "
            f"{TEST} + {TEST} to test on",
            "networks": "one hidden layer: "
            + "; ".join(
                f"{name}: {n} examples, {hidden} units, {steps} steps of {size}"
                for name, (n, hidden, size, steps) in SETTINGS.items()
            ),
            "optimizer": f"SGD, momentum {MOMENTUM:g}, a rate of "
            + "; ".join(f"{name}: {rates}" for name, rates in RATES.items())
            + f"; for Meta-Weight-Net's policy Adam, rate {POLICY_RATE:g}",
        },
        "protocol": "Accuracy on the test examples, with the 95 % interval over them: at the end "
        "for each rate; and with the rate chosen by the accuracy on the choosing set, then by the "
        "loss there, for each seed by itself, at the end or, stopped early, at the best of "
        f"{MARKS} marks.",
        "published": [
            {
                "name": "plain, CIFAR-10, 40 % flipped",
                "value": "67.97 ± 0.62 %",
                "cite": "ren2018l2rw",
            },
            {
                "name": "L2RW, CIFAR-10, 40 % flipped",
                "value": "86.92 ± 0.19 %",
                "cite": "ren2018l2rw",
            },
        ],
        "curve_label": "accuracy on the test examples",
    }


def jobs(seeds: Sequence[int]) -> list[Job]:
    """A job a setting, seed and method."""
    return [
        Job(
            learner=method,
            seed=seed,
            setting=setting,
            rows=f"{re.escape(method)}, (rate|at|stopped)",
            work=partial(_work, setting, method),
            training={
                "setting": [setting, *SETTINGS[setting], MOMENTUM, COPIES],
                "data": [FLIPPED, CLEAN, FOURS, NINES, OF_EACH, TEST],
                "method": method,
                "rates": [RATES[setting], POLICY_RATE],
            },
            judging={"marks": MARKS},
        )
        for setting in SETTINGS
        for seed in seeds
        for method in methods(setting)
    ]


def _work(setting: str, method: str, session: Session) -> None:
    runs = [training(setting, method, session.seed, rate) for rate in RATES[setting]]
    for run in runs:
        score_at(session, f"{method}, rate {run.rate:g}", run, MARKS - 1)
        session.curve(
            f"{method}, rate {run.rate:g}: accuracy", [float(r.mean()) for r in run.right]
        )
        for whose, values in zip(
            ("odd ones", "others"), zip(*run.weights, strict=True), strict=False
        ):
            session.curve(f"{method}, rate {run.rate:g}: weight of the {whose}", values)
    ends: list[tuple[str, Callable[[Run], int]]] = [
        ("at the end", lambda run: MARKS - 1),
        ("stopped early", lambda run: max(range(MARKS), key=run.chosen_by.__getitem__)),
    ]
    for name, mark_of in ends:
        best = max(runs, key=lambda run: run.chosen_by[mark_of(run)])
        score_at(session, f"{method}, {name}", best, mark_of(best), note=f"rate {best.rate:g}")


def score_at(session: Session, name: str, run: Run, mark: int, **more: str) -> None:
    """A row, of the test examples at a mark."""
    score = Score(run.right[mark], "accuracy", transductive=False, of="examples")
    assert session.job.setting is not None
    steps = (mark + 1) * (SETTINGS[session.job.setting][-1] // MARKS)
    session.score(name, score, steps=steps, **more)


RUN = LongRun(
    "data_policy",
    "weights for examples: L2RW, Meta-Weight-Net and their rivals",
    about,
    jobs,
    seeds=(0, 1, 2, 3, 4),
)
