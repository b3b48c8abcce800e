"""A learned optimizer on the training of small networks on MNIST, beside hand-made rules."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metanotes._ground.randomness import seeded
from metanotes.data import digits, networks
from metanotes.data.functions import NetworkSampler
from metanotes.evaluation import Score
from metanotes.methods.optimizers import LearningToOptimize, LSTMRule, trajectory
from metanotes.nets import mlp
from metanotes.task import Batch
from metanotes.update_rules import Theta, UpdateRule
from runs.hand_made import DECAY, FACTORS, MAKERS, Grid, Make, falling, in_words, searched
from runs.jobs import Job, LongRun, Session
from runs.rule_training import train_rule

STEPS = 100  # of an episode
TUNING_NETWORKS, TUNING_IMAGES = 5, 5000  # a rival is chosen by the loss of so many on so many
VALIDATION_NETWORKS = 10
TEST_NETWORKS = 30
TEST_SEED = 8_000_000  # nothing here was chosen by them


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
LONGER = f"{HOME}, 200 steps"
SETTINGS: dict[str, tuple[Any, int]] = {  # the network, and for how many steps it is trained
    HOME: (perceptron(784, 20, 10), 100),
    LONGER: (perceptron(784, 20, 10), 200),
    "40 units": (perceptron(784, 40, 10), 100),
    "two layers of 20": (perceptron(784, 20, 20, 10), 100),
    "ReLU": (perceptron(784, 20, 10, activation=nn.ReLU), 100),
    "convolutional": (convnet, 100),
}


def rates(first: int, last: int) -> list[float]:
    """1, 1.4, 2, 2.8, 4, 5.6, 8 times 10^first, and so on up to 10^last."""
    steps = (1, 1.4, 2, 2.8, 4, 5.6, 8)
    return [*(float(f"{m}e{n}") for n in range(first, last) for m in steps), 10.0**last]


MOMENTA = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98]
GRIDS: dict[str, Grid] = {
    "SGD": {"rate": rates(-2, 1)},
    "momentum": {"rate": rates(-2, 1), "momentum": MOMENTA},
    "Nesterov": {"rate": rates(-2, 1), "momentum": MOMENTA},
    "RMSprop": {"rate": rates(-3, -1)},
    "Adam": {"rate": rates(-3, 0)},
    "AdamW": {"rate": rates(-3, 0)},
}
WITH_FALLING_RATES = ("Nesterov", "Adam")  # where the runs are HOME's, and twice as long


def rivals(setting: str) -> dict[str, tuple[Make, Grid]]:
    """Name -> what makes a hand-made rule of its settings, and what they are chosen from."""
    made = {name: (MAKERS[name], grid) for name, grid in GRIDS.items()}
    if setting in (HOME, LONGER):
        steps = SETTINGS[setting][1]
        for name, kind in product(WITH_FALLING_RATES, FACTORS):
            made[f"{name}, {kind}"] = falling(MAKERS[name], kind, steps), GRIDS[name]
    return made


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
            "hand-made": f"the best of {GRIDS}; on 784-20-10 also with a rate that falls: times "
            "1 - p (linear), (1 + cos pi p) / 2 (cosine), 1 / (1 + 10 p) (1/t), where p is the "
            f"part of the run that is over; AdamW decays by {DECAY} times the rate",
            "chosen on": "networks trained on the other 30 000 training images, by the loss at the "
            "end: the rule every 10 episodes, and for each kind of network the settings of the "
            f"hand-made rules, by {TUNING_NETWORKS} of them, from the middle of the grid downhill",
        },
        "protocol": f"{TEST_NETWORKS} networks from new initial weights, trained on minibatches of "
        "128 of the 10 000 test images, the same weights and minibatches for all rules; the loss "
        "on all 10 000 after the last step, with the 95 % interval over networks. This is a "
        "training loss: what an optimizer is asked for. The settings of a hand-made rule are "
        "chosen anew for each kind of network; the learned rules are the same throughout, trained "
        "on 784-20-10 and 100 steps. An earlier record, with a coarser list of rates and a fixed "
        "momentum, had put the learned rule ahead at home; these test networks were drawn after "
        "it. The list of momenta, which went down to 0.7, was continued to 0.4 when a best one "
        "stood at its end with 40 units; 784-20-10 had been judged by then, and what was chosen "
        "for it stayed what it was. The difference, network by network, is that from the hand-made "
        "rule with the lowest mean on these very networks, the hardest to beat.",
        "curve_label": "minus the loss at the end, 10 validation networks",
    }


def jobs(seeds: Sequence[int]) -> list[Job]:
    """In each setting a job a hand-made rule, and then, a job a seed for the learned one."""
    made = []
    for setting, (_, steps) in SETTINGS.items():
        judging = {"setting": setting, "steps": steps, "networks": [TEST_NETWORKS, TEST_SEED]}
        tuning = [TUNING_NETWORKS, TUNING_IMAGES]
        every = rivals(setting)
        for name, (_, grid) in every.items():
            rows, work = f"{name}, rate", partial(_hand_made, name)
            chosen = {"grid": grid, "tuning": tuning}
            made.append(Job(name, None, rows, work, judging={**judging, **chosen}, setting=setting))
        for seed in seeds:
            training = {"phases": PHASES, "steps": STEPS, "validation": VALIDATION_NETWORKS}
            trained = [f"learned, {phase}" for phase in PHASES]
            beside = {**judging, "rivals": {name: grid for name, (_, grid) in every.items()}}
            made.append(
                Job("learned", seed, "learned", _learned, training, beside, setting, trained)
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


def ends(setting: str, rule: UpdateRule) -> tuple[Tensor, Tensor]:
    """A rule on a setting's test networks: their losses at the end, and the mean curve."""
    make, steps = SETTINGS[setting]
    test = networks(make, mnist("test"), seed=TEST_SEED)
    losses, theta = trajectory(rule, test(TEST_NETWORKS), steps)
    return end_loss(test, theta, mnist("test")), losses.mean(0)


@cache
def rival_ends(setting: str, name: str) -> tuple[str, Tensor, Tensor]:
    """A hand-made rule with its settings in words, and its `ends`."""
    make, grid = rivals(setting)[name]
    settings = searched(name, make, grid, partial(_tuning_loss, setting))
    return in_words(name, settings), *ends(setting, make(*settings.values()))


def _tuning_loss(setting: str, rule: UpdateRule) -> float:
    make, steps = SETTINGS[setting]
    validation = networks(make, mnist("validation"), seed=2_000_000)
    images = Batch(*(t[:TUNING_IMAGES] for t in mnist("validation")))
    _, theta = trajectory(rule, validation(TUNING_NETWORKS), steps)
    return float(end_loss(validation, theta, images).mean())


def _hand_made(name: str, session: Session) -> None:
    words, losses, curve = rival_ends(str(session.job.setting), name)
    session.score(words, Score(losses, "loss", False))
    session.curve(words, curve.tolist())


def _learned(session: Session) -> None:
    setting = str(session.job.setting)
    losses, curve = ends(setting, train_on_mnist(session))
    session.score("learned", Score(losses, "loss", False))
    session.curve("learned", curve.tolist())
    others = [rival_ends(setting, name) for name in rivals(setting)]
    words, theirs, _ = min(others, key=lambda other: float(other[1].mean()))
    session.score(f"learned minus {words}", Score(losses - theirs, "loss", False))


RUN = LongRun(
    "learned_optimizer",
    "an LSTM optimizer beside hand-made rules, on small networks and MNIST",
    about,
    jobs,
)
