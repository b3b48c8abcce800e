"""The sentences of the translation run: who is learned from, who is held out, and what is judged.

Every English sentence of a test or of a choosing set is taken out of all that is trained on, in
every language, by its key.
"""

from __future__ import annotations

from collections import Counter
from functools import cache, partial
from typing import NamedTuple

from metanotes.data import (
    Pairs,
    Pieces,
    TokenPairs,
    cache_folder,
    check_unseen,
    english_keys,
    first_words,
    one_of_each,
    part_pairs,
    token_pairs,
    translation,
    without,
)
from runs.record import digest

SOURCES = (
    *("bul", "ces", "dan", "deu", "ell", "est", "fra", "hun", "ita"),
    *("lit", "nld", "pol", "por", "rus", "slk", "slv", "spa", "swe"),
)
TARGETS = {"ron": "Romanian", "fin": "Finnish", "lav": "Latvian", "tur": "Turkish", "kor": "Korean"}
FEWEST, MOST = 2, 14  # English words of a sentence
TEST, DEV = {"lav": 300}, 200  # sentences of each held-out language; a test has 400 elsewhere
TEST_OF_OTHERS = 400
SOURCE_TEST, SOURCE_DEV = 60, 10  # of each source language
SOURCE_PIECES, PIECES = 8000, 3000
POSITIONS = 32
SUBSETS = 3
SEEN = 20  # a piece counts as seen when it stands so often in the source languages


class Corpus(NamedTuple):
    """All sentences, by language.

    Args:
        train: of the source languages.
        source_test, source_dev: theirs.
        pool: of a held-out language, what fine-tuning may draw from.
        test, dev: of a held-out language.
    """

    train: dict[str, Pairs]
    source_test: dict[str, Pairs]
    source_dev: dict[str, Pairs]
    pool: dict[str, Pairs]
    test: dict[str, Pairs]
    dev: dict[str, Pairs]


def settings() -> dict[str, object]:
    """All that the sentences and their pieces depend on."""
    return {
        "languages": [SOURCES, list(TARGETS)],
        "words": [FEWEST, MOST],
        "held back": [TEST, TEST_OF_OTHERS, DEV, SOURCE_TEST, SOURCE_DEV],
        "pieces": [SOURCE_PIECES, PIECES, POSITIONS],
    }


@cache
def corpus() -> Corpus:
    """The sentences, with everything held back taken out of training; checked."""
    whole = {
        name: _fitting(one_of_each(pairs))
        for name, pairs in translation([*SOURCES, *TARGETS]).items()
    }
    test, dev, pool = {}, {}, {}
    for name in TARGETS:
        sizes = [TEST.get(name, TEST_OF_OTHERS), DEV]
        test[name], dev[name], pool[name] = part_pairs(whole[name], sizes)
    source_test, source_dev, train = {}, {}, {}
    for name in SOURCES:
        parts = part_pairs(whole[name], [SOURCE_TEST, SOURCE_DEV])
        source_test[name], source_dev[name], train[name] = parts
    held = [*test.values(), *dev.values(), *source_test.values(), *source_dev.values()]
    keys = english_keys(*held)
    train = {name: without(pairs, keys) for name, pairs in train.items()}
    check_unseen(train.values(), held)
    for name in TARGETS:
        check_unseen([pool[name]], [test[name], dev[name]])
    return Corpus(train, source_test, source_dev, pool, test, dev)


def _fitting(pairs: Pairs) -> Pairs:
    rows = [row for row, said in enumerate(pairs.english) if FEWEST <= len(said.split()) <= MOST]
    return Pairs(*(tuple(side[row] for row in rows) for side in pairs))


@cache
def vocabularies() -> tuple[Pieces, Pieces]:
    """Pieces of all languages that are read, and of English; kept in the cache folder."""
    folder = cache_folder() / "runs" / "translation"
    names = [folder / f"{side}-{digest(settings())}.model" for side in ("source", "english")]
    if not all(name.exists() for name in names):
        said = corpus()
        theirs = [s for p in (*said.train.values(), *said.pool.values()) for s in p.source]
        ours = [s for p in said.train.values() for s in p.english]
        for name, text, size in zip(names, (theirs, ours), (SOURCE_PIECES, PIECES), strict=True):
            Pieces.trained(text, size).write(name)
    source, english = map(Pieces.read, names)
    return source, english


def as_tokens(name: str, pairs: Pairs) -> TokenPairs:
    """The pairs of a language as tokens, without the few that are longer than the positions."""
    return token_pairs(pairs, *vocabularies(), POSITIONS, name=name, drop_longer=True)


@cache
def training_tokens() -> dict[str, TokenPairs]:
    """The source languages' training sentences as tokens."""
    return {name: as_tokens(name, pairs) for name, pairs in corpus().train.items()}


def subset(name: str, words: int, number: int) -> Pairs:
    """So many English words of a held-out language: one of several draws.

    Raises:
        ValueError: the language has fewer.
    """
    (shuffled,) = part_pairs(corpus().pool[name], [], seed=100 + number)
    return first_words(shuffled, words)


@cache
def seen_shares() -> list[float]:
    """For each held-out language, which share of its test's pieces the source languages know."""
    source, _ = vocabularies()
    encode = partial(map, source.encode)
    counts = Counter(
        piece for p in corpus().train.values() for row in encode(p.source) for piece in row
    )
    shares = []
    for name in TARGETS:
        pieces = [piece for row in encode(corpus().test[name].source) for piece in row]
        shares.append(sum(counts[piece] >= SEEN for piece in pieces) / len(pieces))
    return shares
