"""What every task family shares: a seeded stream of tasks that can restart, stop and resume."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Self

import torch

from metanotes.task import Task


class Sampler(ABC):
    """An endless, reproducible stream of tasks: `sampler(16)` draws the next 16.

    The random numbers are drawn on the CPU from the sampler's own generator, so that the tasks
    depend on the seed alone: not on the device, and not on what else draws random numbers.

    Args:
        seed: where the stream starts, any integer that `torch.Generator.manual_seed` takes.
        device: where the tasks are put.

    Raises:
        ValueError: no tensor can be put on `device`.

    >>> from metanotes import Batch
    >>> class Lines(Sampler):                   # y = a x, the slope a drawn for every task
    ...     def config(self):
    ...         return {"kind": "lines", "seed": self.seed}
    ...     def _draw(self, tasks):
    ...         a = torch.randn(tasks, 1, 1, generator=self.generator)
    ...         x = torch.randn(tasks, 10, 1, generator=self.generator)
    ...         return Task(Batch(x[:, :5], a * x[:, :5]), Batch(x[:, 5:], a * x[:, 5:]))
    >>> lines = Lines(seed=0, device="cpu")
    >>> first = lines(3)
    >>> torch.equal(lines.restarted()(3).query.y, first.query.y)
    True
    """

    def __init__(self, seed: int, device: torch.device | str):
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"device={str(device)!r} cannot be used here ({str(error).splitlines()[0]}); "
                "device='cpu' always can"
            ) from error
        self.seed = seed
        self.device = torch.device(device)
        self.generator = torch.Generator("cpu").manual_seed(seed)

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What decides the stream, in plain values; two samplers with equal ones draw alike."""

    @abstractmethod
    def _draw(self, tasks: int) -> Task:
        """The next `tasks` tasks."""

    def __call__(self, tasks: int) -> Task:
        """Draw the next batch of tasks.

        Args:
            tasks: how many, T >= 1.

        Returns:
            A `Task`; every tensor of it has a leading axis of length T.

        Raises:
            ValueError: `tasks` is not a positive integer.
        """
        check_positive(tasks=tasks)
        return self._draw(tasks)

    def restarted(self) -> Self:
        """A copy that starts again at the seed; this sampler's own stream is untouched."""
        fresh = copy.copy(self)
        fresh.generator = torch.Generator("cpu").manual_seed(self.seed)
        return fresh

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, for an exact resume; safe to load with `weights_only=True`."""
        return {"config": self.config(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the stream at the place that `state_dict` recorded.

        Raises:
            ValueError: the state is not a sampler's, or is that of a different stream.
        """
        if not isinstance(state, dict) or set(state) != {"config", "generator"}:
            raise ValueError("this is not the state of a sampler; pass what state_dict() returned")
        mine, theirs = self.config(), dict(state["config"])
        if theirs != mine:
            differ = ", ".join(
                f"{key} was {theirs.get(key)!r} and is {mine.get(key)!r}"
                for key in sorted(mine.keys() | theirs.keys())
                if mine.get(key) != theirs.get(key)
            )
            raise ValueError(f"this state belongs to another sampler: {differ}")
        self.generator.set_state(state["generator"].cpu())

    def __repr__(self) -> str:
        config = self.config()
        kind = config.pop("kind")
        return f"{kind}({', '.join(f'{key}={value!r}' for key, value in config.items())})"


def check_positive(**counts: int) -> None:
    """Refuse a count that is not an integer of at least 1; the keyword is its name."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name}={count!r} is not a count; use an integer of at least 1")
