"""The small grammar: its words are apart, its sentences mean something, and words keep company."""

from collections import Counter

import pytest

from metanotes.data import LEXICON, Meaning, Phrase, english, language, meanings
from metanotes.data.text.lexicon import TOPICS

BAKER, CAKE = Phrase("every", "old", "baker"), Phrase("a", "warm", "cake")
SAID = Meaning(BAKER, "cut", CAKE, ("in", Phrase("the", None, "kitchen")), "today")


def test_no_word_stands_in_two_classes() -> None:
    words = [word for kind in LEXICON.values() for word in kind]
    assert len(words) == len(set(words)) > 250
    for name in ("agents", "verbs", "objects", "adjectives", "places"):
        assert len(LEXICON[name]) % len(TOPICS) == 0


def test_a_sentence_in_english() -> None:
    assert english(SAID) == "every old baker cut a warm cake in the kitchen today"


def test_the_same_seed_says_the_same_and_more_of_it_begins_alike_in_nothing_else() -> None:
    assert meanings(50, seed=3) == meanings(50, seed=3)
    assert meanings(50, seed=3) != meanings(50, seed=4)


def test_most_words_of_a_sentence_are_of_one_topic() -> None:
    topic = {
        word: name for name, parts in TOPICS.items() for part in parts for word in part.split()
    }
    same = [topic[m.subject.noun] == topic[m.object.noun] for m in meanings(2000, seed=0)]
    assert 0.7 < sum(same) / len(same) < 0.95


def test_two_objects_of_a_topic_are_met_by_other_verbs() -> None:
    said = meanings(20_000, seed=0)
    verbs = {
        thing: Counter(m.verb for m in said if m.object.noun == thing)
        for thing in ("bread", "soup")
    }
    shares = {
        thing: {verb: n / counts.total() for verb, n in counts.items()}
        for thing, counts in verbs.items()
    }
    apart = sum(
        abs(shares["bread"].get(verb, 0) - shares["soup"].get(verb, 0))
        for verb in shares["bread"].keys() | shares["soup"].keys()
    )
    assert apart / 2 > 0.2  # total variation


@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_a_count_that_is_none_is_refused(count) -> None:
    with pytest.raises(ValueError, match="count="):
        meanings(count)


def test_a_language_says_every_word_by_one_of_its_own() -> None:
    ours = language("mine", family=3, seed=5)
    assert set(ours.words) == {word for kind in LEXICON.values() for word in kind}
    assert len(set(ours.words.values())) == len(ours.words)


def test_the_order_of_a_language() -> None:
    base = language("mine", seed=0)._replace(
        adjective_first=False, preposition_first=False, time_first=True, articles=False
    )
    back = {theirs: ours for ours, theirs in base.words.items()}
    for order, expected in {
        "SOV": "today every baker old cake warm cut kitchen in",
        "VSO": "today cut every baker old cake warm kitchen in",
    }.items():
        words = base._replace(order=order).says(SAID).split()
        assert " ".join(back[word] for word in words) == expected


def test_cognates_are_the_share_that_was_asked_for() -> None:
    one, other = (language(n, 2, seed=seed, cognates=0.5).words for n, seed in (("a", 1), ("b", 2)))
    shared = sum(one[word] == other[word] for word in one) / len(one)
    assert 0.15 < shared < 0.35  # both keep the family's word: .25
    none = [language("a", 2, seed=seed, cognates=0.0).words for seed in (1, 2)]
    assert sum(none[0][word] == none[1][word] for word in one) < 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": 12}, "family=12"),
        ({"family": -1}, "family=-1"),
        ({"cognates": 1.5}, "cognates=1.5"),
        ({"order": "SVX"}, "order='SVX'"),
    ],
)
def test_a_language_that_cannot_be_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        language("mine", **arguments)
