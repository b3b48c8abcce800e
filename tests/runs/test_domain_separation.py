"""The weight of the difference loss and the normalisation: what differs between the arms."""

import json

import pytest
import torch
from torch import nn

from metanotes.data import Images
from runs import domain_separation, mnist_m
from runs.__main__ import main
from runs.domain_separation import BETAS, LEARNERS, SETTINGS, make

SHORT = ("source only", "DANN", "DSN + DANN, beta 0.05")


def noise(n, channels, size=28):
    generator = torch.Generator().manual_seed(n)
    x = torch.randint(256, (n, channels, size, size), generator=generator, dtype=torch.uint8)
    return Images(x, torch.arange(n) % 10, tuple("0123456789"))


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Noise for digits and photographs, and trainings of four iterations."""
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(domain_separation, "ITERATIONS", 4)
    monkeypatch.setattr(domain_separation, "TARGETS", 20)
    sets = {"train": noise(60, 1), "test": noise(30, 1)}
    monkeypatch.setattr(domain_separation, "digits", lambda name, split="train": sets[split])
    photographs = {"train": noise(5, 3, 42), "val": noise(6, 3, 42)}
    monkeypatch.setattr(domain_separation, "mini_imagenet", lambda split, size: photographs[split])
    forget = domain_separation.image_set.cache_clear
    forget()
    yield tmp_path / "results" / "domain_separation.json"
    forget()


def record(path, seeds=(0,), learners=SHORT):
    pattern = f"^({'|'.join(learners)})$".replace("+", ".")
    main(["domain_separation", "--learners", pattern, "--seeds", *map(str, seeds)], path.parent)
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {(row["name"], row["setting"], row["seed"]): row["value"] for row in rows}


def test_every_arm_has_a_score_with_each_encoder(small):
    rows = record(small)
    assert rows.keys() == {(name, setting, 0) for name in SHORT for setting in SETTINGS}


def test_the_arms_differ_in_what_they_say_and_in_nothing_else():
    plain = {name: make(name, True, 3) for name in LEARNERS}
    for normalized in (True, False):
        for name in LEARNERS:
            learner = make(name, normalized, 3)
            for part in ("encoder", "classifier"):
                first, other = (getattr(x, part).state_dict() for x in (plain[name], learner))
                assert all(torch.equal(first[key], other[key]) for key in other)
                assert all(torch.equal(first[key], getattr(plain["DANN"], part).state_dict()[key])
                           for key in first)  # fmt: skip
            norms = [m for m in learner.encoder.modules() if isinstance(m, nn.GroupNorm)]
            assert bool(norms) == normalized
            if name.startswith("DSN"):
                inside = learner.private_source.modules()
                assert any(isinstance(m, nn.GroupNorm) for m in inside)
    weights = [plain[f"DSN + DANN, beta {beta:g}"].weights for beta in BETAS]
    assert [w["difference"] for w in weights] == list(BETAS)
    assert len({str(sorted((w | {"difference": 0}).items())) for w in weights}) == 1


def test_without_the_normalisation_an_image_of_less_contrast_has_another_code():
    x = torch.rand(4, 3, 28, 28)
    for normalized in (True, False):
        encoder = make("DANN", normalized, 0).encoder
        same = torch.allclose(encoder(x), encoder(0.5 + 0.5 * (x - 0.5)), atol=2e-2)
        assert same == normalized


def test_source_target_and_test_share_no_digit_and_the_photographs_no_class(small):
    source, target, test = (
        domain_separation.image_set(name) for name in ("source", "target", "test")
    )
    assert [len(images.y) for images in (source, target, test)] == [40, 20, 30]
    assert source.x.shape[1:] == target.x.shape[1:] == test.x.shape[1:] == (3, 28, 28)
    drawn = noise(60, 1)
    assert torch.equal(source.x[:, :1], drawn.x[:40])
    assert torch.equal(target.y, drawn.y[40:])
    # Ink shows the photograph inverted, and nothing else of a digit is left.
    photographs = noise(5, 3, 42).x
    ink = drawn.x[40] > domain_separation.INK
    cuts = photographs.unfold(2, 28, 1).unfold(3, 28, 1).movedim(1, 3).reshape(-1, 3, 28, 28)
    shown = torch.where(ink, 255 - target.x[0], target.x[0])
    assert (cuts == shown).flatten(1).all(1).any()


def test_no_label_of_the_target_decides_anything(small, monkeypatch):
    makers, made = domain_separation.make, []
    monkeypatch.setattr(domain_separation, "make", lambda *a: made.append(makers(*a)) or made[-1])
    record(small, learners=["DANN"])
    small.unlink()
    monkeypatch.setenv("METANOTES_CACHE", str(small.parent / "other"))
    sets = domain_separation.image_set

    def other_labels(name):
        images = sets(name)
        return images if name == "source" else Images(images.x, images.y.flip(0), images.names)

    monkeypatch.setattr(domain_separation, "image_set", other_labels)
    record(small, learners=["DANN"])
    for first, again in zip(made[:2], made[2:], strict=True):
        pairs = zip(first.parameters(), again.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_its_nets_and_weights_are_those_of_the_record_on_mnist_m():
    here, there = make("DSN + DANN, beta 0.5", True, 2), mnist_m.make("DSN + DANN", 2)
    assert here.weights == there.weights
    pairs = zip(here.parameters(), there.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
