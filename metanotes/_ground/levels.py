"""The levels of a training: parts of phi, each with an optimizer of its own.

Nearly always there is one level, all of phi. What cannot work is refused here, before any work.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from metanotes._ground.checkpoints import Stateful, described
from metanotes._ground.checks import positive

ONLY = "phi"  # the name of the level where there is one
MOVED = {"lr", "momentum", "betas"}  # settings that schedulers move
ADDED = {"params", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum"}  # no settings


class Level(NamedTuple):
    """A part of phi, and how it is moved.

    Args:
        name: what the learner's turns call it.
        phi: its parameters.
        optimizer: theirs.
        scheduler: of the optimizer's rate, or None.
        clip: bound on the norm of the gradient, or None.
        inputs: what a backward pass works out the gradient of: phi, or None if that is all that
            there is to train.
    """

    name: str
    phi: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler | None
    clip: float | None
    inputs: list[nn.Parameter] | None


def levels_of(
    learner: nn.Module,
    optimizer: torch.optim.Optimizer | Mapping[str, torch.optim.Optimizer],
    scheduler: LRScheduler | Mapping[str, LRScheduler] | None,
    clip: float | Mapping[str, float] | None,
    scores: bool = True,
) -> dict[str, Level]:
    """The levels by name.

    Args:
        learner: whose parameters they are.
        optimizer: of all levels by name, or of the only one.
        scheduler: by level, or of the only one.
        clip: by level, or for all.
        scores: whether there will be scores, for the schedulers that wait for them.

    Raises:
        ValueError: an optimizer that is none, needs the loss several times a step, or has
            parameters that are not the learner's or another level's; a scheduler of another
            optimizer; a clip that is not above 0; a name that no optimizer has.

    >>> model = nn.Linear(2, 1)
    >>> levels = levels_of(model, torch.optim.Adam([model.weight], lr=0.1), None, clip=1.0)
    >>> [name for name in levels], [tuple(p.shape) for p in levels["phi"].phi]
    (['phi'], [(1, 2)])
    """
    several = isinstance(optimizer, Mapping)
    optimizers = dict(optimizer) if isinstance(optimizer, Mapping) else {ONLY: optimizer}
    if not optimizers:
        raise ValueError("optimizer={} has no level: give an optimizer, or some by name")
    names = list(optimizers)
    schedulers, clips = of_each("scheduler", scheduler, names), of_each("clip", clip, names)
    all_of_it = {id(p) for p in learner.parameters() if p.requires_grad}
    owner: dict[int, str] = {}
    levels = {}
    for name in names:
        where = f"optimizer[{name!r}]" if several else "optimizer"
        check_optimizer(where, optimizers[name])
        phi = [p for group in optimizers[name].param_groups for p in group["params"]]
        check_parameters(where, phi, learner, owner)
        owner |= {id(p): where for p in phi}
        if schedulers[name] is not None and schedulers[name].optimizer is not optimizers[name]:
            at_level = f" of the level {name!r}" if several else ""
            raise ValueError(
                f"scheduler= must be of the optimizer that is given as optimizer={at_level}"
            )
        if clips[name] is not None:
            positive("clip", clips[name])
        check_plateau(schedulers[name], scores)
        own = [p for p in phi if p.requires_grad]
        inputs = None if all_of_it <= {id(p) for p in own} else own
        levels[name] = Level(name, phi, optimizers[name], schedulers[name], clips[name], inputs)
    return levels


def of_each(name: str, value: Any, levels: list[str]) -> dict[str, Any]:
    """An argument for each level: a mapping says it by name, anything else is for all."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(levels, value)
    if unknown := sorted(value.keys() - set(levels)):
        raise ValueError(f"{name}= is for {unknown}, but the levels of optimizer= are {levels}")
    return {level: value.get(level) for level in levels}


def check_optimizer(where: str, optimizer: Any) -> None:
    """Refuse what is no optimizer, or cannot take its step after a backward pass."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(
            f"{where}={optimizer!r} must be an optimizer of the learner's parameters, such as "
            "torch.optim.Adam(learner.parameters(), lr=1e-3)"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        kind = type(optimizer).__name__
        raise ValueError(
            f"{where}={kind}(...) works out the loss several times a step, but a batch of tasks is "
            "worked on once: take torch.optim.Adam or SGD, or write a loop around "
            "optimizer.step(closure)"
        )


def check_parameters(
    where: str, phi: list[nn.Parameter], learner: nn.Module, owner: Mapping[int, str]
) -> None:
    """Refuse parameters that are not the learner's, or that another level has."""
    own = {id(p) for p in learner.parameters()}
    for p in phi:
        if id(p) not in own:
            raise ValueError(
                f"{where} has a parameter of the shape {list(p.shape)} that is not one of the "
                f"{type(learner).__name__}'s: make it with learner.parameters()"
            )
        if id(p) in owner:
            raise ValueError(
                f"{where} has a parameter of the shape {list(p.shape)} that {owner[id(p)]} has too"
            )
    if not any(p.requires_grad for p in phi):
        raise ValueError(f"{where} has no parameter to train: all of them are frozen")


def check_plateau(scheduler: LRScheduler | None, scores: bool) -> None:
    """Refuse a rate that waits for better scores if none will come, or would read them wrongly."""
    if not isinstance(scheduler, ReduceLROnPlateau):
        return
    if not scores:
        raise ValueError(
            "scheduler=ReduceLROnPlateau(...) waits for scores: give validate= too, or take a "
            "scheduler that counts iterations, such as torch.optim.lr_scheduler.CosineAnnealingLR"
        )
    if scheduler.mode != "max":
        raise ValueError(
            f"scheduler=ReduceLROnPlateau(..., mode={scheduler.mode!r}) waits for less, but "
            "in validate= more is better: make it with mode='max'"
        )


def step_schedulers(levels: Mapping[str, Level], score: float | None = None) -> None:
    """Without a score, those that count iterations; with one, those that wait for scores."""
    for level in levels.values():
        if isinstance(level.scheduler, ReduceLROnPlateau):
            if score is not None:
                level.scheduler.step(score)
        elif level.scheduler is not None and score is None:
            level.scheduler.step()


def check_trainable(learner: Any, sample_tasks: Any) -> None:
    """Refuse what is no learner, has nothing to learn, or cannot take its turns."""
    if not isinstance(learner, nn.Module):
        raise ValueError(f"learner={learner!r} must be an nn.Module whose forward gives losses")
    if not any(p.requires_grad for p in learner.parameters()):
        raise ValueError(f"{type(learner).__name__} has no parameter to train: phi is empty")
    if isinstance(learner, DistributedDataParallel):
        inside = type(learner.module).__name__
        if hasattr(learner.module, "turns"):
            raise ValueError(
                f"DistributedDataParallel runs nothing but a module's forward, and {inside} has "
                f"turns: give the {inside} itself"
            )
        if learner.process_group.size() > 1:
            raise ValueError(
                f"the processes of a group share the tasks and average the gradients, which "
                f"DistributedDataParallel would do once more: give the {inside} itself"
            )
    if not callable(sample_tasks):
        raise ValueError(
            f"sample_tasks must be a function from a number of tasks to tasks, not a "
            f"{type(sample_tasks).__name__}; for the same ones every time, lambda _: tasks"
        )


def stateful(learner: nn.Module, levels: Mapping[str, Level], sampler: Any) -> dict[str, Stateful]:
    """The learner and what trains it, as far as it has a state, by name."""
    parts: dict[str, Stateful] = {"learner": learner}
    for name, level in levels.items():
        of_level = "" if list(levels) == [ONLY] else f" of {name}"
        parts[f"optimizer{of_level}"] = level.optimizer
        if level.scheduler is not None:
            parts[f"scheduler{of_level}"] = level.scheduler
    return parts | ({"sampler": sampler} if hasattr(sampler, "state_dict") else {})


def description(learner: nn.Module, levels: Mapping[str, Level]) -> dict[str, str]:
    """What a run is, for a checkpoint to agree with: by name, in lines."""
    parameters = dict(learner.named_parameters())
    name_of = {id(p): name for name, p in parameters.items()}
    optimizers, schedulers, clips = [], [], []
    for name, level in levels.items():
        of_level = "" if list(levels) == [ONLY] else f"{name}: "
        optimizers += [of_level + line for line in of_optimizer(level, name_of)]
        schedulers.append(of_level + of_scheduler(level.scheduler))
        clips.append(f"{of_level}{level.clip}")
    described_by = {
        "learner": [described(learner)],
        "parameters": [f"{name} {list(p.shape)}" for name, p in parameters.items()],
        "dtype": [f"{name} {p.dtype}" for name, p in parameters.items()],
        "frozen": [
            f"{name} {'learned' if p.requires_grad else 'frozen'}" for name, p in parameters.items()
        ],
        "optimizer": optimizers,
        "scheduler": schedulers,
        "clip": clips,
    }
    return {name: "\n".join(lines) for name, lines in described_by.items()}


def of_optimizer(level: Level, name_of: Mapping[int, str]) -> list[str]:
    """An optimizer's class and first settings, group by group."""
    optimizer, scheduled = level.optimizer, level.scheduler is not None
    lines = [type(optimizer).__name__]
    for group in optimizer.param_groups:
        settings = {
            name: optimizer.defaults.get(name) if scheduled and name in MOVED else value
            for name, value in group.items()
            if name not in ADDED
        }
        if "initial_lr" in group:
            settings["lr"] = group["initial_lr"]
        lines += [f"{name}={described(value)}" for name, value in settings.items()]
        lines.append("of " + ", ".join(name_of[id(p)] for p in group["params"]))
    return lines


def of_scheduler(scheduler: LRScheduler | None) -> str:
    """A scheduler's class, and what it keeps of the arguments that it was made with."""
    if scheduler is None:
        return "None"
    names = set(inspect.signature(type(scheduler)).parameters) - {"optimizer", "last_epoch"}
    kept = {name: value for name, value in vars(scheduler).items() if name in names}
    return f"{type(scheduler).__name__} {described(kept)}"
