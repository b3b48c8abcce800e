"""A small grammar: sentences that mean something, of which English is one way of saying it.

    meaning   = subject, verb, object, and perhaps a place and a time
    "the old baker cut a warm bread in the kitchen yesterday"

A `Meaning` is what is said, without the order of the words; `english` says it in English, and the
made-up languages of `metanotes.data.text.languages` say it in theirs. So there are as many
sentences as anybody wants, in as many languages, and nothing is downloaded.

Words keep company. A sentence has one of ten topics, and within it each agent prefers some verbs,
each verb some objects, and each noun some adjectives: the words around a gap tell which word is
missing, though not for sure. The preferences are part of the grammar and the same for every seed.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from metanotes._ground import checks
from metanotes.data.sampler import draw_uniform
from metanotes.data.text.lexicon import LEXICON, TOPICS

STRANGE = 0.1  # how often a word is taken from any topic
SHARPNESS = 1.5  # of the preferences: the standard deviation of their logarithms
HAS_ADJECTIVE, HAS_PLACE, HAS_TIME = 0.5, 0.5, 0.4


class Phrase(NamedTuple):
    """A noun with what belongs to it.

    Args:
        article: of the class "articles".
        adjective: of the noun, or None.
        noun: the noun.

    >>> Phrase("the", "old", "baker").noun
    'baker'
    """

    article: str
    adjective: str | None
    noun: str


class Meaning(NamedTuple):
    """What a sentence says, in English words and in no order.

    Args:
        subject: who does it.
        verb: what is done.
        object: to whom or what.
        place: a preposition and where, or None.
        time: when or how often, or None.

    >>> said = meanings(3, seed=0)[0]
    >>> said.verb in LEXICON["verbs"]
    True
    """

    subject: Phrase
    verb: str
    object: Phrase
    place: tuple[str, Phrase] | None
    time: str | None


def english(meaning: Meaning) -> str:
    """The sentence in English, lower case and without punctuation.

    >>> baker, cake = Phrase("the", "old", "baker"), Phrase("a", None, "cake")
    >>> english(Meaning(baker, "cut", cake, None, "again"))
    'the old baker cut a cake again'
    """
    words = [*_said(meaning.subject), meaning.verb, *_said(meaning.object)]
    if meaning.place is not None:
        preposition, where = meaning.place
        words += [preposition, *_said(where)]
    if meaning.time is not None:
        words.append(meaning.time)
    return " ".join(words)


def _said(phrase: Phrase) -> list[str]:
    return [word for word in phrase if word is not None]


def meanings(count: int, *, seed: int = 0) -> list[Meaning]:
    """So many things to say; some may be said twice.

    Args:
        count: how many, at least 1.
        seed: which ones; any whole number that `torch.Generator.manual_seed` takes.

    Raises:
        ValueError: a count below 1, or a seed that is no whole number.

    >>> said = meanings(1000, seed=0)
    >>> said == meanings(1000, seed=0), said == meanings(1000, seed=1)
    (True, False)
    >>> min(len(english(m).split()) for m in said), max(len(english(m).split()) for m in said)
    (5, 11)
    """
    checks.count("count", count)
    draws = _Draws(count, checks.seed(seed))
    topic = draws.below(len(TOPICS))
    agent = draws.near("agents", topic)
    verb = draws.preferred("verbs", topic, by=agent)
    thing = draws.preferred("objects", topic, by=verb)
    place = draws.near("places", topic)
    subjects = draws.phrases("agents", agent, "qualities", topic)
    objects = draws.phrases("objects", thing, "adjectives", topic)
    wheres = draws.phrases("places", place, "qualities", topic, described=False)
    prepositions, times = draws.words("prepositions"), draws.words("times")
    has_place, has_time = draws.often(HAS_PLACE), draws.often(HAS_TIME)
    return [
        Meaning(
            subjects[n],
            LEXICON["verbs"][verb[n]],
            objects[n],
            (prepositions[n], wheres[n]) if has_place[n] else None,
            times[n] if has_time[n] else None,
        )
        for n in range(count)
    ]


class _Draws:
    """The random choices of many sentences at once, each in turn from one generator."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.generator = count, torch.Generator("cpu").manual_seed(seed)

    def uniform(self) -> Tensor:
        return draw_uniform(self.generator, self.count)

    def often(self, share: float) -> list[bool]:
        return (self.uniform() < share).tolist()

    def below(self, size: int) -> Tensor:
        return (self.uniform() * size).long()

    def words(self, name: str) -> list[str]:
        words = LEXICON[name]
        return [words[row] for row in self.below(len(words)).tolist()]

    def topics(self, topic: Tensor) -> Tensor:
        """The topic of the sentence, now and then another."""
        return torch.where(self.uniform() < STRANGE, self.below(len(TOPICS)), topic)

    def near(self, name: str, topic: Tensor) -> Tensor:
        """A word of the topic, each as likely as another: its number in the class."""
        each = len(LEXICON[name]) // len(TOPICS)
        return self.topics(topic) * each + self.below(each)

    def preferred(self, name: str, topic: Tensor, by: Tensor) -> Tensor:
        """A word of the topic, by the preferences of another word."""
        each = len(LEXICON[name]) // len(TOPICS)
        limits = preferences(name)[by % len(preferences(name))]  # [count, each]
        chosen = (self.uniform()[:, None] > limits).sum(1).clamp(max=each - 1)
        return self.topics(topic) * each + chosen

    def phrases(
        self, nouns: str, noun: Tensor, adjectives: str, topic: Tensor, described: bool = True
    ) -> list[Phrase]:
        articles = self.words("articles")
        if adjectives == "qualities":
            adjective = self.below(len(LEXICON["qualities"]))
        else:
            adjective = self.preferred(adjectives, topic, by=noun)
        has = self.often(HAS_ADJECTIVE if described else 0.0)
        return [
            Phrase(
                articles[n],
                LEXICON[adjectives][int(adjective[n])] if has[n] else None,
                LEXICON[nouns][int(noun[n])],
            )
            for n in range(self.count)
        ]


@cache
def preferences(name: str) -> Tensor:
    """How the words that choose from a class choose within a topic.

    Args:
        name: of the class that is chosen from.

    Returns:
        `[97, n]`, for each of 97 kinds of choosers the cumulated probabilities of the n words that
        a topic has; they do not depend on any seed.

    >>> preferences("verbs").shape
    torch.Size([97, 5])
    """
    each = len(LEXICON[name]) // len(TOPICS)
    generator = torch.Generator("cpu").manual_seed(sum(map(ord, name)))
    scores = torch.randn(97, each, generator=generator, dtype=torch.float64, device="cpu")
    return (SHARPNESS * scores).softmax(1).cumsum(1).float()
