"""Find phi* = argmin L(phi): phi <- phi - eta grad L(phi), over batches of tasks.

An iteration draws a batch of tasks and lets the learner take its turns, each followed by a step of
phi down the gradient of the mean loss. As a rule that is one turn, `learner(tasks)`. A learner with
a method `turns(tasks)` takes as many as that yields: one every few steps of a long descent, or of
two levels by turns, each a part of phi with an optimizer of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from metanotes._ground.agreement import (
    own_places,
    same_call,
    same_states,
    same_tasks,
    same_tensors,
)
from metanotes._ground.checkpoints import Checkpoint, CheckpointError, described
from metanotes._ground.checks import count, counts, existing_device, positive
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
from metanotes._ground.nested import moved
from metanotes._ground.progress import progress_bar
from metanotes._ground.randomness import GlobalRandomness
from metanotes._ground.ranks import Ranks, present_ranks
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

    Where `torch.distributed.init_process_group` was called, all ranks make the same call and work
    together: each draws every batch, so that the tasks are those that one process would have drawn,
    and takes its share of it (at least a task), and the gradient is the mean over all. They begin
    with what rank 0 has, phi, optimizers and sampler; `progress`, `callback` and `checkpoint` are
    rank 0's, `validate` is called on each and rank 0's score counts. A checkpoint does not know how
    many ranks there were: any number goes on from it. What a learner draws from torch's global
    generators, for dropout say, does depend on how many there are. Without a process group nothing
    is shared, whatever torchrun has started.

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
        ValueError: an argument that cannot work, a learner without parameters, or ranks that do not
            agree, before any work.
        CheckpointError: the file is damaged, of another run, in use by another process, or cannot
            be written. Nothing was changed.
        RuntimeError: another rank has ended.
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
    ranks = present_ranks(next(learner.parameters()).device)
    own_places(ranks, learner)

    outcome = Outcome(learner, patience)
    history = outcome.history
    what = {**description(learner, levels), "tasks": str(tasks)}
    parts = stateful(learner, levels, sample_tasks)
    parts |= {"outcome": outcome, "random": GlobalRandomness()}
    how = f"{iterations=}, {patience=}, {validate_every=}, {checkpoint_every=}"
    how += f", validate {validate is not None}, checkpoint {checkpoint is not None}"
    same_call(ranks, {"call": f"meta_train, {how}, states of {list(parts)}", **what})
    file = Checkpoint(checkpoint if ranks.first else None, what, parts)
    waits = interrupts_wait(checkpoint is not None, once=ranks.size == 1)
    # What Ctrl+C saves in place of present states; None while phi is on its way: then nothing.
    earlier: dict[str, Any] | None = None
    with closing(file), ranks.named(), recording(learner), waits as pressed, ExitStack() as stack:
        ranks.gathered(file.open)
        same_states(ranks, parts)
        if outcome.goes_on(iterations):
            ranks.gathered(file.save)  # that it cannot be written to is found out before any work
        start = len(history.losses) + 1
        bar = progress_bar(iterations, "meta-training", progress and ranks.first, start - 1)
        stack.enter_context(bar)
        try:
            learner.train()
            while outcome.goes_on(iterations):
                number = len(history.losses) + 1
                earlier = file.states({"sampler", "random"})
                drawn = sample_tasks(tasks)
                if number == start:
                    same_tasks(ranks, drawn)
                earlier = None  # from here on, the iteration is whole only at its end
                outcome.add(iterate(learner, drawn, levels, ranks, number, file.path))
                step_schedulers(levels)
                earlier = {}
                if number == start:
                    same_tensors(ranks, learner)

                loss = history.losses[-1]
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()
                if callback is not None and ranks.first:
                    with ranks.alone():
                        callback(number, loss, learner)
                    learner.train()
                if validate is not None and number % validate_every == 0:
                    score = ranks.of_first(number_or_none(validate(learner)))
                    learner.train()
                    if score is not None:
                        outcome.judge(score)
                        step_schedulers(levels, score)
                if number % checkpoint_every == 0 or not outcome.goes_on(iterations):
                    same_tensors(ranks, learner)
                    ranks.gathered(file.save)
                if checkpoint is not None and ranks.any(pressed()):
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            if earlier is not None:
                file.save(earlier)
            raise
    if outcome.best is not None:
        learner.load_state_dict(outcome.best)
    return history


def iterate(
    learner: nn.Module,
    drawn: Any,
    levels: Mapping[str, Level],
    ranks: Ranks,
    iteration: int,
    path: Path | None,
) -> dict[str, float]:
    """The turns of a batch of tasks, each followed by a step of phi: the losses of the levels."""
    own, share = ranks.share(drawn)
    losses = dict.fromkeys(levels, 0.0)
    with ranks.randomness(iteration):
        for name, turn in turns_of(learner, moved(own, ranks.device), levels):
            losses[name] += step(levels[name], turn, share, ranks, iteration, path)
    return losses


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


def step(
    level: Level, own: Tensor, share: float, ranks: Ranks, iteration: int, path: Path | None
) -> float:
    """A step of a level down the gradient of the mean loss, which is returned.

    Args:
        level: the level.
        own: the losses of this rank's tasks, `[T]`.
        share: which part of all tasks these are.
        ranks: those that share the tasks.
        iteration: its number, for errors.
        path: of the checkpoint, for errors.
    """
    where = f"iteration {iteration}" + ("" if level.name == ONLY else f" ({level.name})")
    own_loss = own.mean()
    loss = ranks.mean(own_loss, share)
    check_finite(loss, f"the loss of {where}", own, ranks, path)
    level.optimizer.zero_grad()
    (share * own_loss).backward(inputs=level.inputs)
    ranks.add_gradients(level.phi)
    gradients = [p.grad for p in level.phi if p.grad is not None]
    if not gradients:
        raise ValueError(f"the loss of {where} does not depend on what its optimizer moves")
    norm = nn.utils.get_total_norm(gradients)
    check_finite(norm, f"the gradient of {where}", own, ranks, path)
    if level.clip is not None:
        nn.utils.clip_grads_with_norm_(level.phi, level.clip, norm)
    level.optimizer.step()
    return loss.item()


def check_finite(value: Tensor, what: str, own: Tensor, ranks: Ranks, path: Path | None) -> None:
    """Refuse a value that is not finite, by the tasks that it comes from."""
    if torch.isfinite(value):
        return
    losses = torch.cat(ranks.gathered(lambda: own.detach().cpu().flatten()))
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
