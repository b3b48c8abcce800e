"""Dataset distillation: ten images that teach fresh networks in five steps, and real rivals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metanotes.evaluation import Score
from metanotes.methods.teaching import DatasetDistillation
from metanotes.nets import mlp
from metanotes.task import Batch, Task
from metanotes.theta import How, in_force
from metanotes.training import meta_train
from runs.distillation import PIXELS, SEEN, SIDE, part, small_mnist, unseen_test
from runs.jobs import Job, LongRun, Session

UNITS, STEPS, FIRST_RATE = 64, 5, 0.5
NETWORKS, REAL, CHOICE = 4, 256, 1000  # images: of a query set, and to choose by
ITERATIONS, META_RATE, CLIP = 600, 0.02, 5.0  # Adam, falling to 0 (cosine)
RATES_ITERATIONS, RATES_META_RATE = 150, 0.05  # where the rates alone are learned
DRAWS, JUDGED, MARKS = 3, 20, 10  # of ten real images; fresh networks; looks on the way

LEARNED, MEANS, REALS = "ten learned images", "ten class means", "ten real images"
METHODS = (LEARNED, MEANS, REALS)

Trained = tuple[DatasetDistillation, list[float]]  # with the accuracy on the way


def draw(seed: int) -> nn.Module:
    """A network that is taught."""
    return mlp(PIXELS, UNITS, 10, seed=seed)


def data(seed: int) -> tuple[Batch, Batch]:
    """What images are learned from, and what is chosen by."""
    of = small_mnist("train")
    rows = torch.randperm(len(of.y), generator=torch.Generator().manual_seed(seed))
    return part(of, rows[CHOICE:]), part(of, rows[:CHOICE])


@torch.no_grad()
def judged(learner: DatasetDistillation, on: Batch, networks: int, seed: int) -> Tensor:
    """The accuracy of so many fresh networks after their five steps, `[networks]`."""
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    theta = learner.taught(learner.fresh(networks))
    torch.set_rng_state(before)
    answers = learner.predict(theta, on.x.expand(networks, *on.x.shape)).argmax(2)
    return (answers == on.y).double().mean(1)


def learner_for(images: Tensor | None, train: Batch, choice: Batch) -> Trained:
    """Images with a rate for each step; given images stay, and only the rates are learned."""
    learner = DatasetDistillation(draw, FIRST_RATE, STEPS, classes=10, shape=(PIXELS,))
    iterations, rate = ITERATIONS, META_RATE
    if images is not None:
        iterations, rate = RATES_ITERATIONS, RATES_META_RATE
        learner.images.requires_grad_(False).copy_(images)
    phi = [p for p in (learner.images, learner.log_rates) if p.requires_grad]
    optimizer = torch.optim.Adam(phi, rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    path: list[float] = []

    def sample(tasks: int) -> Task:
        rows = torch.randint(len(train.y), (tasks, REAL))
        return Task(*(Batch(train.x[rows], train.y[rows]),) * 2)

    def note(iteration: int, loss: float, _: nn.Module) -> None:
        if iteration % (iterations // MARKS) == 0:
            path.append(float(judged(learner, choice, JUDGED, 1).mean()))

    with in_force(How(at_once=True)):
        meta_train(
            learner,
            sample,
            iterations,
            NETWORKS,
            optimizer=optimizer,
            scheduler=scheduler,
            clip=CLIP,
            callback=note,
            progress=False,
        )
    return learner, path


def training(method: str, seed: int) -> Trained:
    """The images and rates of a method, and the accuracy on the choosing set on the way."""
    torch.manual_seed(seed)
    train, choice = data(seed)
    if method == LEARNED:
        return learner_for(None, train, choice)
    classes = [train.x[train.y == digit] for digit in range(10)]
    if method == MEANS:
        return learner_for(torch.stack([x.mean(0) for x in classes]), train, choice)
    draws = [
        torch.stack([x[int(torch.randint(len(x), ()))] for x in classes]) for _ in range(DRAWS)
    ]
    return max((learner_for(x, train, choice) for x in draws), key=lambda made: made[1][-1])


def about() -> dict[str, Any]:
    """The words of the record."""
    return {
        "title": "Dataset distillation: ten images teach fresh networks",
        "config": {
            "data": f"MNIST, the mean of each 2x2 pixels: all training images but {CHOICE}, which "
            f"are to choose by; test images all but the first {SEEN}, which trials saw",
            "networks": f"one hidden layer of {UNITS} units, drawn anew each time; {STEPS} steps "
            "of all ten images, with a learned rate for each step that starts at "
            f"{FIRST_RATE:g}",
            "learned images": f"{ITERATIONS} iterations of {NETWORKS} networks, each judged on "
            f"{REAL} real images; Adam, rate {META_RATE:g} falling to 0 (cosine), clipped at "
            f"{CLIP:g}",
            "rivals": f"means or real images stay, and their rates are learned: {RATES_ITERATIONS} "
            f"iterations, rate {RATES_META_RATE:g}; the best of {DRAWS} draws of real images by "
            "the choosing set",
        },
        "protocol": f"Accuracy on the test images, the mean over {JUDGED} networks that were not "
        "met before, with the 95 % interval over networks.",
        "published": [
            {
                "name": "one fixed start, 10 images",
                "value": "93.8 %",
                "cite": "wang2018distillation",
            },
            {
                "name": "random starts, 100 images",
                "value": "79.5 ± 8.1 %",
                "cite": "wang2018distillation",
            },
        ],
        "curve_label": "accuracy on the choosing set",
    }


def jobs(seeds: Sequence[int]) -> list[Job]:
    """A job a seed and method."""
    recipe = {
        "networks": [SIDE, UNITS, STEPS, FIRST_RATE, NETWORKS, REAL, CHOICE],
        "images": [ITERATIONS, META_RATE, CLIP],
        "rates": [RATES_ITERATIONS, RATES_META_RATE, DRAWS],
    }
    return [
        Job(
            learner=method,
            seed=seed,
            rows=f"{re.escape(method)}(:|$)",
            work=partial(_work, method),
            training={"method": method, **recipe},
            judging={"networks": JUDGED, "seen": SEEN, "marks": MARKS},
        )
        for seed in seeds
        for method in METHODS
    ]


def _work(method: str, session: Session) -> None:
    learner, path = training(method, session.seed)
    values = judged(learner, unseen_test(), JUDGED, 2)
    session.score(method, Score(values, "accuracy", transductive=False, of="networks"))
    session.curve(f"{method}: accuracy", path)
    session.curve(f"{method}: rates", learner.rates.tolist())
    if session.seed == 0:  # to be shown
        for digit, image in enumerate(learner.images.tolist()):
            session.curve(f"{method}: image of {digit}", image)


RUN = LongRun(
    "dataset_distillation",
    "dataset distillation: ten images that teach fresh networks, and real rivals",
    about,
    jobs,
)
