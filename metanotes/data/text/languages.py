"""Made-up languages: ciphers of the small grammar's words, each in an order of its own.

Languages come in families. A family has letters of its own and a word for everything; a language
keeps the family's word for a share of the vocabulary, its *cognates*, and has made-up words for the
rest. It also has an order: of subject, verb and object, of an adjective and its noun, of a
preposition and its phrase; time stands first or last, and articles are said or not.

Whoever has met the relatives of a language knows many of its words; whoever has met languages of
every order has met its order. In a language of a family never met, no word is known.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from metanotes._ground import checks
from metanotes.data.text.grammar import Meaning, Phrase, english, meanings
from metanotes.data.text.lexicon import LEXICON
from metanotes.data.text.sentence_pairs import Pairs

ORDERS = ("SVO", "SOV", "VSO", "VOS", "OSV", "OVS")
CONSONANTS, VOWELS = "ptkbdgmnlrsvzfhj", "aeiouy"
LETTERS = 8, 4  # consonants and vowels that a family uses
MARKS = [first + then for first in "cqwx" for then in ("", "c", "x")]  # in each word, by family


class Language(NamedTuple):
    """A way to say a `Meaning`.

    Args:
        name: of the language.
        words: its word for each English one.
        order: of subject, verb and object, such as "SOV".
        adjective_first: whether an adjective stands before its noun.
        preposition_first: whether a preposition stands before its phrase.
        time_first: whether the time stands first, or last.
        articles: whether articles are said.

    >>> said = meanings(1, seed=0)[0]
    >>> ours, theirs = language("mine", family=0, seed=1), language("yours", family=0, seed=2)
    >>> ours.says(said) == theirs.says(said)
    False
    """

    name: str
    words: dict[str, str]
    order: str
    adjective_first: bool
    preposition_first: bool
    time_first: bool
    articles: bool

    def says(self, meaning: Meaning) -> str:
        """The sentence in this language."""
        parts = {
            "S": self._phrase(meaning.subject),
            "V": [meaning.verb],
            "O": self._phrase(meaning.object),
        }
        words = [word for letter in self.order for word in parts[letter]]
        if meaning.place is not None:
            preposition, where = meaning.place
            phrase = self._phrase(where)
            words += [preposition, *phrase] if self.preposition_first else [*phrase, preposition]
        if meaning.time is not None:
            words = [meaning.time, *words] if self.time_first else [*words, meaning.time]
        return " ".join(self.words[word] for word in words)

    def _phrase(self, phrase: Phrase) -> list[str]:
        named = [phrase.noun] if phrase.adjective is None else [phrase.adjective, phrase.noun]
        named = named if self.adjective_first else named[::-1]
        # Some articles mean more than "the" and are said everywhere.
        silent = not self.articles and phrase.article in ("the", "a")
        return named if silent else [phrase.article, *named]


def language(
    name: str, family: int = 0, *, seed: int = 0, cognates: float = 0.6, order: str | None = None
) -> Language:
    """A language of a family, drawn by its seed.

    Args:
        name: of the language.
        family: a number from 0 to 11; languages of one family share words.
        seed: what the language's own words and order are drawn from.
        cognates: share of its words that are its family's, 0 to 1.
        order: of subject, verb and object; default: drawn.

    Raises:
        ValueError: no such family, a share outside 0..1, an order that is none.

    >>> ours = language("mine", family=0, seed=1)
    >>> relative, stranger = language("yours", 0, seed=2), language("theirs", 7, seed=2)
    >>> known = set(ours.words.values())
    >>> len(known & set(relative.words.values())) > 80, len(known & set(stranger.words.values()))
    (True, 0)
    """
    if checks.count("family", family, least=0) >= len(MARKS):
        raise ValueError(f"family={family} must be below {len(MARKS)}: so many have letters")
    if not 0 <= cognates <= 1:
        raise ValueError(f"cognates={cognates} must be a share of the words, 0 to 1")
    if order is not None and order not in ORDERS:
        raise ValueError(f"order={order!r} must be one of {', '.join(ORDERS)}, or None")
    common = _made_up(family, torch.Generator("cpu").manual_seed(1000 + family), set())
    generator = torch.Generator("cpu").manual_seed(checks.seed(seed))
    own = _made_up(family, generator, set(common.values()))
    chances = torch.rand(len(common) + 5, generator=generator, device="cpu").tolist()
    words = {
        word: common[word] if chance < cognates else own[word]
        for word, chance in zip(common, chances, strict=False)
    }
    *flags, drawn = chances[-5:]
    adjective_first, preposition_first, time_first, articles = (flag < 0.5 for flag in flags)
    order = ORDERS[int(drawn * len(ORDERS))] if order is None else order
    return Language(name, words, order, adjective_first, preposition_first, time_first, articles)


def _made_up(family: int, generator: torch.Generator, taken: set[str]) -> dict[str, str]:
    """A word of the family's letters for each English one, all different.

    A mark of the family follows the first syllable, so that no two families share a word.
    """
    letters = torch.Generator("cpu").manual_seed(family)
    consonants, vowels = (
        [of[n] for n in torch.randperm(len(of), generator=letters)[:count].tolist()]
        for of, count in zip((CONSONANTS, VOWELS), LETTERS, strict=True)
    )
    made: dict[str, str] = {}
    taken = set(taken)
    for word in (word for words in LEXICON.values() for word in words):
        while word not in made:
            size = 1 + int(torch.randint(2, (), generator=generator))
            draws = torch.randint(1000, (2 * size + 1,), generator=generator).tolist()
            first, *others = (
                consonants[c % len(consonants)] + vowels[v % len(vowels)]
                for c, v in zip(draws[:-1:2], draws[1:-1:2], strict=True)
            )
            text = first + MARKS[family] + "".join(others)
            if draws[-1] % 2:
                text += consonants[draws[-1] // 2 % len(consonants)]
            if text not in taken:
                made[word] = text
                taken.add(text)
    return made


def generated_pairs(of: Language, count: int, *, seed: int = 0) -> Pairs:
    """Sentences of the grammar in a language and in English.

    Args:
        of: the language.
        count: pairs, at least 1; with the same seed every language says the same things.
        seed: which things are said.

    >>> pairs = generated_pairs(language("mine", seed=1), 100, seed=0)
    >>> pairs.english[0] == english(meanings(100, seed=0)[0])
    True
    """
    said = meanings(count, seed=seed)
    return Pairs(tuple(map(of.says, said)), tuple(map(english, said)))
