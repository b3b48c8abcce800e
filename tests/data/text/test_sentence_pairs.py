"""Pairs: what counts as the same sentence, and that nothing of a test stands in training."""

import pytest

from metanotes.data import (
    Pairs,
    check_unseen,
    english_keys,
    first_words,
    one_of_each,
    part_pairs,
    sentence_key,
    without,
)
from metanotes.data.text import check_pairs

MANY = Pairs(tuple(f"s{n}" for n in range(20)), tuple(f"word{n} and more" for n in range(20)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Tom's here.", "toms here"),
        ("“Tom’s  HERE”", "tom's here!"),
        ("Ｔom is here", "Tom is here…"),  # full width, as NFKC makes plain
        ("Café?", "café"),
    ],
)
def test_case_and_punctuation_make_no_other_sentence(one: str, other: str) -> None:
    assert sentence_key(one) == sentence_key(other)


def test_another_word_makes_another_sentence() -> None:
    assert sentence_key("Tom is here") != sentence_key("Tom was here")


def test_what_is_held_back_is_taken_out_in_every_language() -> None:
    test = Pairs(("bine",), ("Fine, thanks!",))
    train = [Pairs(("gut", "schlecht"), ("fine thanks", "bad")), Pairs(("bra",), ("Fine thanks.",))]
    with pytest.raises(ValueError, match="1 English sentence of the test stands in training"):
        check_unseen(train, [test])
    clean = [without(pairs, english_keys(test)) for pairs in train]
    check_unseen(clean, [test])
    assert clean == [Pairs(("schlecht",), ("bad",)), Pairs((), ())]


def test_one_pair_an_english_sentence_and_one_a_sentence() -> None:
    pairs = Pairs(("a", "b", "A.", "c"), ("one", "One!", "two", "three"))
    assert one_of_each(pairs) == Pairs(("a", "c"), ("one", "three"))


def test_parts_share_nothing_and_lose_nothing() -> None:
    parts = part_pairs(MANY, [5, 3], seed=1)
    assert [len(part.source) for part in parts] == [5, 3, 12]
    assert sorted(s for part in parts for s in part.source) == sorted(MANY.source)
    assert parts == part_pairs(MANY, [5, 3], seed=1) != part_pairs(MANY, [5, 3], seed=2)
    for part in parts:
        assert all(e == MANY.english[MANY.source.index(s)] for s, e in zip(*part, strict=True))
    with pytest.raises(ValueError, match="more than the 20 pairs"):
        part_pairs(MANY, [15, 6])


def test_the_first_words() -> None:
    assert len(first_words(MANY, 7).source) == 3
    assert len(first_words(MANY, 0).source) == 0
    assert first_words(MANY, 60) == MANY
    with pytest.raises(ValueError, match="words=61 asks for more than the 60"):
        first_words(MANY, 61)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (Pairs((), ()), "'ron' has no pairs"),
        (Pairs(("a", "b"), ("one",)), "2 sentences beside 1"),
        (Pairs(("a", "  "), ("one", "two")), "sentence 1 of 'ron' is empty"),
        (Pairs(("a", "b"), ("one", "")), "sentence 1 of 'ron' is empty"),
    ],
)
def test_pairs_that_are_none_are_refused(pairs: Pairs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_pairs("ron", pairs)
