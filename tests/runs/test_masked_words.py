"""The record of masked words, in small, on generated sentences."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from metanotes.data.text import MASK, english, masked_sentences, meanings
from runs import masked_text, masked_words
from runs.__main__ import main

SMALL = {
    masked_text: {
        "LENGTHS": (4, 12),
        "VOCABULARY": 300,
        "FREQUENT": 20,
        "LEAST": 15,
        "TEST_WORDS": 12,
        "CHOICE_WORDS": 8,
        "TRAIN_WORDS": 30,
        "MOST": 20,
        "LEFT_OUT": 100,
    },
    masked_words: {
        "WIDTH": 8,
        "HEADS": 2,
        "LAYERS": 1,
        "FEEDFORWARD": 16,
        "SIZE": 8,
        "PRETRAINING": 6,
        "SHOTS": 2,
        "QUERIES": 2,
        "TASKS": 2,
        "JOINT_SIZE": 10,
        "SENTENCES": 240,
        "TRIAL_SENTENCES": 80,
        "INNER": (0.05, 0.1),
        "OUTER": (1e-3, 2e-3),
        "TUNING_RATES": (0.1,),
        "TUNING_STEPS": (2, 3),
        "PENALTIES": (0.1, 1.0),
        "CHOICE_TASKS": 4,
        "TEST_TASKS": 5,
        "MARKS": 2,
        "MARK_TASKS": 3,
    },
}


def archive(folder: Path, sentences: list[str]) -> None:
    """Pairs as the real folder has them: a test set's name, the source, and the English."""
    lines = [f"tatoeba-test-v1\tbonjour\t{sentence.capitalize()}." for sentence in sentences]
    lines.append("newstest2019\tbonjour\tthis sentence is no sentence of tatoeba")
    (folder / "mt").mkdir()
    file = folder / "xxx-eng.tsv.gz"
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    with tarfile.open(folder / "mt" / "mt.tar.gz", "w:gz") as tar:
        tar.add(file, "mt/opus-mt-testsets/pairs_xx-eng/fra-eng.tsv.gz")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("data")
    archive(folder, [english(meaning) for meaning in meanings(1500, seed=0)])
    monkeypatch.setenv("METANOTES_DATA", str(folder))
    monkeypatch.setenv("METANOTES_CACHE", str(folder / "cache"))
    for module, settings in SMALL.items():
        for name, value in settings.items():
            monkeypatch.setattr(module, name, value)
    masked_text.text.cache_clear()
    yield
    masked_text.text.cache_clear()


def test_every_start_has_every_method(tmp_path: Path) -> None:
    assert main(["masked_words", "--seeds", "0"], tmp_path) == 0
    content = json.loads((tmp_path / "masked_words.json").read_text())
    rows = {(row.get("setting"), row["name"]): row for row in content["rows"]}
    assert (masked_words.NEITHER, masked_words.BAG) in rows
    assert (masked_words.MASKED, masked_words.NAMED) in rows
    for start in (masked_words.RANDOM, masked_words.MASKED):
        for name in (*masked_words.FROZEN, masked_words.TUNED, *masked_words.TRAINED[1:]):
            assert (start, name) in rows
        for name in masked_words.TRAINED:
            for probe in masked_words.FROZEN:
                assert (start, f"{name}: {probe}") in rows
    row = rows[masked_words.MASKED, f"{masked_words.ANIL_NAME}: {masked_words.PROBE}"]
    assert re.fullmatch(r"rate 0\.00[12], inner 0\.(05|1); penalty (0\.1|1)", row["note"])
    curves = {(c["setting"], c["name"]): c["value"] for c in content["curves"]}
    assert len(curves[masked_words.MASKED, "ANIL: choice"]) == 3
    assert len(curves[masked_words.MASKED, "joint classification: choice"]) == 2
    assert len(curves[masked_words.RANDOM, "joint classification: curve"]) == 2
    assert [run["what"] for run in content["runs"]] == [masked_words.PRETRAIN]
    before = content["rows"]
    assert main(["masked_words", "--seeds", "0"], tmp_path) == 0  # nothing is left to do
    assert json.loads((tmp_path / "masked_words.json").read_text())["rows"] == before


def test_held_out_words_are_no_target_of_any_training() -> None:
    of = masked_text.text()
    assert len(set(of.held_out)) == 20
    held_out = torch.tensor(of.held_out)
    sample = masked_sentences(of.tokens[of.kept], 200, places=2, never=of.held_out)
    x, y = sample(5).query
    assert not torch.isin(y, held_out).any()
    assert torch.isin(x["input_ids"], held_out).any()
    rows = {tuple(row) for row in of.tokens.tolist()}
    words = torch.tensor(of.trained)[of.train.y][:, None]
    whole = torch.where(of.train.x == MASK, words, of.train.x)
    assert all(tuple(row) in rows for row in whole.tolist())
    assert not set(of.trained) & set(of.held_out)


def test_the_classes_of_training_choice_and_test_are_apart() -> None:
    of = masked_text.text()
    assert int(of.train.y.max()) == 29
    assert int(of.choice.y.max()) == 7
    assert int(of.test.y.max()) == 11
    assert of.test.y.bincount().max() <= 20
    assert "this sentence is no sentence of tatoeba" not in {
        of.vocabulary.decode(row) for row in of.tokens.tolist()
    }
    assert len({*of.kept.tolist(), *of.left_out.tolist()}) == len(of.tokens)


def test_a_body_at_the_mask_is_a_copy() -> None:
    body = masked_words.body_of(0)
    copied = masked_words.at_the_mask(body)
    x = masked_text.text().test.x[:4]
    assert torch.equal(copied(x), body(x)[x == MASK])
    with torch.no_grad():
        copied.embedding.weight.zero_()
    assert not torch.equal(copied(x), body(x)[x == MASK])


def test_missing_text_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METANOTES_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="set the environment variable METANOTES_DATA"):
        masked_text.text()
