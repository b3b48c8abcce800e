"""MetaNMT: where a translator of many languages should start to learn another from few words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from metanotes._ground.files import write_text
from metanotes.data import cache_folder, translation_tasks
from metanotes.history import History
from metanotes.methods.language import (
    CorpusScore,
    bleu,
    chrf,
    dev_loss,
    fine_tune,
    paired_difference,
    translate,
)
from metanotes.nets import Translator
from metanotes.training import meta_train
from runs import translation_arms as arms
from runs import translation_data as sentences
from runs.jobs import Job, LongRun, Session
from runs.record import digest
from runs.translation_arms import FOMAML, MULTI, REPTILE, START

# Words of English to fine-tune on: epochs and sentences of a minibatch.
TUNING = {4000: (15, 32), 16_000: (10, 64), 64_000: (6, 64)}
TUNING_RATE = 1e-3
LONGER = 3  # so many times the epochs where the weights are random
WORDS = {
    "ron": (0, 4000, 16_000),
    "fin": (0, 4000, 16_000),
    "lav": (0, 4000),
    "tur": (0, 4000, 16_000, 64_000),
    "kor": (0, 4000),
}
FIRST = "ron"  # is judged first; the decoder adapts as well, and random weights are there
SHOWN = 8  # sentences of a test that are kept to be read
CHECKPOINT_EVERY = 250

RANDOM = "random weights"
ALL = ", all adapts"
SOURCE_SETTING = "source languages"


def pretrained(arm: str, session: Session) -> Translator:
    """The translator of an arm, trained, or gone on with, or loaded."""
    model = arms.new_model(session.seed)
    if arm == RANDOM:
        return model
    for name in (START, arm):
        train(name, model, session)
    return model


def train(name: str, model: Translator, session: Session) -> None:
    """One training, with its curve: minus the dev loss of the source languages."""
    how = arms.trainings()[name]
    stream = 10 * session.seed + list(arms.trainings()).index(name)

    def until(iteration: int, path: Path) -> History:
        learner = how.learner(model)
        optimizer = how.optimizer(learner)
        torch.manual_seed(stream)  # dropout, and the order of minibatches
        return meta_train(
            learner,
            translation_tasks(
                sentences.training_tokens(), how.support, how.queries, power=arms.POWER,
                mixed=how.mixed, seed=stream,
            ),
            iteration,
            how.tasks,
            optimizer=optimizer,
            scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, how.rate),
            clip=None if name == REPTILE else arms.CLIP,
            checkpoint=path,
            checkpoint_every=CHECKPOINT_EVERY,
            progress=False,
        )  # fmt: skip

    session.train(
        name, how.iterations, until, tasks=how.tasks, judge=lambda: -source_loss(model), legs=6
    )


def source_loss(model: Translator) -> float:
    """The loss of a token on the source languages' choosing sentences."""
    dev = sentences.corpus().source_dev
    losses = [dev_loss(model, sentences.as_tokens(n, pairs).batch()) for n, pairs in dev.items()]
    return sum(losses) / len(losses)


def said(model: Translator, name: str, source: Sequence[str]) -> list[str]:
    """What a translator makes of some sentences, greedily."""
    theirs, ours = sentences.vocabularies()
    model.check_vocabularies(theirs.digest, ours.digest)
    rows = [theirs.encode(text)[: sentences.POSITIONS] for text in source]
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return [ours.decode(row) for row in translate(model, tokens).tolist()]


class Cell(NamedTuple):
    """One fine-tuning and what it says of the test sentences.

    Args:
        translations: of all test sentences.
        note: how the fine-tuning went.
    """

    translations: list[str]
    note: str


def cell(arm: str, session: Session, name: str, words: int, number: int, adapts: Any) -> Cell:
    """Fine-tune an arm's translator on a subset of a language; kept in the cache folder."""
    settings = {"job": session.job.training, "cell": [arm, name, words, number, str(adapts)]}
    settings["tuning"] = [TUNING.get(words), TUNING_RATE, *[LONGER] * (arm == RANDOM)]
    path = cache_folder() / "runs" / "translation" / f"cell-{session.seed}-{digest(settings)}.json"
    if path.exists():
        return Cell(*json.loads(path.read_text(encoding="utf-8")))
    model, note = pretrained(arm, session), ""
    if words:
        epochs, size = TUNING[words]
        epochs *= LONGER if arm == RANDOM else 1
        train = sentences.as_tokens(name, sentences.subset(name, words, number))
        dev = sentences.as_tokens(name, sentences.corpus().dev[name]).batch()
        how: Any = {"epochs": epochs, "size": size, "lr": TUNING_RATE, "adapts": adapts}
        went = fine_tune(model, train.batch(), dev, seed=number, smoothing=arms.SMOOTHING, **how)
        note = f"{len(train.source)} pairs, best epoch {went.best} of {epochs}, dev loss "
        note += f"{went.losses[went.best]:.3f}"
    made = Cell(said(model, name, sentences.corpus().test[name].source), note)
    write_text(path, json.dumps(made, ensure_ascii=False))
    session.clock.check()
    return made


def work_on_sources(arm: str, session: Session) -> None:
    """Judge an arm on the source languages, each for itself and all together."""
    model = pretrained(arm, session)
    test = sentences.corpus().source_test
    hypotheses = {name: said(model, name, pairs.source) for name, pairs in test.items()}
    for metric in (bleu, chrf):
        parts = [metric(hypotheses[name], test[name].english) for name in test]
        whole = CorpusScore(
            torch.cat([p.values for p in parts]), parts[0].metric, False, "sentences"
        )
        session.score(label(arm, None, whole), whole)
        session.curve(f"{arm}: {whole.metric} by language", [p.mean for p in parts])
    if arm == MULTI:
        session.curve(f"{arm}: pieces seen", sentences.seen_shares())


def work_on_target(arm: str, name: str, words: int, session: Session) -> None:
    """Fine-tune an arm on every subset of a held-out language, and judge it."""
    parts = None if arm.endswith(ALL) or arm == RANDOM else "encoder"
    start = arm.removesuffix(ALL)
    test = sentences.corpus().test[name]
    for number in range(sentences.SUBSETS if 0 < words < 64_000 else 1):
        made = cell(start, session, name, words, number, parts)
        score = bleu(made.translations, test.english)
        more = {"note": made.note} if made.note else {}
        session.score(label(arm, number, score), score, **more)
        letters = chrf(made.translations, test.english)
        session.score(label(arm, number, letters), letters)
        if arm in (FOMAML, REPTILE):
            other = cell(MULTI, session, name, words, number, parts)
            difference = paired_difference(score, bleu(other.translations, test.english))
            session.rows.append(difference_row(session, arm, number, difference, len(score.values)))
        if number == 0:
            keep_sentences(session, arm, name, words, made.translations)


def label(arm: str, number: int | None, score: CorpusScore) -> str:
    """The name of a row."""
    words = [] if number is None else [f"subset {number}"]
    words += ["chrF"] if score.metric == "chrF" else []
    return arm + (": " if words else "") + ", ".join(words)


def difference_row(
    session: Session, arm: str, number: int, difference: Any, count: int
) -> dict[str, Any]:
    """The row of a paired difference to joint pre-training."""
    half = (difference.high - difference.low) / 2
    return {
        "name": f"{arm} minus {MULTI}: subset {number}",
        **session.setting,
        "value": round(difference.mean, 4),
        "ci95": round(half, 4),
        "unit": "BLEU",
        "tasks": count,
        "transductive": None,
        "seed": session.seed,
        "note": f"paired bootstrap {difference.low:.2f} to {difference.high:.2f}",
        "settings": session.job.digest,
    }


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
            "fine-tuning": f"Adam, rate {TUNING_RATE:g} falling to 0, encoder and embedding alone "
            f"unless the row says '{ALL[2:]}'; kept as it was best on {sentences.DEV} sentences; "
            "words, epochs, minibatch: "
            + ", ".join(f"{words}, {e}, {size}" for words, (e, size) in TUNING.items())
            + f"; random weights: everything, {LONGER} times the epochs",
        },
        "protocol": "BLEU and chrF of sacrebleu on held-out sentences of Tatoeba, translated "
        "greedily, with half of the 95 % interval over sentences by the bootstrap; differences by "
        "the paired bootstrap.",
        "published": [],
        "curve_label": "minus the loss of a token, source languages",
    }


def jobs(seeds: Sequence[int]) -> list[Job]:
    """A job for each seed, arm, language and number of words.

    The joint arm comes first, as others are compared with it; and one language before the others,
    so that a record that is not finished has all arms in it.
    """
    made = []
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
    return made


def _target_job(arm: str, seed: int, name: str, words: int) -> Job:
    work = partial(work_on_target, arm, name, words)
    return _job(arm, seed, setting(name, words), work)


def _job(arm: str, seed: int, of: str, work: Callable[[Session], None]) -> Job:
    return Job(
        learner=arm,
        seed=seed,
        setting=of,
        rows=f"{re.escape(arm)}(: | minus |$)",
        work=work,
        training=arms.settings(),
        judging={
            "tuning": [list(TUNING.items()), TUNING_RATE, sentences.SUBSETS],
            **({"longer": LONGER} if arm == RANDOM else {}),
        },
        trained=(START, arm.removesuffix(ALL)) if arm != RANDOM else (),
    )


RUN = LongRun(
    "translation",
    "MetaNMT: joint pre-training, first-order MAML and Reptile for few sentences (3 hours)",
    about,
    jobs,
)
