"""The translation run in small, on made-up languages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from metanotes.data import Pairs, Words, generated_pairs, language
from metanotes.data import english_keys as keys
from runs import (
    translation,
    translation_arms,
    translation_data,
    translation_lookup,
    translation_tuning,
)
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
        "TIMES": (1, 2),
        "PART": 2,
    },
    translation_tuning: {"TUNING": {40: (2, 4)}, "CHECKPOINT_EVERY": 2},
    translation_lookup: {
        "STEPS": 4,
        "WARMUP": 2,
        "FREQUENT": 60,
        "UNIVERSAL": 40,
        "WIDTH": 8,
        "ENTRIES": 20,
        "TARGETS": ("kor", "ron"),
        "WORDS": 40,
    },
    translation: {"WORDS": {"ron": (0, 40), "kor": (40,)}, "SHOWN": 3, "SEARCHED_ON": 40},
}
CACHED = [(translation_data, name) for name in ("corpus", "training_tokens", "seen_shares")]
CACHED += [(translation_lookup, name) for name in ("keys", "queries")]


def made_up(names: list[str]) -> dict[str, Pairs]:
    every = ["aa", "bb", "cc", "ron", "kor"]
    return {name: spoken(n, name) for n, name in enumerate(every) if name in names}


@cache
def spoken(n: int, name: str) -> Pairs:
    return generated_pairs(language(name, n // 2, seed=n), 80, seed=n // 2)


@cache
def words() -> tuple[Words, Words]:
    pairs = made_up([*translation_data.SOURCES, *translation_data.TARGETS]).values()
    return tuple(Words(s for p in pairs for s in side(p)) for side in (_first, _second))  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    for module, settings in SMALL.items():
        for name, value in settings.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(translation_data, "translation", made_up)
    monkeypatch.setattr(translation_data, "vocabularies", words)
    for module, name in CACHED:
        getattr(module, name).cache_clear()
    yield
    for module, name in CACHED:
        getattr(module, name).cache_clear()


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
    trained = {"start", translation_lookup.PLAIN, translation_lookup.LOOKUP}
    for arm, usual in translation_arms.USUAL.items():
        trained.add(translation_arms.name_of(arm, translation_arms.CHOSEN[arm]))
        for rate in (usual, 2 * usual):
            assert rows[f"{arm}, outer rate {rate:g}", "the choice of the outer rate"]["value"] > 0
            trained.add(f"{arm}, rate {rate:g}, 1/2 of the steps")
    assert {run["what"] for run in content["runs"]} == trained
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
    for part, sentences in ((1, 64), (2, 32)):
        for arm in translation_arms.USUAL:
            how = translation_arms.training(arm, 1e-3, part)
            assert how.tasks * (how.support + how.queries) * how.iterations == sentences


def test_the_lookup_is_judged_beside_an_embedding_in_both_languages(tmp_path: Path) -> None:
    content = made_by(tmp_path, "--learners", "from random weights$")
    plain, look = translation_lookup.PLAIN, translation_lookup.LOOKUP
    values = {(row["name"], row["setting"]): row["value"] for row in content["rows"]}
    for at in ("Korean, 40 words", "Romanian, 40 words"):
        for subset in (0, 1):
            parts = [values[f"{arm}: subset {subset}", at] for arm in (look, plain)]
            difference = values[f"{look} minus {plain}: subset {subset}", at]
            assert difference == pytest.approx(parts[0] - parts[1], abs=1e-3)
    shares = [c["value"] for c in content["curves"] if c["name"].endswith("with company")]
    assert all(0 < share <= 1 for (share,) in shares)


def test_a_dictionary_has_what_stands_in_the_same_pairs() -> None:
    theirs = [[10, 11], [10, 12], [13], [13, 12]]
    ours = [[20, 5], [20], [23], [23, 5]]
    assert set(translation_lookup.dictionary(theirs, ours)) >= {(10, 20), (13, 23)}


def test_a_held_out_language_brings_the_company_of_its_own_pieces() -> None:
    shared = translation_lookup.queries()
    pool = translation_data.corpus().pool["kor"]
    own = translation_lookup.queries_of(pool.source, translation_data.subset("kor", 40, 0))
    theirs, _ = translation_data.vocabularies()
    known = torch.tensor(sorted({piece for s in pool.source for piece in theirs.encode(s)}))
    assert not shared[known].any(1).any()  # none of its words stands in another language
    assert own[known].any(1).float().mean() > 0.3
    lengths = own[own.any(1)].norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
