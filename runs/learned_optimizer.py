"""A learned optimizer on the training of small networks on MNIST, beside hand-made rules."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metanotes._ground.files import replacing
from metanotes._ground.randomness import seeded
from metanotes.data import digits, networks
from metanotes.data.functions import NetworkSampler
from metanotes.evaluation import Score
from metanotes.methods.optimizers import LearningToOptimize, LSTMRule, trajectory
from metanotes.nets import mlp
from metanotes.task import Batch
from metanotes.update_rules import Theta, UpdateRule
from runs.hand_made import HAND_MADE, tuned
from runs.jobs import Job, LongRun, Session
from runs.rule_training import train_rule

STEPS = 100  # of an episode
TUNING_NETWORKS, TUNING_IMAGES = 5, 5000  # a rate is chosen by the loss of so many on so many
VALIDATION_NETWORKS = 10
TEST_NETWORKS = 10
TEST_NETWORKS_AT_HOME = 30  # of the kind that the rule was trained on


class Phase(NamedTuple):
    """A part of the rule's training.

    Args:
        first_order: hold the gradients that the rule is given constant.
        power: of t in the weights w_t, which sum to T.
        tasks: networks of an episode.
        episodes: how many.
        lr: of Adam, at first.
        clip: bound on the norm of a window's gradient.
    """

    first_order: bool
    power: int
    tasks: int
    episodes: int
    lr: float
    clip: float


# Windows of 50 steps for 300 more episodes did not get lower on validation.
PHASES = {
    "first-order": Phase(True, 0, 1, 160, 1e-2, 10.0),
    "full": Phase(False, 2, 4, 150, 1e-3, 1.0),
}


def perceptron(*sizes: int, activation: Callable[[], nn.Module] = nn.Sigmoid) -> Any:
    """From a seed to a network that takes images."""
    return lambda seed: nn.Sequential(nn.Flatten(), *mlp(*sizes, seed=seed, activation=activation))


def convnet(seed: int) -> nn.Module:
    """Two convolutions with strides and ReLUs, and a linear layer: 7 018 weights."""
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 6 * 6, 10),
        )


HOME = "784-20-10"
SETTINGS: dict[str, tuple[Any, int]] = {  # the network, and for how many steps it is trained
    HOME: (perceptron(784, 20, 10), 100),
    "784-20-10, 200 steps": (perceptron(784, 20, 10), 200),
    "40 units": (perceptron(784, 40, 10), 100),
    "two layers of 20": (perceptron(784, 20, 20, 10), 100),
    "ReLU": (perceptron(784, 20, 10, activation=nn.ReLU), 100),
    "convolutional": (convnet, 100),
}


def about() -> dict[str, Any]:
    """The words of the record."""
    return {
        "title": "Learned optimizer: small networks on MNIST",
        "config": {
            "trained on": "784-20-10, sigmoid, minibatches of 128 of 30 000 training images",
            "rule": "LSTM, 2 layers of 20, preprocessing with p = 10, output scale 0.1",
            "steps": STEPS,
            "gradient": "first order, then the full one",
            "steps unrolled at once": 20,
            "weights w_t": "1, then 3 (t / T)^2",
            "episodes": "160 of one network, then 150 of four",
            "meta-optimizer": "Adam; rates 0.01, then 0.001, each falling to a 20th (cosine); "
            "clip 10, then 1",
            "chosen on": "networks trained on the other 30 000 training images, by the loss at the "
            "end: the rule every 10 episodes, and for each kind of network the rates of the "
            "hand-made rules",
        },
        "protocol": "Networks from new initial weights, trained on minibatches of 128 of the "
        "10 000 test images, the same weights and minibatches for all rules; the loss on all "
        "10 000 after the last step, with the 95 % interval over networks. This is a training "
        "loss: what an optimizer is asked for. The hand-made rules have the rate with the lowest "
        "such loss on 5 validation networks of the same kind; the learned rule is the same "
        "throughout, trained on 784-20-10 alone.",
        "curve_label": "minus the loss at the end, 10 validation networks",
    }


def jobs(seeds: Sequence[int]) -> list[Job]:
    """In each setting a job a hand-made rule, and then, a job a seed for the learned one."""
    made = []
    for setting, (_, steps) in SETTINGS.items():
        judging = {"setting": setting, "steps": steps, "networks": _test_networks(setting)}
        tuning = [TUNING_NETWORKS, TUNING_IMAGES]
        for name, (_, rates) in HAND_MADE.items():
            work = partial(_hand_made, name)
            rows, chosen = f"{name}, rate", {"rates": rates, "tuning": tuning}
            made.append(Job(name, None, rows, work, judging={**judging, **chosen}, setting=setting))
        for seed in seeds:
            training = {"phases": PHASES, "steps": STEPS, "validation": VALIDATION_NETWORKS}
            trained = [f"learned, {phase}" for phase in PHASES]
            made.append(
                Job("learned", seed, "learned", _learned, training, judging, setting, trained)
            )
    return made


def mnist(part: str) -> Batch:
    """Images for training the rule (30 000), for validation (the other 30 000), or for the test."""
    images = digits("mnist", "test" if part == "test" else "train")
    half = {"train": slice(30_000), "validation": slice(30_000, None), "test": slice(None)}[part]
    return Batch(images.x[half], images.y[half])


def rising(power: int, steps: int = STEPS) -> Tensor:
    """Weights w_t that grow with t to some power, and sum to about T."""
    return (power + 1) * (torch.arange(1, steps + 1) / steps) ** power


def train_on_mnist(session: Session) -> LSTMRule:
    """A rule trained on 784-20-10, phase by phase; of each, the best of its validations is kept."""
    seed = session.seed
    rule, best = LSTMRule(seed=seed), -math.inf
    good = rule.state_dict()
    make = SETTINGS[HOME][0]
    validation = networks(make, mnist("validation"), seed=1_000_000)
    images = Batch(*(t[:TUNING_IMAGES] for t in mnist("validation")))

    def validate(learner: LearningToOptimize) -> float:
        _, theta = trajectory(learner.rule, validation.restarted()(VALIDATION_NETWORKS))
        return -float(end_loss(validation, theta, images).mean())

    for number, (name, phase) in enumerate(PHASES.items()):
        train_rule(
            session,
            f"learned, {name}",
            LearningToOptimize(
                rule, STEPS, weights=rising(phase.power), first_order=phase.first_order
            ),
            networks(make, mnist("train"), seed=1000 * seed + number),
            phase.episodes,
            phase.tasks,
            phase.lr,
            validate,
            clip=phase.clip,
            every=10,
        )
        if (score := validate(LearningToOptimize(rule, STEPS))) > best:
            best, good = score, copy.deepcopy(rule.state_dict())
    rule.load_state_dict(good)
    return rule


@torch.no_grad()
def end_loss(sampler: NetworkSampler, theta: Theta, images: Batch) -> Tensor:
    """The loss on images at the end of each trajectory, `[functions]`."""
    x = images.x.float() / 255
    return torch.stack(
        [
            sampler.function({name: t[n] for name, t in theta.items()}, x, images.y)
            for n in range(len(next(iter(theta.values()))))
        ]
    )


def _test_networks(setting: str) -> int:
    return TEST_NETWORKS_AT_HOME if setting == HOME else TEST_NETWORKS


def ends(setting: str, rule: UpdateRule) -> tuple[Tensor, Tensor]:
    """A rule on a setting's test networks: their losses at the end, and the mean curve."""
    make, steps = SETTINGS[setting]
    test = networks(make, mnist("test"), seed=3_000_000)
    losses, theta = trajectory(rule, test(_test_networks(setting)), steps)
    return end_loss(test, theta, mnist("test")), losses.mean(0)


@cache
def hand_made_ends(setting: str, name: str, lr: float) -> tuple[Tensor, Tensor]:
    """The same of a hand-made rule."""
    return ends(setting, HAND_MADE[name][0](lr))


def recorded_rate(session: Session, name: str, setting: str) -> float | None:
    """The rate of a hand-made rule in the record."""
    for row in session.recorder.read()["rows"]:
        if row.get("setting") == setting and row["name"].startswith(f"{name}, rate "):
            return float(row["name"].rpartition(" ")[2])
    return None


def best_rate(session: Session, name: str, setting: str) -> float:
    """The rate of a hand-made rule, tuned; the search starts at that of the setting before."""
    make, steps = SETTINGS[setting]
    before, around = list(SETTINGS)[: list(SETTINGS).index(setting)], None
    if before:
        around = recorded_rate(session, name, before[-1]) or best_rate(session, name, before[-1])
    validation = networks(make, mnist("validation"), seed=2_000_000)
    images = Batch(*(t[:TUNING_IMAGES] for t in mnist("validation")))

    def goodness(rule: UpdateRule) -> float:
        _, theta = trajectory(rule, validation.restarted()(TUNING_NETWORKS), steps)
        return float(end_loss(validation, theta, images).mean())

    return tuned(name, goodness, around)


def _hand_made(name: str, session: Session) -> None:
    setting = str(session.job.setting)
    lr = best_rate(session, name, setting)
    losses, curve = hand_made_ends(setting, name, lr)
    session.score(f"{name}, rate {lr:g}", Score(losses, "loss", False))
    session.curve(f"{name}, rate {lr:g}", curve.tolist())


def _learned(session: Session) -> None:
    setting = str(session.job.setting)
    rule = train_on_mnist(session)
    if session.seed == 0:
        with replacing(session.recorder.folder / "learned_optimizer.pt") as file:
            torch.save(rule.state_dict(), file)
    losses, curve = ends(setting, rule)
    session.score("learned", Score(losses, "loss", False))
    session.curve("learned", curve.tolist())
    others = {}
    for name in HAND_MADE:
        lr = recorded_rate(session, name, setting) or best_rate(session, name, setting)
        others[f"{name}, rate {lr:g}"] = hand_made_ends(setting, name, lr)[0]
    name = min(others, key=lambda name: float(others[name].mean()))
    difference = Score(losses - others[name], "loss", False)
    session.score(f"learned minus {name}, network by network", difference)


RUN = LongRun(
    "learned_optimizer",
    "an LSTM optimizer beside hand-made rules, on small networks and MNIST",
    about,
    jobs,
    (0,),
)
