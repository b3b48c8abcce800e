"""Sentences and their translations, and what keeps training and test apart.

A translator is judged by English sentences that it has never seen, in no language: the same
sentence often stands beside sentences of many languages, and whoever has learned it from French may
know it without any Romanian. Two sentences count as the same if their keys are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import torch

from metanotes._ground import checks


class Pairs(NamedTuple):
    """Sentences of a language, and what each is in English.

    Args:
        source: sentences of the language.
        english: as many, in the same order.

    >>> pairs = Pairs(("bonjour", "merci"), ("hello", "thanks"))
    >>> list(zip(*pairs))
    [('bonjour', 'hello'), ('merci', 'thanks')]
    """

    source: tuple[str, ...]
    english: tuple[str, ...]


def sentence_key(sentence: str) -> str:
    """What two sentences have in common that are the same but for case and punctuation.

    >>> sentence_key("Where's  Tom?"), sentence_key("“where's Tom!”")
    ('wheres tom', 'wheres tom')
    """
    text = unicodedata.normalize("NFKC", sentence).lower()
    kept = (c for c in text if unicodedata.category(c)[0] not in "PSC" or c.isspace())
    return " ".join("".join(kept).split())


def check_pairs(name: str, pairs: Pairs) -> Pairs:
    """Pairs as they should be: some, and no sentence empty.

    Args:
        name: of the language, for the message.
        pairs: of that language.

    Returns:
        The same.

    Raises:
        ValueError: there are none, the two sides differ in length, or a sentence is empty.

    >>> check_pairs("fra", Pairs(("bonjour",), ("",)))
    Traceback (most recent call last):
    ValueError: sentence 0 of 'fra' is empty ('bonjour' beside ''): leave such pairs out
    """
    if len(pairs.source) != len(pairs.english):
        raise ValueError(
            f"{name!r} has {len(pairs.source)} sentences beside {len(pairs.english)} in English: "
            "each sentence needs its translation"
        )
    if not pairs.source:
        raise ValueError(f"{name!r} has no pairs: leave the language out, or give it sentences")
    for place, pair in enumerate(zip(*pairs, strict=True)):
        if not all(sentence.strip() for sentence in pair):
            raise ValueError(
                f"sentence {place} of {name!r} is empty ({pair[0]!r} beside {pair[1]!r}): leave "
                "such pairs out"
            )
    return pairs


def one_of_each(pairs: Pairs) -> Pairs:
    """The first pair of each English key, and of each key of the language.

    >>> one_of_each(Pairs(("ciao", "salve", "ciao!"), ("hello", "Hello!", "bye")))
    Pairs(source=('ciao',), english=('hello',))
    """
    seen_source, seen_english = set[str](), set[str]()
    kept = []
    for source, english in zip(*pairs, strict=True):
        keys = sentence_key(source), sentence_key(english)
        if keys[0] in seen_source or keys[1] in seen_english:
            continue
        seen_source.add(keys[0])
        seen_english.add(keys[1])
        kept.append((source, english))
    return pairs_of(kept)


def pairs_of(pairs: Iterable[tuple[str, str]]) -> Pairs:
    """Pairs, from one at a time.

    >>> pairs_of([("bonjour", "hello")])
    Pairs(source=('bonjour',), english=('hello',))
    """
    rows = list(pairs)
    return Pairs(tuple(row[0] for row in rows), tuple(row[1] for row in rows))


def without(pairs: Pairs, keys: Collection[str]) -> Pairs:
    """The pairs whose English is none of these, by key.

    >>> without(Pairs(("bonjour", "merci"), ("Hello!", "thanks")), {"hello"})
    Pairs(source=('merci',), english=('thanks',))
    """
    return pairs_of(pair for pair in zip(*pairs, strict=True) if sentence_key(pair[1]) not in keys)


def english_keys(*pairs: Pairs) -> frozenset[str]:
    """The keys of all English sentences in these.

    >>> english_keys(Pairs(("bonjour",), ("Hello!",)))
    frozenset({'hello'})
    """
    return frozenset(sentence_key(english) for each in pairs for english in each.english)


def check_unseen(train: Iterable[Pairs], test: Iterable[Pairs]) -> None:
    """Refuse a test whose English stands anywhere in training, by key.

    Raises:
        ValueError: says how many, and one of them.

    >>> check_unseen([Pairs(("merci",), ("Thanks",))], [Pairs(("grazie",), ("thanks!",))])
    Traceback (most recent call last):
    ValueError: 1 English sentence of the test stands in training as well, such as 'thanks': ...
    """
    both = english_keys(*train) & english_keys(*test)
    if both:
        many = f"{len(both)} English sentence{'s' * (len(both) > 1)}"
        raise ValueError(
            f"{many} of the test stand{'s' * (len(both) == 1)} in training as well, such as "
            f"{min(both)!r}: take them out of training by without(pairs, english_keys(test))"
        )


def part_pairs(pairs: Pairs, sizes: Sequence[int], *, seed: int = 0) -> list[Pairs]:
    """Parts of the pairs that share none, drawn at random, and last what is left.

    Args:
        pairs: all.
        sizes: pairs of each part.
        seed: of the draw.

    Raises:
        ValueError: more pairs are asked for than there are.

    >>> test, rest = part_pairs(Pairs(tuple("abc"), tuple("xyz")), [1], seed=0)
    >>> len(test.source), len(rest.source)
    (1, 2)
    """
    total = len(pairs.source)
    if sum(sizes) > total:
        raise ValueError(f"sizes={list(sizes)} ask for more than the {total} pairs there are")
    order = torch.randperm(total, generator=torch.Generator("cpu").manual_seed(checks.seed(seed)))
    rows = [part.tolist() for part in order.split([*sizes, total - sum(sizes)])]
    return [Pairs(*(tuple(side[n] for n in part) for side in pairs)) for part in rows]


def first_words(pairs: Pairs, words: int) -> Pairs:
    """The first pairs that together have so many English words, as nearly as whole pairs allow.

    Raises:
        ValueError: there are not so many.

    >>> first_words(Pairs(("a b", "c"), ("one two", "three")), words=2).english
    ('one two',)
    """
    checks.count("words", words, least=0)
    total = 0
    for place, english in enumerate(pairs.english):
        if total >= words:
            return Pairs(*(side[:place] for side in pairs))
        total += len(english.split())
    if total < words:
        raise ValueError(f"words={words} asks for more than the {total} English words there are")
    return pairs
