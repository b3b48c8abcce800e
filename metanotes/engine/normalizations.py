"""Normalisations that can be differentiated any number of times.

    y = (x - mean) / sqrt(var + eps) * weight + bias

From the third derivative on, torch's own batch, instance and layer normalisations are wrong by a
third and more (torch 2.13, in float64; group normalisation is right). A meta-gradient is a second
derivative, so that the gradient of a meta-gradient is where this starts to matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from metanotes.engine.instead import Instead


def _normalized(
    x: Tensor, axes: Iterable[int], eps: float, weight: Tensor | None, bias: Tensor | None
) -> Tensor | None:
    """With mean 0 and variance 1 along some axes, then scaled; None where torch refuses to."""
    axes = tuple(axes)
    if all(x.shape[axis] == 1 for axis in axes):
        return None
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    centred = wide - wide.mean(axes, keepdim=True)
    scale = (centred.square().mean(axes, keepdim=True) + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    return (
        centred * scale if bias is None else torch.addcmul(bias.to(wide.dtype), centred, scale)
    ).to(x.dtype)


def _by_channels(
    x: Tensor, axes: Iterable[int], eps: float, weight: Tensor | None, bias: Tensor | None
) -> Tensor | None:
    """With a weight and a bias for each channel of `[N, C, ...]`."""
    shape = (-1, *[1] * (x.ndim - 2))
    weight, bias = (None if t is None else t.view(shape) for t in (weight, bias))
    return _normalized(x, axes, eps, weight, bias)


def _batch(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if not training or running_mean is not None:
        return None
    return _by_channels(input, (0, *range(2, input.ndim)), eps, weight, bias)


def _instance(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if not use_input_stats or running_mean is not None:
        return None
    return _by_channels(input, range(2, input.ndim), eps, weight, bias)


def _layer(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor | None:
    return _normalized(input, range(-len(normalized_shape), 0), eps, weight, bias)


def _low(formula: Any) -> Any:
    """`torch.batch_norm` and `torch.instance_norm` have another order of arguments."""

    def reordered(
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        *settings: Any,
        cudnn_enabled: bool = True,
        **named: Any,
    ) -> Tensor | None:
        return formula(input, running_mean, running_var, weight, bias, *settings[:3], **named)

    return reordered


FORMULAS = {
    F.batch_norm: _batch,
    F.instance_norm: _instance,
    F.layer_norm: _layer,
    torch.batch_norm: _low(_batch),
    torch.instance_norm: _low(_instance),
    torch.layer_norm: _layer,
}


class Differentiable(Instead):
    """Take the formula for torch's normalisations.

    >>> third = lambda t: torch.autograd.functional.hessian(
    ...     lambda t: torch.autograd.grad(
    ...         F.layer_norm(t, (3,)).prod(), t, create_graph=True)[0].square().sum(), t)
    >>> x = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    >>> with Differentiable():
    ...     right = third(x)
    >>> torch.allclose(third(x), right)
    False
    """

    functions = FORMULAS
