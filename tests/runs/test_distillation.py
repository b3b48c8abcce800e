"""The records of distilled networks and data sets, in small, on the digits of scikit-learn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from metanotes import Batch
from metanotes.data import digits
from runs import dataset_distillation, distillation
from runs.__main__ import main

SMALL = {
    distillation: {
        "OTHERS": 300,
        "TAUGHT": 60,
        "QUIZ": 20,
        "CHOICE": 50,
        "SEEN": 100,
        "TEACHER_STEPS": 60,
        "STEPS": 6,
        "SIZE": 12,
        "MARKS": 3,
        "SMOOTHING": (0.1, 0.2),
        "PILOT_RATES": (1e-4, 1e-3),
        "LABEL_RATES": (0.1,),
    },
    dataset_distillation: {
        "ITERATIONS": 6,
        "RATES_ITERATIONS": 3,
        "MARKS": 3,
        "DRAWS": 2,
        "JUDGED": 4,
        "REAL": 30,
        "CHOICE": 100,
        "SEEN": 100,
    },
}


def pictures(split: Literal["train", "test"]) -> Batch:
    images = digits("sklearn", split, size=distillation.SIDE)
    return Batch(images.x.float().flatten(1) / 255, images.y)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for run, settings in SMALL.items():
        for name, value in settings.items():
            monkeypatch.setattr(run, name, value)
        monkeypatch.setattr(run, "small_mnist", pictures)
    distillation.teacher.cache_clear()
    yield
    distillation.teacher.cache_clear()


def made_by(name: str, folder: Path) -> dict[str, Any]:
    assert main([name, "--seeds", "0"], folder) == 0
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return content


def test_each_method_of_a_setting_has_a_row_and_each_pilot_rate_a_path(tmp_path: Path) -> None:
    content = made_by("distillation", tmp_path)
    for setting, methods in distillation.METHODS.items():
        names = [row["name"] for row in content["rows"] if row["setting"] == setting]
        assert [name for name in names if ": " not in name] == list(methods)
    names = [row["name"] for row in content["rows"]]
    assert "label smoothing: smoothing 0.2" in names
    assert "teacher by pilot steps: rate 0.001, its teacher" in names
    paths = {curve["name"]: curve["value"] for curve in content["curves"]}
    assert [len(path) for path in paths.values()] == [3, 3]


def test_what_the_student_and_the_teacher_see_is_apart() -> None:
    drawn = distillation.data(0)
    whole = torch.cat([each.x for each in drawn])
    assert [len(each.y) for each in drawn] == [300, 60, 20, 50]
    assert len(whole.unique(dim=0)) > 0.99 * len(whole)
    assert torch.equal(distillation.data(0).taught.x, drawn.taught.x)
    assert not torch.equal(distillation.data(1).taught.x, drawn.taught.x)
    assert len(distillation.unseen_test().y) == 797 - 100


def test_a_pilot_step_leaves_the_teacher_of_the_others_alone() -> None:
    of = distillation.teacher(distillation.MORE, 0)
    before = [p.clone() for p in of.parameters()]
    run = distillation.pilot_training(distillation.PILOT, 0, 1e-3)
    assert all(map(torch.equal, before, of.parameters()))
    assert run.teacher is not None
    assert not torch.equal(before[0], next(run.teacher.parameters()))


def test_pilot_steps_with_a_teacher_that_stands_still_are_plain_distillation() -> None:
    still = distillation.pilot_training(distillation.PILOT, 0, 1e-12).net
    plain = distillation.plain_training(distillation.DISTILLED, distillation.MORE, 0).net
    torch.testing.assert_close(still.state_dict(), plain.state_dict())


def test_soft_labels_start_sure_of_the_right_class() -> None:
    labels = distillation.SoftLabels(torch.tensor([3, 1]))
    p = labels(torch.zeros(2, 196), torch.tensor([1, 0])).softmax(1)
    torch.testing.assert_close(p[[0, 1], [1, 3]], torch.full((2,), distillation.SURE))


def test_ten_images_their_rates_and_their_accuracy_are_kept(tmp_path: Path) -> None:
    content = made_by("dataset_distillation", tmp_path)
    methods = list(dataset_distillation.METHODS)
    assert [row["name"] for row in content["rows"]] == methods
    assert {row["tasks"] for row in content["rows"]} == {4}
    curves = {curve["name"]: curve["value"] for curve in content["curves"]}
    for method in methods:
        assert len(curves[f"{method}: accuracy"]) == 3
        assert len(curves[f"{method}: rates"]) == dataset_distillation.STEPS
        assert len(curves[f"{method}: image of 7"]) == distillation.PIXELS


def test_given_images_stay_and_their_rates_are_learned() -> None:
    train, choice = dataset_distillation.data(0)
    images = train.x[:10]
    learner, _ = dataset_distillation.learner_for(images, train, choice)
    assert torch.equal(learner.images, images)
    assert not torch.allclose(learner.rates, torch.tensor(0.5))
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    dataset_distillation.judged(learner, choice, 2, 1)  # draws, and leaves no trace
    assert torch.equal(torch.rand(1), first)
