"""What every task family shares: a seeded stream of tasks that can restart, stop and resume."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor

from metanotes._ground import checks

#: What a sampler draws: a `Task`, `Functions`, `Sequences`, ...
Drawn = TypeVar("Drawn")
Count = int | tuple[int, int]  # a number of examples; or a range, from which each batch has its own


class Sampler(ABC, Generic[Drawn]):
    """An endless, reproducible stream of tasks: `sampler(16)` draws the next 16.

    `Sampler[Task]` draws a `Task`, `Sampler[Functions]` draws `Functions`, and so on.

    The random numbers are drawn on the CPU from the sampler's own generator, so that the tasks
    depend on the seed alone: not on the device, and not on what else draws random numbers.

    Args:
        seed: where the stream starts, any whole number that `torch.Generator.manual_seed` takes.
        device: where the tasks are put.

    Raises:
        ValueError: `seed` is no whole number, or no tensor can be put on `device`.

    >>> from metanotes import Batch, Task
    >>> class Lines(Sampler[Task]):             # y = a x, the slope a drawn for every task
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
        self.seed = checks.seed(seed)
        self.device = checks.existing_device(device)
        self.generator = torch.Generator("cpu").manual_seed(self.seed)

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What decides the stream, in plain values; two samplers with equal ones draw alike."""

    @abstractmethod
    def _draw(self, tasks: int) -> Drawn:
        """The next `tasks` tasks."""

    def __call__(self, tasks: int) -> Drawn:
        """Draw the next batch of tasks.

        Args:
            tasks: how many, T >= 1.

        Returns:
            What this sampler draws, such as a `Task`; every tensor of it has a leading axis of
            length T.

        Raises:
            ValueError: `tasks` is not a positive integer.
        """
        return self._draw(checks.count("tasks", tasks))

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


def check_count(name: str, value: Any) -> Count:
    """A whole number of at least 1, or a range of such numbers, as an argument `shots` takes.

    Args:
        name: the argument's.
        value: a number, or `(low, high)`, both ends included.

    Returns:
        The number where there is one to choose from, else the range.

    Raises:
        ValueError: names the argument and its value.

    >>> check_count("shots", 5), check_count("shots", (1, 5)), check_count("shots", (5, 5))
    (5, (1, 5), 5)
    """
    if not isinstance(value, tuple | list):
        return checks.count(name, value)
    try:
        low, high = (checks.count(name, end) for end in value)
    except ValueError:
        low, high = 1, 0
    if low > high:
        raise ValueError(
            f"{name}={value!r} must be a range (low, high) of whole numbers of at least 1, the "
            "smaller first; or a single number"
        )
    return low if low == high else (low, high)


def most(count: Count) -> int:
    """The largest number that may be drawn.

    >>> most(5), most((1, 5))
    (5, 5)
    """
    return count if isinstance(count, int) else count[1]


def draw_count(count: Count, generator: torch.Generator) -> int:
    """The number itself, which draws nothing; or one of the range, each as likely as another.

    >>> draw_count((1, 5), torch.Generator().manual_seed(0)) in range(1, 6)
    True
    """
    if isinstance(count, int):
        return count
    low, high = count
    return int(torch.randint(low, high + 1, (), generator=generator, device="cpu"))


def draw_uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1), float32, whatever torch's defaults are."""
    return torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu")
