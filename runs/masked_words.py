"""Masked words: what self-supervised weights give to learners of few-shot tasks, and what not."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from metanotes.data import batches, embedded, episodes
from metanotes.data.text import MASK, PAD, SIGNS, masked_sentences
from metanotes.evaluation import Score, evaluate
from metanotes.learner import Learner
from metanotes.methods.comparison import Classifier, LogisticNetwork, PrototypicalNetwork
from metanotes.methods.initialization import ANIL, MAML
from metanotes.methods.language import token_loss
from metanotes.nets import MaskedWordModel, TokenBody
from metanotes.task import Batch, Task
from metanotes.training import History, meta_train
from runs import masked_text
from runs.jobs import Job, LongRun, Session
from runs.masked_text import text

WIDTH, HEADS, LAYERS, FEEDFORWARD = 96, 4, 2, 256
PLACES, SIZE, PRETRAINING, PRETRAINING_RATE = 2, 128, 2000, 2e-3

WAYS, SHOTS, QUERIES = 5, 5, 5
ANIL_STEPS, MAML_STEPS, TASKS, JOINT_SIZE = 5, 3, 4, 100
SENTENCES = 48_000  # through the network and back, for every method
TRIAL_SENTENCES = 8_000  # for every setting that is tried
INNER = (0.015, 0.05, 0.15)
OUTER = (3e-4, 1e-3, 3e-3)
TUNING_RATES, TUNING_STEPS = (0.03, 0.1, 0.3), (3, 10)
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)
CHOICE_TASKS, TEST_TASKS, MARKS, MARK_TASKS = 80, 300, 6, 40

RANDOM, MASKED, NEITHER = "from random weights", "from masked words", "without a network"
BAG, PRETRAIN = "bag of words", "masked-word pre-training"
NAMED = "hidden words named, of the whole vocabulary"
PROBE, PROTOTYPES, TUNED = "linear probe", "prototypes", "fine-tuning"
JOINT, ANIL_NAME, MAML_NAME = "joint classification", "ANIL", "first-order MAML"
FROZEN = (PROBE, PROTOTYPES)
TRAINED = (JOINT, ANIL_NAME, MAML_NAME)


def body_of(seed: int) -> TokenBody:
    """A body with random weights, that gives every place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TokenBody(
            len(text().vocabulary),
            WIDTH,
            HEADS,
            LAYERS,
            masked_text.LENGTHS[1],
            feedforward=FEEDFORWARD,
        )


def at_the_mask(body: TokenBody) -> TokenBody:
    """A copy of the body, that gives what stands at the mask."""
    copied = copy.deepcopy(body)
    copied.pool = MASK
    return copied


def with_head(body: TokenBody, classes: int) -> nn.Sequential:
    """A copy of the body at the mask, and a head that says nothing yet."""
    head = nn.Linear(WIDTH, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(at_the_mask(body), head)


class WordCounts(nn.Module):
    """How often each word stands in a sentence, whatever its place: `[N, L]` to `[N, words]`."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def forward(self, x: Tensor) -> Tensor:
        counts: Tensor = one_hot(x, self.vocabulary).sum(1)[:, len(SIGNS) :].float()
        return counts


def tasks_of(words: Batch, seed: int) -> Callable[[int], Task]:
    """Few-shot tasks of some words."""
    return episodes(words, WAYS, SHOTS, QUERIES, seed=seed)


def adam(learner: nn.Module, rate: float, iterations: int) -> dict[str, Any]:
    """Adam, whose rate rises in the first tenth and falls to nothing: for all that is trained."""
    optimizer = torch.optim.Adam(learner.parameters(), rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=iterations + 1, pct_start=0.1, cycle_momentum=False
    )
    return {"optimizer": optimizer, "scheduler": scheduler, "clip": 1.0}


# -------------------------------------------------------------------------------- pre-training


def pretrained(session: Session) -> TokenBody:
    """The body after masked-word pre-training, which the jobs of a seed share."""
    body, of, seed = body_of(session.seed), text(), session.seed
    sample = masked_sentences(of.tokens[of.kept], SIZE, places=PLACES, never=of.held_out, seed=seed)
    learner = Classifier(MaskedWordModel(body), loss=token_loss)
    how = adam(learner, PRETRAINING_RATE, PRETRAINING)

    def named(_: Any) -> float:
        return float(words_named(learner).values.mean())

    def train_until(until: int, path: Path) -> History:
        return meta_train(
            learner,
            sample,
            until,
            1,
            validate=named,
            validate_every=max(1, PRETRAINING // MARKS),
            checkpoint=path,
            progress=False,
            **how,
        )

    session.train(PRETRAIN, PRETRAINING, train_until, tasks=SIZE)
    return body


def words_named(learner: Learner) -> Score:
    """How many hidden words of the sentences left out are named right, held-out words aside."""
    of = text()
    sentences = of.tokens[of.left_out]
    x, y = masked_sentences(sentences, len(sentences), places=1, never=of.held_out)(1).query
    with torch.no_grad():
        answers = learner.predict(None, x).argmax(-1)
    return Score((answers == y).double().flatten(), "accuracy", False, "examples")


# ------------------------------------------------------------------------------- the learners


def trained(
    name: str, start: TokenBody, rates: Sequence[float], seed: int, sentences: int
) -> tuple[Any, list[float]]:
    """A learner after so many sentences, and how it went, on the choosing words.

    Args:
        name: of `TRAINED`.
        start: the body, which is copied.
        rates: of the outer steps, and where there are inner steps of these.
        seed: of the tasks.
        sentences: through the network and back.
    """
    outer, *inner = rates
    of, support, queries = text(), WAYS * SHOTS, WAYS * QUERIES
    sample: Callable[[int], Task] = tasks_of(of.train, seed)
    learner: Learner
    if name == JOINT:
        learner = Classifier(with_head(start, len(of.trained)))
        sample, each = batches(of.train, JOINT_SIZE, seed=seed), JOINT_SIZE
    elif name == ANIL_NAME:
        learner = ANIL(with_head(start, WAYS), inner[0], ANIL_STEPS)
        each = TASKS * (support + queries)
    else:
        learner = MAML(with_head(start, WAYS), inner[0], MAML_STEPS, first_order=True)
        each = TASKS * (MAML_STEPS * support + queries)
    iterations = max(1, sentences // each)
    history = meta_train(
        learner,
        sample,
        iterations,
        1 if name == JOINT else TASKS,
        validate=None if sentences < SENTENCES else partial(on_choice, MARK_TASKS),
        validate_every=max(1, iterations // MARKS),
        progress=False,
        **adam(learner, outer, iterations),
    )
    return learner, [accuracy for _, accuracy in history.validation]


def on_choice(tasks: int, learner: Any) -> float:
    """The accuracy on tasks of the choosing words."""
    if isinstance(learner, Classifier):
        body, _ = learner.model.children()
        return chosen_probe(body, tasks)[1]
    return evaluate(learner, tasks_of(text().choice, 1), tasks).mean


def chosen_probe(body: nn.Module, tasks: int = CHOICE_TASKS) -> tuple[float, float]:
    """The penalty of a linear probe that does best on the choosing words, and how well it does."""
    of = text().choice
    data, learned = (of, body) if isinstance(body, WordCounts) else (embedded(of, body), None)
    scores = []
    for penalty in PENALTIES:
        learner = LogisticNetwork(learned or nn.Identity(), WAYS, penalty=penalty)
        scores.append((evaluate(learner, tasks_of(data, 1), tasks).mean, penalty))
    best, penalty = max(scores)
    return penalty, best


def judge_body(session: Session, prefix: str, body: nn.Module) -> None:
    """The rows of a body that stays as it is: a linear probe, and prototypes."""
    data, penalty = embedded(text().test, body), chosen_probe(body)[0]
    learners = {
        PROBE: LogisticNetwork(nn.Identity(), WAYS, penalty=penalty),
        PROTOTYPES: PrototypicalNetwork(nn.Identity(), WAYS),
    }
    for name, learner in learners.items():
        note = {"note": f"penalty {penalty:g}"} if name == PROBE else {}
        session.score(prefix + name, evaluate(learner, tasks_of(data, 2), TEST_TASKS), **note)


# -------------------------------------------------------------------------------------- jobs


def _start(start: str, session: Session) -> TokenBody:
    return pretrained(session) if start == MASKED else body_of(session.seed)


def _pretraining(session: Session) -> None:
    body = pretrained(session)
    session.score(NAMED, words_named(Classifier(MaskedWordModel(body), loss=token_loss)))


def _bag(session: Session) -> None:
    body = WordCounts(len(text().vocabulary))
    penalty = chosen_probe(body)[0]
    learner = LogisticNetwork(body, WAYS, penalty=penalty)
    score = evaluate(learner, tasks_of(text().test, 2), TEST_TASKS)
    session.score(BAG, score, note=f"penalty {penalty:g}")


def _frozen(start: str, session: Session) -> None:
    judge_body(session, "", at_the_mask(_start(start, session)))


def _tuned(start: str, session: Session) -> None:
    model, scores = with_head(_start(start, session), WAYS), []
    for rate, steps in product(TUNING_RATES, TUNING_STEPS):
        learner = MAML(model, rate, steps, first_order=True)
        scores.append((on_choice(MARK_TASKS, learner), rate, steps))
    _, rate, steps = max(scores)
    session.curve(f"{TUNED}: choice", [score for score, *_ in scores])
    learner = MAML(model, rate, steps, first_order=True)
    score = evaluate(learner, tasks_of(text().test, 2), TEST_TASKS)
    session.score(TUNED, score, note=f"rate {rate:g}", steps=steps)


def _trained(start: str, name: str, session: Session) -> None:
    body, seed = _start(start, session), session.seed
    tried: dict[tuple[float, ...], float] = {}

    def best_of(settings: list[tuple[float, ...]]) -> tuple[float, ...]:
        for rates in settings:
            if rates not in tried:
                learner, _ = trained(name, body, rates, seed, TRIAL_SENTENCES)
                tried[rates] = on_choice(CHOICE_TASKS, learner)
        return max(tried, key=lambda rates: tried[rates])

    middle = () if name == JOINT else (INNER[len(INNER) // 2],)
    rates = best_of([(outer, *middle) for outer in OUTER])
    if name != JOINT:
        rates = best_of([(rates[0], inner) for inner in INNER])
    session.curve(f"{name}: choice", tried.values())
    learner, curve = trained(name, body, rates, seed, SENTENCES)
    session.curve(f"{name}: curve", curve)
    session.note = "rate " + ", inner ".join(f"{rate:g}" for rate in rates)
    if name != JOINT:
        session.score(name, evaluate(learner, tasks_of(text().test, 2), TEST_TASKS))
    note, session.note = session.note, None
    judge_body(session, f"{name}: ", learner.model[0])
    for row in session.rows[-2:]:
        row["note"] = "; ".join([note, *([row["note"]] if "note" in row else [])])


def about() -> dict[str, Any]:
    """The words of the record."""
    passes = f"{SENTENCES:,} sentences through the network and back".replace(",", " ")
    return {
        "title": "Masked words: self-supervision before few-shot learning",
        "config": {
            **masked_text.in_plain_words(),
            "task": f"{WAYS} words, {SHOTS} sentences of each with the word hidden, and {QUERIES} "
            "more to judge by: which word is it",
            "network": f"a transformer, {LAYERS} layers, width {WIDTH}, {HEADS} heads; what "
            "stands at the mask goes to the head, which starts at 0",
            "pre-training": f"{PRETRAINING} steps of {SIZE} sentences with {PLACES} hidden words",
            "training": f"{passes} for each of {', '.join(TRAINED)}; Adam, the rate rises and "
            f"falls to 0. ANIL {ANIL_STEPS} inner steps, MAML {MAML_STEPS}, {TASKS} tasks in a "
            f"batch; joint classification of the training words, {JOINT_SIZE} sentences in a batch",
            "choice": f"for each seed, on tasks of the choosing words, after {TRIAL_SENTENCES} "
            f"sentences: rates {OUTER}, then inner rates {INNER}; fine-tuning: rates "
            f"{TUNING_RATES}, steps {TUNING_STEPS}; probes: penalties {PENALTIES}",
        },
        "protocol": f"Accuracy on {TEST_TASKS} tasks of the test words, the same for all, with the "
        "95 % interval over tasks.",
        "published": [],
        "curve_label": "accuracy, tasks of the choosing words; pre-training: hidden words named",
    }


def settings() -> dict[str, Any]:
    """All that a training depends on."""
    return {
        "text": masked_text.text_settings(),
        "network": [WIDTH, HEADS, LAYERS, FEEDFORWARD, PAD, MASK],
        "pre-training": [PLACES, SIZE, PRETRAINING, PRETRAINING_RATE],
    }


def jobs(seeds: Sequence[int]) -> list[Job]:
    """A job a start, seed and method."""
    episode = [WAYS, SHOTS, QUERIES, CHOICE_TASKS, TEST_TASKS, MARK_TASKS, PENALTIES]
    training = {
        "steps": [ANIL_STEPS, MAML_STEPS, TASKS, JOINT_SIZE],
        "sentences": [SENTENCES, TRIAL_SENTENCES, MARKS],
        "rates": [INNER, OUTER],
    }

    def job(name: str, seed: int | None, work: Any, start: str, **judging: Any) -> Job:
        rows = {PROBE: "|".join(FROZEN), PRETRAIN: NAMED}.get(name, f"{re.escape(name)}(: |$)")
        return Job(
            learner=name,
            seed=seed,
            setting=start,
            rows=rows,
            work=work,
            training=settings(),
            judging={"name": [start, name], "task": episode, **judging},
            trained=[PRETRAIN] if start == MASKED else [],
        )

    made = [job(BAG, None, _bag, NEITHER)]
    for seed in seeds:
        made.append(job(PRETRAIN, seed, _pretraining, MASKED))
        for start in (RANDOM, MASKED):
            made.append(job(PROBE, seed, partial(_frozen, start), start))
            tuning = [TUNING_RATES, TUNING_STEPS]
            made.append(job(TUNED, seed, partial(_tuned, start), start, tuning=tuning))
            for name in TRAINED:
                made.append(job(name, seed, partial(_trained, start, name), start, **training))
    return made


RUN = LongRun(
    "masked_words",
    "masked words: what self-supervised weights give to few-shot learners, on real sentences",
    about,
    jobs,
)
