"""The lookup of pieces by their company on real text: what it is worth to Korean and to Romanian.

Two translators with random weights are trained jointly on the source languages and fine-tuned on a
few words of a held-out one. The one has an embedding of its pieces; the other looks them up among
pieces of English by text of their language and a dictionary, which is counted from pairs that the
other one is trained on as well. So both have the same pairs; the text of a held-out language,
without translation, is what the lookup has beyond them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from metanotes.data import Pairs
from metanotes.data.text import SIGNS
from metanotes.methods.language import bleu, chrf, paired_difference, turned, word_vectors
from metanotes.nets import Translator, UniversalEmbedding
from runs import translation_arms as arms
from runs import translation_data as sentences
from runs import translation_tuning as tuning
from runs.jobs import Job, Session

PLAIN, LOOKUP = "an embedding, from random weights", "the lookup, from random weights"
STEPS, RATE, WARMUP = 900, 2e-3, 100
FREQUENT, UNIVERSAL, WIDTH, TEMPERATURE = 1000, 500, 64, 0.1  # pieces of a language, of English
SENTENCES = 8000  # of a language, at most, that company is counted in
ENTRIES = 300  # of a dictionary, at most
TARGETS, WORDS = ("kor", "ron"), 4000

Rows = list[list[int]]


def frequent(rows: Rows, most: int) -> list[int]:
    """The most frequent pieces, signs aside."""
    counts = Counter(piece for row in rows for piece in row if piece >= len(SIGNS))
    return [piece for piece, _ in counts.most_common(most)]


def company(rows: Rows, vocabulary: int, most: int) -> Tensor:
    """Vectors of the most frequent pieces, by the sentences they stand in: `[vocabulary, d]`."""
    keep = set(frequent(rows, most))
    kept = [[piece for piece in row if piece in keep] for row in rows[:SENTENCES]]
    tokens = pad_sequence([torch.tensor(row, dtype=torch.long) for row in kept], batch_first=True)
    return word_vectors(tokens, vocabulary, WIDTH)


def dictionary(theirs: Rows, ours: Rows) -> list[tuple[int, int]]:
    """Pieces that stand in the same pairs: each the other's best, by Dice's coefficient.

    Args:
        theirs, ours: the two sides of some pairs.
    """
    sides = []
    for rows, most in ((theirs, FREQUENT), (ours, UNIVERSAL)):
        place = {piece: n for n, piece in enumerate(frequent(rows, most))}
        stands = torch.zeros(len(rows), len(place))
        for n, row in enumerate(rows):
            stands[n, [place[piece] for piece in row if piece in place]] = 1.0
        sides.append((list(place), stands))
    (left, a), (right, b) = sides
    dice = 2 * (a.T @ b) / (a.sum(0)[:, None] + b.sum(0))  # [their pieces, our pieces]
    best, other = dice.argmax(1), dice.argmax(0)
    both = [(dice[n, m].item(), n, m) for n, m in enumerate(best.tolist()) if other[m] == n]
    return [(left[n], right[m]) for _, n, m in sorted(both, reverse=True)[:ENTRIES]]


@cache
def keys() -> Tensor:
    """The company of frequent English pieces, `[universal, d]`, and zeros in between."""
    english = [s for pairs in sentences.corpus().train.values() for s in pairs.english]
    _, ours = sentences.vocabularies()
    rows = [ours.encode(s) for s in english[:: max(1, len(english) // SENTENCES)]]
    return company(rows, len(ours), UNIVERSAL)


def queries_of(text: Iterable[str], pairs: Pairs) -> Tensor:
    """The company of a language's pieces, turned to English: `[vocabulary, d]`.

    Args:
        text: sentences of the language.
        pairs: what the dictionary is counted from.
    """
    theirs, ours = sentences.vocabularies()
    own = company([theirs.encode(s) for s in text], len(theirs), FREQUENT)
    known = own.any(1), keys().any(1)
    entries = dictionary(
        *(
            [v.encode(s) for s in side[:SENTENCES]]
            for v, side in zip((theirs, ours), pairs, strict=True)
        )
    )
    return turned(own, keys(), [(a, b) for a, b in entries if known[0][a] and known[1][b]])


@cache
def queries() -> Tensor:
    """Of pieces of the source languages: the mean direction over those that have it."""
    total = sum(queries_of(p.source, p) for p in sentences.corpus().train.values())
    return torch.nn.functional.normalize(total)  # type: ignore[arg-type]


def translator(arm: str, seed: int) -> Translator:
    """An arm with random weights."""
    model = arms.new_model(seed)
    if arm == LOOKUP:
        own = keys()[keys().any(1)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            look = UniversalEmbedding(queries(), own, arms.WIDTH, TEMPERATURE)
        model.encoder.embedding = look  # type: ignore[assignment]
    return model


def trained(arm: str, session: Session, name: str | None = None, number: int = 0) -> Translator:
    """An arm, trained; with the company of a held-out language's pieces, if it is named."""
    model = translator(arm, session.seed)
    how = arms.Training(
        arms.Joint, arms.SIZE, 0, True, 1, STEPS,
        partial(arms.adam, RATE), partial(arms.falling, WARMUP, STEPS),
    )  # fmt: skip
    tuning.train(arm, how, 10 * session.seed + 9, model, session)
    if arm == LOOKUP and name is not None:
        text = sentences.corpus().pool[name].source
        own = queries_of(text, sentences.subset(name, WORDS, number))
        look: Any = model.encoder.embedding
        shared = look.queries
        shared.copy_(torch.where(own.any(1, keepdim=True), own, shared))
    return model


def work(arm: str, name: str, session: Session) -> None:
    """Fine-tune an arm on every draw of a held-out language's words, and judge it."""
    test = sentences.corpus().test[name]
    for number in range(sentences.SUBSETS):
        cells = {
            each: tuning.cell(
                each, partial(trained, each, session, name, number), session, name, WORDS, number,
                "encoder",
            )
            for each in dict.fromkeys((arm, PLAIN))
        }  # fmt: skip
        score = bleu(cells[arm].translations, test.english)
        session.score(tuning.label(arm, number, score), score, note=cells[arm].note)
        letters = chrf(cells[arm].translations, test.english)
        session.score(tuning.label(arm, number, letters), letters)
        if arm == LOOKUP:
            gap = paired_difference(score, bleu(cells[PLAIN].translations, test.english))
            row = tuning.difference_row(session, (arm, PLAIN), number, gap, len(score.values))
            session.rows.append(row)
    if arm == LOOKUP:
        session.curve(f"{arm}: pieces with company", [share_with_company(name)])


def share_with_company(name: str) -> float:
    """Of the pieces of a held-out language's test, how many can be looked up."""
    theirs, _ = sentences.vocabularies()
    known = set(
        frequent([theirs.encode(s) for s in sentences.corpus().pool[name].source], FREQUENT)
    )
    pieces = [p for s in sentences.corpus().test[name].source for p in theirs.encode(s)]
    return sum(piece in known for piece in pieces) / len(pieces)


def settings() -> dict[str, Any]:
    """All that the trainings depend on, beyond the run's own."""
    return {
        "steps": [STEPS, RATE, WARMUP],
        "lookup": [FREQUENT, UNIVERSAL, WIDTH, TEMPERATURE, SENTENCES, ENTRIES],
    }


def in_words() -> str:
    """The same, for the record."""
    return (
        f"{STEPS} joint steps of {arms.SIZE} sentences from random weights, Adam, rate {RATE:g} "
        f"falling to 0, then {WORDS} words as the other arms. The lookup: the {FREQUENT} most "
        f"frequent pieces of each language among {UNIVERSAL} of English, by the company of pieces "
        f"in at most {SENTENCES} sentences, turned by at most {ENTRIES} entries of a dictionary "
        "that is counted from the pairs trained on; a held-out language has the text of its pool "
        "without translation"
    )


def jobs(seed: int, setting: Any) -> list[Job]:
    """A job for each arm and held-out language.

    Args:
        seed: of the trainings.
        setting: from the name of a language and a number of words to that of a setting.
    """
    return [
        Job(
            learner=arm,
            seed=seed,
            setting=setting(name, WORDS),
            rows=f"{re.escape(arm)}(: | minus |$)",
            work=partial(work, arm, name),
            training={**arms.settings(), **settings()},
            judging={
                "tuning": [tuning.TUNING[WORDS], tuning.RATES["encoder"], sentences.SUBSETS],
                "beams": tuning.BEAMS,
            },
            trained=(arm,) if arm == PLAIN else (PLAIN, arm),
        )
        for arm in (PLAIN, LOOKUP)
        for name in TARGETS
        if name in sentences.TARGETS
    ]
