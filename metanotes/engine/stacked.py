"""Dense layers and losses of all tasks at once, in place of `vmap`.

    y^n = x^n W^n' + b^n for all n is one `torch.baddbmm`

`vmap` makes some five operations of it, and as many of each derivative. Where a function of one
task is made of the few that are known here, tensors `[T, ...]` are put through it as they are; at
the first other one it is given up (`NotStackable`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from metanotes.task import IGNORED
from metanotes.theta.task_axis import NotStackable


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x `[T, N, in]`; the weight `[T, out, in]` or, the same for all tasks, `[out, in]`; the bias
    alike."""
    if weight.ndim == 2 and (bias is None or bias.ndim == 1):
        return F.linear(input, weight, bias)
    if input.ndim != 3:
        raise NotStackable("an input without an example axis, or with more")
    if bias is None:
        return F.linear(input, weight) if weight.ndim == 2 else input.bmm(weight.mT)
    if weight.ndim == 2:
        return F.linear(input, weight) + bias.unsqueeze(1)
    return torch.baddbmm(bias if bias.ndim == 1 else bias.unsqueeze(1), input, weight.mT)


def _flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    if start_dim < 1 or end_dim != -1 or input.ndim < 3:
        raise NotStackable("the examples would be mixed")
    return input.flatten(start_dim + 1)


def _mse(input: Tensor, target: Tensor, **settings: Any) -> Tensor:
    _only(settings, reduction="mean")
    if input.shape != target.shape or input.ndim < 2:
        raise NotStackable("outputs and targets that differ in shape")
    return (input - target).square().flatten(1).mean(1)


def _cross_entropy(input: Tensor, target: Tensor, **settings: Any) -> Tensor:
    _only(settings, reduction="mean", ignore_index=IGNORED, label_smoothing=0.0)
    if input.ndim != 3 or target.shape[:2] != input.shape[:2]:
        raise NotStackable("outputs that are not [N, ways]")
    each = F.cross_entropy(input.flatten(0, 1), target.flatten(0, 1), reduction="none")
    each = each.view(input.shape[:2])
    if target.is_floating_point():  # probabilities
        return each.mean(1)
    return each.sum(1) / (target != IGNORED).sum(1)


def _only(settings: Mapping[str, Any], **known: Any) -> None:
    strange = {k: v for k, v in settings.items() if v is not None and v != known.get(k)}
    if strange:
        raise NotStackable(f"a loss with {strange}")


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    Tensor.flatten: _flatten,
    torch.flatten: _flatten,
    F.mse_loss: _mse,
    F.cross_entropy: _cross_entropy,
}
ELEMENTWISE = frozenset(
    (
        *(F.relu, F.silu, F.gelu, F.elu, F.leaky_relu, F.softplus),
        *(torch.relu, torch.tanh, torch.sigmoid, torch.sin),
        *(Tensor.relu, Tensor.tanh, Tensor.sigmoid, Tensor.sin),
    )
)
ALIKE = frozenset(  # questions whose answer is the same for one task as for all
    (
        *(Tensor.is_floating_point, Tensor.is_complex),
        *(
            getattr(Tensor, name).__get__
            for name in ("dtype", "device", "layout", "requires_grad", "grad_fn", "is_leaf")
        ),
    )
)


class Stacked(TorchFunctionMode):
    """While this lasts, the functions of this module take tensors `[T, ...]` for `[...]`, and all
    others are refused.

    Raises:
        NotStackable: by any other function of torch's.

    >>> x, w, y = torch.ones(3, 5, 2), torch.ones(3, 1, 2), torch.zeros(3, 5, 1)
    >>> with Stacked():
    ...     losses = F.mse_loss(F.linear(x, w), y)
    >>> losses
    tensor([4., 4., 4.])
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in ELEMENTWISE or func in ALIKE:
            return func(*args, **kwargs)
        function = FUNCTIONS.get(func)
        if function is None:
            raise NotStackable(f"{getattr(func, '__name__', func)} is not known")
        return function(*args, **kwargs)
