"""Two processes of a group of torch.distributed, on which tests call functions."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

# Children of a process that has imported already what a training needs.
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["metanotes.data", "torch._dynamo", "tqdm.auto", "pytest"])
SECONDS = 120.0  # after which something hangs


def join(where: Path, rank: int, size: int) -> int:
    """Be a rank of a group, and say which process that is.

    Args:
        where: a file that no other group has used.
        rank: which.
        size: of how many.
    """
    torch.set_num_threads(1)
    if size > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{where}", rank=rank, world_size=size
        )
    return os.getpid()


class Group:
    """Ranks that wait for work."""

    def __init__(self, where: Path, size: int = 2) -> None:
        self.ranks = [ProcessPoolExecutor(1, mp_context=CONTEXT) for _ in range(size)]
        waiting = [ex.submit(join, where, n, size) for n, ex in enumerate(self.ranks)]
        self.processes = [future.result(SECONDS) for future in waiting]

    def outcomes(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What a function of a module returns on each rank, or the error that it raises."""
        futures = [rank.submit(function, *arguments) for rank in self.ranks]
        errors = [future.exception(SECONDS) for future in futures]
        return [
            future.result() if error is None else error
            for future, error in zip(futures, errors, strict=True)
        ]

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What it returns on each rank."""
        outcomes = self.outcomes(function, *arguments)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return outcomes

    def close(self) -> None:
        for rank, process in zip(self.ranks, self.processes, strict=True):
            rank.shutdown(wait=False)
            os.kill(process, signal.SIGKILL)  # it may wait for the other
