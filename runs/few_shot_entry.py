"""What a learner of the few-shot runs is, and is given: images, network, tasks, training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from metanotes.data import Sampler, episodes
from metanotes.evaluation import evaluate
from metanotes.learner import Learner
from metanotes.training import History, meta_train
from runs.jobs import Session
from runs.omniglot import Classes

VALIDATION_TASKS = 100
CLIP = 10.0  # on the norm of the gradient


@dataclass(frozen=True)
class ImageSet:
    """Images of classes, and what is made of them.

    Args:
        title: of the record.
        load: training, validation and test classes.
        net: `net(ways, seed)`, an `nn.Sequential` that ends in a linear head.
        related: `related(seed)`, a body of feature maps and what compares them, for the relation
            network.
        features: how many the head takes.
        rotations: what the training classes are turned to.
        many: the ways of episodes for a body that serves any number of them.
        settings: by name, ways and shots.
        scale: iterations of a training, relative to those that a learner asks for.
        about: the data and the network, in a sentence.
        trial: how many times as short the trial of a rate is as the training.
    """

    title: str
    load: Callable[[], Classes]
    net: Callable[[int, int], nn.Sequential]
    related: Callable[[int], tuple[nn.Module, nn.Module]]
    features: int
    rotations: Literal["classes"] | None
    many: int
    settings: Mapping[str, tuple[int, int]]
    scale: float
    about: str
    trial: int = 10

    def iterations(self, asked: int) -> int:
        """How many a training has."""
        return max(1, int(asked * self.scale))

    @property
    def plain(self) -> list[Any]:
        """What a digest is made of."""
        return [self.about, self.features, self.rotations, self.many, self.scale]


@dataclass(frozen=True)
class Entry:
    """A learner in one setting with one seed: where it gets its network and its tasks."""

    images: ImageSet
    learner: str
    setting: str
    seed: int

    @property
    def ways(self) -> int:
        """Classes of a task."""
        return self.images.settings[self.setting][0]

    @property
    def shots(self) -> int:
        """Support examples of a class."""
        return self.images.settings[self.setting][1]

    def first(self, ways: int | None = None, shots: int | None = None) -> Entry:
        """The same in the first setting, or the first with so many ways or shots.

        A training that serves several settings is validated there, whichever it is asked for.
        """
        names = (
            name
            for name, (w, s) in self.images.settings.items()
            if ways in (None, w) and shots in (None, s)
        )
        return replace(self, setting=next(names))

    def net(self, ways: int | None = None) -> nn.Sequential:
        """The network, its head at zero: at the start no class differs from another."""
        return zero_headed(self.images.net(self.ways if ways is None else ways, self.seed))

    def episodes(
        self, ways: int | None = None, shots: int | None = None, queries: int = 5
    ) -> Sampler:
        """Training episodes; by default, of this setting."""
        return episodes(
            self.images.load().train,
            ways or self.ways,
            shots or self.shots,
            queries,
            rotations=self.images.rotations,
            seed=self.seed,
        )

    def held_out(self, part: Literal["validation", "test"], queries: int = 15) -> Sampler:
        """Episodes of classes that no training sees, the same for all learners."""
        images = getattr(self.images.load(), part)
        seed = {"validation": 1_000_000, "test": 2_000_000}[part]
        return episodes(images, self.ways, self.shots, queries, seed=seed)

    def validate(self, learner: Learner, steps: int | None = None) -> float:
        """The accuracy on tasks of the validation classes."""
        tasks = self.held_out("validation")
        return evaluate(learner, tasks, VALIDATION_TASKS, steps=steps, transductive=True).mean

    def train(
        self,
        session: Session,
        what: str,
        learner: Learner,
        tasks: Sampler,
        iterations: int,
        batch: int,
        images: int,
        optimizer: torch.optim.Optimizer,
        judged: Learner | None = None,
        warmup: float = 0.0,
    ) -> None:
        """Train with an outer rate that falls to 0; the phi of the best validation is kept.

        Args:
            session: of the job.
            what: names the training.
            learner: what is trained.
            tasks: training tasks.
            iterations: how many, before the scale of the image set.
            batch: tasks in a batch.
            images: in a task, both sets.
            optimizer: the outer one.
            judged: what the validation tasks are given to; default: the learner.
            warmup: the part of the iterations in which the rate rises from almost 0, in a line.
        """
        iterations = self.images.iterations(iterations)
        scheduler = rising_and_falling(optimizer, iterations, int(warmup * iterations))

        def train_until(until: int, checkpoint: Path) -> History:
            return meta_train(
                learner,
                tasks,
                until,
                batch,
                optimizer=optimizer,
                scheduler=scheduler,
                clip=CLIP,
                validate=lambda _: self.validate(learner if judged is None else judged),
                validate_every=max(1, iterations // 10),
                checkpoint=checkpoint,
                checkpoint_every=max(1, iterations // 20),
            )

        session.train(what, iterations, train_until, tasks=batch, images=images * batch)


class Contender:
    """A learner as it takes part: a frozen dataclass of its settings."""

    test_steps: tuple[int, ...] = ()  # numbers of inner steps to choose from in testing

    def trained(self, entry: Entry) -> str | None:
        """The name of its training; None if it has none. Contenders may share one."""
        return None

    def trainings(self, entry: Entry) -> list[str]:
        """The names of all its trainings, those too that choose a setting for the last."""
        what = self.trained(entry)
        return [] if what is None else [what]

    def training(self, entry: Entry) -> dict[str, Any]:
        """All that its training depends on beside the images and the seed, as plain values."""
        return {}

    def learner(self, entry: Entry, session: Session) -> Learner:
        """The learner, trained."""
        raise NotImplementedError


class Searching(Contender):
    """Of some rates, that which does best on validation classes after a short training is taken
    for the long one.

    Args:
        iterations: of the long training.
        rates: to choose from.
    """

    searched = "outer rate"  # of Adam

    iterations: int
    rates: tuple[float, ...]

    def trained(self, entry: Entry) -> str:
        raise NotImplementedError

    def trial(self, entry: Entry, rate: float) -> str:
        """The name of the short training with a rate."""
        return f"{self.trained(entry)}, rate {rate:g}"

    def trainings(self, entry: Entry) -> list[str]:
        return [*(self.trial(entry, rate) for rate in self.rates), self.trained(entry)]

    def training(self, entry: Entry) -> dict[str, Any]:
        return {**plain(self), "trial": entry.images.trial}

    def judged_in(self, entry: Entry) -> Entry:
        """In which setting its training is validated."""
        return entry

    def after(
        self, entry: Entry, session: Session, what: str, rate: float, part: int = 1
    ) -> Learner:
        """A new learner after a training, or so small a part of one, as it is judged."""
        raise NotImplementedError

    def learner(self, entry: Entry, session: Session) -> Learner:
        def tried(rate: float) -> float:
            part = entry.images.trial
            learner = self.after(entry, session, self.trial(entry, rate), rate, part)
            return self.judged_in(entry).validate(learner)

        accuracies = {rate: tried(rate) for rate in self.rates}
        best = max(self.rates, key=lambda rate: accuracies[rate])
        session.note = f"{self.searched} {best:g} ({as_text(accuracies)})"
        return self.after(entry, session, self.trained(entry), best)


def as_text(accuracies: Mapping[float, float]) -> str:
    """A grid, for the note of a row."""
    return ", ".join(f"{rate:g}: {100 * value:.1f} %" for rate, value in accuracies.items())


def rising_and_falling(
    optimizer: torch.optim.Optimizer, iterations: int, warmup: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Half a cosine down to 0, after a straight way up."""
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations - warmup)
    if warmup == 0:
        return falling
    rising = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (warmup + 1), total_iters=warmup)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [rising, falling], [warmup])


def plain(contender: Any) -> dict[str, Any]:
    """The fields that a training depends on."""
    return {name: value for name, value in asdict(contender).items() if name != "test_steps"}


def zero_headed(model: nn.Sequential) -> nn.Sequential:
    """The network with its last layer set to zero."""
    for p in model[-1].parameters():
        nn.init.zeros_(p)
    return model
