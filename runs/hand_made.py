"""The hand-made update rules that a learned one stands beside, and how their settings are chosen.

A rule that was learned on runs of T steps may make its steps smaller towards the end. Rivals may,
too: those whose rate falls know the horizon, as the learned rule does.

    u_t = c(t / T) rule(g_t)_t,      c(p) = 1 - p,  (1 + cos pi p) / 2,  1 / (1 + 10 p)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from metanotes.update_rules import SGD, Adam, Momentum, RMSprop, State, Theta, UpdateRule

DECAY = 0.01  # of AdamW

Make = Callable[..., UpdateRule]  # of a value for each setting of a grid, in its order
Grid = Mapping[str, Sequence[float]]  # the name of a setting -> its values, rising

FACTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda p: 1 - p,
    "cosine": lambda p: (1 + torch.cos(math.pi * p)) / 2,
    "1/t": lambda p: 1 / (1 + 10 * p),
}


class AdamW(UpdateRule):
    """Adam with decoupled weight decay: u_t = adam(g_t) - lr DECAY theta_t.

    It keeps theta, so its updates must be added as they are, not within `Falling`.
    """

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


class Falling(UpdateRule):
    """A rule whose steps are multiplied by a factor that falls along a run of known length.

    Args:
        rule: any but AdamW.
        factor: of the part p of the run that is over, in [0, 1).
        steps: T.
    """

    def __init__(self, rule: UpdateRule, factor: Callable[[Tensor], Tensor], steps: int) -> None:
        super().__init__()
        if isinstance(rule, AdamW):
            raise ValueError("AdamW keeps the theta that its own updates make: not within Falling")
        self.rule, self.factor, self.steps = rule, factor, steps

    def init(self, theta: Theta) -> State:
        time = {"t": next(iter(theta.values())).new_zeros(())}
        return time, *self.rule.init(theta)

    def forward(self, grads: Theta, state: State) -> tuple[Theta, State]:
        time, *inner = state
        updates, after = self.rule(grads, tuple(inner))
        factor = self.factor(time["t"] / self.steps)
        return {name: factor * u for name, u in updates.items()}, ({"t": time["t"] + 1}, *after)


MAKERS: dict[str, Make] = {
    "SGD": SGD,
    "momentum": Momentum,
    "Nesterov": lambda lr, momentum: Momentum(lr, momentum, nesterov=True),
    "RMSprop": RMSprop,
    "Adam": Adam,
    "AdamW": AdamW,
}


def falling(make: Make, kind: str, steps: int) -> Make:
    """Makes a rule whose rate falls, see `FACTORS`, in runs of so many steps."""
    return lambda *settings: Falling(make(*settings), FACTORS[kind], steps)


def searched(
    name: str, make: Make, grid: Grid, goodness: Callable[[UpdateRule], float]
) -> dict[str, float]:
    """The settings of a rule with the lowest value on validation functions.

    The search starts in the middle of the grid, and goes to the lowest neighbour until none is
    lower; a neighbour differs by at most one place in every setting.

    Args:
        name: of the rule, for the error.
        make: makes the rule.
        grid: what to choose from.
        goodness: of a rule, the lower the better; NaN counts as infinite.

    Raises:
        ValueError: a best value is at an end of its list, or every rule that was tried diverged.
    """
    lists = list(grid.values())
    values: dict[tuple[int, ...], float] = {}

    def value(at: tuple[int, ...]) -> float:
        if at not in values:
            measured = goodness(make(*(one[n] for one, n in zip(lists, at, strict=True))))
            values[at] = measured if math.isfinite(measured) else math.inf
        return values[at]

    def around(at: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        near = ((n - 1, n, n + 1) for n in at)
        for point in product(*near):
            if all(0 <= n < len(one) for one, n in zip(lists, point, strict=True)):
                yield point

    best: tuple[int, ...] = tuple(len(one) // 2 for one in lists)
    while value(lowest := min(around(best), key=value)) < value(best):
        best = lowest
    if math.isinf(value(best)):
        raise ValueError(f"{name} diverges with all of {grid} that were tried")
    for (setting, one), n in zip(grid.items(), best, strict=True):
        if n in (0, len(one) - 1):
            raise ValueError(f"the best {setting} of {name} is {one[n]}, at the end of {one}")
    return {setting: one[n] for (setting, one), n in zip(grid.items(), best, strict=True)}


def in_words(name: str, settings: Mapping[str, float]) -> str:
    """A rule with its settings: "Nesterov, rate 0.8, momentum 0.9"."""
    return ", ".join([name, *(f"{setting} {value:g}" for setting, value in settings.items())])
