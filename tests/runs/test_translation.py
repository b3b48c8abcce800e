"""The translation run in small, on made-up languages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metanotes.data import Pairs, Words, generated_pairs, language
from metanotes.data import english_keys as keys
from runs import translation, translation_arms, translation_data
from runs.__main__ import main

SMALL: dict[Any, dict[str, Any]] = {
    translation_data: {
        "SOURCES": ("aa", "bb", "cc"),
        "TARGETS": {"ron": "Romanian", "kor": "Korean"},
        "TEST": {},
        "TEST_OF_OTHERS": 8,
        "DEV": 6,
        "SOURCE_TEST": 5,
        "SOURCE_DEV": 4,
        "POSITIONS": 16,
        "SUBSETS": 2,
        "SEEN": 2,
    },
    translation_arms: {
        "WIDTH": 8,
        "HEADS": 2,
        "LAYERS": 1,
        "FEEDFORWARD": 8,
        "SIZE": 8,
        "START_STEPS": 4,
        "START_WARMUP": 2,
        "STEPS": 8,
        "WARMUP": 2,
        "SUPPORT": 4,
        "QUERIES": 4,
        "WALK": 2,
        "WALK_SIZE": 4,
    },
    translation: {
        "TUNING": {40: (2, 4)},
        "WORDS": {"ron": (0, 40), "kor": (40,)},
        "SHOWN": 3,
        "CHECKPOINT_EVERY": 2,
    },
}
CACHED = ("corpus", "training_tokens", "seen_shares")


def made_up(names: list[str]) -> dict[str, Pairs]:
    every = ["aa", "bb", "cc", "ron", "kor"]
    return {
        name: generated_pairs(language(name, n // 2, seed=n), 80, seed=n // 2)
        for n, name in enumerate(every)
        if name in names
    }


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    for module, settings in SMALL.items():
        for name, value in settings.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(translation_data, "translation", made_up)

    def words() -> tuple[Words, Words]:
        pairs = made_up([*translation_data.SOURCES, *translation_data.TARGETS]).values()
        return tuple(Words(s for p in pairs for s in side(p)) for side in (_first, _second))  # type: ignore[return-value]

    monkeypatch.setattr(translation_data, "vocabularies", words)
    for name in CACHED:
        getattr(translation_data, name).cache_clear()
    yield
    for name in CACHED:
        getattr(translation_data, name).cache_clear()


def _first(pairs: Pairs) -> tuple[str, ...]:
    return pairs.source


def _second(pairs: Pairs) -> tuple[str, ...]:
    return pairs.english


def made_by(folder: Path, *arguments: str) -> dict[str, Any]:
    assert main(["translation", "--seeds", "0", *arguments], folder) == 0
    content: dict[str, Any] = json.loads((folder / "translation.json").read_text())
    return content


def test_every_arm_has_its_rows_and_a_difference(tmp_path: Path) -> None:
    content = made_by(tmp_path)
    rows = {(row["name"], row.get("setting")): row for row in content["rows"]}
    at = "Romanian, 40 words"
    for arm in ("MultiNMT", "FOMAML", "Reptile", "random weights", "FOMAML, all adapts"):
        for subset in (0, 1):
            assert rows[f"{arm}: subset {subset}", at]["unit"] == "BLEU"
            assert rows[f"{arm}: subset {subset}, chrF", at]["unit"] == "chrF"
            assert "best epoch" in rows[f"{arm}: subset {subset}", at]["note"]
    for arm in ("FOMAML", "Reptile"):
        difference = rows[f"{arm} minus MultiNMT: subset 1", at]["value"]
        parts = [rows[f"{name}: subset 1", at]["value"] for name in (arm, "MultiNMT")]
        assert difference == pytest.approx(parts[0] - parts[1], abs=1e-3)
    assert ("FOMAML", "source languages") in rows
    assert rows["MultiNMT: subset 0", "Romanian, 0 words"]["tasks"] == 8
    assert {run["what"] for run in content["runs"]} == {"start", "MultiNMT", "FOMAML", "Reptile"}
    read = json.loads((tmp_path / "translation" / "sentences.json").read_text())
    assert len(read["Korean"]["MultiNMT, 40 words, seed 0"]) == 3
    (seen,) = [c["value"] for c in content["curves"] if c["name"].endswith("pieces seen")]
    assert seen[0] > seen[1] == 0  # one has relatives, the other none


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = made_by(tmp_path / "whole", "--learners", "MultiNMT$")["rows"]
    made_by(tmp_path / "parts", "--learners", "MultiNMT$", "--settings", "source")
    parts = made_by(tmp_path / "parts", "--learners", "MultiNMT$")["rows"]
    assert [row | {"origin": ""} for row in parts] == [row | {"origin": ""} for row in whole]


def test_nothing_that_is_judged_is_trained_on() -> None:
    said = translation_data.corpus()
    held = keys(*said.test.values(), *said.dev.values(), *said.source_test.values())
    assert not held & keys(*said.train.values())
    for name in said.pool:
        assert not keys(said.pool[name]) & keys(said.test[name], said.dev[name])
    one, other = (translation_data.subset("ron", 40, number) for number in (0, 1))
    assert one != other
    assert sum(len(s.split()) for s in one.english) >= 40


def test_every_arm_sees_as_many_sentences() -> None:
    all_of = translation_arms.trainings()
    seen = {
        name: how.tasks * (how.support + how.queries) * how.iterations
        for name, how in all_of.items()
        if name != "start"
    }
    assert set(seen.values()) == {64}
