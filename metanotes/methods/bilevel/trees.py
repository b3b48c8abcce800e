"""Trees of tensors, and what autograd does on flat lists of them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, keystr, tree_flatten_with_path

Tree = Any  # a tensor, or nested dictionaries, lists and tuples of tensors


def tree_tensors(name: str, tree: Tree) -> tuple[list[Tensor], TreeSpec]:
    """The tensors of a tree and its structure.

    Raises:
        TypeError: something in it is no dense tensor of real floating-point numbers.
        ValueError: it has no number in it, or numbers that are not finite.
    """
    pairs, spec = tree_flatten_with_path(tree)
    if not pairs:
        raise TypeError(f"{name} has no tensor in it")
    for path, leaf in pairs:
        problem = _what_is_wrong(leaf)
        if problem:
            raise TypeError(f"{name}{keystr(path)} {problem}")
    if not any(leaf.numel() for _, leaf in pairs):
        raise ValueError(f"{name} has no number in it: all its tensors are empty")
    for path, leaf in pairs:
        if not all_finite([leaf]):
            raise ValueError(f"{name}{keystr(path)} has NaN or infinite values")
    return [leaf.clone() if leaf.is_inference() else leaf for _, leaf in pairs], spec


def _what_is_wrong(leaf: object) -> str:
    """With a leaf of a tree, and what would do; nothing if it is one."""
    kind, remedy = type(leaf).__name__, ""
    if isinstance(leaf, Tensor):
        if leaf.layout != torch.strided:
            return f"is {leaf.layout}; it must be dense: .to_dense()"
        if leaf.is_floating_point():
            return ""
        remedy = "" if leaf.is_complex() else ": .float()"
        return f"is of {leaf.dtype}; it must be a tensor of floating-point numbers{remedy}"
    if isinstance(leaf, nn.Module):
        remedy = ": dict(module.named_parameters()), if its parameters are meant"
    elif inspect.isgenerator(leaf):
        remedy = ": list(...) of it"
    elif hasattr(leaf, "__array__") or isinstance(leaf, int | float):
        remedy = ": torch.as_tensor(...) of it"
    return f"is a {kind}; it must be a tensor of floating-point numbers{remedy}"


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no value is NaN or infinite."""
    return all(
        math.isfinite(t.detach().sum().item()) or bool(t.isfinite().all())  # or a sum of large ones
        for t in tensors
    )


def check_function(name: str, function: object, *arguments: str) -> None:
    """A TypeError if the function cannot be called with so many arguments."""
    if not callable(function):
        raise TypeError(
            f"{name} must be a function of {' and '.join(arguments)}, not a "
            f"{type(function).__name__}"
        )
    code = getattr(function, "__code__", None)
    if code and code.co_argcount == len(arguments) and not code.co_kwonlyargcount:
        return  # nearly always: to read a signature takes long
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C: it does not say
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(f"{name} is called as {name}({', '.join(arguments)}): {error}") from error


def scalar(name: str, value: object) -> Tensor:
    """The value, if it is a scalar tensor that has a gradient in principle."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}(w, hyper) gave a {type(value).__name__}; it must be a tensor")
    if value.shape:
        raise TypeError(
            f"{name}(w, hyper) has the shape {list(value.shape)}; it must be one number, "
            "a tensor of shape []: .mean() or .sum()"
        )
    if not value.is_floating_point():
        raise TypeError(
            f"{name}(w, hyper) is of {value.dtype}; it must be a real number with a gradient, not "
            "a count or a complex number"
        )
    return value


def requiring_grad(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same values, as leaves of a new graph."""
    return [t.detach().requires_grad_() for t in tensors]


def vjp(
    outputs: list[Tensor], inputs: list[Tensor], cotangents: list[Tensor], retain: bool = False
) -> list[Tensor]:
    """The cotangents of the inputs; zero where no output depends on them."""
    pulled = vjp_or_none(outputs, inputs, cotangents, retain)
    return [torch.zeros_like(x) if d is None else d for x, d in zip(inputs, pulled, strict=True)]


def vjp_or_none(
    outputs: list[Tensor], inputs: list[Tensor], cotangents: list[Tensor], retain: bool = False
) -> list[Tensor | None]:
    """The cotangents of the inputs; None where no output depends on them."""
    pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
    if not pairs:
        return [None] * len(inputs)
    outputs, cotangents = [o for o, _ in pairs], [c for _, c in pairs]
    return list(
        torch.autograd.grad(outputs, inputs, cotangents, retain_graph=retain, allow_unused=True)
    )
