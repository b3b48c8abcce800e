"""What every arm of the translation run does: train, fine-tune on a language, translate."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from metanotes._ground.files import write_text
from metanotes.data import cache_folder, translation_tasks
from metanotes.history import History
from metanotes.methods.language import CorpusScore, FineTuned, dev_loss, fine_tune, translate
from metanotes.nets import Translator
from metanotes.training import meta_train
from runs import translation_arms as arms
from runs import translation_data as sentences
from runs.jobs import Session
from runs.record import digest

# Words of English to fine-tune on: epochs and sentences of a minibatch.
TUNING = {4000: (8, 32), 16_000: (5, 32), 64_000: (3, 64)}
# Adam's rate where the encoder adapts, and where everything does. The first was chosen of 0.001,
# 0.003, 0.005 and 0.01 for the joint arm, on Romanian's choosing sentences; too large for all.
RATES = {"encoder": 5e-3, None: 1e-3}
BEAMS = 4  # beginnings that are kept in translating
LONGER = 4  # so many times the epochs where the weights are random
CHECKPOINT_EVERY = 250
STUDENT = {2: 12.706, 3: 4.303}  # half of a 95 % interval over so many draws, in standard errors

RANDOM = "random weights"


def train(name: str, how: arms.Training, stream: int, model: Translator, session: Session) -> None:
    """One training, with its curve: minus the dev loss of the source languages.

    Args:
        name: of the training.
        how: it is done.
        stream: the seed of what it draws.
        model: is trained in place.
        session: of the job.
    """

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
            clip=how.clip,
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
    """What a translator makes of some sentences."""
    theirs, ours = sentences.vocabularies()
    model.check_vocabularies(theirs.digest, ours.digest)
    rows = [theirs.encode(text)[: sentences.POSITIONS] for text in source]
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return [ours.decode(row) for row in translate(model, tokens, beams=BEAMS).tolist()]


def tune(
    model: Translator, name: str, words: int, number: int, adapts: str | None, longer: int = 1
) -> FineTuned:
    """Fine-tune a translator, in place, on a subset of a language.

    Args:
        model: the start.
        name, words, number: of the language, its English words, and the draw of its sentences.
        adapts: which part moves, see `fine_tune`.
        longer: so many times the usual epochs.
    """
    epochs, size = TUNING[words]
    train = sentences.as_tokens(name, sentences.subset(name, words, number)).batch()
    dev = sentences.as_tokens(name, sentences.corpus().dev[name]).batch()
    how: Any = {"epochs": longer * epochs, "size": size, "lr": RATES[adapts], "adapts": adapts}
    return fine_tune(model, train, dev, seed=number, smoothing=arms.SMOOTHING, **how)


class Cell(NamedTuple):
    """One fine-tuning and what it says of the test sentences.

    Args:
        translations: of all test sentences.
        note: how the fine-tuning went.
    """

    translations: list[str]
    note: str


def cell(
    arm: str,
    start: Callable[[], Translator],
    session: Session,
    name: str,
    words: int,
    number: int,
    adapts: str | None,
) -> Cell:
    """Fine-tune an arm's translator on a subset of a language; kept in the cache folder.

    Args:
        arm: its name.
        start: gives its translator, which is changed.
        session: of the job.
        name, words, number: of the language, its English words, and the draw of its sentences.
        adapts: which part moves, see `fine_tune`.
    """
    settings = {
        "job": session.job.training,
        "outer rate": arms.CHOSEN.get(arm),
        "cell": [arm, name, words, number, str(adapts)],
        "tuning": [TUNING.get(words), RATES[adapts], *[LONGER] * (arm == RANDOM)],
        "beams": BEAMS,
    }
    path = cache_folder() / "runs" / "translation" / f"cell-{session.seed}-{digest(settings)}.json"
    if path.exists():
        return Cell(*json.loads(path.read_text(encoding="utf-8")))
    model, note = start(), ""
    if words:
        went = tune(model, name, words, number, adapts, LONGER if arm == RANDOM else 1)
        pairs = len(sentences.subset(name, words, number).source)
        note = f"{pairs} pairs, best epoch {went.best} of {len(went.losses) - 1}, dev loss "
        note += f"{went.losses[went.best]:.3f}"
    made = Cell(said(model, name, sentences.corpus().test[name].source), note)
    write_text(path, json.dumps(made, ensure_ascii=False))
    session.clock.check()
    return made


def label(arm: str, number: int | None, score: CorpusScore) -> str:
    """The name of a row."""
    words = [] if number is None else [f"subset {number}"]
    words += ["chrF"] if score.metric == "chrF" else []
    return arm + (": " if words else "") + ", ".join(words)


def difference_row(
    session: Session, arms_of_it: tuple[str, str], number: int, difference: Any, count: int
) -> dict[str, Any]:
    """The row of a paired difference of the first arm to the second."""
    half = (difference.high - difference.low) / 2
    return {
        "name": f"{' minus '.join(arms_of_it)}: subset {number}",
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


def loss_row(session: Session, name: str, losses: Sequence[float]) -> dict[str, Any]:
    """The row of a loss on choosing sentences: the mean over draws, its interval by Student's t."""
    values = torch.tensor(losses)
    return {
        "name": name,
        **session.setting,
        "value": round(values.mean().item(), 4),
        "ci95": round(STUDENT[len(losses)] * values.std().item() / len(losses) ** 0.5, 4),
        "unit": "loss",
        "tasks": len(losses),
        "transductive": None,
        "seed": session.seed,
        "settings": session.job.digest,
    }
