"""An inner problem on flat lists of tensors: its start, its step sizes, its loss and gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.utils._pytree import TreeSpec, tree_leaves, tree_unflatten

from metanotes._ground.nodes import nodes_of
from metanotes._ground.randomness import random_state, replayed
from metanotes.methods.bilevel.trees import (
    Tree,
    all_finite,
    check_function,
    requiring_grad,
    scalar,
    tree_tensors,
    vjp,
)

Objective = Callable[[Tree, Tree], Tensor]  # w, hyper -> scalar
Rate = float | Sequence[float] | Tensor | Callable[[Tree], Tensor]  # one, or one for each step


class InnerProblemError(ArithmeticError):
    """The inner problem has no answer to differentiate: it diverges, or its Hessian is singular.

    >>> from metanotes.methods.bilevel import hypergradient
    >>> def inner(w, hyper): return hyper * w.square().sum()
    >>> def outer(w, hyper): return w.sum()
    >>> hypergradient(outer, inner, torch.ones(2), torch.tensor(1.0), lr=1e6, steps=20)
    Traceback (most recent call last):
    metanotes.methods.bilevel.problem.InnerProblemError: the inner problem diverged: ...
    """


class Hypergradient(NamedTuple):
    """What `hypergradient` returns.

    Args:
        gradient: df/dlambda, the same tree as `hyper`.
        w: w_T, the same tree as `w0`.
        outer: E(w_T, lambda), a scalar.
        inner: L(w_t, lambda) before each step, `[T]`.
        residual: of an implicit method, norm(a - H q) / norm(a), with a = grad_w E and q what it
            has for H^-1 a (in the Neumann series, without its last term); else None.

    >>> result = Hypergradient(torch.tensor(2.0), torch.ones(3), torch.tensor(0.5), torch.zeros(4))
    >>> result.gradient, result.residual
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

    def rates(self) -> list[Tensor]:
        """lr, and momentum if there is any."""
        return [self.lr] if self.momentum is None else [self.lr, self.momentum]


class Problem:
    """The arguments of `hypergradient`, checked, on lists of tensors.

    Args:
        outer, inner, w0, steps, lr, momentum: see `hypergradient`.
        hyper_spec: the structure of the hyperparameters.
    """

    w_spec: TreeSpec

    def __init__(
        self,
        outer: Objective,
        inner: Objective,
        w0: Tree | Callable[[Tree], Tree],
        hyper_spec: TreeSpec,
        steps: int,
        lr: Rate,
        momentum: Rate,
    ) -> None:
        for name, objective in (("outer", outer), ("inner", inner)):
            check_function(name, objective, "w", "hyper")
        if isinstance(w0, nn.Module):
            raise TypeError(
                f"w0 is a {type(w0).__name__}, a module: give dict(module.named_parameters()) to "
                "start at its parameters, or lambda hyper: module(hyper) for what it makes of hyper"
            )
        for name, setting in (("w0", w0), ("lr", lr), ("momentum", momentum)):
            if callable(setting):
                check_function(name, setting, "hyper")
        self.outer, self.inner, self.w0 = outer, inner, w0
        self.hyper_spec, self.steps = hyper_spec, steps
        self.lr, self.momentum = lr, momentum
        self.given = {"w": [] if callable(w0) else tree_leaves(w0)}
        self.unseen = {"inner", "outer"}  # whose graph nobody has looked at

    def refuse_held(self, hyper: list[Tensor]) -> None:
        """A ValueError if what seems to be learned is given where it would be held constant."""
        self.given["hyper"] = hyper
        for name, setting in (("w0", self.w0), ("lr", self.lr), ("momentum", self.momentum)):
            for leaf in tree_leaves(setting):
                what = "is a tensor of hyper" if any(leaf is h for h in hyper) else ""
                if isinstance(leaf, Tensor) and leaf.requires_grad:
                    if name != "w0":
                        what = what or "requires a gradient"
                    elif leaf.grad_fn is not None:
                        what = what or "carries a graph"
                if what:
                    raise ValueError(
                        f"{name} {what}, but would be held constant: let {name} be a function of "
                        f"hyper ({name}=lambda hyper: ...), or give {name} a .detach() of it"
                    )

    def hyper(self, hyper: list[Tensor]) -> Tree:
        return tree_unflatten(hyper, self.hyper_spec)

    def start(self, hyper: list[Tensor]) -> Start:
        """w_0 and the rates, as functions of the hyperparameters."""
        tree = self.hyper(hyper)
        w, self.w_spec = tree_tensors("w0", self.w0(tree) if callable(self.w0) else self.w0)
        if not callable(self.w0):
            w = [t.detach() for t in w]
        lr = self._rate("lr", self.lr, tree, w[0])
        momentum = self._rate("momentum", self.momentum, tree, w[0])
        without = not callable(self.momentum) and not momentum.any()
        return Start(w, lr, None if without else momentum)

    def _rate(self, name: str, setting: Rate, hyper: Tree, like: Tensor) -> Tensor:
        if callable(setting):
            rate = setting(hyper)
            if not isinstance(rate, Tensor):
                raise TypeError(f"{name}(hyper) gave a {type(rate).__name__}, not a tensor")
            if not rate.is_floating_point():
                raise TypeError(f"{name}(hyper) is of {rate.dtype}, not of floating-point numbers")
            if not all_finite([rate]):
                raise ValueError(f"{name}(hyper) has NaN or infinite values")
        else:
            rate = _constant_rate(name, setting, like)
        if rate.shape not in ((), (self.steps,)):
            raise ValueError(
                f"{name} has the shape {list(rate.shape)}; it must be one number, or one for each "
                f"of the {self.steps} steps"
            )
        return rate

    def each_step(self, rate: Tensor) -> list[float]:
        """A rate's value at every step."""
        return rate.detach().expand(self.steps).tolist()

    def inner_loss(self, w: list[Tensor], hyper: Tree) -> Tensor:
        return self.seen("inner", self.inner, w, hyper)

    def seen(self, name: str, objective: Objective, w: list[Tensor], hyper: Tree) -> Tensor:
        """A loss; an error if it is one of what was given, and not of the argument for it, or
        would be so when it is worked out again."""
        with disable_saved_tensors_hooks(
            f"{name}(w, hyper) works something out again in its backward pass "
            "(torch.utils.checkpoint), or keeps it elsewhere (save_on_cpu, saved_tensors_hooks): "
            "by then functional_call is over, and a module has its own parameters again. "
            "Leave it out; checkpoint=True of hypergradient saves memory instead"
        ):
            value = objective(tree_unflatten(w, self.w_spec), hyper)
        loss = scalar(name, value)
        if name in self.unseen and loss.grad_fn is not None:
            self.unseen.remove(name)
            nodes = nodes_of([loss])
            ends = {id(getattr(node, "variable", None)) for node in nodes}
            for argument, tensors in self.given.items():
                if any(id(t) in ends or t.grad_fn in nodes for t in tensors):
                    raise ValueError(
                        f"{name}(w, hyper) uses a tensor as it was given, and not what it gets as "
                        f"{argument}: torch.func.functional_call(module, {argument}, (x,)) in the "
                        "place of module(x), or .detach() what is meant to be a constant"
                    )
        return loss

    def draws(self, w: list[Tensor], hypers: list[Tensor]) -> bool:
        """Whether the inner loss draws from torch's global generators; they stay as they are."""
        before = random_state(w[0].device)
        with replayed(before, w[0].device), torch.no_grad():
            self.inner_loss(w, self.hyper(hypers))
            after = random_state(w[0].device)
        return not all(map(torch.equal, before, after))

    def inner_gradient(
        self, w: list[Tensor], hyper: Tree, create_graph: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """L(w, hyper) and its gradient in w, which are leaves that require one."""
        loss = self.inner_loss(w, hyper)
        gradient: tuple[Tensor | None, ...] = (None,)
        if loss.requires_grad:
            gradient = torch.autograd.grad(loss, w, create_graph=create_graph, allow_unused=True)
        refuse_independent(gradient)
        return loss.detach(), [
            torch.zeros_like(x) if g is None else g for x, g in zip(w, gradient, strict=True)
        ]

    def outer_gradient(
        self, w: list[Tensor], hyper: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """E(w, hyper), its gradient in w, and in the hyperparameters with w held fixed."""
        w, hyper = requiring_grad(w), requiring_grad(hyper)
        value = self.seen("outer", self.outer, w, self.hyper(hyper))
        gradient = vjp([value], [*w, *hyper], [torch.ones_like(value)])
        for what, tensors in (("", [value.detach()]), ("gradient of the ", gradient)):
            if not all_finite(tensors):
                raise InnerProblemError(
                    f"the {what}outer loss is not finite at w after {self.steps} steps "
                    f"(the loss is {value.item():g}), so the hypergradient is not finite"
                )
        return value.detach(), gradient[: len(w)], gradient[len(w) :]

    def check_descent(self, w: list[Tensor], losses: Tensor, lr: Tensor) -> None:
        """An InnerProblemError if the losses `[T]` or w_T are not finite."""
        finite = losses.isfinite()
        if finite.all() and all(t.isfinite().all() for t in w):
            return
        first = self.steps if finite.all() else int(finite.logical_not().nonzero()[0])
        if first == 0:
            raise InnerProblemError(f"the inner loss is {losses[0].item():g} at w0 already")
        what = "w is not finite" if finite.all() else f"its loss is {losses[first].item():g}"
        raise InnerProblemError(
            f"the inner problem diverged: {what} after {first} of {self.steps} steps; "
            f"a smaller lr than {lr.max().item():g} may help"
        )


def refuse_independent(gradient: Sequence[Tensor | None]) -> None:
    """A ValueError if the gradient in w of the inner loss is None throughout."""
    if all(g is None for g in gradient):
        raise ValueError(
            "inner(w, hyper) does not depend on w: there is nothing to learn (or torch cannot see "
            "it: no_grad(), .detach(), .item() and numpy cut the graph)"
        )


def _constant_rate(name: str, setting: Any, like: Tensor) -> Tensor:
    """Numbers, in their range, as a tensor."""
    try:
        kind = torch.as_tensor(setting).dtype
    except (TypeError, ValueError, RuntimeError):
        kind = torch.bool
    if kind == torch.bool or kind.is_complex:
        raise TypeError(
            f"{name}={setting!r} must be a number, one number for each step, or a function of hyper"
        )
    rate = torch.as_tensor(setting, dtype=like.dtype)
    least, most = (rate.min().item(), rate.max().item()) if rate.numel() else (0.5, 0.5)
    if name == "lr" and not (least > 0 and math.isfinite(most)):
        raise ValueError(f"lr={setting} must be a finite number above 0")
    if name == "momentum" and not (least >= 0 and most < 1):
        raise ValueError(f"momentum={setting} must be in [0, 1)")
    return rate
