"""The arms of the translation run: what is trained, on how much, and from which translator.

All arms start from one joint training and then see as many sentences. The joint arm goes on with
it; the others learn a start from tasks, each a language. The outer rate of each is chosen by the
same search, after a tenth of the training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metanotes import Adam, InnerLoopLearner, Reptile
from metanotes.methods.language import token_loss
from metanotes.nets import Translator
from metanotes.task import Task
from runs import translation_data as sentences

START, MULTI, FOMAML, REPTILE = "start", "MultiNMT", "FOMAML", "Reptile"

WIDTH, HEADS, LAYERS, FEEDFORWARD, DROPOUT = 128, 4, 2, 256, 0.1
SMOOTHING, CLIP, BETAS = 0.1, 1.0, (0.9, 0.98)
POWER = 0.5  # a language is drawn with a probability like its pairs to that power
SIZE = 128  # sentences of a step of joint training
START_STEPS, START_RATE, START_WARMUP = 4500, 2e-3, 150  # what all arms start from
STEPS, WARMUP = 3000, 100  # of the joint arm, whose rate falls to 0 as that of the others
LANGUAGES, SUPPORT, QUERIES, INNER_STEPS, INNER_RATE = 2, 64, 64, 2, 5e-4  # first-order MAML
WALK, WALK_SIZE, WALK_RATE = 8, 32, 5e-4  # Reptile

USUAL = {MULTI: 1e-3, FOMAML: 1e-3, REPTILE: 1.0}  # outer rates: of Adam, of Adam, of the way
TIMES = (1 / 64, 1 / 16, 1 / 4, 1, 4)  # of the usual rate: what is tried for each arm
PART = 10  # such a part of the training is tried
CHOSEN = {MULTI: 1e-3, FOMAML: 1e-3, REPTILE: 1 / 64}  # what did best, see the rows of the search


class Joint(nn.Module):
    """Training on all languages at once: the loss of a batch of their sentences."""

    def __init__(self, model: Translator) -> None:
        super().__init__()
        self.model = model

    def forward(self, tasks: Task) -> Tensor:
        x, y = tasks.support
        return loss_of(self.model(**{name: t[0] for name, t in x.items()}), y[0])[None]


loss_of = partial(token_loss, smoothing=SMOOTHING)


class Training(NamedTuple):
    """How an arm is trained.

    Args:
        learner: around a translator.
        support, queries: sentences of a task.
        mixed: whether a task has sentences of all languages.
        tasks: of an iteration.
        iterations: of the training, so that all arms see as many sentences.
        optimizer: of the learner's parameters.
        rate: the share of the optimizer's rate, by iteration.
        clip: bound on the norm of the gradient; Reptile's is no gradient and has none.
    """

    learner: Callable[[Translator], nn.Module]
    support: int
    queries: int
    mixed: bool
    tasks: int
    iterations: int
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    rate: Callable[[int], float]
    clip: float | None = CLIP


def rising(warmup: int, n: int) -> float:
    """A rate that rises along a line, and then stays."""
    return min(1.0, (n + 1) / warmup)


def falling(warmup: int, iterations: int, n: int) -> float:
    """A rate that rises, and falls to 0 along a line."""
    return min((n + 1) / warmup, max(0.0, 1 - n / iterations))


def adam(rate: float, module: nn.Module) -> torch.optim.Optimizer:
    """The outer optimizer."""
    return torch.optim.Adam(module.parameters(), rate, betas=BETAS)


def beginning() -> Training:
    """What all arms start from."""
    rise = partial(rising, START_WARMUP)
    return Training(Joint, SIZE, 0, True, 1, START_STEPS, partial(adam, START_RATE), rise)


def training(arm: str, rate: float, part: int = 1) -> Training:
    """How an arm goes on from there.

    Args:
        arm: its name.
        rate: the outer one, which falls to 0.
        part: of the steps: 10 for a tenth.
    """
    steps, warmup = STEPS // part, max(1, WARMUP // part)
    if arm == MULTI:
        fall = partial(falling, warmup, steps)
        return Training(Joint, SIZE, 0, True, 1, steps, partial(adam, rate), fall)
    if arm == FOMAML:

        def maml(model: Translator) -> nn.Module:
            how: Any = {"loss": loss_of, "adapts": "encoder", "batch": SUPPORT // INNER_STEPS}
            return InnerLoopLearner(model, Adam(INNER_RATE), INNER_STEPS, first_order=True, **how)

        n = steps * SIZE // (LANGUAGES * (SUPPORT + QUERIES))
        fall = partial(falling, warmup, n)
        return Training(maml, SUPPORT, QUERIES, False, LANGUAGES, n, partial(adam, rate), fall)

    def reptile(model: Translator) -> nn.Module:
        return Reptile(model, Adam(WALK_RATE), WALK, loss=loss_of, batch=WALK_SIZE)

    def outer(module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), rate)

    half = WALK * WALK_SIZE // 2
    n = steps * SIZE // (LANGUAGES * 2 * half)
    fall = partial(falling, 1, n)
    return Training(reptile, half, half, False, LANGUAGES, n, outer, fall, clip=None)


def name_of(arm: str, rate: float, part: int = 1) -> str:
    """Of a training: under what it is kept, and stands in the record."""
    return f"{arm}, rate {rate:g}" + (f", 1/{part} of the steps" if part > 1 else "")


def new_model(seed: int) -> Translator:
    """A translator with random weights."""
    source, english = sentences.vocabularies()
    return Translator(
        len(source),
        len(english),
        WIDTH,
        HEADS,
        LAYERS,
        sentences.POSITIONS,
        seed,
        feedforward=FEEDFORWARD,
        dropout=DROPOUT,
        vocabularies=(source.digest, english.digest),
    )


def settings() -> dict[str, Any]:
    """All that the trainings depend on, but for their outer rates, which their names have."""
    return {
        "data": sentences.settings(),
        "model": [WIDTH, HEADS, LAYERS, FEEDFORWARD, DROPOUT],
        "loss": [SMOOTHING, CLIP, POWER, BETAS],
        "start": [START_STEPS, START_RATE, START_WARMUP, SIZE],
        "arms": [STEPS, WARMUP],
        "FOMAML": [LANGUAGES, SUPPORT, QUERIES, INNER_STEPS, INNER_RATE],
        "Reptile": [WALK, WALK_SIZE, WALK_RATE],
    }


def in_words() -> dict[str, str]:
    """The same, for the record."""
    return {
        "model": f"transformer, {LAYERS} + {LAYERS} layers of width {WIDTH}, {HEADS} heads, "
        f"feedforward {FEEDFORWARD}, dropout {DROPOUT:g}, tied output",
        "start of all arms": f"{START_STEPS} joint steps of {SIZE} sentences, Adam, rate "
        f"{START_RATE:g}",
        "arms": f"then {STEPS * SIZE} sentences each. {MULTI}: {STEPS} joint steps. {FOMAML}: "
        f"{LANGUAGES} languages, {INNER_STEPS} inner steps of Adam, rate {INNER_RATE:g}, on "
        f"{SUPPORT // INNER_STEPS} sentences, encoder and embedding alone; {QUERIES} queries. "
        f"{REPTILE}: {LANGUAGES} languages, {WALK} steps of Adam, rate {WALK_RATE:g}, on "
        f"{WALK_SIZE} sentences, everything. The outer rate falls to 0 in each",
        "outer rates": "chosen for each arm with the first seed, after a tenth of its sentences, "
        f"by the loss on Romanian's {sentences.DEV} choosing sentences once the encoder is "
        f"fine-tuned on 4000 words, the mean of {sentences.SUBSETS} draws; tried: "
        + "; ".join(
            f"{arm} " + ", ".join(f"{times * usual:g}" for times in TIMES)
            for arm, usual in USUAL.items()
        )
        + "; taken: "
        + ", ".join(f"{arm} {rate:g}" for arm, rate in CHOSEN.items())
        + ". The inner rates and the numbers of steps were not searched for",
    }
