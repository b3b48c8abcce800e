"""Tasks of translation: what is padded and what counts, which sentences come together."""

import pytest
import torch

from metanotes.data import (
    END,
    PAD,
    START,
    Pairs,
    Words,
    generated_pairs,
    language,
    token_pairs,
    translation_tasks,
)

PAIRS = {
    name: generated_pairs(language(name, family=n, seed=n), 40 * (n + 1), seed=n)
    for n, name in enumerate("abc")
}
THEIRS = Words(s for pairs in PAIRS.values() for s in pairs.source)
OURS = Words(s for pairs in PAIRS.values() for s in pairs.english)
DATA = {name: token_pairs(pairs, THEIRS, OURS, positions=16) for name, pairs in PAIRS.items()}


def said(row, words: Words) -> str:
    return words.decode(row.tolist())


def test_pairs_as_tokens() -> None:
    pairs = DATA["a"]
    for row, (theirs, ours) in enumerate(zip(*PAIRS["a"], strict=True)):
        source, target = pairs.source[row], pairs.target[row]
        assert said(source, THEIRS) == theirs
        n = len(ours.split())
        assert target[: n + 2].tolist() == [START, *OURS.encode(ours), END]
        assert not target[n + 2 :].any()
    x, y = pairs.batch()
    assert torch.equal(x["target"][:, 1:][y[:, :-1] > END], y[:, :-1][y[:, :-1] > END])
    assert torch.equal(y == -100, pairs.target[:, 1:] == PAD)


@pytest.mark.parametrize("mixed", [False, True])
def test_every_row_of_a_task_is_a_pair_and_what_fills_up_does_not_count(mixed: bool) -> None:
    every = {pair for pairs in PAIRS.values() for pair in zip(*pairs, strict=True)}
    sampler = translation_tasks(DATA, support=6, queries=3, mixed=mixed, seed=1)
    for _ in range(5):
        support, query = sampler(2)
        for (x, y), size in ((support, 6), (query, 3)):
            assert x["source"].shape[:2] == x["target"].shape[:2] == y.shape[:2] == (2, size)
            for theirs, ours, right in zip(
                x["source"].flatten(0, 1), x["target"].flatten(0, 1), y.flatten(0, 1), strict=True
            ):
                assert (said(theirs, THEIRS), said(ours[1:], OURS)) in every
                assert said(right.clamp(min=0), OURS) == said(ours[1:], OURS)
                assert int((right != -100).sum()) == int(((ours != PAD) & (ours != END)).sum())
                assert ours[0] == START
        assert max(x["source"].shape[2], x["target"].shape[2]) <= 16


def test_a_task_is_of_one_language_and_its_queries_are_other_sentences() -> None:
    sampler = translation_tasks(DATA, support=20, queries=20, power=0.0, seed=2)
    languages = set()
    for _ in range(10):
        support, query = sampler(1)
        rows = [said(row, THEIRS) for part in (support, query) for row in part.x["source"][0]]
        (name,) = [n for n, pairs in PAIRS.items() if set(rows) <= set(pairs.source)]
        languages.add(name)
        if name == "a":  # all forty of it
            assert len(set(rows)) == len(set(PAIRS["a"].source))
    assert languages == set("abc")


def test_sentences_of_like_length_come_together() -> None:
    one = translation_tasks(DATA, 16, 1, mixed=True, seed=0)
    spreads = [float((one(1).support.y != -100).sum(-1).double().std()) for _ in range(20)]
    every = torch.cat([(pairs.target != PAD).sum(1) for pairs in DATA.values()]).double().std()
    assert sum(spreads) / 20 < float(every) / 2


def test_a_language_is_drawn_as_often_as_the_power_says() -> None:
    sampler = translation_tasks(DATA, 4, power=1.0, seed=0)
    drawn = sampler.languages(60_000).bincount(minlength=3).double() / 60_000
    torch.testing.assert_close(
        drawn, torch.tensor([1 / 6, 2 / 6, 3 / 6]).double(), atol=0.01, rtol=0
    )
    half = translation_tasks(DATA, 4, power=0.0, seed=0).languages(60_000).bincount() / 60_000
    torch.testing.assert_close(half, torch.full((3,), 1 / 3), atol=0.01, rtol=0)


def test_the_stream_starts_again_and_goes_on() -> None:
    sampler = translation_tasks(DATA, 5, 5, seed=3)
    first, state, second = sampler(2), sampler.state_dict(), sampler(2)
    assert torch.equal(sampler.restarted()(2).query.y, first.query.y)
    sampler.load_state_dict(state)
    assert torch.equal(sampler(2).support.x["source"], second.support.x["source"])
    with pytest.raises(ValueError, match="another sampler"):
        translation_tasks(DATA, 6, 5, seed=3).load_state_dict(state)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="more than the 40 pairs of 'a'"):
        translation_tasks(DATA, 30, 11)
    with pytest.raises(ValueError, match="no language"):
        translation_tasks({}, 3)
    other = token_pairs(PAIRS["b"], Words(PAIRS["b"].source), OURS, positions=16)
    with pytest.raises(ValueError, match="several vocabularies"):
        translation_tasks({"a": DATA["a"], "b": other}, 3)
    with pytest.raises(ValueError, match="support=0"):
        translation_tasks(DATA, 0)


def test_sentences_longer_than_the_positions() -> None:
    pairs = Pairs(("a b", "a b c d"), ("one", "two"))
    words = Words(["a b c d", "one two"])
    with pytest.raises(ValueError, match="'mine' has 4 tokens, more than positions=3"):
        token_pairs(pairs, words, words, positions=3, name="mine")
    assert len(token_pairs(pairs, words, words, positions=3, drop_longer=True).source) == 1
    assert token_pairs(pairs, words, words, positions=4).source.shape == (2, 4)
    with pytest.raises(ValueError, match="every sentence of 'pairs' is longer"):
        token_pairs(pairs, words, words, positions=1, drop_longer=True)


def test_an_empty_sentence_and_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="sentence 0 of 'pairs' is empty"):
        token_pairs(Pairs(("",), ("one",)), THEIRS, OURS, positions=9)
    with pytest.raises(ValueError, match="has no pairs"):
        token_pairs(Pairs((), ()), THEIRS, OURS, positions=9)
