"""The processes of a group of torch.distributed, which share the tasks of a batch.

Of T tasks rank r has n_r, one after the other. The loss and its gradient are means over all tasks,

    L = sum_r n_r / T L_r,    grad L = sum_r n_r / T grad L_r,                                (1)

where L_r is the mean over those of rank r. Every rank draws the whole batch and keeps its share, so
that the tasks are those that one process would have drawn, however many ranks there are. All ranks
hold the same phi, optimizers and stream of tasks; rank 0 alone writes.

Without a group there is one rank, which talks to nobody and works as if nothing of this were here.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from metanotes._ground.nested import mapped, tensors_in
from metanotes._ground.randomness import cuda_devices, seeded

Of = TypeVar("Of")

ALONE = ContextVar("ALONE", default=False)  # whether this rank works by itself at present


class Ranks(NamedTuple):
    """This process among those that share their tasks.

    Args:
        rank: its number, from 0.
        size: how many there are.
        device: where it works.

    >>> one = Ranks()
    >>> one.share(torch.arange(3)), one.gathered(lambda: 5)
    ((tensor([0, 1, 2]), 1.0), [5])
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    # ----------------------------------------------------------------------- tasks and their means

    def share(self, drawn: Any) -> tuple[Any, float]:
        """This rank's tasks of a batch, and n_r / T.

        Raises:
            ValueError: fewer tasks than ranks, or tensors without a task axis in front.
        """
        if self.size == 1:
            return drawn, 1.0
        counts = {len(t) for t in tensors_in(drawn) if t.ndim}
        if len(counts) != 1:
            raise ValueError(
                f"{self.size} ranks share the tasks of a batch along the leading axis of its "
                f"tensors, which is to be as long in all of them; here it is {sorted(counts)}"
            )
        (tasks,) = counts
        if tasks < self.size:
            raise ValueError(
                f"{tasks} tasks cannot be shared by {self.size} ranks: draw more with tasks=, or "
                "start fewer processes"
            )
        first, end = (tasks * rank // self.size for rank in (self.rank, self.rank + 1))
        own = mapped(lambda t: t[first:end] if t.ndim else t, drawn)
        return own, (end - first) / tasks

    def mean(self, own: Tensor, share: float) -> Tensor:
        """L of (1), from the mean over this rank's tasks, without a graph."""
        if self.size == 1:
            return own.detach()
        total = share * own.detach().double()
        self._add_up(total)
        return total

    def add_gradients(self, phi: Sequence[nn.Parameter]) -> None:
        """The gradients of all ranks are summed; what has none on any rank has none."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(p.dtype for p in phi):
            own = [p for p in phi if p.dtype == dtype and p.requires_grad]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in own]
            there = torch.tensor([p.grad is not None for p in own]).to(self.device, dtype)
            flat = torch.cat([there, *(g.flatten() for g in gradients)])  # one message for all
            self._add_up(flat)
            sums = flat[len(own) :].split([p.numel() for p in own])
            for p, ranks, total in zip(own, flat[: len(own)].tolist(), sums, strict=True):
                p.grad = total.view_as(p) if ranks else None

    def any(self, yes: bool) -> bool:
        """Whether it is so on some rank."""
        if self.size == 1:
            return yes
        number = torch.tensor(int(yes), device=self.device)
        self._add_up(number)
        return bool(number)

    @contextmanager
    def randomness(self, number: int) -> Iterator[None]:
        """The random numbers of this rank for a piece of work; the stream of all is left as it was.

        What a learner draws from torch's global generators, dropout's masks say, must differ from
        rank to rank. What all ranks draw next must not.

        Args:
            number: of the piece of work, an iteration's, say.
        """
        if self.size == 1:
            yield
            return
        of_all = torch.get_rng_state().numpy().tobytes()
        digest = hashlib.sha256(of_all + f"{number}, {self.rank}".encode()).digest()
        with seeded(int.from_bytes(digest[:8]), self.device):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """What is called inside shares nothing, and leaves the random numbers as they were."""
        if self.size == 1:
            yield
            return
        token = ALONE.set(True)
        try:
            with torch.random.fork_rng(devices=cuda_devices(self.device)):
                yield
        finally:
            ALONE.reset(token)

    # ----------------------------------------------------------------------------- all do the same

    def gathered(self, work: Callable[[], Of]) -> list[Of]:
        """What some work gives on each rank; what it raises on one, all raise, with its name.

        Args:
            work: what it gives, and what it raises, is sent to the others.
        """
        if self.size == 1:
            return [work()]
        own: tuple[Any, Exception | None]
        try:
            own = work(), None
        except Exception as error:
            own = None, self.named_in(error)
        every: list[Any] = [None] * self.size
        with self.waiting():
            dist.all_gather_object(every, (own[0], portable(own[1])))
        for rank, (_, raised) in enumerate(every):
            if raised is not None:
                raise own[1] if rank == self.rank and own[1] else raised
        return [value for value, _ in every]

    def of_first(self, thing: Of) -> Of:
        """What rank 0 has."""
        if self.size == 1:
            return thing
        things = [thing if self.first else None]
        with self.waiting():
            dist.broadcast_object_list(things, src=0)
        return things[0]  # type: ignore[return-value]

    # ---------------------------------------------------------------------------------- what fails

    @contextmanager
    def named(self) -> Iterator[None]:
        """What is raised inside says on which rank."""
        try:
            yield
        except Exception as error:
            self.named_in(error)
            raise

    def named_in(self, error: Exception) -> Exception:
        """The error, which says on which rank it was raised."""
        if self.size > 1 and not hasattr(error, "__notes__"):
            error.add_note(f"on rank {self.rank} of {self.size}")
        return error

    def _add_up(self, t: Tensor) -> None:
        with self.waiting():
            dist.all_reduce(t)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what needs all ranks: says so where one is missing."""
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.rank} of {self.size} waits for the others in vain: one of them has "
                "ended (its own message says why), or does not make the same calls; "
                f"{str(error).splitlines()[0]}"
            ) from error


def present_ranks(device: torch.device) -> Ranks:
    """The group that this process has joined with `torch.distributed.init_process_group`.

    >>> present_ranks(torch.device("cpu")).size
    1
    """
    if ALONE.get() or not (dist.is_available() and dist.is_initialized()):
        return Ranks(device=device)
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def portable(error: Exception | None) -> Exception | None:
    """An error that can be sent to another process: itself, or what it says.

    >>> class Local(Exception):
    ...     def __init__(self, a, b): super().__init__(f"{a} and {b}")
    >>> portable(Local(1, 2))
    RuntimeError('Local: 1 and 2')
    """
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
