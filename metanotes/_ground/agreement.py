"""What ranks must agree on before they work together, and what each of them holds alike.

Where they do not, all of them are told so, and none goes on. Everything here is a call that all
ranks make, and does nothing where there is one.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from metanotes._ground.checkpoints import Stateful, difference, packed_by_torch
from metanotes._ground.nested import tensors_in
from metanotes._ground.ranks import Ranks

ROUNDING = 1e-4  # by which the numbers of two machines may differ
OWN_GPU = "torch.cuda.set_device(int(os.environ['LOCAL_RANK'])) and device='cuda'"


def same_call(ranks: Ranks, what: Mapping[str, str]) -> None:
    """Refuse ranks that are about to do different things.

    Args:
        ranks: those that work together.
        what: this one is about to do, by name, in lines.

    Raises:
        ValueError: names the first line that differs.

    >>> same_call(Ranks(), {"tasks": "4"})
    """
    if ranks.size == 1:
        return
    every = ranks.gathered(lambda: dict(what))
    for rank, other in enumerate(every):
        if differs := difference(every[0], other):
            name, first, here = differs
            raise ValueError(
                f"the ranks do not agree ({name}): {first} on rank 0, {here} on rank {rank}. All "
                "ranks make the same calls, and share the tasks; processes that each work on "
                "something of their own need no process group"
            )


def same_tasks(ranks: Ranks, drawn: Any) -> None:
    """Refuse ranks that have drawn different tasks.

    >>> same_tasks(Ranks(), torch.zeros(3))
    """
    if ranks.size > 1:
        same_call(ranks, {"tasks": in_words(drawn)})


def in_words(drawn: Any) -> str:
    """What tells some tasks from others: the shape and the sum of each tensor, in lines.

    >>> in_words({"x": torch.ones(3, 2), "kind": "words"})
    '[3, 2], sum 6'
    """
    tensors = [t for t in tensors_in(drawn) if not t.is_complex()]
    return "\n".join(f"{list(t.shape)}, sum {float(t.double().sum()):.4g}" for t in tensors)


def same_states(ranks: Ranks, parts: Mapping[str, Stateful]) -> None:
    """Everything becomes what it is on rank 0: phi, the optimizers, the stream of tasks.

    Raises:
        ValueError: a part of some rank cannot, a sampler of another seed, say.

    >>> same_states(Ranks(), {"learner": nn.Linear(2, 1)})
    """
    if ranks.size == 1:
        return
    states = {name: part.state_dict() for name, part in parts.items()} if ranks.first else {}
    packed = ranks.of_first(packed_by_torch(states))
    states = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=False)

    def take() -> None:
        for name, part in parts.items() if not ranks.first else ():
            try:
                part.load_state_dict(states[name])
            except Exception as error:
                raise ValueError(f"the {name} is another than rank 0's: {error}") from error

    ranks.gathered(take)


def same_tensors(ranks: Ranks, module: nn.Module) -> None:
    """Refuse a module whose tensors are others than on rank 0.

    Raises:
        ValueError: names them.

    >>> same_tensors(Ranks(), nn.Linear(2, 1))
    """
    if ranks.size == 1 or not module.state_dict():
        return
    held = {name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)}
    own = [t.detach().flatten().to(ranks.device, torch.float64) for t in held.values()]
    of_first = torch.cat(own)
    with ranks.waiting():
        dist.broadcast(of_first, src=0)

    def compare() -> None:
        pairs = zip(held, own, of_first.split([len(t) for t in own]), strict=True)
        if others := [name for name, t, first in pairs if not alike(t, first)]:
            raise ValueError(
                f"{', '.join(others)} of the {type(module).__name__} are not what they are on rank "
                "0. In training they may depend on which tasks a rank has (a running mean, a "
                "baseline) or on random numbers of its own (an optimizer's noise): that needs one "
                "process"
            )

    ranks.gathered(compare)


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal up to the rounding of two machines.

    >>> alike(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1e-7]))
    True
    """
    scale = float(b.nan_to_num().abs().max()) if len(b) else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=ROUNDING * scale, equal_nan=True)


def own_places(ranks: Ranks, module: nn.Module) -> None:
    """Refuse a device that the group does not carry, or that is another rank's too.

    Raises:
        ValueError: says what would do.

    >>> own_places(Ranks(), nn.Linear(2, 1))
    """
    if ranks.size == 1:
        return
    carried = [pair.split(":")[0] for pair in dist.get_backend_config().split(",")]
    if ranks.device.type not in carried:
        raise ValueError(
            f"the {type(module).__name__} is on {ranks.device}, and the process group (backend "
            f"{dist.get_backend()!r}) carries {' and '.join(carried)}: move it, or "
            "init_process_group('gloo') for processors and 'nccl' for GPUs"
        )
    if ranks.device.type == "cuda" and ranks.device.index != torch.cuda.current_device():
        raise ValueError(
            f"the {type(module).__name__} is on {ranks.device}, and this rank's GPU is "
            f"cuda:{torch.cuda.current_device()}: {OWN_GPU}"
        )
    check_places(ranks.gathered(lambda: (socket.gethostname(), str(ranks.device))))


def check_places(places: Sequence[tuple[str, str]]) -> None:
    """Refuse two ranks on one GPU, or some on GPUs and some not.

    Args:
        places: the host and the device of each rank.

    Raises:
        ValueError: names the ranks.

    >>> check_places([("node1", "cuda:0"), ("node1", "cuda:0")])
    Traceback (most recent call last):
    ValueError: ranks 0 and 1 both work on cuda:0 of node1: each has a GPU of its own, with ...
    """
    kinds = {device.split(":")[0] for _, device in places}
    if len(kinds) > 1:
        each = ", ".join(f"rank {rank} on {device}" for rank, (_, device) in enumerate(places))
        raise ValueError(f"all ranks work on processors, or all on GPUs, not {each}")
    for rank, (host, device) in enumerate(places):
        other = places.index((host, device))
        if device.startswith("cuda") and other != rank:
            raise ValueError(
                f"ranks {other} and {rank} both work on {device} of {host}: each has a GPU of its "
                f"own, with {OWN_GPU}"
            )
