"""What each mode of `metanotes.hypergradient` costs, as the steps T or the hyperparameters grow.

Logistic regression with 100 000 parameters. The chapter draws the record that this makes:

    python -m benchmarks --only ^hypergradient_cost/ --threads 1 \
        --record results/hypergradients/cost.json
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Curve, Step, Workload
from metanotes import hypergradient

MODES: dict[str, dict[str, Any]] = {
    "reverse": {"method": "reverse"},
    "reverse, checkpoint": {"method": "reverse", "checkpoint": True},
    "truncated, last 10": {"method": "truncated", "last": 10},
    "forward": {"method": "forward"},
    "conjugate gradients": {"method": "cg", "tolerance": 1e-3},
    "Neumann, 20 terms": {"method": "neumann", "iterations": 20},
}
STEPS = (10, 20, 50, 100, 200)
HYPERPARAMETERS = (1, 2, 5, 10, 20, 50)


class Problem(NamedTuple):
    """What `hypergradient` takes by place."""

    outer: Callable[[Tensor, Tensor], Tensor]
    inner: Callable[[Tensor, Tensor], Tensor]
    w0: Tensor
    hyper: Tensor


def problem(
    groups: int,
    features: int,
    classes: int,
    examples: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Problem:
    """Logistic regression with a penalty for each group of features."""
    g = torch.Generator().manual_seed(0)
    x, xv = (torch.randn(2, examples, features, generator=g) / features**0.5).to(device, dtype)
    y, yv = torch.randint(classes, (2, examples), generator=g).to(device)
    group = torch.arange(features, device=device) % groups

    def inner(w: Tensor, hyper: Tensor) -> Tensor:
        penalty = hyper.exp()[group] @ w.square().sum(1)
        return F.cross_entropy(x @ w, y) + 0.5 * penalty

    def outer(w: Tensor, hyper: Tensor) -> Tensor:
        return F.cross_entropy(xv @ w, yv)

    return Problem(outer, inner, x.new_zeros(features, classes), x.new_full((groups,), -4.0))


def cost(
    groups: int, steps: int, features: int = 1000, classes: int = 100, examples: int = 50
) -> Workload:
    """One hypergradient in every mode."""

    def mode(settings: dict[str, Any]) -> Callable[[Problem], Step]:
        def contender(work: Problem) -> Step:
            return lambda: [hypergradient(*work, steps=steps, lr=1.0, **settings).gradient]

        return contender

    def work(dtype: torch.dtype, device: torch.device) -> Problem:
        return problem(groups, features, classes, examples, dtype, device)

    contenders = {name: mode(settings) for name, settings in MODES.items()}
    name = f"hypergradient of {groups} hyperparameters, {steps} steps"
    return Workload(name, work, contenders, reference="", ours="reverse")


def curves() -> Iterator[Curve]:
    """Ten hyperparameters as T grows, and 50 steps as they grow."""
    yield Curve("cost with steps", "steps", STEPS, lambda T: cost(10, T), "curves")
    yield Curve(
        "cost with hyperparameters",
        "hyperparameters",
        HYPERPARAMETERS,
        lambda groups: cost(groups, 50),
        "curves",
    )
