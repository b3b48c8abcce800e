"""What each part of a recipe buys: MAML at 5-way 1-shot, one part changed at a time.

Then, for every learner that descends, three or four inner rates with features of one length; for
most, with 20 ways too.

All trainings take about as long: their iterations were set by the seconds of one on a core with
nothing else to do. They are judged on validation characters, so that the recipe of
`few_shot_omniglot` can be chosen by them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metanotes.evaluation import evaluate
from metanotes.inner_loop import Descent
from metanotes.learner import Learner
from metanotes.methods.initialization import ANIL, MAML, MetaSGD, Reptile
from metanotes.task import Task
from metanotes.training import History, meta_train
from metanotes.update_rules import SGD, Adam
from runs.few_shot import IMAGE_SETS
from runs.few_shot_entry import CLIP, Entry, rising_and_falling, zero_headed
from runs.few_shot_learners import scaled
from runs.jobs import Job, LongRun, Session

TEST_STEPS, VALIDATION_TASKS = 5, 600


class LossAfterEachStep(MAML):
    """MAML whose outer loss is the mean of the query losses after every step, not the last alone.

    Source: Antoniou, Edwards and Storkey, "How to train your MAML", ICLR 2019, section 4, with
    equal weights.
    """

    def query_losses(self, tasks: Task) -> Tensor:
        descent = Descent(self.task_loss, self.rule, [tasks.support], self.steps, self.first_order)
        theta, state = descent.start(self.phi())
        losses = []
        for t in range(self.steps):
            theta, state = descent.step(t, theta, state)
            losses.append(self.losses_at(theta, tasks.query))
        return torch.stack(losses).mean(0)


LEARNERS: dict[str, Callable[[nn.Sequential, float, int], Learner]] = {
    "MAML": MAML,
    "first-order MAML": partial(MAML, first_order=True),
    "loss after each step": LossAfterEachStep,
    "Meta-SGD": MetaSGD,
    "ANIL": ANIL,
    "Reptile": lambda model, rate, steps: Reptile(model, SGD(rate), steps, batch=10),
    "Reptile, Adam inside": lambda model, rate, steps: Reptile(
        model, Adam(rate, betas=(0.0, 0.999)), steps, batch=10
    ),
}


@dataclass(frozen=True)
class Recipe:
    """How MAML is trained, or another.

    Args:
        learner: a name of `LEARNERS`.
        steps: inner steps.
        inner_lr: of them.
        tasks: in a batch.
        queries: of a class.
        rate: of Adam; Reptile's is the step towards where it ended.
        warmup: the part of the iterations in which the rate rises.
        falls: the rate goes to 0 along half a cosine.
        zero_head: the head starts at zero.
        one_length: features are scaled to one length below the head.
        average: what the average of phi keeps in an iteration; without it, the last phi counts.
        iterations: so many that all recipes take as long.
        ways: classes of a task, of one example each.
    """

    learner: str = "MAML"
    steps: int = 1
    inner_lr: float = 0.4
    tasks: int = 8
    queries: int = 5
    rate: float = 3e-3
    warmup: float = 0.02
    falls: bool = True
    zero_head: bool = True
    one_length: bool = False
    average: float | None = None
    iterations: int = 1000
    ways: int = 5

    @property
    def setting(self) -> str:
        """A name of the settings of `few_shot_omniglot`."""
        return f"{self.ways}-way 1-shot"

    @property
    def judged_on(self) -> int:
        """Tasks: fewer of the larger ones, with as many images in all."""
        return VALIDATION_TASKS * 5 // self.ways


AS_IT_IS = "the recipe as it is"
RECIPES: dict[str, Recipe] = {
    AS_IT_IS: Recipe(),
    "4 tasks a batch": Recipe(tasks=4, iterations=2000),
    "2 tasks a batch": Recipe(tasks=2, iterations=4000),
    "2 queries a class": Recipe(queries=2, iterations=1450),
    "15 queries a class": Recipe(queries=15, iterations=530),
    "rate 0.001": Recipe(rate=1e-3),
    "rate 0.01": Recipe(rate=1e-2),
    "no warm-up": Recipe(warmup=0),
    "rate held": Recipe(warmup=0, falls=False),
    "rate held, phi averaged": Recipe(warmup=0, falls=False, average=0.98),
    "head at random": Recipe(zero_head=False),
    "features of one length": Recipe(one_length=True),
    "inner rates learned": Recipe("Meta-SGD"),
    "5 inner steps": Recipe(steps=5, iterations=400),
    "5 inner steps, a loss after each": Recipe("loss after each step", steps=5, iterations=210),
}
# Ten examples of a class are Reptile's only set: nine as a support set, and one as queries.
REPTILE = Recipe(steps=5, tasks=5, queries=1, rate=1.0, warmup=0)
MANY = Recipe(tasks=2, queries=2, ways=20)
INNER_RATES: dict[str, tuple[Recipe, tuple[float, ...]]] = {
    "MAML": (Recipe(), (0.1, 0.4, 1.0)),
    "first-order MAML": (Recipe("first-order MAML", iterations=1250), (0.03, 0.1, 0.4)),
    "Meta-SGD": (Recipe("Meta-SGD"), (0.03, 0.1, 0.4, 1.0)),
    "ANIL": (Recipe("ANIL", steps=5, iterations=1100), (0.03, 0.1, 0.3, 1.0)),
    "Reptile": (replace(REPTILE, learner="Reptile", iterations=850), (0.03, 0.1, 0.4)),
    "Reptile, Adam inside": (
        replace(REPTILE, learner="Reptile, Adam inside", iterations=650),
        (0.001, 0.003, 0.01),
    ),
    "MAML with 20 ways": (replace(MANY, iterations=1700), (0.4, 0.8, 1.6)),
    "first-order MAML with 20 ways": (
        replace(MANY, learner="first-order MAML", iterations=2300),
        (0.03, 0.1, 0.4, 1.6),
    ),
    "first-order MAML with 20 ways, 5 steps": (
        replace(MANY, learner="first-order MAML", steps=5, iterations=950),
        (0.03, 0.1, 0.2, 0.4),
    ),
    "Meta-SGD with 20 ways": (
        replace(MANY, learner="Meta-SGD", iterations=1700),
        (0.1, 0.4, 0.8),
    ),
    "ANIL with 20 ways": (
        replace(MANY, learner="ANIL", steps=5, iterations=2000),
        (0.1, 0.3, 1.0),
    ),
}
RECIPES |= {
    f"{name}, inner rate {rate:g}": replace(recipe, inner_lr=rate, one_length=True)
    for name, (recipe, rates) in INNER_RATES.items()
    for rate in rates
}


def about() -> dict[str, Any]:
    """The words of the record."""
    return {
        "title": "Omniglot, 1-shot: what each part of a recipe buys",
        "config": {
            "data": IMAGE_SETS["few_shot_omniglot"].about,
            AS_IT_IS: "rate 0.4 and 1 step inside; 8 tasks a batch, 5 queries a class; Adam, its "
            "rate rising to 0.003 for the first 2 % of the iterations and then falling to 0 "
            "(cosine), gradient norm at most 10; the head starts at zero",
            "the others": "one part changed, as the name says; 'rate held': neither rises nor "
            "falls; 'phi averaged': what is judged is a running average that keeps 0.98 in every "
            "iteration; 'a loss after each': the outer loss is the mean of those after each step",
            "inner rates": "for each learner that descends, features of one length; first-order "
            "MAML, Meta-SGD: 1 step; ANIL: 5; Reptile: 5 tasks a batch, 10 examples a class, 5 "
            "steps on minibatches of 10, its outer step 1 falling to 0. With 20 ways: 2 tasks a "
            "batch, 2 queries a class, 1 step or 5",
            "length": "all trainings take about as long: 1000 iterations of the recipe as it is, "
            "and of the others so many as take its time on a core with nothing else to do",
        },
        "protocol": f"{VALIDATION_TASKS} tasks of the 100 validation characters ({MANY.judged_on} "
        f"with 20 ways), the same for all, 15 queries a class, transductive, {TEST_STEPS} inner "
        "steps; accuracy with the 95 % interval over tasks. The last phi counts, without a choice "
        "among several. Test characters are not used: this record is what a recipe may be chosen "
        "by.",
        "published": [],
        "curve_label": "accuracy",
    }


def jobs(seeds: Sequence[int]) -> list[Job]:
    """A job a seed and recipe."""
    return [_job(name, recipe, seed) for seed in seeds for name, recipe in RECIPES.items()]


def _job(name: str, recipe: Recipe, seed: int) -> Job:
    images = IMAGE_SETS["few_shot_omniglot"]
    settings = asdict(recipe)
    if recipe.ways == 5:  # of the first rows nothing else was known
        del settings["ways"]
    training = {"recipe": settings, "images": images.plain, "clip": CLIP}
    judging = {"tasks": recipe.judged_on, "steps": TEST_STEPS}
    rows = f"{re.escape(name)}$"
    work = partial(_work, name, recipe)
    return Job(name, seed, rows, work, training, judging, recipe.setting, [name])


def learner_of(recipe: Recipe, entry: Entry) -> Learner:
    """The learner, before it is trained."""
    model = entry.images.net(entry.ways, entry.seed)
    model = scaled(model) if recipe.one_length else model
    model = zero_headed(model) if recipe.zero_head else model
    return LEARNERS[recipe.learner](model, recipe.inner_lr, recipe.steps)


def _work(name: str, recipe: Recipe, session: Session) -> None:
    entry = Entry(IMAGE_SETS["few_shot_omniglot"], "MAML", recipe.setting, session.seed)
    learner = learner_of(recipe, entry)
    reptile = isinstance(learner, Reptile)
    outer = torch.optim.SGD if reptile else torch.optim.Adam
    optimizer = outer(learner.parameters(), lr=recipe.rate)
    warmup = int(recipe.warmup * recipe.iterations)
    falling = rising_and_falling(optimizer, recipe.iterations, warmup) if recipe.falls else None
    average = None if recipe.average is None else Average(learner, recipe.average)

    def train_until(until: int, checkpoint: Path) -> History:
        return meta_train(
            learner,
            entry.episodes(shots=9 if reptile else 1, queries=recipe.queries),
            until,
            recipe.tasks,
            optimizer=optimizer,
            scheduler=falling,
            clip=CLIP,
            callback=average,
            # The average is not in a checkpoint: that training is done in one go, or again.
            checkpoint=None if average else checkpoint,
        )

    session.train(
        name, recipe.iterations, train_until, tasks=recipe.tasks, legs=1 if average else None
    )
    judged = learner if average is None else average.learner
    tasks = entry.held_out("validation")
    score = evaluate(judged, tasks, recipe.judged_on, steps=TEST_STEPS, transductive=True)
    session.score(name, score, steps=TEST_STEPS)


class Average:
    """Looks on while a learner is trained, and keeps a running average of its phi.

    Args:
        learner: what is trained.
        keeps: how much of the average stays in an iteration.
    """

    def __init__(self, learner: Learner, keeps: float) -> None:
        self.learner, self.keeps = deepcopy(learner), keeps

    def __call__(self, iteration: int, loss: float, learner: Learner) -> None:
        keeps = min(self.keeps, 1 - 1 / iteration)  # at first the plain mean
        with torch.no_grad():
            for mean, p in zip(self.learner.parameters(), learner.parameters(), strict=True):
                mean.lerp_(p, 1 - keeps)


RUN = LongRun(
    "few_shot_recipe", "what each part of a recipe buys, 1-shot tasks of Omniglot", about, jobs
)
