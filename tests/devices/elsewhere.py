"""A device that is pretended: tensors that say they are elsewhere, their numbers on the processor.

A GPU fails where a tensor of its own meets one of the processor's, where a generator is another
device's, or where a number is made without a word about the device. torch's "meta" device has
shapes and no numbers; a tensor that claims to be there and carries numbers along behaves in these
respects as one on a GPU does, on any machine. It also counts what a GPU has to be waited for:
numbers that Python asks for.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")
aten = torch.ops.aten
TENSOR = torch.tensor
# What may be given tensors of two devices; indices of the processor's are copied there.
MIXES = frozenset(
    (aten.copy_, aten._to_copy, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
)
# What a GPU is waited for.
WAITS = frozenset(
    (aten._local_scalar_dense, aten.equal, aten.nonzero, aten.masked_select, aten._unique2)
)


class Elsewhere(Tensor):
    """A tensor that says it is elsewhere.

    >>> with Pretended():
    ...     a = torch.ones(2, device=ELSEWHERE)
    >>> a.device, (a + a).cpu()
    (device(type='meta'), tensor([2., 2.]))
    >>> a + torch.ones(2)
    Traceback (most recent call last):
    RuntimeError: aten.add.Tensor: tensors of two devices, [2] there and [2] of the processor
    """

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> Elsewhere:
        make: Any = Tensor._make_wrapper_subclass
        tensor: Elsewhere = make(
            cls,
            inside.size(),
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            layout=inside.layout,
            device=ELSEWHERE,
        )
        tensor.inside = inside
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    # torch asks a meta tensor, or one of another class, for no number.
    def tolist(self) -> Any:
        return self.cpu().tolist()

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None) -> Tensor:
        return made_here_first(TENSOR, data, device=ELSEWHERE, dtype=dtype or self.dtype)

    def item(self) -> Any:
        return self.cpu().item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return carried_out(func, args, kwargs or {})


class Pretended(TorchDispatchMode):
    """While this lasts, there is such a device: tensors can be made on it and moved there."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0  # how often the device was waited for
        self.patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        enabled = torch.is_autocast_enabled
        # Casts are of devices that torch knows; and `tensor` makes one without asking us.
        self.patch.setattr(torch, "is_autocast_enabled", lambda *d: d != ("meta",) and enabled(*d))
        for function in (torch.tensor, torch.as_tensor):
            replacement = partial(made_here_first, function)
            self.patch.setattr(torch, function.__name__, replacement)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.patch.undo()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        there = any(isinstance(t, Elsewhere) for t in tree_leaves((args, kwargs)))
        if not there and kwargs.get("device") != ELSEWHERE:
            return func(*args, **kwargs)
        to_processor = func.overloadpacket is aten._to_copy and is_processor(kwargs.get("device"))
        self.waits += there and (func.overloadpacket in WAITS or to_processor)
        return carried_out(func, args, kwargs)


def sent_there(module: Any) -> Any:
    """A copy of a module with its tensors elsewhere; those that it shares, it shares there too.

    (`module.to` leaves the parameters the objects that they are only between devices that torch
    takes for alike, which it does with a processor and a GPU.)
    """
    memo: dict[int, Any] = {}
    for p in module.parameters():
        memo[id(p)] = torch.nn.Parameter(p.detach().to(ELSEWHERE), p.requires_grad)
    for b in module.buffers():
        memo[id(b)] = b.to(ELSEWHERE)
    return copy.deepcopy(module, memo)


def made_here_first(tensor: Any, data: Any, *, device: Any = None, **settings: Any) -> Tensor:
    """`torch.tensor` or `torch.as_tensor`, moved to the device at the end."""
    made: Tensor = tensor(data, **settings)
    return made if device is None else made.to(device)


def is_processor(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cpu"


def carried_out(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation, done with the numbers inside.

    Raises:
        RuntimeError: of tensors elsewhere and on the processor at once, or with a generator of the
            processor's.
    """
    leaves = tree_leaves((args, kwargs))
    tensors = [t for t in leaves if isinstance(t, Tensor)]
    strange = [t for t in tensors if not isinstance(t, Elsewhere) and t.ndim]
    own = [t for t in tensors if isinstance(t, Elsewhere)]
    if own and strange and func.overloadpacket not in MIXES:
        raise RuntimeError(
            f"{func}: tensors of two devices, {list(own[0].shape)} there and "
            f"{list(strange[0].shape)} of the processor"
        )
    if any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"{func}: a generator of the processor's draws for another device")
    wanted = kwargs.get("device")
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args_inside, kwargs_inside = tree_map(inside_of, (args, kwargs))
    result = func(*args_inside, **kwargs_inside)
    if func._schema.is_mutable:  # the tensor that was given is the result
        written = [
            kwargs[a.name] if a.name in kwargs else args[n]
            for n, a in enumerate(func._schema.arguments)
            if a.alias_info is not None
            and a.alias_info.is_write
            and (a.name in kwargs or n < len(args))
        ]
        if torch.Tag.inplace_view in func.tags:  # of another shape now, as what is inside
            with no_dispatch():
                func(*args, **kwargs)
        return written[0] if len(written) == 1 and isinstance(result, Tensor) else result
    if is_processor(wanted):
        return result
    return tree_map(lambda t: Elsewhere(t) if isinstance(t, Tensor) else t, result)


def inside_of(thing: Any) -> Any:
    return thing.inside if isinstance(thing, Elsewhere) else thing
