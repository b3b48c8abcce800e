"""Learned optimizers: random quadratics, and the training of small networks on MNIST."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metanotes.data import digits, networks, quadratics
from metanotes.data.functions import NetworkSampler
from metanotes.evaluation import Score
from metanotes.methods.optimizers import LearningToOptimize, LSTMRule, trajectory
from metanotes.nets import mlp
from metanotes.task import Batch
from metanotes.training import History, meta_train
from metanotes.update_rules import SGD, Adam, Momentum, RMSprop, Theta, UpdateRule
from runs.record import RESULTS, Record, Stopwatch

# The hand-made rules, and the rates that each is tried with. A best one at an end of its list
# would ask for a longer list: `tuned` refuses it.
HAND_MADE: dict[str, tuple[Callable[[float], UpdateRule], list[float]]] = {
    "SGD": (lambda lr: SGD(lr), [0.003, 0.01, 0.03, 0.1, 0.3, 1, 2, 3, 6, 10]),
    "momentum": (lambda lr: Momentum(lr), [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 1, 2, 3]),
    "Nesterov": (
        lambda lr: Momentum(lr, nesterov=True),
        [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 1, 2, 3],
    ),
    "RMSprop": (lambda lr: RMSprop(lr), [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]),
    "Adam": (lambda lr: Adam(lr), [0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1]),
}


# Finer ones for the quadratics, where a rule that is a little too fast diverges.
FINER = {
    "SGD": [0.01, 0.012, 0.014, 0.016, 0.018, 0.02],
    "momentum": [0.015, 0.02, 0.0225, 0.025, 0.0275, 0.03, 0.035],
    "Nesterov": [0.006, 0.008, 0.009, 0.01, 0.011, 0.012, 0.014],
    "RMSprop": [0.01, 0.02, 0.025, 0.03, 0.035, 0.04, 0.05],
    "Adam": [0.1, 0.15, 0.175, 0.2, 0.225, 0.25, 0.3],
}


def tuned(
    name: str,
    goodness: Callable[[UpdateRule], float],
    around: float | None = None,
    rates: list[float] | None = None,
) -> float:
    """The rate of a hand-made rule with the lowest value on validation functions.

    Args:
        name: of `HAND_MADE`.
        goodness: of a rule, the lower the better; NaN counts as infinite.
        around: try this rate and its two neighbours first, and go on downhill; default: try all.
        rates: other ones than those of `HAND_MADE`.
    """
    make, rates = HAND_MADE[name][0], rates or HAND_MADE[name][1]
    values: dict[int, float] = {}

    def value(n: int) -> float:
        if not 0 <= n < len(rates):
            return math.inf
        if n not in values:
            found = goodness(make(rates[n]))
            values[n] = found if math.isfinite(found) else math.inf
        return values[n]

    tried = range(len(rates)) if around is None else [rates.index(around)]
    best = min(tried, key=value)
    while (n := min((best - 1, best, best + 1), key=value)) != best:
        best = n
    if best in (0, len(rates) - 1):
        raise ValueError(f"the best rate of {name} is {rates[best]}, at the end of {rates}")
    return rates[best]


def cosine(learner: nn.Module, lr: float, episodes: int) -> dict[str, Any]:
    """Adam and a rate that falls to a twentieth, as arguments of `meta_train`."""
    adam = torch.optim.Adam(learner.parameters(), lr=lr)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, episodes, lr / 20)
    return {"optimizer": adam, "scheduler": fall}


# ------------------------------------------------------------------------------------ quadratics


def train_on_quadratics(seed: int, folder: Path) -> dict[str, LSTMRule]:
    """Rules without preprocessing: after first-order training, and after some of the full kind.

    Each is the best of its validations.
    """
    rules: dict[str, LSTMRule] = {}
    rule = LSTMRule(preprocess=None, seed=seed)
    validation = quadratics(seed=1_000_000)

    def validate(learner: LearningToOptimize) -> float:
        return -float(summed(trajectory(learner.rule, validation.restarted()(500))[0]).mean())

    for kind, first_order, episodes, lr in (
        ("first-order gradient", True, 400, 5e-3),
        ("full gradient at the end", False, 100, 2e-3),
    ):
        learner = LearningToOptimize(rule, first_order=first_order)
        meta_train(
            learner,
            quadratics(seed=seed if first_order else seed + 1000),
            episodes,
            tasks=64,
            **cosine(learner, lr, episodes),
            clip=10.0,
            validate=validate,
            validate_every=20,
            checkpoint=folder / (f"{seed}.pt" if first_order else f"{seed}-full.pt"),
            checkpoint_every=20,
        )
        rules[kind] = copy.deepcopy(rule)
    return rules


def summed(losses: Tensor) -> Tensor:
    """f(theta_1) + ... + f(theta_T), `[functions]`, of a trajectory."""
    return losses[:, 1:].sum(1)


def on_quadratics() -> None:
    """Three rules, and the hand-made ones, on 1 000 random quadratics of 10 dimensions."""
    seeds = [0, 1, 2]
    record = Record(
        "learned_optimizer_quadratics",
        title="Learned optimizer: random quadratics",
        config={
            "functions": "||W theta - y||^2, 10 dimensions, W and y standard normal, theta_0 = 0",
            "rule": "LSTM, 2 layers of 20, no preprocessing, output scale 0.1",
            "steps": 100,
            "steps unrolled at once": 20,
            "weights w_t": 1,
            "episodes": "400 with first-order gradients, then 100 with full ones",
            "functions of an episode": 64,
            "meta-optimizer": "Adam, rate 0.005 falling to 0.00025 (cosine), then 0.002 falling to "
            "0.0001; clip 10",
            "chosen on": "500 validation functions every 20 episodes; rates of the hand-made "
            "rules on 5 000 validation functions",
        },
        protocol="1 000 test functions, the same for all; the sum of the losses after steps 1 to "
        "100, and the loss after step 100, with the 95 % interval over functions. The rates of the "
        "hand-made rules are those with the lowest sum on validation functions.",
        seeds=seeds,
        published=[],
    )
    curves = record.content["curves"] = {}
    validation, test = quadratics(seed=2_000_000), quadratics(seed=3_000_000)

    def judge(name: str, rule: UpdateRule, seed: int | None) -> None:
        losses, _ = trajectory(rule, test.restarted()(1000))
        record.add(f"{name}: sum", Score(summed(losses), "loss", False), seed)
        record.add(f"{name}: step 100", Score(losses[:, -1], "loss", False), seed)
        curves[name if seed is None else f"{name}, seed {seed}"] = rounded(losses.mean(0))

    def goodness(rule: UpdateRule) -> float:
        return float(summed(trajectory(rule, validation.restarted()(5000))[0]).mean())

    for name in HAND_MADE:
        lr = tuned(name, goodness, rates=FINER[name])
        judge(f"{name}, rate {lr:g}", HAND_MADE[name][0](lr), None)
    for seed in seeds:
        watch = Stopwatch(record.runs / f"{seed}.seconds")
        rules = train_on_quadratics(seed, record.runs)
        watch.note()
        record.content["wall_seconds"].append(round(watch.seconds()))
        for kind, rule in rules.items():
            judge(f"learned, {kind}", rule, seed)
        record.write()


def rounded(losses: Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in losses.tolist()]


# ----------------------------------------------------------------------------------------- MNIST


def perceptron(*sizes: int, activation: Callable[[], nn.Module] = nn.Sigmoid) -> Any:
    """From a seed to a network that takes images."""
    return lambda seed: nn.Sequential(nn.Flatten(), *mlp(*sizes, seed=seed, activation=activation))


def convnet(seed: int) -> nn.Module:
    """Two convolutions with strides and ReLUs, and a linear layer: 7 018 weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 6 * 6, 10),
        )


def mnist(part: str, size: int = 28) -> Batch:
    """Images for training the rule (30 000), for validation (the other 30 000), or for the test."""
    images = digits("mnist", "test" if part == "test" else "train", size=size)
    half = {"train": slice(30_000), "validation": slice(30_000, None), "test": slice(None)}[part]
    return Batch(images.x[half], images.y[half])


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


def rising(power: int, steps: int = 100) -> Tensor:
    """Weights w_t that grow with t to some power, and sum to about T."""
    return (power + 1) * (torch.arange(1, steps + 1) / steps) ** power


def train_on_mnist(folder: Path) -> tuple[LSTMRule, list[History]]:
    """A rule trained on 784-20-10, phase by phase; of each, the best of its validations is kept."""
    rule, best = LSTMRule(seed=0), -math.inf
    histories: list[History] = []
    good = rule.state_dict()
    make = perceptron(784, 20, 10)
    validation = networks(make, mnist("validation"), seed=1_000_000)
    images = Batch(*(t[:5000] for t in mnist("validation")))

    def validate(learner: LearningToOptimize) -> float:
        _, theta = trajectory(learner.rule, validation.restarted()(10))
        return -float(end_loss(validation, theta, images).mean())

    for name, phase in PHASES.items():
        learner = LearningToOptimize(
            rule, 100, weights=rising(phase.power), first_order=phase.first_order
        )
        histories.append(
            meta_train(
                learner,
                networks(make, mnist("train"), seed=len(histories)),
                phase.episodes,
                phase.tasks,
                **cosine(learner, phase.lr, phase.episodes),
                clip=phase.clip,
                validate=validate,
                validate_every=10,
                checkpoint=folder / f"{name}.pt",
                checkpoint_every=10,
            )
        )
        if (score := validate(learner)) > best:
            best, good = score, copy.deepcopy(rule.state_dict())
    rule.load_state_dict(good)
    return rule, histories


SETTINGS: dict[str, tuple[Any, int]] = {  # the network, and for how many steps it is trained
    "784-20-10": (perceptron(784, 20, 10), 100),
    "784-20-10, 200 steps": (perceptron(784, 20, 10), 200),
    "40 units": (perceptron(784, 40, 10), 100),
    "two layers of 20": (perceptron(784, 20, 20, 10), 100),
    "ReLU": (perceptron(784, 20, 10, activation=nn.ReLU), 100),
    "convolutional": (convnet, 100),
}


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


def on_mnist() -> None:
    """A rule trained on 784-20-10 beside hand-made ones, there and on other networks."""
    record = Record(
        "learned_optimizer",
        title="Learned optimizer: small networks on MNIST",
        config={
            "trained on": "784-20-10, sigmoid, minibatches of 128 of 30 000 training images",
            "rule": "LSTM, 2 layers of 20, preprocessing with p = 10, output scale 0.1",
            "steps": 100,
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
        protocol="Networks from new initial weights, trained on minibatches of 128 of "
        "the 10 000 test images, the same weights and minibatches for all rules; the loss on all "
        "10 000 after the last step, with the 95 % interval over networks. This is a training "
        "loss: what an optimizer is asked for. The hand-made rules have the rate with the lowest "
        "such loss on 5 validation networks of the same kind; the learned rule is the same "
        "throughout, trained on 784-20-10 alone.",
        seeds=[0],
        published=[],
    )
    curves: dict[str, Any] = {}
    record.content["curves"] = curves
    watch = Stopwatch(record.runs / "seconds")
    rule, _ = train_on_mnist(record.runs)
    watch.note()
    record.content["wall_seconds"].append(round(watch.seconds()))
    torch.save(rule.state_dict(), RESULTS / "learned_optimizer.pt")
    best: dict[str, float] = {}
    for setting, (make, steps) in SETTINGS.items():
        validation = networks(make, mnist("validation"), seed=2_000_000)
        test = networks(make, mnist("test"), seed=3_000_000)
        some = Batch(*(t[:5000] for t in mnist("validation")))

        def goodness(
            rule: UpdateRule,
            sampler: NetworkSampler = validation,
            images: Batch = some,
            steps: int = steps,
        ) -> float:
            _, theta = trajectory(rule, sampler.restarted()(5), steps)
            return float(end_loss(sampler, theta, images).mean())

        rules: dict[str, UpdateRule] = {"learned": rule}
        for name, (rule_of, _) in HAND_MADE.items():
            best[name] = tuned(name, goodness, around=best.get(name))
            rules[f"{name}, rate {best[name]:g}"] = rule_of(best[name])
        curves[setting] = {}
        ends = {}
        functions = 30 if setting == "784-20-10" else 10
        for name, one in rules.items():
            losses, theta = trajectory(one, test.restarted()(functions), steps)
            ends[name] = end_loss(test, theta, mnist("test"))
            record.add(f"{setting}: {name}", Score(ends[name], "loss", False), 0)
            curves[setting][name] = rounded(losses.mean(0))
        hand_made = {name: end for name, end in ends.items() if name != "learned"}
        name = min(hand_made, key=lambda name: float(hand_made[name].mean()))
        difference = Score(ends["learned"] - hand_made[name], "loss", False)
        record.add(f"{setting}: learned minus {name}, network by network", difference, 0)
        record.write()
