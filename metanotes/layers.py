"""Convolution and batch normalisation of many tasks at once, each task with weights of its own.

`vmap` makes one grouped convolution of the convolutions of all tasks. On a CPU, with the few images
of a support set, one batched matrix product is faster. And a Hessian-vector product differentiates
every layer twice, where the formulas of these two are short:

* A convolution y = C(x, w) is linear in each argument. So are the gradients that belong to it,
  X(g, w) for x and W(x, g) for w, since all three are one sum of products x w g read three ways:
  <g, C(x, w)> = <x, X(g, w)> = <w, W(x, g)>. To differentiate any of them gives the other two.
* Batch normalisation, and its gradient, are a few sums over examples and a linear combination.

Layout: images `[T, N, C, H, W]` in the memory order T, N, H, W, C, and weights `[T, O, C, kh, kw]`
in the order T, O, kh, kw, C: as matrix products take and write them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]


# ------------------------------------------------------------------------------- convolution


def _patches(x: Tensor, size: Pair, stride: Pair) -> Tensor:
    """x `[T, N, H, W, C]` to its patches under the kernel, `[T, N, H', W', kh, kw, C]`, a view."""
    return (
        x.unfold(2, size[0], stride[0]).unfold(3, size[1], stride[1]).permute(0, 1, 2, 3, 5, 6, 4)
    )


def _padded(x: Tensor, padding: Pair) -> Tensor:
    """`[T, N, C, H, W]` to `[T, N, H + 2 ph, W + 2 pw, C]`."""
    (ph, pw), x = padding, x.permute(0, 1, 3, 4, 2)
    return F.pad(x, (0, 0, pw, pw, ph, ph)) if ph or pw else x


def _many(rows: int, channels: int) -> bool:
    """Whether one ordinary convolution a task beats a matrix product for all tasks."""
    return rows >= 512 and channels >= 16


def _each(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`function` of one task after the other, on a CPU; images and weights with channels last."""
    results = [function(*(t[n] for t in tensors)) for n in range(len(tensors[0]))]
    stacked = torch.stack([result.permute(0, 2, 3, 1) for result in results])
    return stacked.permute(0, 1, 4, 2, 3)


def _backward(
    g: Tensor, x: Tensor, w: Tensor, stride: Pair, padding: Pair, which: list[bool]
) -> tuple[Tensor, ...]:
    """torch's own gradients of one convolution, which look at the shapes only of what they give."""
    backward = torch.ops.aten.convolution_backward
    return backward(g, x, w, None, stride, padding, (1, 1), False, (0, 0), 1, which)


def _unset(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape).contiguous(memory_format=torch.channels_last)


def _rows(g: Tensor) -> Tensor:
    """`[T, N, C, H, W]` to `[T, N H W, C]`."""
    return g.permute(0, 1, 3, 4, 2).reshape(len(g), -1, g.shape[2])


def _matrix(w: Tensor) -> Tensor:
    """`[T, O, C, kh, kw]` to `[T, O, kh kw C]`."""
    return w.permute(0, 1, 3, 4, 2).reshape(len(w), w.shape[1], -1)


class Convolution(Function):
    """C(x, w): x `[T, N, C, H, W]`, w `[T, O, C, kh, kw]`, to `[T, N, O, H', W']`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.stride, ctx.padding = stride, padding
        (tasks, images, channels), size = x.shape[:3], (w.shape[3], w.shape[4])
        height, width = (
            (x.shape[3 + i] + 2 * padding[i] - size[i]) // stride[i] + 1 for i in range(2)
        )
        if _many(images * height * width, channels):
            return _each(lambda x, w: F.conv2d(x, w, None, stride, padding), x, w)
        patches = _patches(_padded(x, padding), size, stride)
        y = patches.reshape(tasks, images * height * width, -1) @ _matrix(w).mT
        return y.view(tasks, images, height, width, -1).permute(0, 1, 4, 2, 3)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        how = ctx.stride, ctx.padding
        dx = InputGradient.apply(g, w, x.shape, *how) if ctx.needs_input_grad[0] else None
        dw = WeightGradient.apply(x, g, w.shape, *how) if ctx.needs_input_grad[1] else None
        return dx, dw, None, None


class InputGradient(Function):
    """X(g, w): g `[T, N, O, H', W']`, w `[T, O, C, kh, kw]`, to `[T, N, C, H, W]`."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, w: Tensor, shape: torch.Size, stride: Pair, padding: Pair
    ) -> Tensor:
        ctx.save_for_backward(g, w)
        ctx.stride, ctx.padding = stride, padding
        tasks, images, channels, height, width = shape
        (kh, kw), (ph, pw) = (w.shape[3], w.shape[4]), padding
        if _many(g[0, :, 0].numel(), channels):
            like = _unset(g, *shape[1:])
            only = [True, False, False]
            return _each(lambda g, w: _backward(g, like, w, stride, padding, only)[0], g, w)
        x = g.new_zeros(tasks, images, height + 2 * ph, width + 2 * pw, channels)
        patches = _patches(x, (kh, kw), stride)
        parts = (_rows(g) @ _matrix(w)).view(patches.shape)
        # Patches overlap, but not those at one place of the kernel: nine additions for 3 x 3.
        for to_row, row in zip(patches.unbind(4), parts.unbind(4), strict=True):
            for to, part in zip(to_row.unbind(4), row.unbind(4), strict=True):
                to += part
        return x[:, :, ph : ph + height, pw : pw + width].permute(0, 1, 4, 2, 3)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        g, w = ctx.saved_tensors
        how = ctx.stride, ctx.padding
        dg = Convolution.apply(v, w, *how) if ctx.needs_input_grad[0] else None
        dw = WeightGradient.apply(v, g, w.shape, *how) if ctx.needs_input_grad[1] else None
        return dg, dw, None, None, None


class WeightGradient(Function):
    """W(x, g): x `[T, N, C, H, W]`, g `[T, N, O, H', W']`, to `[T, O, C, kh, kw]`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, g: Tensor, shape: torch.Size, stride: Pair, padding: Pair
    ) -> Tensor:
        ctx.save_for_backward(x, g)
        ctx.stride, ctx.padding = stride, padding
        tasks, out, channels, kh, kw = shape
        if _many(g[0, :, 0].numel(), channels):
            like = _unset(g, *shape[1:])
            only = [False, True, False]
            return _each(lambda x, g: _backward(g, x, like, stride, padding, only)[1], x, g)
        patches = _patches(_padded(x, padding), (kh, kw), stride)
        rows = _rows(g)
        w = rows.mT @ patches.reshape(tasks, rows.shape[1], -1)  # [T, O, kh kw C]
        return w.view(tasks, out, kh, kw, channels).permute(0, 1, 4, 2, 3)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        x, g = ctx.saved_tensors
        how = ctx.stride, ctx.padding
        dx = InputGradient.apply(g, v, x.shape, *how) if ctx.needs_input_grad[0] else None
        dg = Convolution.apply(x, v, *how) if ctx.needs_input_grad[1] else None
        return dx, dg, None, None, None


# ------------------------------------------------------------------------- batch normalisation


def _spread(c: Tensor) -> Tensor:
    """One number a task and channel, `[T, C]`, for `[T, N, C, H, W]`."""
    return c[:, None, :, None, None]


def _sum(x: Tensor) -> Tensor:
    """`[T, N, C, H, W]` to `[T, C]`."""
    return x.sum((1, 3, 4))


class Normalisation(Function):
    """Batch normalisation: y = w x^ + b, x^ = (x - mean) r, r = (variance + eps)^-1/2.

    x `[T, N, C, H, W]`, w and b `[T, C]`; the moments are those of one task and channel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, eps: float) -> Tensor:
        m = x[0, :, 0].numel()
        mean = _sum(x) / m  # torch.var_mean is ten times as slow in this memory order
        r = (_sum((x - _spread(mean)).square()) / m + eps).rsqrt()
        ctx.save_for_backward(x, w, mean, r)
        ctx.eps = eps
        s = r * w
        return torch.addcmul(_spread(b - s * mean), x, _spread(s))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w, mean, r = ctx.saved_tensors
        return *NormalisationGradient.apply(g, x, w, mean.detach(), r.detach()), None


class NormalisationGradient(Function):
    """The gradients of batch normalisation, with sums q = sum g and a = sum g x^ over m examples:

    dx = r w (g - q/m - x^ a/m),    dw = a,    db = q                                 (1)
    """

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, w: Tensor, mean: Tensor, r: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        m = x[0, :, 0].numel()
        q = _sum(g)
        a = r * (_sum(g * x) - mean * q)
        s = r * w
        # x^ = r (x - mean), so that (1) is one combination of g, x and 1
        dx = torch.addcmul(_spread(s * (r * mean * a - q) / m), g, _spread(s))
        dx.addcmul_(x, _spread(-s * r * a / m))
        ctx.save_for_backward(g, x, w, mean, r, q, a)
        return dx, a, q

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor, va: Tensor, vq: Tensor) -> tuple[Tensor | None, ...]:
        """Of <v, dx> + <va, a> + <vq, q>, where <v, dx> = r w D, D = sum v g - S q/m - B a/m.

        S = sum v and B = sum v x^. x^ depends on x through mean and r, and r on x by
        dr/dx = -r^2 x^/m.
        """
        g, x, w, mean, r, q, a = ctx.saved_tensors
        m = x[0, :, 0].numel()
        S = _sum(v)
        B = r * (_sum(v * x) - mean * S)
        D = _sum(v * g) - (S * q + B * a) / m
        s = r * w
        dw = r * D
        # to g: r w (v - S/m - x^ B/m) + va x^ + vq, as a combination of v, x and 1
        on_x = r * (va - s * B / m)
        dg = torch.addcmul(_spread(vq - s * S / m - mean * on_x), v, _spread(s))
        dg.addcmul_(x, _spread(on_x))
        # to x^: h = c g + d v, through (1) with w = 1; to r: w D
        c, d = va - s * B / m, -s * a / m
        total, along = c * q + d * S, c * a + d * B
        on_x = -r * r * (along + w * r * D) / m
        dx = torch.addcmul(_spread(-r * total / m - mean * on_x), g, _spread(r * c))
        dx.addcmul_(v, _spread(r * d)).addcmul_(x, _spread(on_x))
        return dg, dx, dw, None, None


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


class TaskLayers(TorchFunctionMode):
    """Under vmap over tasks, take the layers of this module for the functions of `torch.nn`.

    Args:
        shared: the tasks have the same weights, and one ordinary convolution serves them all.
    """

    def __init__(self, shared: bool = False) -> None:
        super().__init__()
        self.shared = shared

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.conv2d:
            return (_shared_convolution if self.shared else _convolution)(*args, **kwargs)
        if func is F.batch_norm:
            return _normalisation(*args, **kwargs)
        return func(*args, **kwargs)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    simple = not isinstance(padding, str) and x.ndim == 4 and groups == 1
    if not simple or tuple(dilation) != (1, 1):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    def layer(x: Tensor, weight: Tensor) -> Tensor:
        return Convolution.apply(x, weight, tuple(stride), tuple(padding))

    y = _Vmapped.apply(layer, x, weight)
    return y if bias is None else y + bias[:, None, None]


def _shared_convolution(x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """vmap's own, of all images at once; its results have their channels last, as weights have."""
    return F.conv2d(x, weight.clone(memory_format=torch.channels_last), *args, **kwargs)


def _normalisation(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training or running_mean is not None or x.ndim != 4 or weight is None or bias is None:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    return _Vmapped.apply(lambda *inputs: Normalisation.apply(*inputs, eps), x, weight, bias)
