"""The hand-made update rules that a learned one stands beside, and how their rates are chosen."""

from __future__ import annotations

import math
from collections.abc import Callable

from metanotes.update_rules import SGD, Adam, Momentum, RMSprop, UpdateRule

# With the rates that each is tried with. A best one at an end of its list would ask for a longer
# list: `tuned` refuses it.
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


def tuned(
    name: str,
    goodness: Callable[[UpdateRule], float],
    around: float | None = None,
    rates: list[float] | None = None,
    make: Callable[[float], UpdateRule] | None = None,
) -> float:
    """The rate of a hand-made rule with the lowest value on validation functions.

    Args:
        name: of `HAND_MADE`.
        goodness: of a rule, the lower the better; NaN counts as infinite.
        around: try this rate and its two neighbours first, and go on downhill; default: try all.
        rates: other ones than those of `HAND_MADE`.
        make: of a rate, the rule; default: that of `HAND_MADE`, which need not have the name else.

    Raises:
        ValueError: the best rate is at an end of the list.
    """
    make, rates = make or HAND_MADE[name][0], rates or HAND_MADE[name][1]
    values: dict[int, float] = {}

    def value(n: int) -> float:
        if not 0 <= n < len(rates):
            return math.inf
        if n not in values:
            measured = goodness(make(rates[n]))
            values[n] = measured if math.isfinite(measured) else math.inf
        return values[n]

    tried = range(len(rates)) if around is None else [rates.index(around)]
    best = min(tried, key=value)
    while (n := min((best - 1, best, best + 1), key=value)) != best:
        best = n
    if best in (0, len(rates) - 1):
        raise ValueError(f"the best rate of {name} is {rates[best]}, at the end of {rates}")
    return rates[best]
