"""The rivals of a learned rule: as torch has them, and how they are chosen."""

import math
from itertools import product

import pytest
import torch

from metanotes import SGD, Momentum
from runs.hand_made import DECAY, FACTORS, MAKERS, falling, in_words, searched

STEPS = 6
SETTINGS = dict.fromkeys(MAKERS, (0.05,)) | dict.fromkeys(("momentum", "Nesterov"), (0.05, 0.8))
THEIRS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.05),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.8),
    "Nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.8, nesterov=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.05),
    "Adam": lambda p: torch.optim.Adam(p, 0.05),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=DECAY),
}
SCHEDULERS = {
    "constant": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1.0),
    "linear": lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, total_iters=STEPS),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS),
    "1/t": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + 10 * t / STEPS)),
}


FALLING = [*product(MAKERS.keys() - {"AdamW"}, FACTORS)]


@pytest.mark.parametrize(("name", "kind"), [*product(MAKERS, ["constant"]), *sorted(FALLING)])
def test_each_rival_is_torchs_optimizer_under_torchs_scheduler(name: str, kind: str) -> None:
    weights = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    scale = torch.tensor([0.5, 4.0, 1.5], dtype=torch.float64)
    p = torch.nn.Parameter(weights[0].clone())
    theirs = THEIRS[name]([p])
    scheduler = SCHEDULERS[kind](theirs)

    make = MAKERS[name] if kind == "constant" else falling(MAKERS[name], kind, STEPS)
    rule, theta = make(*SETTINGS[name]), {"w": weights}
    state = rule.init(theta)
    for _ in range(STEPS):
        updates, state = rule({"w": scale * theta["w"]}, state)
        theta = {"w": theta["w"] + updates["w"]}
        p.grad = scale * p.detach()
        theirs.step()
        scheduler.step()
    torch.testing.assert_close(theta["w"][0], p.detach(), rtol=1e-10, atol=0)


def test_a_rule_that_keeps_theta_does_not_fall():
    with pytest.raises(ValueError, match="not within Falling"):
        falling(MAKERS["AdamW"], "linear", STEPS)(0.1)


GRID = {"rate": [0.03, 0.1, 0.3, 1.0, 3.0, 10.0], "momentum": [0.5, 0.8, 0.9, 0.95]}


def bowl(best_rate: float, best_momentum: float, seen: list[tuple[float, float]]):
    """Worse the further from two settings; above a rate of 2 the loss is NaN."""

    def goodness(rule: Momentum) -> float:
        seen.append((rule.lr, rule.momentum))
        worse = abs(math.log(rule.lr / best_rate)) + 3 * abs(rule.momentum - best_momentum)
        return math.nan if rule.lr > 2 else worse

    return goodness


@pytest.mark.parametrize("best", [(0.1, 0.8), (1.0, 0.9), (0.3, 0.9)])
def test_the_best_point_of_a_grid_is_found(best):
    seen = []
    found = searched("momentum", Momentum, GRID, bowl(*best, seen))
    assert tuple(found.values()) == best
    assert list(found) == ["rate", "momentum"]
    assert len(seen) == len(set(seen))  # nothing is measured twice


@pytest.mark.parametrize(
    ("best", "at"), [((0.03, 0.8), "rate of momentum is 0.03"), ((0.3, 0.95), "momentum is 0.95")]
)
def test_a_best_setting_at_the_end_of_its_list_is_refused(best, at):
    with pytest.raises(ValueError, match=rf"the best .*{at}, at the end of"):
        searched("momentum", Momentum, GRID, bowl(*best, []))


def test_a_rule_that_always_diverges_is_refused():
    with pytest.raises(ValueError, match="SGD diverges with all of"):
        searched("SGD", SGD, {"rate": [1.0, 2.0, 3.0]}, lambda rule: math.nan)


def test_a_rule_is_named_with_its_settings():
    assert in_words("Nesterov", {"rate": 0.8, "momentum": 0.9}) == (
        "Nesterov, rate 0.8, momentum 0.9"
    )
