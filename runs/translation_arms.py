"""The arms of the translation run: what is trained, on how much, and from which translator.

All arms start from one joint training and then see as many sentences. The joint arm goes on with
it; the others learn a start from tasks, each a language.
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
STEPS, RATE, WARMUP = 3000, 1e-3, 100  # of the joint arm, whose rate falls to 0
LANGUAGES, SUPPORT, QUERIES, INNER_STEPS, INNER_RATE = 2, 64, 64, 2, 5e-4  # first-order MAML
WALK, WALK_SIZE, WALK_RATE, EPSILON = 8, 32, 5e-4, 1.0  # Reptile


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
    """

    learner: Callable[[Translator], nn.Module]
    support: int
    queries: int
    mixed: bool
    tasks: int
    iterations: int
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    rate: Callable[[int], float]


def rising(warmup: int, n: int) -> float:
    """A rate that rises along a line, and then stays."""
    return min(1.0, (n + 1) / warmup)


def falling(warmup: int, iterations: int, n: int) -> float:
    """A rate that rises, and falls to 0 along a line."""
    return min((n + 1) / warmup, max(0.0, 1 - n / iterations))


def adam(rate: float, module: nn.Module) -> torch.optim.Optimizer:
    """The outer optimizer."""
    return torch.optim.Adam(module.parameters(), rate, betas=BETAS)


def trainings() -> dict[str, Training]:
    """What all start from, and the arms."""
    sentences_seen = STEPS * SIZE
    of_maml = sentences_seen // (LANGUAGES * (SUPPORT + QUERIES))
    of_reptile = sentences_seen // (LANGUAGES * WALK * WALK_SIZE)

    def maml(model: Translator) -> nn.Module:
        how: Any = {"loss": loss_of, "adapts": "encoder", "batch": SUPPORT // INNER_STEPS}
        return InnerLoopLearner(model, Adam(INNER_RATE), INNER_STEPS, first_order=True, **how)

    def reptile(model: Translator) -> nn.Module:
        return Reptile(model, Adam(WALK_RATE), WALK, loss=loss_of, batch=WALK_SIZE)

    return {
        START: Training(
            Joint, SIZE, 0, True, 1, START_STEPS,
            partial(adam, START_RATE), partial(rising, START_WARMUP),
        ),
        MULTI: Training(
            Joint, SIZE, 0, True, 1, STEPS, partial(adam, RATE), partial(falling, WARMUP, STEPS)
        ),
        FOMAML: Training(
            maml, SUPPORT, QUERIES, False, LANGUAGES, of_maml,
            partial(adam, RATE), partial(falling, WARMUP, of_maml),
        ),
        REPTILE: Training(
            reptile, WALK * WALK_SIZE // 2, WALK * WALK_SIZE // 2, False, LANGUAGES, of_reptile,
            lambda module: torch.optim.SGD(module.parameters(), EPSILON),
            partial(falling, 1, of_reptile),
        ),
    }  # fmt: skip


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
    """All that the trainings depend on."""
    return {
        "data": sentences.settings(),
        "model": [WIDTH, HEADS, LAYERS, FEEDFORWARD, DROPOUT],
        "loss": [SMOOTHING, CLIP, POWER, BETAS],
        "start": [START_STEPS, START_RATE, START_WARMUP, SIZE],
        "arms": [STEPS, RATE, WARMUP],
        "FOMAML": [LANGUAGES, SUPPORT, QUERIES, INNER_STEPS, INNER_RATE],
        "Reptile": [WALK, WALK_SIZE, WALK_RATE, EPSILON],
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
        f"{WALK_SIZE} sentences, everything. The outer rate falls to 0 in each; no setting of "
        "any arm was searched for",
    }
