"""Random numbers that leave no trace: drawn from a seed, or drawn a second time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

RandomState = tuple[Tensor, ...]
CPU = torch.device("cpu")


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Draw from this seed on the CPU, as initial weights do; then go on as if nothing was drawn.

    Args:
        seed: what `torch.Generator.manual_seed` takes.
        device: if it has a generator of its own, that one too.

    >>> with seeded(0):
    ...     first = torch.rand(3)
    >>> with seeded(0):
    ...     torch.equal(first, torch.rand(3))
    True
    """
    with torch.random.fork_rng(devices=cuda_devices(device)):
        torch.random.default_generator.manual_seed(seed)
        for cuda in cuda_devices(device):
            with torch.cuda.device(cuda):
                torch.cuda.manual_seed(seed)
        yield


def cuda_devices(device: torch.device) -> list[torch.device]:
    """The device, if it has a generator of its own."""
    return [device] if device.type == "cuda" else []


def random_state(device: torch.device) -> RandomState:
    """The state of the global generators that work on this device draws from."""
    return torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in cuda_devices(device))


@contextmanager
def replayed(state: RandomState, device: torch.device) -> Iterator[None]:
    """Draw the same random numbers as from that state (dropout: the same masks), then go on."""
    with torch.random.fork_rng(devices=cuda_devices(device)):
        torch.set_rng_state(state[0])
        for d, cuda_state in zip(cuda_devices(device), state[1:], strict=True):
            torch.cuda.set_rng_state(cuda_state, d)
        yield


class GlobalRandomness:
    """The generators that torch draws from by itself, as a thing with a state.

    >>> randomness = GlobalRandomness()
    >>> state = randomness.state_dict()
    >>> first = torch.rand(3)
    >>> randomness.load_state_dict(state)
    >>> torch.equal(first, torch.rand(3))
    True
    """

    def state_dict(self) -> dict[str, Any]:
        """Of the CPU's generator, and of every CUDA device's."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Draw on from there. On a machine with other CUDA devices theirs are left alone."""
        torch.set_rng_state(state["cpu"])
        if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
