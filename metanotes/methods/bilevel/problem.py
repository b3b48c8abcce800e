"""An inner problem on flat lists of tensors: its start, its step sizes, its loss and gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, keystr, tree_flatten_with_path, tree_unflatten

Tree = Any  # a tensor, or nested dictionaries, lists and tuples of tensors
Loss = Callable[[Tree, Tree], Tensor]  # w, hyper -> scalar
Rate = float | Tensor | Callable[[Tree], Tensor]  # one number, or one for each step


class InnerProblemError(ArithmeticError):
    """The inner problem has no answer to differentiate: it diverges, or its Hessian is singular.

    >>> from metanotes.methods.bilevel import hypergradient
    >>> def inner(w, hyper): return hyper * w.square().sum()
    >>> def outer(w, hyper): return w.sum()
    >>> hypergradient(outer, inner, torch.ones(2), torch.tensor(1.0), lr=1e6, steps=20)
    Traceback (most recent call last):
    metanotes.methods.bilevel.problem.InnerProblemError: the inner problem diverged: ...
    """


def leaves(name: str, tree: Tree) -> tuple[list[Tensor], TreeSpec]:
    """The tensors of a tree, which must be real and floating-point, and its structure."""
    pairs, spec = tree_flatten_with_path(tree)
    if not pairs:
        raise TypeError(f"{name} has no tensor in it")
    for path, leaf in pairs:
        if not (isinstance(leaf, Tensor) and leaf.is_floating_point()):
            what = f"of {leaf.dtype}" if isinstance(leaf, Tensor) else f"a {type(leaf).__name__}"
            where = f"{name}{keystr(path)}"
            raise TypeError(f"{where} is {what}; it must be a tensor of floating-point numbers")
    return [leaf for _, leaf in pairs], spec


def scalar(name: str, value: object) -> Tensor:
    """The value, if it is a scalar tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}(w, hyper) gave a {type(value).__name__}; it must be a tensor")
    if value.shape:
        raise TypeError(
            f"{name}(w, hyper) has the shape {list(value.shape)}; it must be one number, "
            "a tensor of shape []"
        )
    return value


def asked(tensors: list[Tensor]) -> list[Tensor]:
    """The same values, as leaves that a gradient is asked of."""
    return [t.detach().requires_grad_() for t in tensors]


def pull(
    outputs: list[Tensor], inputs: list[Tensor], cotangents: list[Tensor], **settings: bool
) -> list[Tensor]:
    """The cotangents of the inputs; zero where no output depends on them."""
    found = pull_or_none(outputs, inputs, cotangents, **settings)
    return [torch.zeros_like(x) if d is None else d for x, d in zip(inputs, found, strict=True)]


def pull_or_none(
    outputs: list[Tensor], inputs: list[Tensor], cotangents: list[Tensor], retain: bool = False
) -> list[Tensor | None]:
    """The cotangents of the inputs; None where no output depends on them."""
    if not all(o.requires_grad for o in outputs):
        pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad]
        if not pairs:
            return [None] * len(inputs)
        outputs, cotangents = [o for o, _ in pairs], [c for _, c in pairs]
    found = torch.autograd.grad(outputs, inputs, cotangents, retain_graph=retain, allow_unused=True)
    return list(found)


class Hypergradient(NamedTuple):
    """What `hypergradient` returns.

    Args:
        gradient: df/dlambda, the same tree as `hyper`.
        w: w_T, the same tree as `w0`.
        outer: E(w_T, lambda), a scalar.
        inner: L(w_t, lambda) before each step, `[T]`.
        residual: of an implicit method, norm(a - H q) / norm(a), with a = grad_w E and q what was
            found for H^-1 a (in the Neumann series, without its last term); else None.

    >>> made = Hypergradient(torch.tensor(2.0), torch.ones(3), torch.tensor(0.5), torch.zeros(4))
    >>> made.gradient, made.residual
    (tensor(2.), None)
    """

    gradient: Tree
    w: Tree
    outer: Tensor
    inner: Tensor
    residual: float | None = None


class Start(NamedTuple):
    """What the hyperparameters decide before the first step; each may depend on them.

    Args:
        w: w_0.
        lr: eta, a scalar or `[T]`.
        momentum: mu, likewise; None without momentum.
    """

    w: list[Tensor]
    lr: Tensor
    momentum: Tensor | None

    def tensors(self) -> list[Tensor]:
        return [*self.w, self.lr, *([] if self.momentum is None else [self.momentum])]


class Problem:
    """The arguments of `hypergradient`, checked, on lists of tensors.

    Args:
        outer, inner, w0, steps, lr, momentum: see `hypergradient`.
        hyper_spec: the structure of the hyperparameters.
    """

    w_spec: TreeSpec

    def __init__(
        self,
        outer: Loss,
        inner: Loss,
        w0: Tree | Callable[[Tree], Tree],
        hyper_spec: TreeSpec,
        steps: int,
        lr: Rate,
        momentum: Rate,
    ) -> None:
        for name, given in (("outer", outer), ("inner", inner)):
            if not callable(given):
                raise TypeError(
                    f"{name} must be a function of w and hyper, not a {type(given).__name__}"
                )
        self.outer, self.inner, self.w0 = outer, inner, w0
        self.hyper_spec, self.steps = hyper_spec, steps
        self.lr, self.momentum = lr, momentum

    def hyper(self, hyper: list[Tensor]) -> Tree:
        return tree_unflatten(hyper, self.hyper_spec)

    def start(self, hyper: list[Tensor]) -> Start:
        """w_0 and the rates, as functions of the hyperparameters."""
        tree = self.hyper(hyper)
        given = self.w0(tree) if callable(self.w0) else self.w0
        w, self.w_spec = leaves("w0", given)
        if not callable(self.w0):
            w = [t.detach() for t in w]
        none = not callable(self.momentum) and not torch.is_nonzero(
            torch.as_tensor(self.momentum).count_nonzero()
        )
        lr = self._rate("lr", self.lr, tree, w[0])
        return Start(w, lr, None if none else self._rate("momentum", self.momentum, tree, w[0]))

    def _rate(self, name: str, given: Rate, hyper: Tree, like: Tensor) -> Tensor:
        if callable(given):
            rate = given(hyper)
            if not isinstance(rate, Tensor):
                raise TypeError(f"{name}(hyper) gave a {type(rate).__name__}, not a tensor")
        else:
            rate = torch.as_tensor(given, dtype=like.dtype).detach()
            least = rate.min().item() if rate.numel() else 1.0
            if name == "lr" and not (least > 0 and math.isfinite(rate.max().item())):
                raise ValueError(f"lr={given} must be a finite number above 0")
            if name == "momentum" and not (least >= 0 and rate.max().item() < 1):
                raise ValueError(f"momentum={given} must be in [0, 1)")
        if rate.shape not in ((), (self.steps,)):
            raise ValueError(
                f"{name} has the shape {list(rate.shape)}; it must be one number, or one for each "
                f"of the {self.steps} steps"
            )
        return rate

    def each_step(self, rate: Tensor | None) -> list[float]:
        """A rate's value at every step."""
        return [0.0] * self.steps if rate is None else rate.detach().expand(self.steps).tolist()

    def inner_loss(self, w: list[Tensor], hyper: Tree) -> Tensor:
        return scalar("inner", self.inner(tree_unflatten(w, self.w_spec), hyper))

    def inner_gradient(
        self, w: list[Tensor], hyper: Tree, create_graph: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """L(w, hyper) and its gradient in w, which are leaves that require one."""
        loss = self.inner_loss(w, hyper)
        found: tuple[Tensor | None, ...] = (None,)
        if loss.requires_grad:
            found = torch.autograd.grad(loss, w, create_graph=create_graph, allow_unused=True)
        if all(g is None for g in found):
            raise ValueError("inner(w, hyper) does not depend on w: there is nothing to learn")
        return loss.detach(), [
            torch.zeros_like(x) if g is None else g for x, g in zip(w, found, strict=True)
        ]

    def outer_gradient(
        self, w: list[Tensor], hyper: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """E(w, hyper), its gradient in w, and in the hyperparameters with w held fixed."""
        w, hyper = asked(w), asked(hyper)
        value = scalar("outer", self.outer(tree_unflatten(w, self.w_spec), self.hyper(hyper)))
        found = pull([value], [*w, *hyper], [torch.ones_like(value)])
        return value.detach(), found[: len(w)], found[len(w) :]

    def check_descent(self, w: list[Tensor], losses: Tensor, lr: Tensor) -> None:
        """An InnerProblemError if the losses `[T]` or w_T are not finite."""
        finite = losses.isfinite()
        if finite.all() and all(t.isfinite().all() for t in w):
            return
        first = self.steps if finite.all() else int(finite.logical_not().nonzero()[0])
        what = "w" if finite.all() else f"its loss is {losses[first].item():g}"
        what = "w is not finite" if what == "w" else what
        raise InnerProblemError(
            f"the inner problem diverged: {what} after {first} of {self.steps} steps; "
            f"a smaller lr than {lr.max().item():g} may help"
        )
