"""Few-shot classification on glyphs: every learner with one network, as many images, one search.

Characters of the background are split in two: to train on, and to choose by. Each training sees
`IMAGES` images, whatever its episodes look like. Of 25 pairs of an inner and an outer rate each
learner takes the one that does best on validation characters after a third of the training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metanotes.data import Sampler, batches, episodes, glyphs
from metanotes.evaluation import evaluate
from metanotes.learner import Learner
from metanotes.methods.bilevel import HyperRepresentation
from metanotes.methods.comparison import Classifier, NearestNeighbor
from metanotes.methods.initialization import ANIL, MAML, MetaSGD, Pretrained, Reptile
from metanotes.nets import conv4, dense4
from metanotes.task import Batch, Task
from metanotes.training import History, meta_train
from metanotes.update_rules import SGD
from runs.few_shot_entry import CLIP, rising_and_falling, zero_headed
from runs.few_shot_learners import scaled
from runs.jobs import Job, LongRun, Session

NAME = "few_shot_glyphs"
WAYS, CHANNELS, MINIBATCH = 5, 16, 64
IMAGES, PART = 48_000, 3  # of a training; how many times as short a trial is
INNER, OUTER = (0.03, 0.1, 0.3, 1.0, 3.0), (1e-3, 3e-3, 1e-2, 3e-2, 0.1)
INNER_FROM_ZERO = (0.1, 0.3, 1.0, 3.0, 10.0)  # of heads that start anew in a task
VALIDATION, TEST = 100, 200  # tasks
QUERIES = {"validation": 5, "transductive": 15, "each alone": 5}  # of a class
SEEDS = {"validation": 1_000_000, "test": 3_000_000}  # of tasks


@dataclass(frozen=True)
class Recipe:
    """How a learner is trained and judged.

    Args:
        learner: a name of `MAKERS`.
        ways, shots, queries: of a training episode; without ways, minibatches of all classes.
        tasks: in a batch.
        inner, outer: rates to choose from, the outer ones of Adam.
        sgd: the outer rates are of plain gradient descent.
        trial_steps: inner steps in testing, while the rates are chosen.
        steps: of these, the number that does best on validation characters.
    """

    learner: str
    ways: int = WAYS
    shots: int = 1
    queries: int = 5
    tasks: int = 4
    inner: tuple[float, ...] = INNER
    outer: tuple[float, ...] = OUTER
    sgd: bool = False
    trial_steps: int | None = None
    steps: tuple[int, ...] = (1, 3, 5, 10, 20, 50)

    @property
    def iterations(self) -> int:
        """So many that a training sees `IMAGES` images."""
        a_task = self.ways * (self.shots + self.queries) if self.ways else MINIBATCH
        return IMAGES // (a_task * self.tasks)


# From a network and an inner rate.
MAKERS: dict[str, Callable[[nn.Sequential, float], Learner]] = {
    "MAML": MAML,
    "first-order MAML": partial(MAML, first_order=True),
    "Meta-SGD": MetaSGD,
    "ANIL": partial(ANIL, steps=5),
    "hyper-representation": partial(HyperRepresentation, steps=5),
    "Reptile": lambda model, rate: Reptile(model, SGD(rate), 5, batch=10),
    "joint pre-training": Pretrained,
    "classifier": lambda model, _: Classifier(model),
}
IN_PIXELS = "nearest neighbour in pixels"
FEATURES, WITHOUT = "nearest neighbour in features", "MAML without convolutions"
RECIPES: dict[str, Recipe] = {
    FEATURES: Recipe("classifier", 0, tasks=1, inner=(0.0,), steps=()),
    "fine-tuning": Recipe("classifier", 0, tasks=1, inner=INNER_FROM_ZERO, trial_steps=10),
    "joint pre-training": Recipe("joint pre-training"),
    "Reptile": Recipe(
        "Reptile",
        shots=9,
        queries=1,
        tasks=5,
        outer=(0.1, 0.25, 0.5, 1.0, 2.0),
        sgd=True,
        trial_steps=20,
    ),
    "first-order MAML": Recipe("first-order MAML"),
    "MAML": Recipe("MAML"),
    "Meta-SGD": Recipe("Meta-SGD"),
    "ANIL": Recipe("ANIL"),
    "hyper-representation": Recipe(
        "hyper-representation", 30, queries=3, tasks=1, inner=INNER_FROM_ZERO
    ),
    WITHOUT: Recipe("MAML"),
}


@cache
def characters() -> dict[str, Batch]:
    """Characters to train on, to choose by, and of the test; one of the background in eight is to
    choose by."""
    images, unseen = glyphs("background"), glyphs("evaluation")
    chosen_by = images.y % 8 == 7
    return {
        "train": Batch(images.x[~chosen_by], images.y[~chosen_by]),
        "validation": Batch(images.x[chosen_by], images.y[chosen_by]),
        "test": Batch(unseen.x, unseen.y),
    }


def network(ways: int, seed: int, *, convolutions: bool = True) -> nn.Sequential:
    """The network of all learners: features of one length, and a head that starts at zero."""
    if convolutions:
        return zero_headed(scaled(conv4(ways, channels=CHANNELS, seed=seed)))
    return zero_headed(dense4(ways, seed=seed))


@dataclass(frozen=True)
class Contest:
    """A learner of `RECIPES` with one seed."""

    name: str
    seed: int

    @property
    def recipe(self) -> Recipe:
        """How it is trained and judged."""
        return RECIPES[self.name]

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """The inner and outer rates to choose from."""
        return list(product(self.recipe.inner, self.recipe.outer))

    def trained(self, inner: float, outer: float, part: int) -> str:
        """The name of a training."""
        depends = self.recipe.learner != "classifier"
        rates = f"inner rate {inner:g}, " * depends + f"outer rate {outer:g}"
        whole = self.recipe.learner if self.recipe.learner == "classifier" else self.name
        return f"{whole}, {rates}" + (f", 1/{part} as long" if part > 1 else "")

    def training_set(self) -> Callable[[int], Task]:
        """What it is trained on."""
        of, recipe = characters()["train"], self.recipe
        if recipe.ways == 0:
            return batches(of, MINIBATCH, seed=self.seed)
        return episodes(of, recipe.ways, recipe.shots, recipe.queries, seed=self.seed)

    def held_out(self, part: str, queries: int) -> Sampler:
        """Tasks that no training sees, the same for all."""
        return episodes(characters()[part], WAYS, 1, queries, seed=SEEDS[part])

    def validate(self, learner: Learner, steps: int | None) -> float:
        """Accuracy on validation characters."""
        tasks = self.held_out("validation", QUERIES["validation"])
        return evaluate(learner, tasks, VALIDATION, steps=steps, transductive=True).mean

    def after(self, session: Session, inner: float, outer: float, part: int = 1) -> Learner:
        """The learner after its training, or so small a part of one, as it is judged."""
        recipe = self.recipe
        ways = recipe.ways or int(characters()["train"].y.max()) + 1
        model = network(ways, self.seed, convolutions=self.name != WITHOUT)
        learner = MAKERS[recipe.learner](model, inner)
        iterations = recipe.iterations // part
        kind = torch.optim.SGD if recipe.sgd else torch.optim.Adam
        optimizer = kind(learner.parameters(), lr=outer)
        scheduler = rising_and_falling(optimizer, iterations, 0)

        def train_until(until: int, checkpoint: Path) -> History:
            return meta_train(
                learner,
                self.training_set(),
                until,
                recipe.tasks,
                optimizer=optimizer,
                scheduler=scheduler,
                clip=CLIP,
                checkpoint=checkpoint,
            )

        what = self.trained(inner, outer, part)
        session.train(what, iterations, train_until, tasks=recipe.tasks)
        *body, head = model
        assert isinstance(head, nn.Linear)
        if self.name == FEATURES:
            return NearestNeighbor(nn.Sequential(*body), WAYS)
        if ways == WAYS:
            return learner
        fresh = zero_headed(nn.Sequential(*body, nn.Linear(head.in_features, WAYS)))
        if self.name == "fine-tuning":
            return MAML(fresh, inner)
        return MAKERS[recipe.learner](fresh, inner)


def about() -> dict[str, Any]:
    """The words of the record."""
    return {
        "title": "Glyphs, 5-way 1-shot: every learner with one network and one search",
        "config": {
            "data": "glyphs; of the background characters one in eight is for validation",
            "network": f"conv4, {CHANNELS} channels, features of one length, a head that starts at "
            "zero; without convolutions: dense4",
            "training": f"{IMAGES} images each. Episodes of 5 ways, 5 queries a class, 4 tasks a "
            "batch; Reptile: 10 images a class, 5 tasks; hyper-representation: 30 ways, 3 queries, "
            f"1 task; fine-tuning and nearest neighbour: minibatches of {MINIBATCH} of all "
            "characters. Adam, its rate falling to 0 (Reptile: plain descent); gradient norm at "
            f"most {CLIP:g}",
            "inner steps in training": "MAML, first-order MAML, Meta-SGD 1; ANIL, "
            "hyper-representation, Reptile 5",
            "search": f"inner and outer rates, by {VALIDATION} validation tasks after 1/{PART} of "
            "the training: "
            + "; ".join(
                f"{name}: {', '.join(f'{rate:g}' for rate in recipe.inner)} and "
                f"{', '.join(f'{rate:g}' for rate in recipe.outer)}"
                for name, recipe in RECIPES.items()
            ),
        },
        "protocol": f"{TEST} test tasks of unseen characters, the same for all; accuracy with the "
        "95 % interval over tasks. The number of inner steps in testing is chosen on validation "
        "characters too. Transductive: 15 queries a class in one batch; not transductive: 5, each "
        "predicted on its own. The lists of rates were made longer twice, where the best on "
        "validation characters lay at an end; these test tasks were drawn after that.",
        "published": [],
    }


def jobs(seeds: Sequence[int]) -> list[Job]:
    """A job a learner and seed; the images as they are need one."""
    data = ["glyphs, one in eight for validation", WAYS, CHANNELS]
    judging = {"tasks": [VALIDATION, TEST], "queries": QUERIES, "seeds": SEEDS}
    made = []
    for seed in seeds:
        for name in RECIPES:
            contest = Contest(name, seed)
            recipe = {**asdict(contest.recipe), "images": IMAGES, "clip": CLIP, "part": PART}
            shared = recipe.pop("learner") == "classifier"
            judged = {key: recipe.pop(key) for key in ("steps", "trial_steps")}
            inner = recipe.pop("inner") if shared else None
            made.append(
                Job(
                    learner=name,
                    seed=seed,
                    rows=f"{re.escape(name)}$",
                    work=partial(_work, contest),
                    training={"data": data, "name": "classifier" if shared else name, **recipe},
                    judging={**judging, **judged, "inner": inner, "name": name},
                    trained=[
                        contest.trained(*pair, part) for pair in contest.pairs for part in (PART, 1)
                    ],
                )
            )
    pixels = Job(IN_PIXELS, None, f"{IN_PIXELS}$", _in_pixels, judging={"data": data, **judging})
    return [*made, pixels]


def _work(contest: Contest, session: Session) -> None:
    recipe = contest.recipe
    trials = {
        pair: contest.validate(contest.after(session, *pair, PART), recipe.trial_steps)
        for pair in contest.pairs
    }
    best = max(contest.pairs, key=lambda pair: trials[pair])
    tried = ", ".join(
        f"{inner:g} / {outer:g}: {100 * value:.1f} %" for (inner, outer), value in trials.items()
    )
    session.note = f"inner rate {best[0]:g}, outer rate {best[1]:g} ({tried})"
    learner = contest.after(session, *best)
    steps = max(recipe.steps, key=lambda k: contest.validate(learner, k), default=None)
    _score(contest, session, learner, steps)


def _in_pixels(session: Session) -> None:
    learner = NearestNeighbor(nn.Flatten(), WAYS)
    _score(Contest(IN_PIXELS, 0), session, learner, None)


def _score(contest: Contest, session: Session, learner: Learner, steps: int | None) -> None:
    more = {} if steps is None else {"steps": steps}
    for transductive, queries in ((True, "transductive"), (False, "each alone")):
        tasks = contest.held_out("test", QUERIES[queries])
        score = evaluate(learner, tasks, TEST, steps=steps, transductive=transductive)
        session.score(contest.name, score, **more)


RUN = LongRun(
    NAME, "glyphs: every learner with one network, as many images, one search", about, jobs
)
