"""The least that the work could take: what it asks of any implementation, on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import Machine
from benchmarks.measure import Workload


class _Operations(TorchDispatchMode):
    """Counts the operations that compute something: views are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


class _Saved:
    """Counts the bytes that the backward pass needs, memory shared by several tensors once."""

    class Block:
        """Lives as long as some graph needs the memory that it stands for."""

    def __init__(self) -> None:
        self.bytes = 0
        self.blocks: WeakValueDictionary[int, _Saved.Block] = WeakValueDictionary()

    def pack(self, tensor: Tensor) -> tuple[Tensor, Block]:
        block = self.blocks.get(tensor.data_ptr())
        if block is None:
            block = self.blocks[tensor.data_ptr()] = _Saved.Block()
            self.bytes += min(tensor.nbytes, tensor.untyped_storage().nbytes())
        return tensor, block

    @staticmethod
    def unpack(packed: tuple[Tensor, Block]) -> Tensor:
        return packed[0]


class Counts(NamedTuple):
    """What a step does.

    Args:
        flops: floating-point operations of products and convolutions.
        operations: dispatched by PyTorch, views left out.
        saved: bytes kept for the backward pass.
    """

    flops: int
    operations: int
    saved: int


def count(step: Callable[[], object]) -> Counts:
    """Count one call."""
    operations, saved = _Operations(), _Saved()
    hooks = torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack)
    with hooks, FlopCounterMode(display=False) as flops, operations:
        step()
    return Counts(flops.get_total_flops(), operations.count, saved.bytes)


@dataclass(frozen=True)
class Floor:
    """What the work asks of any implementation, as seconds of this machine at its best.

    Args:
        counts: of the reference, all parts.
        arithmetic: the floating-point operations, at the rate of a large matrix product.
        memory: what the backward pass needs, written once and read once, at the rate of a copy.
        dispatch: the operations of one part (each could do all parts at once), at the time of an
            empty operation. Compilation, which fuses operations, can go below it.
    """

    counts: Counts
    arithmetic: float
    memory: float
    dispatch: float


def floor(workload: Workload, machine: Machine) -> Floor | None:
    """The floor of a workload, counted on its reference."""
    if not workload.reference:
        return None
    work = workload.work(torch.float32, machine.device)
    counts = count(workload.contenders[workload.reference](work))
    limits = machine.limits
    return Floor(
        counts,
        arithmetic=counts.flops / limits["flops"],
        memory=2 * counts.saved / limits["bytes"],
        dispatch=counts.operations / workload.parts * limits["dispatch"],
    )
