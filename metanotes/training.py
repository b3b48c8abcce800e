"""Find phi* = argmin L(phi): phi <- phi - eta grad L(phi), over batches of tasks.

An iteration draws a batch of tasks and lets the learner take its turns, each followed by a step of
phi down the gradient of the mean loss. As a rule that is one turn, `learner(tasks)`. A learner with
a method `turns(tasks)` takes as many as that yields: one every few steps of a long descent, or of
two levels by turns, each a part of phi with an optimizer of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from metanotes._ground.checkpoints import Checkpoint, CheckpointError, described
from metanotes._ground.checks import count, counts, existing_device, positive
from metanotes._ground.devices import moved
from metanotes._ground.interrupts import interrupts_wait
from metanotes._ground.levels import (
    ONLY,
    Level,
    check_trainable,
    description,
    levels_of,
    stateful,
    step_schedulers,
)
from metanotes._ground.progress import progress_bar
from metanotes._ground.randomness import GlobalRandomness
from metanotes.engine import recording
from metanotes.history import History, Outcome

__all__ = ["CheckpointError", "History", "NonFiniteLossError", "meta_train"]


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient is NaN or infinite; phi was left as it was before that step.

    >>> from metanotes import MAML, meta_train, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> wild = MAML(mlp(1, 8, 1), inner_lr=1e30, steps=3, loss=mse)
    >>> meta_train(wild, sinusoid(seed=0), iterations=1, progress=False)
    Traceback (most recent call last):
    metanotes.training.NonFiniteLossError: the loss of iteration 1 is nan ...
    """


def meta_train(
    learner: nn.Module,
    sample_tasks: Callable[[int], Any],
    iterations: int,
    tasks: int = 16,
    *,
    meta_lr: float = 1e-3,
    optimizer: torch.optim.Optimizer | Mapping[str, torch.optim.Optimizer] | None = None,
    scheduler: LRScheduler | Mapping[str, LRScheduler] | None = None,
    clip: float | Mapping[str, float] | None = None,
    validate: Callable[[Any], float | None] | None = None,
    validate_every: int = 500,
    patience: int | None = None,
    callback: Callable[[int, float, Any], object] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> History:
    """Train phi on batches of tasks, and leave it in the learner.

    With `checkpoint`, the run is saved to that file as it goes, and goes on from it when called
    again with the same arguments: the parameters are then, bit for bit, those of a run that was
    never interrupted. A finished run is only loaded. Ctrl+C lets the iteration end and saves; a
    second one does not wait.

    A learner may define `turns(tasks)`, a generator of losses `[T]`. After each of them phi takes
    a step, so that the next are worked out with the new phi. It yields pairs of a name and losses
    where parts of phi take steps by turns; `optimizer` then has an optimizer for each name, and a
    turn moves the parameters of that optimizer alone.

    Args:
        learner: any module whose forward maps what is sampled to losses `[T]`, or with `turns`.
        sample_tasks: from a number of tasks to a `Task`, or to whatever the learner takes; for an
            exact resume it needs `state_dict` and `load_state_dict`, as the samplers of
            `metanotes.data` have.
        iterations: how many, counted from the first start; at least 1.
        tasks: tasks in a batch.
        meta_lr: the outer step size eta of Adam, above 0.
        optimizer: of the learner's parameters, in place of Adam; `meta_lr` is then its own affair.
            For turns with names a dict of them, by name.
        scheduler: of that optimizer's rate, stepped after every iteration (`ReduceLROnPlateau`:
            after every validation), or a dict.
        clip: bound on the norm of a step's gradient, or a dict; default: none.
        validate: from the learner to a score, where more is better, such as
            `lambda learner: evaluate(learner, tasks).mean`. The phi of the best score is kept. None
            is no score, and there is nothing to keep.
        validate_every: iterations between two validations.
        patience: stop when so many scores in a row were no better.
        callback: called after every iteration with its number (the first is 1), its loss and the
            learner. It looks on: of the learner, nothing but the values of tensors may change while
            it is trained.
        checkpoint: the file; its folder is made if it is missing.
        checkpoint_every: iterations between two saves; the end of the run saves too.
        device: move the learner and the tensors of every batch there; default: where the learner
            is.
        progress: show a progress bar.

    Returns:
        The `History` of the whole run, from its first start.

    Raises:
        ValueError: an argument that cannot work, or a learner without parameters, before any work.
        CheckpointError: the file is damaged, of another run, or cannot be written. Nothing was
            changed.
        NonFiniteLossError: the loss or its gradient is NaN or infinite.

    >>> from metanotes import MAML, meta_train, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> learner = MAML(mlp(1, 40, 40, 1), inner_lr=0.01, loss=mse)
    >>> history = meta_train(learner, sinusoid(seed=0), iterations=3, tasks=25, progress=False)
    >>> len(history.losses)
    3

    Watched in TensorBoard:

    >>> from torch.utils.tensorboard import SummaryWriter                       # doctest: +SKIP
    >>> board = SummaryWriter("runs/maml")                                      # doctest: +SKIP
    >>> def watch(iteration, loss, learner):
    ...     board.add_scalar("loss", loss, iteration)
    >>> meta_train(learner, sinusoid(seed=0), 3000, callback=watch)             # doctest: +SKIP

    Two levels, the weights on the support set and `alpha` on the query set:

    >>> class Search(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.net, self.alpha = mlp(2, 8, 1), torch.nn.Parameter(torch.zeros(2))
    ...     def losses(self, x, y):
    ...         return (self.net(self.alpha.softmax(0) * x) - y).square().mean((1, 2))
    ...     def turns(self, tasks):
    ...         yield "weights", self.losses(*tasks.support)
    ...         yield "alpha", self.losses(*tasks.query)
    >>> search = Search()
    >>> adam = {
    ...     "weights": torch.optim.Adam(search.net.parameters(), lr=0.01),
    ...     "alpha": torch.optim.Adam([search.alpha], lr=0.001),
    ... }
    """
    iterations, tasks = count("iterations", iterations), count("tasks", tasks)
    counts(validate_every=validate_every, checkpoint_every=checkpoint_every)
    check_trainable(learner, sample_tasks)
    if patience is not None:
        patience = count("patience", patience)
        if validate is None:
            raise ValueError(f"patience={patience} needs validate=, the score to wait for")
    if optimizer is None:
        optimizer = torch.optim.Adam(learner.parameters(), lr=positive("meta_lr", meta_lr))
    levels = levels_of(learner, optimizer, scheduler, clip, scores=validate is not None)
    if device is not None:
        learner.to(existing_device(device))
    device = next(learner.parameters()).device

    outcome = Outcome(learner, patience)
    history = outcome.history
    what = {**description(learner, levels), "tasks": str(tasks)}
    parts = stateful(learner, levels, sample_tasks)
    parts |= {"outcome": outcome, "random": GlobalRandomness()}
    file = Checkpoint(checkpoint, what, parts)
    file.load()
    if outcome.goes_on(iterations):
        file.save()  # a folder that cannot be written to is found out before any work

    bar = progress_bar(iterations, "meta-training", progress, len(history.losses))
    # What Ctrl+C saves in place of present states; None while phi is on its way: then nothing.
    earlier: dict[str, Any] | None = {}
    with recording(learner), bar, interrupts_wait(checkpoint is not None) as ask:
        try:
            learner.train()
            while outcome.goes_on(iterations):
                number = len(history.losses) + 1
                earlier = file.states({"sampler", "random"})
                drawn = moved(sample_tasks(tasks), device)
                earlier = None  # from here on, the iteration is whole only at its end
                losses = dict.fromkeys(levels, 0.0)
                for name, turn in turns_of(learner, drawn, levels):
                    losses[name] += step(levels[name], turn, number, file.path)
                outcome.add(losses)
                step_schedulers(levels)
                earlier = {}

                loss = history.losses[-1]
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()
                if callback is not None:
                    callback(number, loss, learner)
                    learner.train()
                if validate is not None and number % validate_every == 0:
                    score = number_or_none(validate(learner))
                    learner.train()
                    if score is not None:
                        outcome.judge(score)
                        step_schedulers(levels, score)
                if number % checkpoint_every == 0 or not outcome.goes_on(iterations):
                    file.save()
                ask()  # for Ctrl+C
        except KeyboardInterrupt:
            if earlier is not None:
                file.save(earlier)
            raise
    if outcome.best is not None:
        learner.load_state_dict(outcome.best)
    return history


def turns_of(
    learner: nn.Module, tasks: Any, levels: Mapping[str, Level]
) -> Iterator[tuple[str, Tensor]]:
    """What a learner does with a batch of tasks: turn by turn, a level's name and losses `[T]`."""
    own, who = getattr(learner, "turns", None), type(learner).__name__
    name = None
    for turn in own(tasks) if callable(own) else iter([learner(tasks)]):
        name, losses = turn if callable(own) and isinstance(turn, tuple) else (ONLY, turn)
        if name not in levels:
            raise ValueError(
                f"{who} takes a turn of {name!r}, but optimizer= has {list(levels)}: give a dict "
                "with an optimizer for each"
            )
        if not isinstance(losses, Tensor):
            raise ValueError(f"{who} gave a {type(losses).__name__}, not a tensor of losses [T]")
        if not losses.requires_grad:
            raise ValueError(f"{who} gave losses that do not depend on its parameters: no gradient")
        yield name, losses
    if name is None:
        raise ValueError(f"{who}.turns(tasks) yields no losses, so that phi never takes a step")


def step(level: Level, losses: Tensor, iteration: int, path: Path | None) -> float:
    """A step of a level down the gradient of the mean of the losses `[T]`, which is returned."""
    where = f"iteration {iteration}" + ("" if level.name == ONLY else f" ({level.name})")
    loss = losses.mean()
    check_finite(loss, f"the loss of {where}", losses, path)
    level.optimizer.zero_grad()
    loss.backward(inputs=level.inputs)
    gradients = [p.grad for p in level.phi if p.grad is not None]
    if not gradients:
        raise ValueError(f"the loss of {where} does not depend on what its optimizer moves")
    norm = nn.utils.get_total_norm(gradients)
    check_finite(norm, f"the gradient of {where}", losses, path)
    if level.clip is not None:
        nn.utils.clip_grads_with_norm_(level.phi, level.clip, norm)
    level.optimizer.step()
    return loss.item()


def check_finite(value: Tensor, what: str, losses: Tensor, path: Path | None) -> None:
    """Refuse a value that is not finite, by the tasks that it comes from."""
    if torch.isfinite(value):
        return
    bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
    tasks = f" (tasks {bad} of the batch)" if bad else ""
    kept = f"; the last good checkpoint is {str(path)!r}" if path else ""
    raise NonFiniteLossError(
        f"{what} is {value.item()}{tasks}; phi is as it was before that step{kept}. "
        "A smaller inner or outer step size, or clip=, may help"
    )


def number_or_none(score: Any) -> float | None:
    """What validate= gave, if it is a number; None for None."""
    try:
        return None if score is None else float(score)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"validate= gave {described(score)}: a number is needed, such as evaluate(...).mean, "
            "or None where there is nothing to keep"
        ) from error
