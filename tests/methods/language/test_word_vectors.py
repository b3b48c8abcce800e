"""Vectors of words from text, and languages turned to one another by a small dictionary."""

import math

import pytest
import torch

from metanotes.data import Words, english, language, meanings
from metanotes.data.text.translation_tasks import padded
from metanotes.methods.language import turned, word_vectors


def tokens_of(sentences: list[str]) -> tuple[Words, torch.Tensor]:
    words = Words(sentences)
    return words, padded([words.encode(s) for s in sentences])


def test_all_of_the_information_is_in_as_many_numbers_as_words() -> None:
    tokens = torch.tensor([[5, 6, 7], [5, 7, 0], [8, 9, 5], [8, 10, 0], [6, 6, 10]])
    x = word_vectors(tokens, 11, 6).double()
    sentences = [set(row) - {0} for row in tokens.tolist()]
    counts = {
        (i, j): sum(i in s and j in s for s in sentences) if i != j else 0
        for i in range(5, 11)
        for j in range(5, 11)
    }
    total = sum(counts.values())
    own = {i: sum(counts[i, j] for j in range(5, 11)) for i in range(5, 11)}
    information = torch.tensor(
        [
            [max(0.0, math.log(counts[i, j] * total / own[i] / own[j])) if counts[i, j] else 0.0
             for j in range(5, 11)]
            for i in range(5, 11)
        ]
    ).double()  # fmt: skip
    # Symmetric: U sqrt(S) has, row by row, the angles of the square root of M^T M.
    squared = information.T @ information
    values, vectors = torch.linalg.eigh(squared)
    root = vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T
    cosine = root / root.diag().sqrt() / root.diag().sqrt()[:, None]
    torch.testing.assert_close(x[5:] @ x[5:].T, cosine, atol=1e-5, rtol=0)


def test_a_language_is_turned_to_english_by_a_few_words() -> None:
    ours = language("mine", family=1, seed=3, order="VSO")
    theirs, theirs_tokens = tokens_of([ours.says(m) for m in meanings(4000, seed=1)])
    right, right_tokens = tokens_of([english(m) for m in meanings(4000, seed=2)])
    x, z = (
        word_vectors(t, len(w), 24) for t, w in ((theirs_tokens, theirs), (right_tokens, right))
    )
    pairs = [
        (theirs.token(said), right.token(word))
        for word, said in ours.words.items()
        if said in theirs.words and word in right.words
    ]
    near = turned(x, z, pairs[::3])
    others = [pair for n, pair in enumerate(pairs) if n % 3]
    best = (near[[i for i, _ in others]] @ z.T).topk(10).indices
    hits = [j in row for (_, j), row in zip(others, best.tolist(), strict=True)]
    assert sum(hits) / len(hits) > 0.5  # ten of some 280 by chance: 4 %


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="width=3 is more than the 2 words"):
        word_vectors(torch.tensor([[5, 6]]), 9, 3)
    with pytest.raises(ValueError, match="pairs is empty"):
        turned(torch.zeros(3, 2), torch.zeros(3, 2), [])


def test_words_that_stand_alone_change_no_other() -> None:
    sentences = [[5, 6, 7], [5, 8, 0], [6, 9, 0], [7, 10, 8], [9, 10, 5], [8, 9, 6]]
    alone = [[word, 0, 0] for word in range(11, 31)]
    x = word_vectors(torch.tensor(sentences), 31, 3)
    y = word_vectors(torch.tensor(sentences + alone), 31, 3)
    torch.testing.assert_close(y[5:11] @ y[5:11].T, x[5:11] @ x[5:11].T)
    assert not y[11:].any()
