"""MetaNMT: where a translator of many languages should start to learn another from few words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from metanotes._ground.files import write_text
from metanotes.methods.language import CorpusScore, bleu, chrf, paired_difference
from metanotes.nets import Translator
from runs import translation_arms as arms
from runs import translation_data as sentences
from runs import translation_lookup as lookup
from runs import translation_tuning as tuning
from runs.jobs import Job, LongRun, Session
from runs.translation_arms import FOMAML, MULTI, REPTILE, START
from runs.translation_tuning import RANDOM

WORDS = {
    "ron": (0, 4000, 16_000),
    "fin": (0, 4000, 16_000),
    "lav": (0, 4000),
    "tur": (0, 4000, 16_000, 64_000),
    "kor": (0, 4000),
}
FIRST = "ron"  # is judged first; the decoder adapts as well, and random weights are there
SEARCHED_ON = 4000  # words of it, when an outer rate is chosen
SHOWN = 8  # sentences of a test that are kept to be read

ALL, SEARCH = ", all adapts", ", search at"
SOURCE_SETTING = "source languages"


def pretrained(arm: str, session: Session, rate: float | None = None, part: int = 1) -> Translator:
    """The translator of an arm, trained, or gone on with, or loaded.

    Args:
        arm: its name.
        session: of the job.
        rate: the outer one; default: that which was chosen.
        part: of the training: 10 for a tenth.
    """
    model = arms.new_model(session.seed)
    if arm == RANDOM:
        return model
    rate = arms.CHOSEN[arm] if rate is None else rate
    stream = 10 * session.seed
    tuning.train(START, arms.beginning(), stream, model, session)
    stream += 1 + list(arms.CHOSEN).index(arm)
    how = arms.training(arm, rate, part)
    tuning.train(arms.name_of(arm, rate, part), how, stream, model, session)
    return model


def try_rate(arm: str, rate: float, session: Session) -> None:
    """What an outer rate is worth to an arm: the loss of choosing sentences after fine-tuning."""
    losses = []
    for number in range(sentences.SUBSETS):
        model = pretrained(arm, session, rate, arms.PART)
        went = tuning.tune(model, FIRST, SEARCHED_ON, number, "encoder")
        losses.append(went.losses[went.best])
    session.rows.append(tuning.loss_row(session, f"{arm}, outer rate {rate:g}", losses))


def cell_of(
    arm: str, session: Session, name: str, words: int, number: int, adapts: str | None
) -> tuning.Cell:
    """An arm's translator, fine-tuned on a subset of a language, on its test."""
    start = partial(pretrained, arm, session)
    return tuning.cell(arm, start, session, name, words, number, adapts)


def work_on_sources(arm: str, session: Session) -> None:
    """Judge an arm on the source languages, each for itself and all together."""
    model = pretrained(arm, session)
    test = sentences.corpus().source_test
    hypotheses = {name: tuning.said(model, name, pairs.source) for name, pairs in test.items()}
    for metric in (bleu, chrf):
        parts = [metric(hypotheses[name], test[name].english) for name in test]
        whole = CorpusScore(
            torch.cat([p.values for p in parts]), parts[0].metric, False, "sentences"
        )
        session.score(tuning.label(arm, None, whole), whole)
        session.curve(f"{arm}: {whole.metric} by language", [p.mean for p in parts])
    if arm == MULTI:
        session.curve(f"{arm}: pieces seen", sentences.seen_shares())


def work_on_target(arm: str, name: str, words: int, session: Session) -> None:
    """Fine-tune an arm on every subset of a held-out language, and judge it."""
    parts, start = part_of(arm), arm.removesuffix(ALL)
    test = sentences.corpus().test[name]
    for number in range(sentences.SUBSETS if 0 < words < 64_000 else 1):
        made = cell_of(start, session, name, words, number, parts)
        score = bleu(made.translations, test.english)
        more = {"note": made.note} if made.note else {}
        session.score(tuning.label(arm, number, score), score, **more)
        letters = chrf(made.translations, test.english)
        session.score(tuning.label(arm, number, letters), letters)
        if arm in (FOMAML, REPTILE):
            other = cell_of(MULTI, session, name, words, number, parts)
            difference = paired_difference(score, bleu(other.translations, test.english))
            session.rows.append(
                tuning.difference_row(session, (arm, MULTI), number, difference, len(score.values))
            )
        if number == 0:
            keep_sentences(session, arm, name, words, made.translations)


def keep_sentences(
    session: Session, arm: str, name: str, words: int, translations: Sequence[str]
) -> None:
    """Some sentences to read, in a file beside the record."""
    path = session.recorder.folder / "translation" / "sentences.json"
    test = sentences.corpus().test[name]
    with session.recorder.locked():
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        of = kept.setdefault(sentences.TARGETS[name], {})
        of["source"], of["English"] = list(test.source[:SHOWN]), list(test.english[:SHOWN])
        of[f"{arm}, {words} words, seed {session.seed}"] = list(translations[:SHOWN])
        write_text(path, json.dumps(kept, ensure_ascii=False, indent=1) + "\n")


def part_of(arm: str) -> str | None:
    """Which part of an arm's translator is fine-tuned; None for all of it."""
    return None if arm.endswith(ALL) or arm == RANDOM else "encoder"


def setting(name: str, words: int) -> str:
    """Of a language and a number of words."""
    return f"{sentences.TARGETS[name]}, {words} words"


def about() -> dict[str, Any]:
    """The words of the record."""
    counts = {name: len(pairs.source) for name, pairs in sentences.corpus().train.items()}
    pools = {
        of: sum(len(s.split()) for s in sentences.corpus().pool[name].english)
        for name, of in sentences.TARGETS.items()
    }
    return {
        "title": "MetaNMT: a start for translating languages of few sentences",
        "config": {
            "source languages": "Tatoeba, one pair an English sentence, "
            f"{sentences.FEWEST} to {sentences.MOST} English words, to English; pairs: "
            + ", ".join(f"{name} {n}" for name, n in counts.items()),
            "held-out languages": "English words to fine-tune from: "
            + ", ".join(f"{name} {n}" for name, n in pools.items()),
            "leakage": "no English sentence of a test or a choosing set is trained on in any "
            "language (compared without case and punctuation)",
            "pieces": f"byte pair encoding, {sentences.SOURCE_PIECES} for all languages that are "
            f"read, {sentences.PIECES} for English",
            **arms.in_words(),
            "fine-tuning": "Adam, its rate falling to 0, encoder and embedding alone from "
            f"{tuning.RATES['encoder']:g}, where the row says '{ALL[2:]}' everything from "
            f"{tuning.RATES[None]:g}; kept as it was best on {sentences.DEV} sentences; words, "
            "epochs, minibatch: "
            + ", ".join(f"{words}, {e}, {size}" for words, (e, size) in tuning.TUNING.items())
            + f"; random weights: everything, {tuning.LONGER} times the epochs",
            "lookup": lookup.in_words(),
        },
        "protocol": "BLEU and chrF of sacrebleu on held-out sentences of Tatoeba, translated with "
        f"a beam of {tuning.BEAMS}, and half of the 95 % interval over sentences by the bootstrap; "
        "differences by the paired bootstrap. These rows were scored before BLEU had sacrebleu's "
        "smoothing here: 0.0 says that no four words in a row of a test were right.",
        "published": [],
        "curve_label": "minus the loss of a token, source languages",
    }


def jobs(seeds: Sequence[int]) -> list[Job]:
    """A job for each seed, arm, language and number of words; with the first seed the searches.

    The joint arm comes first, as others are compared with it; and one language before the others,
    so that a record that is not finished has all arms in it.
    """
    made = []
    if 0 in seeds:
        made += [
            _search_job(arm, t * usual) for arm, usual in arms.USUAL.items() for t in arms.TIMES
        ]
    for seed in seeds:
        for arm in (MULTI, RANDOM, FOMAML, REPTILE):
            if arm != RANDOM:
                made.append(_job(arm, seed, SOURCE_SETTING, partial(work_on_sources, arm)))
            made += [_target_job(arm, seed, FIRST, w) for w in WORDS[FIRST] if w or arm != RANDOM]
        for arm in (MULTI, FOMAML, REPTILE):
            made += [_target_job(arm + ALL, seed, FIRST, words) for words in WORDS[FIRST] if words]
            made += [
                _target_job(arm, seed, name, words)
                for name, sizes in WORDS.items()
                for words in sizes
                if name != FIRST
            ]
        made += lookup.jobs(seed, setting)
    return made


def _target_job(arm: str, seed: int, name: str, words: int) -> Job:
    work = partial(work_on_target, arm, name, words)
    return _job(arm, seed, setting(name, words), work)


def _search_job(arm: str, rate: float) -> Job:
    return Job(
        learner=f"{arm}{SEARCH} {rate:g}",
        seed=0,
        setting="the choice of the outer rate",
        rows=re.escape(f"{arm}, outer rate {rate:g}") + "$",
        work=partial(try_rate, arm, rate),
        training=arms.settings(),
        judging={
            "part": arms.PART,
            "tuning": [SEARCHED_ON, tuning.TUNING[SEARCHED_ON], tuning.RATES["encoder"]],
            "draws": sentences.SUBSETS,
        },
        trained=(START, arms.name_of(arm, rate, arms.PART)),
    )


def _job(arm: str, seed: int, of: str, work: Callable[[Session], None]) -> Job:
    start = arm.removesuffix(ALL)
    rate = arms.CHOSEN.get(start)
    return Job(
        learner=arm,
        seed=seed,
        setting=of,
        rows=f"{re.escape(arm)}(: | minus |$)",
        work=work,
        training=arms.settings(),
        judging={
            "tuning": [list(tuning.TUNING.items()), tuning.RATES[part_of(arm)], sentences.SUBSETS],
            "beams": tuning.BEAMS,
            **({"longer": tuning.LONGER} if rate is None else {"outer rate": rate}),
        },
        trained=() if rate is None else (START, arms.name_of(start, rate)),
    )


RUN = LongRun(
    "translation",
    "MetaNMT: joint pre-training, first-order MAML, Reptile for few sentences (2.5 hours a seed)",
    about,
    jobs,
)
