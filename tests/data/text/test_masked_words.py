"""Masked words: what is hidden, what never is, and what is refused."""

import pytest
import torch

from metanotes.data import episodes
from metanotes.data.text import (
    MASK,
    PAD,
    SIGNS,
    Words,
    english,
    masked_sentences,
    masked_words,
    meanings,
    token_rows,
)

SENTENCES = [english(meaning) for meaning in meanings(300, seed=3)]
WORDS = Words(SENTENCES)
LENGTH = 13
ROWS = token_rows(WORDS, SENTENCES, LENGTH)
FIRST = len(SIGNS)


def frequent(number: int) -> list[int]:
    """Tokens that stand in many sentences, without the most frequent ones."""
    return list(range(FIRST + 20, FIRST + 20 + number))


def test_rows_are_the_sentences_filled_up():
    short = token_rows(WORDS, ["the old king", "a dog"], length=4)
    assert short.shape == (2, 4)
    assert short.dtype == torch.int64
    assert short[1].tolist()[2:] == [PAD, PAD]
    for row, sentence in zip(ROWS[:20], SENTENCES, strict=False):
        assert WORDS.decode(row.tolist()) == sentence


def test_the_hidden_word_is_the_class_and_stands_nowhere_else():
    targets = frequent(30)
    x, y = masked_words(ROWS, targets, seed=1)
    assert (x == MASK).sum(1).eq(1).all()
    whole = torch.where(x == MASK, torch.tensor(targets)[y][:, None], x)
    rows = {tuple(row) for row in ROWS.tolist()}
    assert all(tuple(row) in rows for row in whole.tolist())
    assert not (x == torch.tensor(targets)[y][:, None]).any()


def test_a_sentence_is_used_once_and_each_of_its_targets_has_its_turn():
    rows = ROWS[:1].repeat(400, 1)
    targets = ROWS[0].unique()
    targets = [int(t) for t in targets if t >= FIRST and (ROWS[0] == t).sum() == 1]
    x, y = masked_words(rows, targets, seed=0)
    assert len(x) == 400
    share = y.bincount(minlength=len(targets)) / 400
    assert (share - 1 / len(targets)).abs().max() < 0.1
    assert torch.equal(masked_words(rows, targets, seed=0).y, y)
    assert not torch.equal(masked_words(rows, targets, seed=1).y, y)


def test_a_class_has_at_most_so_many_examples_drawn_from_all_of_its_own():
    targets = frequent(6)
    whole, few = masked_words(ROWS, targets), masked_words(ROWS, targets, most=4)
    assert (few.y.bincount() == whole.y.bincount().clamp(max=4)).all()
    rows = {(*row, label) for row, label in zip(whole.x.tolist(), whole.y.tolist(), strict=True)}
    assert all(
        (*row, label) in rows for row, label in zip(few.x.tolist(), few.y.tolist(), strict=True)
    )
    other = masked_words(ROWS, targets, most=4, seed=5)
    assert not (len(other.x) == len(few.x) and torch.equal(other.x, few.x))


def test_a_word_that_stands_there_twice_is_not_hidden():
    rows = token_rows(WORDS, ["the king saw the king", "the king"], length=5)
    x, _ = masked_words(rows, [WORDS.token("king")])
    assert len(x) == 1
    with pytest.raises(ValueError, match="can be hidden in none of the sentences"):
        masked_words(rows[:1], [WORDS.token("king")])


def test_few_shot_tasks_are_made_of_them():
    examples = masked_words(ROWS, frequent(12))
    tasks = episodes(examples, ways=3, shots=2, queries=2)(4)
    assert tasks.support.x.shape == (4, 6, LENGTH)
    assert (tasks.query.x == MASK).sum(-1).eq(1).all()


def test_minibatches_say_what_stood_at_the_places():
    x, y = masked_sentences(ROWS, size=50, places=3)(4).query
    tokens, places = x["input_ids"], x["places"]
    assert tokens.shape == (4, 50, LENGTH)
    assert places.shape == y.shape == (4, 50, 3)
    hidden = y != -100
    assert (tokens.gather(2, places)[hidden] == MASK).all()
    whole = tokens.scatter(2, places, torch.where(hidden, y, tokens.gather(2, places)))
    rows = {tuple(row) for row in ROWS.tolist()}
    assert all(tuple(row) in rows for row in whole.flatten(0, 1).tolist())
    assert ((tokens == MASK).sum(2) == hidden.sum(2)).all()


def test_some_words_and_all_signs_are_never_hidden():
    never = frequent(40)
    rows = ROWS.clone()
    rows[:, 0] = 3  # unknown
    x, y = masked_sentences(rows, size=300, places=4, never=never)(5).query
    hidden = y[y != -100]
    assert not torch.isin(hidden, torch.tensor([*range(FIRST), *never])).any()
    assert torch.isin(x["input_ids"], torch.tensor(never)).any()  # they stand around it
    free = hidden.unique()
    assert len(free) > 100


def test_a_short_sentence_has_fewer_hidden_words():
    rows = token_rows(WORDS, ["the king saw a dog", "the king"], length=5)
    never = [WORDS.token(word) for word in ("the", "a")]
    x, y = masked_sentences(rows, size=40, places=3, never=never)(1).query
    count = (y != -100).sum(2)
    short = (x["input_ids"] == PAD).any(2)
    assert short.any()
    assert (count[short] == 1).all()
    assert not (x["input_ids"][0][short[0]][:, 2:] == MASK).any()


def test_the_stream_depends_on_the_seed_alone_and_goes_on_where_it_was():
    stream = masked_sentences(ROWS, size=8, seed=4)
    first, second = stream(1), stream(1)
    again = stream.restarted()
    assert torch.equal(again(1).query.y, first.query.y)
    state = again.state_dict()
    assert torch.equal(again(1).query.y, second.query.y)
    fresh = masked_sentences(ROWS, size=8, seed=4)
    fresh.load_state_dict(state)
    assert torch.equal(fresh(1).query.x["input_ids"], second.query.x["input_ids"])
    with pytest.raises(ValueError, match="belongs to another sampler: never was 0 and is 1"):
        masked_sentences(ROWS, size=8, seed=4, never=[9]).load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: token_rows(WORDS, ["a dog", " "], 4), "sentence 1 is empty: leave it out"),
        (lambda: token_rows(WORDS, [], 4), "there are no sentences"),
        (lambda: token_rows(WORDS, ["the old king saw"], 3), "sentence 0 has 4 tokens, more than"),
        (lambda: token_rows(WORDS, ["a"], 0), "length=0 must be"),
        (lambda: masked_words(ROWS.float(), [9]), r"is of torch.float32; it must be whole"),
        (lambda: masked_words(ROWS[0], [9]), r"tokens has the shape \[13\]"),
        (lambda: masked_words(ROWS[:0], [9]), "there are no sentences"),
        (lambda: masked_words(ROWS - 1, [9]), "tokens has -1: a token is a number from 0 on"),
        (lambda: masked_words(ROWS * 0, [9]), "sentence 0 is empty"),
        (lambda: masked_words(ROWS, []), "targets is empty"),
        (lambda: masked_words(ROWS, [9, 9]), "targets has a token twice"),
        (lambda: masked_words(ROWS, [MASK]), "targets has 4, which stands for no word"),
        (lambda: masked_words(ROWS, [9], most=0), "most=0 must be"),
        (lambda: masked_sentences(ROWS, 0), "size=0 must be"),
        (lambda: masked_sentences(ROWS, 4, places=14), "places=14 are more than the 13"),
        (lambda: masked_sentences(ROWS, 4, never=range(1000)), "no sentence has a word that may"),
        (lambda: masked_sentences(ROWS, 4, never=["king"]), "a token of never='king' must be"),
    ],
)
def test_bad_sentences_and_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
