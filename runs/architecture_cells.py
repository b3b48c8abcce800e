"""Every cell of a small space, trained; and what gradients choose from it over ten seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from metanotes.data import Images, batches, digits
from metanotes.evaluation import evaluate
from metanotes.methods.architecture import (
    CELLS,
    DARTS,
    CellNetwork,
    OneShot,
    edges,
    function_of,
    train_classifier,
)
from metanotes.methods.architecture.darts import MixedProduct
from metanotes.task import Task
from metanotes.training import meta_train
from runs.jobs import Job, LongRun, Session

TRAIN, VALIDATION = 400, 600  # images, of the first 1000; the last 797 are the test set
CHANNELS = 4
EPOCHS, BATCH, LR = 8, 40, 0.1
CELL_SEEDS = 8  # the first three are what searches see; the others judge what they choose
DARTS_SEEDS = 10
STEPS, DARTS_LR, ALPHA_LR = 150, 0.05, 0.03
PATHS, PATHS_LR = 600, 0.1  # minibatches of one-shot training, and the first rate
FUNCTIONS = sorted({function_of(cell) for cell in CELLS}, key=CELLS.index)

# Name -> xi over the rate of w, and how the mixed product is worked out.
ORDERS: dict[str, tuple[float, MixedProduct]] = {
    "DARTS, first order": (0.0, "finite difference"),
    "DARTS, second order": (1.0, "finite difference"),
    "DARTS, exact second order": (1.0, "exact"),
}
ONE_SHOT = "one-shot"


@cache
def image_set(name: str) -> Images:
    """The images to train on, to choose by, or to judge by."""
    if name == "test":
        return digits("sklearn", "test", size=8)
    x, y, names = digits("sklearn", size=8)
    rows = slice(TRAIN) if name == "train" else slice(TRAIN, TRAIN + VALIDATION)
    return Images(x[rows], y[rows], names)


def tensors(name: str) -> tuple[Tensor, Tensor]:
    """The same as numbers in [0, 1] and labels."""
    images = image_set(name)
    return images.x.float() / 255, images.y


def about() -> dict[str, Any]:
    """The words of the record."""
    return {
        "title": "Architectures: every cell of a small space",
        "config": {
            "data": f"the 8x8 digits of scikit-learn: {TRAIN} to train on, {VALIDATION} to "
            "choose by, 797 to judge by",
            "space": "b(x) + c(a(x)), a, b, c each of none, skip, conv, pool: 64 cells, of which "
            f"{len(FUNCTIONS)} compute different functions; the network has two cells, of "
            f"{CHANNELS} and {2 * CHANNELS} channels",
            "training": f"{EPOCHS} epochs, minibatches of {BATCH}, SGD with Nesterov's momentum "
            f".9, rate {LR} falling to 0",
            "DARTS": f"{STEPS} steps of w (SGD, rate {DARTS_LR}, momentum .9) on the training "
            f"images by turns with alpha (Adam, rate {ALPHA_LR}) on the validation images",
            "one-shot": f"{PATHS} minibatches, a random cell each, SGD with Nesterov's "
            f"momentum .9, rate {PATHS_LR} falling to 0; then every cell judged on the "
            "validation images with the shared weights",
        },
        "protocol": f"Accuracy of a network trained from scratch, one row a cell and {CELL_SEEDS} "
        "seeds, on the validation and on the test images, with the 95 % interval over images. Rows "
        f"of DARTS and one-shot: the cell that each chose, trained in the same way with the seed "
        "of the search plus 100.",
        "curve_label": "accuracy of the weights that are shared, on the validation images",
    }


def jobs(seeds: Sequence[int]) -> list[Job]:
    """A job for all cells and a seed; a job a gradient search and a seed."""
    training = {"train": TRAIN, "channels": CHANNELS, "recipe": [EPOCHS, BATCH, LR]}
    cells = [
        Job(
            learner="cells",
            seed=seed,
            rows=".*/.*, (validation|test)$",
            work=every_cell,
            training={**training, "cells": len(FUNCTIONS)},
            judging={"validation": VALIDATION},
        )
        for seed in seeds
        if seed < CELL_SEEDS
    ]
    searches = [
        Job(
            learner=name,
            seed=seed,
            rows=f"{re.escape(name)}(,|$)",
            work=partial(search, name),
            training={
                **training,
                "search": [name, STEPS, BATCH, DARTS_LR, ALPHA_LR, PATHS, PATHS_LR],
                "validation": VALIDATION,
            },
        )
        for name in (*ORDERS, ONE_SHOT)
        for seed in seeds
    ]
    return cells + searches


def every_cell(session: Session) -> None:
    """Train all cells that differ, with one seed."""
    for cell in FUNCTIONS:
        net = trained(cell, session.seed)
        for split in ("validation", "test"):
            session.score(f"{'/'.join(cell)}, {split}", evaluate(net, image_set(split)))


def trained(cell: Sequence[str], seed: int) -> CellNetwork:
    """A cell's network, trained from scratch."""
    net = CellNetwork(cell, channels=CHANNELS, seed=seed)
    train_classifier(net, *tensors("train"), epochs=EPOCHS, batch=BATCH, lr=LR, seed=seed)
    return net


def search(name: str, session: Session) -> None:
    """Choose a cell by a gradient or by shared weights, and train it from scratch."""
    net = CellNetwork(channels=CHANNELS, seed=session.seed)
    cell = one_shot(net, session) if name == ONE_SHOT else darts(name, net, session)
    score = evaluate(trained(cell, session.seed + 100), image_set("test"))
    session.score(name, score, note="/".join(cell))


def darts(name: str, net: CellNetwork, session: Session) -> tuple[str, ...]:
    """The operations with the largest alpha; their logarithms are kept as curves."""
    seed = session.seed
    xi, mixed_product = ORDERS[name]
    learner = DARTS(net, inner_lr=xi * DARTS_LR, mixed_product=mixed_product)
    optimizer = {
        "alpha": torch.optim.Adam(learner.alphas.values(), lr=ALPHA_LR),
        "weights": torch.optim.SGD(learner.weights.values(), lr=DARTS_LR, momentum=0.9),
    }
    support = batches(image_set("train"), BATCH, seed=seed)
    query = batches(image_set("validation"), BATCH, seed=seed + 1000)

    def both(tasks: int) -> Task:
        return Task(support(tasks).support, query(tasks).query)

    meta_train(learner, both, STEPS, 1, optimizer=optimizer, progress=False)
    alphas = torch.stack([alpha.detach().log_softmax(0) for alpha in edges(net)])
    session.curve(f"{name}, log weights", alphas.flatten().tolist())
    return learner.choice()


def one_shot(net: CellNetwork, session: Session) -> tuple[str, ...]:
    """The best of all cells with shared weights; what each had is kept as a curve."""
    learner = OneShot(net)
    sgd = torch.optim.SGD(net.parameters(), lr=PATHS_LR, momentum=0.9, nesterov=True)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, PATHS)
    sampler = batches(image_set("train"), BATCH, seed=session.seed)
    torch.manual_seed(session.seed)
    meta_train(learner, sampler, PATHS, 1, optimizer=sgd, scheduler=falling, progress=False)
    validation = tensors("validation")
    accuracies = [learner.accuracy(cell, *validation) for cell in CELLS]
    session.curve(f"{ONE_SHOT}, shared accuracy", accuracies)
    return CELLS[accuracies.index(max(accuracies))]


RUN = LongRun(
    "architecture_cells",
    "every cell of a small space; DARTS and one-shot over ten seeds",
    about,
    jobs,
    seeds=tuple(range(DARTS_SEEDS)),
)
