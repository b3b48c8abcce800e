"""Find phi* = argmin L(phi): phi <- phi - eta grad L(phi), over batches of tasks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from metanotes._ground.checks import positive
from metanotes.task import Task, task_to

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHECKPOINT_FORMAT = 2


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


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: of another run, truncated, or not to be written.

    >>> import tempfile
    >>> from metanotes import MAML, meta_train, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> learner = MAML(mlp(1, 8, 1), inner_lr=0.01, loss=mse)
    >>> with tempfile.NamedTemporaryFile() as file:     # an empty one
    ...     meta_train(learner, sinusoid(seed=0), 1, checkpoint=file.name, progress=False)
    Traceback (most recent call last):
    metanotes.training.CheckpointError: checkpoint=... is truncated or no checkpoint ...
    """


@dataclass
class History:
    """What happened in a run.

    Args:
        losses: L(phi) at every iteration, the mean over its batch of tasks.
        validation: pairs of the iteration, counted from 1, and the mean score after it.
        stopped_early: whether validation stopped improving.

    >>> history = History(losses=[3.0, 2.0, 1.0, 2.0])
    >>> history.plot(smooth=2).lines[0].get_ydata().tolist()
    [2.5, 1.5]
    """

    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    stopped_early: bool = False

    def plot(self, ax: Axes | None = None, smooth: int | None = None, label: str = "loss") -> Axes:
        """Draw the losses, averaged over `smooth` iterations, and the validation scores.

        The scores have an axis of their own, at the right.
        """
        import matplotlib.pyplot as plt

        ax = ax or plt.subplots()[1]
        losses = torch.tensor(self.losses, dtype=torch.float64)
        window = max(1, smooth or len(losses) // 50)
        means = losses[: len(losses) // window * window].reshape(-1, window).mean(1)
        ax.plot(window * torch.arange(1, len(means) + 1), means, label=label)
        ax.set(xlabel="iteration", ylabel="loss after learning")
        if self.validation:
            right = ax.twinx()
            right.plot(*zip(*self.validation, strict=True), "o--", color="gray")
            right.set(ylabel="validation score (dashed)")
        return ax


def meta_train(
    learner: nn.Module,
    sample_tasks: Callable[[int], Task],
    iterations: int,
    tasks: int = 16,
    *,
    meta_lr: float = 1e-3,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    clip: float | None = None,
    validate: Callable[[Any], float] | None = None,
    validate_every: int = 500,
    patience: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> History:
    """Train phi on batches of tasks, and leave it in the learner.

    With `checkpoint`, the run is saved to that file as it goes, and goes on from it when called
    again with the same arguments: the parameters are then, bit for bit, those of a run that was
    never interrupted. A finished run is only loaded.

    Args:
        learner: any module whose forward maps a `Task` to losses `[T]`.
        sample_tasks: from a number of tasks to a `Task`; for an exact resume it needs `state_dict`
            and `load_state_dict`, as the samplers of `metanotes.data` have.
        iterations: how many, counted from the first start; at least 1.
        tasks: tasks in a batch.
        meta_lr: the outer step size eta of Adam, above 0.
        optimizer: of the learner's parameters, in place of Adam; `meta_lr` is then its own affair.
        scheduler: of that optimizer's rate, stepped after every iteration.
        clip: bound on the norm of the gradient; default: none.
        validate: from the learner to a score, where more is better, such as
            `lambda learner: evaluate(learner, tasks).mean`. The phi of the best score is kept.
        validate_every: iterations between two validations.
        patience: stop when so many validations in a row brought no better score.
        checkpoint: the file; its folder is made if it is missing.
        checkpoint_every: iterations between two saves; the end of the run saves too.
        device: move the learner and every batch there; default: where the learner is.
        progress: show a progress bar.

    Returns:
        The `History` of the whole run, from its first start.

    Raises:
        ValueError: a count below 1, a learner without parameters, or a device that does not
            exist, before any work.
        CheckpointError: the file is not of this learner and these tasks, or is truncated.
        NonFiniteLossError: the loss or its gradient is NaN or infinite.

    >>> from metanotes import MAML, meta_train, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> learner = MAML(mlp(1, 40, 40, 1), inner_lr=0.01, loss=mse)
    >>> history = meta_train(learner, sinusoid(seed=0), iterations=3, tasks=25, progress=False)
    >>> len(history.losses)
    3
    """
    check_training(
        learner,
        clip,
        optimizer,
        scheduler,
        iterations=iterations,
        tasks=tasks,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
    )
    if patience is not None and validate is None:
        raise ValueError(f"patience={patience} needs validate=, the score to wait for")
    positive("meta_lr", meta_lr)
    if device is not None:
        learner.to(check_device(device))
    device = next(learner.parameters()).device
    optimizer = optimizer or torch.optim.Adam(learner.parameters(), lr=meta_lr)
    run = Run(learner, optimizer, scheduler, sample_tasks, clip, checkpoint)
    for step in run.iterations(
        iterations, "meta-training", progress, validate, validate_every, patience, checkpoint_every
    ):
        losses = learner(task_to(sample_tasks(tasks), device))
        run.history.losses.append(run.step(losses, f"iteration {step}"))
    return run.history


def check_training(
    learner: nn.Module,
    clip: float | None,
    optimizer: torch.optim.Optimizer | None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None,
    **counts: int,
) -> None:
    """What every training is given, before any work.

    Raises:
        ValueError: a count below 1, a clip that is not above 0, a scheduler of another optimizer,
            or a learner without parameters.
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count} must be at least 1")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip} must be above 0")
    if scheduler is not None and scheduler.optimizer is not optimizer:
        raise ValueError("scheduler= must be of the optimizer that is given as optimizer=")
    if not any(p.requires_grad for p in learner.parameters()):
        raise ValueError(f"{type(learner).__name__} has no parameter to train: phi is empty")


class Run:
    """A training as it goes: its steps of phi, its history, its validations and its checkpoint.

    Args:
        learner, optimizer, scheduler, clip, checkpoint: see `meta_train`.
        sampler: what draws the tasks.
        description: what else a checkpoint must agree with.
    """

    def __init__(
        self,
        learner: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None,
        sampler: Any,
        clip: float | None,
        checkpoint: str | os.PathLike[str] | None,
        **description: str,
    ) -> None:
        self.learner, self.sampler, self.history = learner, sampler, History()
        self.optimizer, self.scheduler, self.clip = optimizer, scheduler, clip
        self.best: dict[str, Tensor] | None = None  # the phi of the best validation score
        self.description = {
            "format": str(CHECKPOINT_FORMAT),
            "learner": repr(learner),
            "optimizer": f"{type(optimizer).__name__} {optimizer.defaults}",
            "scheduler": type(scheduler).__name__,
            **description,
        }
        self.path = None if checkpoint is None else Path(checkpoint)
        if self.path is not None:
            if self.path.exists():
                self.load(self.path)
            self.save(self.path)  # a folder that cannot be written to is found out before any work

    def iterations(
        self,
        total: int,
        what: str,
        progress: bool,
        validate: Callable[[Any], float] | None,
        validate_every: int,
        patience: int | None,
        checkpoint_every: int,
    ) -> Iterator[int]:
        """The numbers of those that are left; after each, its loss stands in the history."""
        losses = self.history.losses
        self.learner.train()
        with progress_bar(total, what, progress, len(losses)) as bar:
            while len(losses) < total and not self.history.stopped_early:
                yield len(losses) + 1
                if self.scheduler is not None:
                    self.scheduler.step()
                bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
                bar.update()
                if validate is not None and len(losses) % validate_every == 0:
                    self.validated(float(validate(self.learner)), patience)
                    self.learner.train()
                if self.path is not None and len(losses) % checkpoint_every == 0:
                    self.save(self.path)
        if self.path is not None:
            self.save(self.path)
        if self.best is not None:
            self.learner.load_state_dict(self.best)

    def step(self, losses: Tensor, where: str) -> float:
        """A step of phi down the gradient of the mean of the losses `[T]`, which is returned."""
        loss = losses.mean()
        self.check_finite(loss, f"the loss of {where}", losses)
        self.optimizer.zero_grad()
        loss.backward()
        phi = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.get_total_norm([p.grad for p in phi if p.grad is not None])
        self.check_finite(norm, f"the gradient of {where}", losses)
        if self.clip is not None:
            nn.utils.clip_grads_with_norm_(phi, self.clip, norm)
        self.optimizer.step()
        return loss.item()

    def check_finite(self, value: Tensor, what: str, losses: Tensor) -> None:
        """A NonFiniteLossError, which names the tasks, if the value is none."""
        if torch.isfinite(value):
            return
        bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
        where = f" (tasks {bad} of the batch)" if bad else ""
        kept = f"; the last good checkpoint is {str(self.path)!r}" if self.path else ""
        raise NonFiniteLossError(
            f"{what} is {value.item()}{where}; phi is as it was before that step{kept}. "
            "A smaller inner or outer step size, or clip=, may help"
        )

    def validated(self, score: float, patience: int | None) -> None:
        """Note a validation score; keep phi if it is the best; stop when patience is over."""
        scores = [value for _, value in self.history.validation]
        self.history.validation.append((len(self.history.losses), score))
        if not scores or score > max(scores):
            self.best = {name: t.clone() for name, t in self.learner.state_dict().items()}
            return
        since_best = len(scores) - scores.index(max(scores))
        self.history.stopped_early = patience is not None and since_best >= patience

    def save(self, path: Path) -> None:
        """Write the checkpoint to a temporary name beside its own, then rename it."""
        state = {
            "description": self.description,
            "learner": self.learner.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "sampler": self.sampler.state_dict() if hasattr(self.sampler, "state_dict") else None,
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "history": vars(self.history),
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
        except OSError as error:
            raise CheckpointError(f"checkpoint={str(path)!r} cannot be written: {error}") from error
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        where = f"checkpoint={str(path)!r}"
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            description = dict(state["description"])
        except Exception as error:
            raise CheckpointError(
                f"{where} is truncated or no checkpoint of meta_train; delete it to start anew"
            ) from error
        for name, value in self.description.items():
            if description.get(name) != value:
                raise CheckpointError(
                    f"{where} is of another {name}:\n{description.get(name)}\n"
                    f"rather than\n{value}\nChoose another file, or delete this one to start anew"
                )
        if state["sampler"] is not None:
            if not hasattr(self.sampler, "load_state_dict"):
                raise CheckpointError(
                    f"{where} is of a sampler that can be resumed; this one cannot"
                )
            self.sampler.load_state_dict(state["sampler"])
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.best = state["best"]
        vars(self.history).update(state["history"])
        torch.set_rng_state(state["random"])
        if torch.cuda.is_available() and len(state["cuda_random"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_random"])


def check_device(device: torch.device | str) -> torch.device:
    """The device, if this machine has it.

    Raises:
        ValueError: it has not.
    """
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        cuda = torch.cuda.device_count()
        raise ValueError(
            f"device={str(device)!r} does not exist here: choose 'cpu'"
            + (f" or 'cuda:0' to 'cuda:{cuda - 1}'" if cuda else "")
        ) from error
    return device


def progress_bar(total: int, what: str, show: bool, done: int = 0) -> Any:
    """A tqdm bar; in a notebook, one of its own."""
    from tqdm.auto import tqdm

    # tqdm's own reading of TQDM_DISABLE does not reach its bar for notebooks.
    hidden = not show or bool(os.environ.get("TQDM_DISABLE"))
    return tqdm(total=total, initial=done, desc=what, leave=False, disable=hidden)
