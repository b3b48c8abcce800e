"""phi is how to step: the loss of an update rule over the way that it goes.

    theta_{t+1} = theta_t + u_t,    u_t, s_{t+1} = rule_phi(grad f(theta_t), s_t)               (1)
    L(phi) = E_f sum_{t=1..T} w_t f(theta_t)                                                    (2)

With w_t = 1 at t = T alone, (2) is the loss after learning; with w_t = 1 throughout, every step
tells phi something. By (1) the derivative of theta_t along phi is, with H the Hessian of f,

    d theta_{t+1} = d theta_t + du_t,    du_t = (part by phi and s_t) + (du/dgrad) H d theta_t  (3)

and first order leaves the last term out, as if the gradients of f did not depend on phi. Then f is
never differentiated twice: since grad f(theta_t) is known from (1), it is all that (2) needs too.

Source: Andrychowicz et al., "Learning to learn by gradient descent by gradient descent", NeurIPS
2016, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from metanotes.engine.step import keep_freed_memory
from metanotes.inner_loop import leaves, over_tasks
from metanotes.task import Functions
from metanotes.update_rules import State, Theta, UpdateRule


class Position(NamedTuple):
    """Where T descents stand: enough to go on.

    Args:
        theta: theta_t of each, tensors `[T, ...]`.
        state: the rule's.
        losses: f(theta_t), `[T]`.
        grads: grad f(theta_t), as theta.
    """

    theta: Theta
    state: State
    losses: Tensor
    grads: Theta

    def detached(self) -> Position:
        """The same, without the graph that leads there: where truncated unrolling cuts."""
        return Position(
            {name: t.detach() for name, t in self.theta.items()},
            tuple({name: t.detach() for name, t in part.items()} for part in self.state),
            self.losses.detach(),
            {name: t.detach() for name, t in self.grads.items()},
        )


class LearningToOptimize(nn.Module):
    """The learner whose phi is an update rule, and whose loss is that of the whole way.

    Args:
        rule: makes a step of a gradient; its parameters are phi.
        steps: T, at least 1.
        weights: w_1 to w_T; by default 1 each.
        first_order: hold the gradients that the rule is given constant.

    Raises:
        ValueError: steps below 1, or weights that are not T numbers of at least 0.

    >>> from metanotes import LSTMRule
    >>> from metanotes.data import quadratics
    >>> learner = LearningToOptimize(LSTMRule(preprocess=None), steps=20)
    >>> losses = learner(quadratics(seed=0)(64))
    >>> losses.shape
    torch.Size([64])
    >>> losses.mean().backward()
    """

    def __init__(
        self,
        rule: UpdateRule,
        steps: int = 100,
        weights: Sequence[float] | Tensor | None = None,
        first_order: bool = True,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps={steps} must be at least 1")
        w = torch.ones(steps) if weights is None else torch.as_tensor(weights).float()
        if w.shape != (steps,) or not (torch.isfinite(w).all() and (w >= 0).all()):
            raise ValueError(
                f"weights={weights} must be steps={steps} finite numbers of at least 0, w_1 to w_T"
            )
        self.rule, self.steps, self.first_order = rule, steps, first_order
        self.register_buffer("weights", w, persistent=False)
        self.weights: Tensor

    def forward(self, functions: Functions) -> Tensor:
        """sum_t w_t f(theta_t) of each function: `[T]`."""
        losses, _ = self.unroll(functions, self.start(functions), self.steps)
        return losses @ self.weights.to(losses.dtype)

    def start(self, functions: Functions) -> Position:
        """theta_0, and f and its gradient there."""
        theta = {name: t.detach() for name, t in functions.theta.items()}
        state = self.rule.init(theta)
        return Position(theta, state, *self._evaluate(functions, theta))

    def unroll(
        self, functions: Functions, position: Position, steps: int
    ) -> tuple[Tensor, Position]:
        """Go on for some steps.

        Returns:
            f(theta) after each of them, `[T, steps]`, differentiable in phi, and the position after
            the last.
        """
        keep_freed_memory()
        theta, state, _, grads = position
        losses = []
        for _ in range(steps):
            updates, state = self.rule(grads, state)
            theta = {name: t + updates[name] for name, t in theta.items()}
            values, grads = self._evaluate(functions, theta)
            losses.append(values)
        return torch.stack(losses, dim=1), Position(theta, state, losses[-1], grads)

    def _evaluate(self, functions: Functions, theta: Theta) -> tuple[Tensor, Theta]:
        """f(theta), `[T]`, and its gradient, on the next batch."""
        batch = next(functions.batches)
        second_order = torch.is_grad_enabled() and not self.first_order
        at = theta if second_order else leaves(theta)
        if second_order and not any(t.requires_grad for t in theta.values()):
            at = leaves(theta)  # theta_0, which phi had no part in
        names = list(theta)
        # One by one where weights that differ would make a grouped convolution: slow on a CPU. And
        # for a single function, which does without vmap's decompositions.
        convolutions = any(t.ndim == 5 for t in theta.values())
        loop = len(batch.x) == 1 or (convolutions and not batch.x.is_cuda)
        with torch.enable_grad():
            losses = over_tasks(functions.loss, loop)(at, *batch)
            gradients = torch.autograd.grad(
                losses.sum(), [at[n] for n in names], create_graph=second_order
            )
        if not second_order:
            losses = _Known.apply(losses.detach(), gradients, *theta.values())
        return losses, dict(zip(names, gradients, strict=True))

    def extra_repr(self) -> str:
        return f"steps={self.steps}, first_order={self.first_order}"


class _Known(torch.autograd.Function):
    """Losses `[T]` at theta whose gradient is known, so that no graph has to be kept for it."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, gradients: Sequence[Tensor], *theta: Tensor) -> Tensor:
        ctx.gradients = gradients
        return losses.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        each = (weights.view(-1, *[1] * (g.ndim - 1)) * g for g in ctx.gradients)
        return None, None, *each


@torch.no_grad()
def trajectory(rule: UpdateRule, functions: Functions, steps: int = 100) -> tuple[Tensor, Theta]:
    """Minimise functions by any update rule, learned or made by hand.

    Args:
        rule: makes a step of a gradient.
        functions: T of them.
        steps: how many, at least 1.

    Returns:
        f(theta_0) to f(theta_steps), `[T, steps + 1]`, and theta_steps.

    >>> from metanotes import SGD
    >>> from metanotes.data import quadratics
    >>> losses, theta = trajectory(SGD(lr=0.01), quadratics(seed=0)(5), steps=30)
    >>> losses.shape, bool((losses[:, -1] < losses[:, 0]).all())
    (torch.Size([5, 31]), True)
    """
    learner = LearningToOptimize(rule, steps)
    start = learner.start(functions)
    losses, end = learner.unroll(functions, start, steps)
    return torch.cat((start.losses[:, None], losses), dim=1), end.theta
