"""The sentences of the masked words' record, and which of their words are classes of what."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from metanotes.data.text import (
    SIGNS,
    Words,
    masked_words,
    sentence_key,
    token_rows,
    translation,
)
from metanotes.task import Batch

LENGTHS = (4, 12)  # words of a sentence
VOCABULARY = 5000
FREQUENT, LEAST = 60, 60  # a class is none of the most frequent words, and in so many sentences
TEST_WORDS, CHOICE_WORDS, TRAIN_WORDS = 150, 50, 800
MOST = 100  # sentences of a word of the tests
LEFT_OUT = 2000  # sentences that pre-training does not see, for its own curve


class Text(NamedTuple):
    """What there is to learn from.

    Args:
        vocabulary: its words.
        tokens: all sentences, `[n, L]`.
        trained: the tokens that are classes of training.
        held_out: those that are hidden in no training: the classes of the test and of the choice.
        kept, left_out: rows of the tokens: for pre-training, and for its own curve.
        train, choice, test: sentences with a word hidden, by the word.
    """

    vocabulary: Words
    tokens: Tensor
    trained: list[int]
    held_out: list[int]
    kept: Tensor
    left_out: Tensor
    train: Batch
    choice: Batch
    test: Batch


def english_sentences() -> list[str]:
    """The English side of Tatoeba's pairs, of all languages."""
    return [sentence for pairs in translation().values() for sentence in pairs.english]


@cache
def text() -> Text:
    """The sentences, once each, and the words that are classes."""
    sentences = list(dict.fromkeys(sentence_key(english) for english in english_sentences()))
    low, high = LENGTHS
    sentences = [s for s in sentences if low <= len(s.split()) <= high]
    vocabulary = Words(sentences, VOCABULARY)
    tokens = token_rows(vocabulary, sentences, high)
    once = (tokens[:, :, None] == tokens[:, None, :]).sum(2) == 1  # the word is there once
    shows = tokens[once].bincount(minlength=len(vocabulary))
    words = [
        token
        for token in range(len(SIGNS) + FREQUENT, len(vocabulary))
        if shows[token] >= LEAST and vocabulary.words[token].isalpha()
    ]
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(0)).tolist()
    words = [words[n] for n in order]
    test, words = words[:TEST_WORDS], words[TEST_WORDS:]
    choice, train = words[:CHOICE_WORDS], words[CHOICE_WORDS:][:TRAIN_WORDS]
    rows = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))
    return Text(
        vocabulary,
        tokens,
        train,
        [*test, *choice],
        rows[LEFT_OUT:],
        rows[:LEFT_OUT],
        masked_words(tokens, train),
        masked_words(tokens, choice, most=MOST),
        masked_words(tokens, test, most=MOST),
    )


def text_settings() -> list[object]:
    """All that the text depends on, as plain values."""
    return [
        LENGTHS,
        VOCABULARY,
        FREQUENT,
        LEAST,
        TEST_WORDS,
        CHOICE_WORDS,
        TRAIN_WORDS,
        MOST,
        LEFT_OUT,
    ]


def in_plain_words() -> dict[str, str]:
    """The same in words, for the record."""
    low, high = LENGTHS
    return {
        "text": f"the English sentences of Tatoeba's pairs, each once, {low} to {high} words, "
        f"lower case, no punctuation; the {VOCABULARY} most frequent words",
        "classes": f"words in at least {LEAST} sentences, without the {FREQUENT} most frequent: "
        f"{TEST_WORDS} for the test and {CHOICE_WORDS} to choose by, which are hidden in no "
        f"training, and up to {TRAIN_WORDS} to train on; the same for every seed",
    }
