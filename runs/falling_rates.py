"""A learned optimizer beside hand-made rules whose rates fall: they know the horizon, as it does.

    u_t = c(t / T) rule(g_t)_t,      c(p) = 1 - p,  (1 + cos pi p) / 2,  1 / (1 + 10 p)

The rule that was learned on runs of T steps may make its steps smaller towards the end. Here the
rivals may, too. The networks are new: those of `learned_optimizer` were looked at before. So were
those of the first setting here, while the rates were chosen; the others are looked at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from metanotes.data import networks
from metanotes.evaluation import Score
from metanotes.methods.optimizers import LSTMRule, trajectory
from metanotes.task import Batch
from metanotes.update_rules import Adam, Momentum, State, Theta, UpdateRule
from runs import learned_optimizer as base
from runs.hand_made import tuned
from runs.jobs import Job, LongRun, Session

DECAY = 0.01  # of AdamW
# A step in a list is a factor of the root of 2 or so: with twice that, no rival is at its best.
RATES = {
    "Nesterov": [0.2, 0.28, 0.4, 0.56, 0.8, 1.1, 1.6, 2.2, 3.2, 4.5, 6.4],
    "Adam": [0.007, 0.01, 0.014, 0.02, 0.028, 0.04, 0.056, 0.08, 0.11, 0.16, 0.22],
}
FROM = {"Nesterov": 1.1, "Adam": 0.04}  # the search goes downhill from here
HOME = base.HOME
SETTINGS = {  # the setting of `learned_optimizer`, and the seed of its test networks
    HOME: (HOME, 5_000_000),
    f"{HOME}, new networks": (HOME, 6_000_000),
    f"{HOME}, 200 steps": (f"{HOME}, 200 steps", 7_000_000),
}
NETWORKS = 30


class Falling(UpdateRule):
    """A rule whose steps are multiplied by a factor that falls along a run of known length.

    Args:
        rule: any.
        factor: of the part p of the run that is over, in [0, 1).
        steps: T.
    """

    def __init__(self, rule: UpdateRule, factor: Callable[[Tensor], Tensor], steps: int) -> None:
        super().__init__()
        self.rule, self.factor, self.steps = rule, factor, steps

    def init(self, theta: Theta) -> State:
        time = {"t": next(iter(theta.values())).new_zeros(())}
        return time, *self.rule.init(theta)

    def forward(self, grads: Theta, state: State) -> tuple[Theta, State]:
        time, *inner = state
        updates, after = self.rule(grads, tuple(inner))
        factor = self.factor(time["t"] / self.steps)
        return {name: factor * u for name, u in updates.items()}, ({"t": time["t"] + 1}, *after)


class AdamW(UpdateRule):
    """Adam with decoupled weight decay: u_t = adam(g_t) - lr DECAY theta_t; it keeps theta."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.adam = Adam(lr)

    def init(self, theta: Theta) -> State:
        return dict(theta), *self.adam.init(theta)

    def forward(self, grads: Theta, state: State) -> tuple[Theta, State]:
        theta, *moments = state
        updates, after = self.adam(grads, tuple(moments))
        shrink = self.adam.lr * DECAY
        updates = {name: u - shrink * theta[name] for name, u in updates.items()}
        return updates, ({name: theta[name] + u for name, u in updates.items()}, *after)


FACTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda p: 1 - p,
    "cosine": lambda p: (1 + torch.cos(math.pi * p)) / 2,
    "1/t": lambda p: 1 / (1 + 10 * p),
}


def rivals(steps: int) -> dict[str, Callable[[float], UpdateRule]]:
    """Name -> what makes a rule of a rate, for runs of so many steps."""
    makers: dict[str, Callable[[float], UpdateRule]] = {
        "Nesterov": lambda lr: Momentum(lr, nesterov=True),
        "Adam": lambda lr: Adam(lr),
    }
    for name, make in list(makers.items()):
        for kind, factor in FACTORS.items():
            makers[f"{name}, {kind}"] = partial(_falling, make, factor, steps)
    return makers | {"AdamW": lambda lr: AdamW(lr)}


def _falling(
    make: Callable[[float], UpdateRule], factor: Callable[[Tensor], Tensor], steps: int, lr: float
) -> UpdateRule:
    return Falling(make(lr), factor, steps)


def about() -> dict[str, Any]:
    """The words of the record."""
    return {
        "title": "Learned optimizer beside falling rates: small networks on MNIST",
        "config": {
            "learned": "the rules of `learned_optimizer`, trained on 784-20-10 and 100 steps; that "
            "of seed 0 is the file of its record",
            "hand-made": f"with one of the rates {RATES}, constant or times a factor: 1 - p "
            "(linear), (1 + cos pi p) / 2 (cosine), 1 / (1 + 10 p) (1/t), where p is the part of "
            f"the run that is over; AdamW decays by {DECAY} times the rate",
            "chosen on": f"{base.TUNING_NETWORKS} networks trained on the validation images, by "
            "the loss at the end",
        },
        "protocol": f"{NETWORKS} networks from new initial weights, which no other record has, "
        "trained on minibatches of 128 of the 10 000 test images, the same for all rules; the loss "
        "on all 10 000 after the last step, with the 95 % interval over networks. A coarser list "
        f"of rates was tried first, and judged on the networks of {HOME!r}: it put the learned "
        "rule ahead. The list was made finer after that look, so that those networks are not "
        "untouched, and they judge one learned rule. The networks of the other settings were "
        "drawn after it, and no rate and no rule was chosen by them.",
        "published": [],
        "curve_label": "minus the loss at the end, 10 validation networks",
    }


def jobs(seeds: Sequence[int]) -> list[Job]:
    """In each setting a job a rival, and then, a job a seed for the learned rule."""
    made = []
    for setting, (_, test_seed) in SETTINGS.items():
        judging = {"setting": setting, "networks": NETWORKS, "seed": test_seed}
        tuning = {"rates": RATES, "tuning": [base.TUNING_NETWORKS, base.TUNING_IMAGES]}
        for name in rivals(1):
            rows = f"{name}, rate"
            work = partial(_rival, name)
            made.append(Job(name, None, rows, work, judging=judging | tuning, setting=setting))
        for seed in seeds:
            if setting == HOME and seed:
                continue  # one rule on the networks that had been looked at
            training = {"phases": base.PHASES, "steps": base.STEPS}
            trained = [f"learned, {phase}" for phase in base.PHASES]
            made.append(
                Job("learned", seed, "learned", _learned, training, judging, setting, trained)
            )
    return made


def ends(setting: str, rule: UpdateRule) -> tuple[Tensor, Tensor]:
    """A rule on the new networks: their losses at the end, and the mean curve."""
    kind, test_seed = SETTINGS[setting]
    make, steps = base.SETTINGS[kind]
    test = networks(make, base.mnist("test"), seed=test_seed)
    losses, theta = trajectory(rule, test(NETWORKS), steps)
    return base.end_loss(test, theta, base.mnist("test")), losses.mean(0)


@cache
def chosen_rate(kind: str, name: str) -> float:
    """The rate of a rival, chosen on validation networks of a setting of `learned_optimizer`."""
    make, steps = base.SETTINGS[kind]
    validation = networks(make, base.mnist("validation"), seed=2_000_000)
    images = Batch(*(t[: base.TUNING_IMAGES] for t in base.mnist("validation")))

    def goodness(rule: UpdateRule) -> float:
        _, theta = trajectory(rule, validation.restarted()(base.TUNING_NETWORKS), steps)
        return float(base.end_loss(validation, theta, images).mean())

    rule = "Nesterov" if name.startswith("Nesterov") else "Adam"
    return tuned(name, goodness, FROM[rule], RATES[rule], rivals(steps)[name])


@cache
def rival(setting: str, name: str) -> tuple[float, Tensor, Tensor]:
    """The rate of a rival, and its `ends`."""
    kind, _ = SETTINGS[setting]
    lr = chosen_rate(kind, name)
    return lr, *ends(setting, rivals(base.SETTINGS[kind][1])[name](lr))


def _rival(name: str, session: Session) -> None:
    lr, losses, curve = rival(str(session.job.setting), name)
    session.score(f"{name}, rate {lr:g}", Score(losses, "loss", False))
    session.curve(f"{name}, rate {lr:g}", curve.tolist())


def _learned(session: Session) -> None:
    setting = str(session.job.setting)
    file = session.recorder.folder / "learned_optimizer.pt"
    if session.seed == 0 and file.exists():
        rule = LSTMRule()
        rule.load_state_dict(torch.load(file, weights_only=True))
    else:
        rule = base.train_on_mnist(session)
    losses, curve = ends(setting, rule)
    session.score("learned", Score(losses, "loss", False))
    session.curve("learned", curve.tolist())
    for name in rivals(1):
        _, theirs, _ = rival(setting, name)
        session.score(f"learned minus {name}", Score(losses - theirs, "loss", False))


RUN = LongRun(
    "falling_rates",
    "an LSTM optimizer beside hand-made rules whose rates fall, on small networks and MNIST",
    about,
    jobs,
)
