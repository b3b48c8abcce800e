"""Trainings of as many iterations as fit into the time: rows, and their curves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from benchmarks.gpu.setting import Setting
from metanotes import MAML, Learner, PrototypicalNetwork, evaluate, meta_train
from metanotes.data import Images, episodes, glyphs, mini_imagenet, omniglot
from metanotes.nets import conv4

POINTS = 8  # of a curve
FIRST = 20  # iterations by which the time of one is known


class ImageSet(NamedTuple):
    """Images to learn from and to be judged on.

    Args:
        name: what they are.
        train, validation, test: of different classes.
    """

    name: str
    train: Images
    validation: Images
    test: Images


def omniglot_or_glyphs(small: bool) -> ImageSet:
    """Omniglot, fetched where it is not there; printed characters, where that is impossible."""
    try:
        parts = [
            omniglot(part, protocol="1200/423", download=not small) for part in ("train", "test")
        ]
        name = "Omniglot, 1200/423"
    except (OSError, ValueError, RuntimeError, ImportError):
        parts = [glyphs("background"), glyphs("evaluation")]
        name = "glyphs"
    train, test = parts
    some = max(20, len(train.names) // 12)
    return ImageSet(name, _of(train, slice(some, None)), _of(train, slice(some)), test)


def _of(images: Images, classes: slice) -> Images:
    """The images of some classes."""
    wanted = torch.arange(len(images.names))[classes]
    rows = torch.isin(images.y, wanted)
    return Images(images.x[rows], images.y[rows] - wanted[0], images.names[classes])


def omniglot_rows(setting: Setting) -> Iterator[dict[str, Any]]:
    """MAML and a prototypical network, half of the time each."""
    images = omniglot_or_glyphs(setting.small)
    width, end = (4 if setting.small else 64), setting.end
    half = setting._replace(end=end - setting.left / 2)
    maml = MAML(conv4(5, width), 0.4)
    yield from trained("MAML", maml, images, half, ways=5, tasks=32, lr=3e-3)
    prototypes = PrototypicalNetwork(conv4(None, width), 5)
    yield from trained(
        "PrototypicalNetwork", prototypes, images, setting, ways=20, tasks=8, lr=3e-3
    )


def mini_imagenet_rows(setting: Setting) -> Iterator[dict[str, Any]]:
    """MAML as published: four blocks of 32 channels, four tasks, five inner steps of 0.01.

    Raises:
        FileNotFoundError: mini-ImageNet is not there.
    """
    size = 42 if setting.small else 84
    parts = [mini_imagenet(part, size=size) for part in ("train", "val", "test")]
    name = f"mini-ImageNet at {size}x{size}, {len(parts[0].y)} images to learn from"
    width = 4 if setting.small else 32
    learner = MAML(conv4(5, width, 3, size=size, pool="max"), 0.01, 5)
    images = ImageSet(name, *parts)
    yield from trained("MAML", learner, images, setting, ways=5, tasks=4, lr=1e-3, steps=10)


def trained(
    name: str,
    learner: Learner,
    images: ImageSet,
    setting: Setting,
    *,
    ways: int,
    tasks: int,
    lr: float,
    steps: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Train until most of the time is over, then judge, 5-way 1-shot.

    Args:
        name: of the learner.
        learner: what is trained.
        images: from which tasks are drawn.
        setting: where, and until when.
        ways: in training, for a learner that takes any number.
        tasks: of a batch.
        lr: of Adam, outside.
        steps: inner steps in testing.
    """
    device = setting.machine.device
    learner.to(device)
    judged, held_out = (20, 5) if setting.small else (600, 100)

    def of(part: Images, ways: int, seed: int) -> Callable[[int], Any]:
        return episodes(part, ways, 1, 15 if ways == 5 else 5, seed=seed, device=device)

    learns = learner
    if isinstance(learner, PrototypicalNetwork):
        learns = learner.with_ways(ways)  # the same body
    sample = of(images.train, ways, seed=0)
    optimizer = torch.optim.Adam(learns.parameters(), lr=lr)
    seconds = []

    def clock(iteration: int, loss: float, learner: Any) -> None:
        seconds.append(time.monotonic())

    first = 3 if setting.small else FIRST
    meta_train(learns, sample, first, tasks, optimizer=optimizer, callback=clock, progress=False)
    each = (seconds[-1] - seconds[first // 2]) / (first - 1 - first // 2)
    iterations = 2 if setting.small else max(POINTS, int(0.75 * setting.left / each))
    every = max(1, iterations // POINTS)
    curve: dict[str, list[float]] = {"iteration": [], "value": []}

    def validate(_: Any) -> float:
        score = evaluate(learner, of(images.validation, 5, seed=1), held_out, transductive=True)
        curve["iteration"].append(first + every * (1 + len(curve["value"])))
        curve["value"].append(round(score.mean, 4))
        return score.mean

    start = time.monotonic()
    meta_train(learns, sample, iterations, tasks, optimizer=optimizer, progress=False,
               validate=validate, validate_every=every)  # fmt: skip
    row: dict[str, Any] = {
        "name": name,
        "data": images.name,
        "setting": "5-way 1-shot",
        "unit": "accuracy",
    }
    row |= {"iterations": first + iterations, "tasks in a batch": tasks, "ways in training": ways}
    yield {
        **row,
        "training_seconds": round(time.monotonic() - start, 1),
        "iteration_ms": round(1e3 * each, 3),
        "curve_label": f"accuracy, {held_out} validation tasks, transductive",
        "curve": curve,
    }
    for transductive in (True, False):
        start = time.monotonic()
        score = evaluate(learner, of(images.test, 5, seed=2), judged, steps=steps,
                         transductive=transductive)  # fmt: skip
        yield {
            **row,
            "value": round(score.mean, 4),
            "ci95": round(score.ci95, 4),
            "tasks": judged,
            "transductive": transductive,
            "judging_seconds": round(time.monotonic() - start, 1),
        }
