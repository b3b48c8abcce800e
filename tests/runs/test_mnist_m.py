"""The record of MNIST to MNIST-M, in small: what it holds, and that it goes on where it was."""

import json
import shutil

import pytest
import torch

from metanotes.data import Images
from metanotes.methods.domains import mmd
from runs import mnist_m
from runs.__main__ import main

SHORT = ["source only", "DANN", "DSN + MMD", "target only"]


def record(path, *seeds):
    pattern = "^(source only|DANN|DSN . MMD|target only)$"
    main(["mnist_m", "--learners", pattern, "--seeds", *map(str, seeds)], path.parent)


def folder(patch, path):
    """Noise for images, and runs of three iterations in three legs; where the record will be."""
    patch.setenv("METANOTES_CACHE", str(path / "cache"))
    patch.setattr(mnist_m, "ITERATIONS", 3)
    patch.setattr(mnist_m, "LEGS", 3)
    patch.setattr(mnist_m, "digits", lambda name: noise(40, 1))
    patch.setattr(mnist_m, "mnist_m", lambda split: noise(50 if split == "train" else 30, 3))
    mnist_m.image_set.cache_clear()
    return path / "results" / "mnist_m.json"


@pytest.fixture
def small(monkeypatch, tmp_path):
    yield folder(monkeypatch, tmp_path)
    mnist_m.image_set.cache_clear()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The record of seed 0, and the learners that it was made of."""
    made, make = [], mnist_m.make
    with pytest.MonkeyPatch.context() as patch:
        path = folder(patch, tmp_path_factory.mktemp("whole"))
        patch.setattr(mnist_m, "make", lambda *a: made.append(make(*a)) or made[-1])
        record(path, 0)
    return path, made


def noise(n, channels):
    generator = torch.Generator().manual_seed(n)
    x = torch.randint(256, (n, channels, 28, 28), generator=generator, dtype=torch.uint8)
    return Images(x, torch.arange(n) % 10, tuple("0123456789"))


def rows(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    return {(row["name"], row["seed"]): row["value"] for row in content["rows"]}


def test_every_run_has_a_score_and_a_curve(small, whole):
    shutil.copytree(whole[0].parent, small.parent)
    record(small, 0, 1)
    content = json.loads(small.read_text(encoding="utf-8"))
    assert set(rows(small)) == {(name, seed) for name in SHORT for seed in (0, 1)}
    assert content["seeds"] == [0, 1]
    for run in content["runs"]:
        assert run["curve"]["iteration"] == [1, 2, 3]
        assert run["curve"]["value"][-1] == rows(small)[run["what"], run["seed"]]


def test_an_interrupted_record_goes_on_to_the_same_scores(small, whole, monkeypatch):
    evaluate, calls = mnist_m.evaluate, iter(range(100))

    def interrupted(*arguments):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(mnist_m, "evaluate", interrupted)
    record(small, 0)
    assert len(rows(small)) == 1
    monkeypatch.setattr(mnist_m, "evaluate", evaluate)
    record(small, 0)
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (whole[0], small))
    assert rows(small) == {(row["name"], row["seed"]): row["value"] for row in old["rows"]}
    assert [run["curve"] for run in new["runs"]] == [run["curve"] for run in old["runs"]]


def test_no_label_of_the_target_but_for_target_only_decides_anything(small, whole, monkeypatch):
    made, make, original = [], mnist_m.make, mnist_m.mnist_m
    monkeypatch.setattr(mnist_m, "make", lambda *a: made.append(make(*a)) or made[-1])

    def other_labels(split):
        images = original(split)
        return Images(images.x, images.y.flip(0), images.names)

    monkeypatch.setattr(mnist_m, "mnist_m", other_labels)
    mnist_m.image_set.cache_clear()
    record(small, 0)
    for name, first, again in zip(SHORT, whole[1], made, strict=True):
        pairs = zip(first.parameters(), again.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) == (name != "target only")


def test_all_methods_are_made_of_the_same_shared_nets():
    made = [mnist_m.make(method, 3) for method in mnist_m.METHODS]
    for learner in made[1:]:
        for name in ("encoder", "classifier"):
            first, other = (getattr(m, name).state_dict() for m in (made[0], learner))
            assert all(torch.equal(first[key], other[key]) for key in first)


def test_the_scaled_mmd_does_not_see_the_scale_of_codes_and_pulls_as_hard():
    x, y = torch.randn(20, 8, dtype=torch.float64), torch.randn(20, 8, dtype=torch.float64) + 1
    value = mnist_m.scaled_mmd(x, y)
    torch.testing.assert_close(mnist_m.scaled_mmd(50 * x, 50 * y), value)
    z = torch.cat([x, y])
    unit = torch.cdist(z, z).median()
    x.requires_grad_()
    (pull,) = torch.autograd.grad(mnist_m.scaled_mmd(x, y), x)
    (expected,) = torch.autograd.grad(mmd(x / unit, y / unit), x)  # no gradient through the unit
    torch.testing.assert_close(pull, expected)
