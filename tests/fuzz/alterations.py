"""One change, drawn at random, of what the calls before it have seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from metanotes import Batch, Task
from tests.fuzz.draw import Draw
from tests.fuzz.losses import describe_loss, focal, log_cosh
from tests.fuzz.networks import KINKED, SMOOTH
from tests.fuzz.oddities import padding_word, without
from tests.fuzz.plain import Plain
from tests.fuzz.sides import Case, Change, names_of

ACTIVATIONS = tuple({type(make()) for make in SMOOTH + KINKED})


def draw_change(draw: Draw, case: Case) -> Change:
    """What is changed after three calls."""
    if case.refusable:
        return Change("nothing")
    kinds = ["tasks", "weights", "in place"]
    if padding_word(case.network) is not None:
        kinds += ["padding"] * 4
    if not case.options.get("record"):  # who records has promised to change nothing else
        kinds += ["mode", "mode", "activation", "activation", "loss"]
    if case.method != "Prototypes" and not case.options.get("record"):
        kinds += ["steps", "steps", "first order", "freeze"]
        kinds += ["lr", "lr", "lr"] * (case.rule.kind != "LearnedRates")
    return CHANGES[draw.choice(kinds)](draw, case)


def _mode(draw: Draw, case: Case) -> Change:
    mode = not case.training
    return Change("train" if mode else "eval", lambda side: side.train(mode))


def _other_tasks(draw: Draw, case: Case) -> Change:
    """More tasks, in another order; each with one example more, where that is the same problem."""
    n = case.tasks.support.y.shape[1]
    more = 0 if case.batch is not None or case.method == "Prototypes" else draw.integer(0, 1)
    rows = draw.labels(len(case.tasks.support.y), draw.integer(1, 5))
    picks = [*range(n), *([draw.integer(0, n - 1)] if more else [])]
    x, y = (t[rows][:, picks] for t in case.tasks.support)
    tasks = Task(Batch(x, y), Batch(*(t[rows] for t in case.tasks.query)))
    return Change(f"{len(rows)} tasks of {len(picks)}", None, tasks)


def _padding(draw: Draw, case: Case) -> Change:
    """Padding in every task, where there was none."""
    word = padding_word(case.network)
    assert word is not None
    case.tasks = without(word, case.tasks)
    padded = Task(*(Batch(b.x.clone(), b.y) for b in case.tasks))
    for batch in padded:
        batch.x[:, :, -1] = word
    return Change("padding in every task", None, padded)


def _steps(draw: Draw, case: Case) -> Change:
    steps = draw.choice([k for k in range(1, 4) if k != case.steps])
    kind = draw.choice([int, np.int64, np.int32])
    return Change(
        f"steps={kind.__name__}({steps})", lambda side: setattr(side, "steps", kind(steps))
    )


def _lr(draw: Draw, case: Case) -> Change:
    lr, kind = case.rule.lr * draw.real(0.3, 1.7), draw.choice([float, np.float64, np.float32])
    value = kind(lr)

    def apply(side: Any) -> None:
        side.rule.lr = float(value) if isinstance(side, Plain) else value

    return Change(f"lr={kind.__name__}({lr:.4g})", apply)


def _first_order(draw: Draw, case: Case) -> Change:
    if case.method == "Reptile":
        return _steps(draw, case)
    other = not case.first_order
    return Change(f"first_order={other}", lambda side: setattr(side, "first_order", other))


def _freeze(draw: Draw, case: Case) -> Change:
    names = [n for n, p in case.network.named_parameters() if p.requires_grad]
    adapts = names if case.adapts is None else case.adapts
    if case.method in ("ANIL", "HyperRepresentation"):
        adapts = names_of(case.network, case.network[-1])
    free = [n for n in names if n not in adapts or len(adapts) > 1]
    free = [n for n in free if case.method != "HyperRepresentation" or n not in adapts]
    if len(names) < 2 or not free:
        return _steps(draw, case)
    name = draw.choice(free)

    def apply(side: Any) -> None:
        side.model.get_parameter(name).requires_grad_(False)

    return Change(f"{name} frozen", apply)


def _weights(draw: Draw, case: Case) -> Change:
    name, p = draw.choice([*case.network.named_parameters()])
    if case.method == "HyperRepresentation" and name in names_of(case.network, case.network[-1]):
        name, p = next(iter(case.network.named_parameters()))
    value = (p.detach().double() + 0.2 * draw.normal(*p.shape)).to(case.dtype)

    def apply(side: Any) -> None:
        p = side.model.get_parameter(name)
        p.data = value.to(p.dtype).clone()

    return Change(f"data of {name} replaced", apply)


def _in_place(draw: Draw, case: Case) -> Change:
    def apply(side: Any) -> None:
        with torch.no_grad():
            for p in dict.fromkeys(side.model.parameters()):
                p.mul_(0.75)

    return Change("all weights times 3/4", apply)


def _activation(draw: Draw, case: Case) -> Change:
    modules = [n for n, m in case.network.named_modules() if isinstance(m, ACTIVATIONS)]
    modules = [n for n in modules if not list(case.network.get_submodule(n).parameters())]
    if not modules:
        return _mode(draw, case)
    name, new = draw.choice(modules), draw.choice([nn.Tanh, nn.Softsign, nn.ReLU, nn.Sigmoid])

    def apply(side: Any) -> None:
        parent, _, key = name.rpartition(".")
        setattr(side.model.get_submodule(parent), key, new())

    return Change(f"{name} is {new.__name__}", apply)


def _loss(draw: Draw, case: Case) -> Change:
    if case.tasks.support.y.is_floating_point():
        new: Any = draw.choice([log_cosh, F.smooth_l1_loss, nn.MSELoss()])
    else:
        new = draw.choice([focal, partial(F.cross_entropy, label_smoothing=0.3)])
    return Change(f"loss {describe_loss(new)}", lambda side: _set_loss(side, new))


def _set_loss(side: Any, new: Any) -> None:
    if isinstance(side.loss, nn.Module) and not isinstance(new, nn.Module):
        del side.loss
    side.loss = new


CHANGES: dict[str, Callable[[Draw, Case], Change]] = {
    "mode": _mode,
    "tasks": _other_tasks,
    "padding": _padding,
    "steps": _steps,
    "lr": _lr,
    "first order": _first_order,
    "freeze": _freeze,
    "weights": _weights,
    "in place": _in_place,
    "activation": _activation,
    "loss": _loss,
}
