"""Convolution, batch normalization and max-pooling, with derivatives of derivatives that are fast.

A convolution y = C(x, w) is linear in each argument. So are the gradients that belong to it,
X(g, w) for x and W(x, g) for w, since all three are one sum of products x w g read three ways:
<g, C(x, w)> = <x, X(g, w)> = <w, W(x, g)>. To differentiate any of them gives the other two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Pair = tuple[int, int]
LAST = torch.channels_last


# ------------------------------------------------------------------------------- convolution


class ConvSettings(NamedTuple):
    """The settings of `torch.nn.functional.conv2d` after the bias."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


class Convolution(Function):
    """C(x, w): x `[N, C, H, W]`, w `[O, C / groups, kh, kw]`, to `[N, O, H', W']`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, how: ConvSettings) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.how = how
        return F.conv2d(x, w, None, *how)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        dx = InputGradient.apply(g, w, x.shape, ctx.how) if ctx.needs_input_grad[0] else None
        dw = WeightGradient.apply(x, g, w.shape, ctx.how) if ctx.needs_input_grad[1] else None
        return dx, dw, None


class InputGradient(Function):
    """X(g, w): g `[N, O, H', W']`, w `[O, C / groups, kh, kw]`, to `[N, C, H, W]`."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, w: Tensor, shape: torch.Size, how: ConvSettings) -> Tensor:
        ctx.save_for_backward(g, w)
        ctx.how = how
        return _gradient(0, g, _unset(g, shape), w, how)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        g, w = ctx.saved_tensors
        dg = Convolution.apply(v, w, ctx.how) if ctx.needs_input_grad[0] else None
        dw = WeightGradient.apply(v, g, w.shape, ctx.how) if ctx.needs_input_grad[1] else None
        return dg, dw, None, None


class WeightGradient(Function):
    """W(x, g): x `[N, C, H, W]`, g `[N, O, H', W']`, to `[O, C / groups, kh, kw]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, shape: torch.Size, how: ConvSettings) -> Tensor:
        ctx.save_for_backward(x, g)
        ctx.how = how
        return _gradient(1, g, x, _unset(g, shape), how)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        x, g = ctx.saved_tensors
        dx = InputGradient.apply(g, v, x.shape, ctx.how) if ctx.needs_input_grad[0] else None
        dg = Convolution.apply(x, v, ctx.how) if ctx.needs_input_grad[1] else None
        return dx, dg, None, None


def _gradient(of: int, g: Tensor, x: Tensor, w: Tensor, how: ConvSettings) -> Tensor:
    """torch's own gradient of a convolution, for x (`of` 0) or w (1)."""
    stride, padding, dilation, groups = how
    backward, which = torch.ops.aten.convolution_backward, [of == 0, of == 1, False]
    return backward(g, x, w, None, stride, padding, dilation, False, (0, 0), groups, which)[of]


def _unset(like: Tensor, shape: torch.Size) -> Tensor:
    """What `_gradient` looks at the shape of, and at nothing else."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=LAST)


# ------------------------------------------------------------------------- batch normalisation


def _rows(x: Tensor) -> Tensor:
    """`[N, C, H, W]`, channels last, to `[N H W, C]`: a view, or in float32 what has fewer bits."""
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)
    return rows.float() if x.dtype in (torch.bfloat16, torch.float16) else rows


class Normalization(Function):
    """Batch normalisation: y = w x^ + b, x^ = (x - mean) r, r = (variance + eps)^-1/2.

    x `[N, C, H, W]`, w and b `[C]`; the moments are those of one channel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, eps: float) -> Tensor:
        y, mean, r = torch.native_batch_norm(x, w, b, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, w, mean, r)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w, mean, r = ctx.saved_tensors
        return *NormalizationGradient.apply(g, x, w, mean, r), None


class NormalizationGradient(Function):
    """The gradients of batch normalisation, with sums q = sum g and a = sum g x^ over m examples:

    dx = r w (g - q/m - x^ a/m),    dw = a,    db = q                                 (1)
    """

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, w: Tensor, mean: Tensor, r: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        backward = torch.ops.aten.native_batch_norm_backward
        dx, a, q = backward(g, x, w, None, None, mean, r, True, 0.0, [True, True, True])
        ctx.save_for_backward(g, x, w, mean, r, q, a)
        return dx, a, q

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor, va: Tensor, vq: Tensor) -> tuple[Tensor | None, ...]:
        """Of <v, dx> + <va, a> + <vq, q>, where <v, dx> = r w D, D = sum v g - S q/m - B a/m.

        S = sum v and B = sum v x^. x^ depends on x through mean and r, and r on x by
        dr/dx = -r^2 x^/m.
        """
        like, w, mean, r, q, a = ctx.saved_tensors[1:]
        g, x, v = map(_rows, (ctx.saved_tensors[0], like, v))
        m = len(x)
        S = v.sum(0)
        B = r * ((v * x).sum(0) - mean * S)
        D = (v * g).sum(0) - (S * q + B * a) / m
        s = r * w
        dw = r * D
        # to g: r w (v - S/m - x^ B/m) + va x^ + vq, as a combination of v, x and 1
        on_x = r * (va - s * B / m)
        dg = torch.addcmul(vq - s * S / m - mean * on_x, v, s).addcmul_(x, on_x)
        # to x^: h = c g + d v, through (1) with w = 1; to r: w D
        c, d = va - s * B / m, -s * a / m
        total, along = c * q + d * S, c * a + d * B
        on_x = -r * r * (along + w * r * D) / m
        dx = torch.addcmul(-r * total / m - mean * on_x, g, r * c)
        dx.addcmul_(v, r * d).addcmul_(x, on_x)
        return _images(dg, like), _images(dx, like), dw, None, None


def _images(rows: Tensor, like: Tensor) -> Tensor:
    """The reverse of `_rows`."""
    n, c, h, w = like.shape
    return rows.view(n, h, w, c).permute(0, 3, 1, 2)


# ------------------------------------------------------------------------------- max-pooling


class MaxPooling(Function):
    """The largest number in each window: linear, as long as it is in the same place.

    x `[N, C, H, W]`, channels last, to `[N, C, H', W']`; `window` are the arguments of
    `torch.nn.functional.max_pool2d` from the kernel's size to `ceil_mode`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[Any, ...]) -> Tensor:
        y, places = torch.ops.aten.max_pool2d_with_indices(x, *window)
        ctx.save_for_backward(x, places)
        ctx.window = window
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, places = ctx.saved_tensors
        return MaxPoolingGradient.apply(g, x.detach(), places, ctx.window), None


class MaxPoolingGradient(Function):
    """Puts g `[N, C, H', W']` in the places that it belongs to: to `[N, C, H, W]`."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, places: Tensor, window: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(places)
        return torch.ops.aten.max_pool2d_with_indices_backward(g, x, *window, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        v, rows = (t.permute(0, 2, 3, 1).flatten(1, 2) for t in (v, places))  # [N, H W, C]
        return _images(v.gather(1, rows), places), None, None, None
