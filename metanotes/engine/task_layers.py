"""Layers of many tasks at once, each task with weights of its own: for convolutional networks.

The tasks lie side by side in the channels: images `[T, N, C, H, W]` are `[N, T C, H, W]`, with
channels last in memory (N, H, W, T, C). Then T convolutions are one convolution in T groups, and
batch normalization or pooling of T tasks is that of T C channels: each a single operation of
torch's. `vmap` does so too, but with the channels not last, where a CPU is slow, and its second
derivatives of a convolution with groups go group by group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.autograd import Function
from torch.nn import functional as F

from metanotes.engine.derivatives import (
    LAST,
    Convolution,
    ConvSettings,
    MaxPooling,
    Normalization,
    Pair,
)
from metanotes.engine.instead import Instead

# --------------------------------------------------------------------- the tasks in the channels


def to_channels(x: Tensor) -> Tensor:
    """`[T, N, C, H, W]` to `[N, T C, H, W]`, channels last; a view of what `to_tasks` gave."""
    return x.transpose(0, 1).flatten(1, 2).contiguous(memory_format=LAST)


def to_tasks(x: Tensor, tasks: int) -> Tensor:
    """`[N, T C, H, W]` to `[T, N, C, H, W]`, a view."""
    return x.unflatten(1, (tasks, -1)).transpose(0, 1)


def convolve(x: Tensor, w: Tensor, how: ConvSettings) -> Tensor:
    """x `[T, N, C, H, W]` and w `[T, O, C, kh, kw]` to `[T, N, O, H', W']`."""
    tasks = len(x)
    together = how._replace(groups=tasks * how.groups)
    w = w.movedim(2, -1).flatten(0, 1).movedim(-1, 1)  # channels last
    return to_tasks(Convolution.apply(to_channels(x), w, together), tasks)


def normalize(x: Tensor, w: Tensor, b: Tensor, eps: float) -> Tensor:
    """Batch normalisation, with the moments of the batch: x `[T, N, C, H, W]`, w and b `[T, C]`."""
    y = Normalization.apply(to_channels(x), w.flatten(), b.flatten(), eps)
    return to_tasks(y, len(x))


def pool(x: Tensor, window: tuple[Any, ...]) -> Tensor:
    """Max-pooling: x `[T, N, C, H, W]` to `[T, N, C, H', W']`."""
    return to_tasks(MaxPooling.apply(to_channels(x), window), len(x))


def normalize_groups(x: Tensor, *weights: Tensor, groups: int, eps: float) -> Tensor:
    """Group normalisation: x `[T, N, C, H, W]`; weights and biases `[T, C]`, or neither."""
    tasks = len(x)
    together = x.transpose(0, 1).flatten(1, 2).contiguous()  # see `Plain.normalizes_groups`
    w, b = (t.flatten() for t in weights) if weights else (None, None)
    return to_tasks(F.group_norm(together, tasks * groups, w, b, eps), tasks)


# --------------------------------------------------------------------------- in place of vmap's


class _Vmapped(Function):
    """A function whose rule for vmap is to work on all tasks at once."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        raise NotImplementedError("this layer works under vmap only")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], layer: Callable[..., Tensor], *inputs: Tensor
    ) -> tuple[Tensor, int]:
        inside = [
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(inputs, in_dims[1:], strict=True)
        ]
        return layer(*inside), 0


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    if isinstance(padding, str) or not _images(input):
        return None
    input, weight = as_cast(input), as_cast(weight)
    bias = None if bias is None else as_cast(bias)
    if not is_batchedtensor(weight):
        # The tasks have the same weights, and vmap's own convolution, of all images at once, serves
        # them all; its results have their channels last, as its weights have.
        weight = weight.clone(memory_format=LAST)
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    how = ConvSettings(_pair(stride), _pair(padding), _pair(dilation), groups)
    y = _Vmapped.apply(partial(convolve, how=how), input, weight)
    return y if bias is None else y + bias[:, None, None]


def _normalization(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if (
        not training
        or running_mean is not None
        or not _images(input)
        or weight is None
        or bias is None
    ):
        return None
    return _Vmapped.apply(partial(normalize, eps=eps), input, weight, bias)


def _group_normalization(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    weights = [t for t in (weight, bias) if t is not None]
    if len(weights) == 1 or not _images(input):
        return None
    layer = partial(normalize_groups, groups=num_groups, eps=eps)
    return _Vmapped.apply(layer, input, *weights)


def _max_pooling(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    size = kernel_size, kernel_size if stride is None else stride
    window = (*map(_pair, (*size, padding, dilation)), ceil_mode)
    if return_indices or not _images(input):
        return None
    return _Vmapped.apply(partial(pool, window=window), input)


def _images(x: Tensor) -> bool:
    """Whether they are images, and several. With one, torch misreads how the channels lie."""
    return x.ndim == 4 and len(x) > 1


def as_cast(x: Tensor) -> Tensor:
    """What a convolution is given where torch's automatic casts are in force.

    They are in force at the calls of torch's functions, which the layers here are none of.

    >>> import torch
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     as_cast(torch.ones(2)).dtype
    torch.bfloat16
    """
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(kind))


def _pair(of: Any) -> Pair:
    return (of, of) if isinstance(of, int) else tuple(of)


class TaskLayers(Instead):
    """Under vmap over tasks, take the layers of this module for the functions of `torch.nn`."""

    functions: ClassVar[Mapping[Any, Callable[..., Any]]] = {
        F.conv2d: _convolution,
        F.batch_norm: _normalization,
        F.group_norm: _group_normalization,
        F.max_pool2d: _max_pooling,
    }
