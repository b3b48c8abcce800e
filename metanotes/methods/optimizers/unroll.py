"""phi is how to step: the loss of an update rule over the way that it goes.

    theta_{t+1} = theta_t + u_t,    u_t, s_{t+1} = rule_phi(grad f(theta_t), s_t)               (1)
    L(phi) = E_f sum_{t=1..T} w_t f(theta_t)                                                    (2)

With w_t = 1 at t = T alone, (2) is the loss after learning; with w_t = 1 throughout, every step
tells phi something. By (1) the derivative of theta_t along phi is, with H the Hessian of f,

    d theta_{t+1} = d theta_t + du_t,    du_t = (part by phi and s_t) + (du/dgrad) H d theta_t  (3)

and first order leaves the last term out, as if the gradients of f did not depend on phi. Then f is
never differentiated twice: since grad f(theta_t) is known from (1), it is all that (2) needs too.

In training an episode of T steps is cut into windows (truncated backpropagation through time): phi
takes a step on the loss of each. theta and the rule's state go on into the next window; their
derivatives do not.

Source: Andrychowicz et al., "Learning to learn by gradient descent by gradient descent", NeurIPS
2016, section 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metanotes._ground.checks import count
from metanotes.methods.optimizers.function_values import (
    check_functions,
    check_rule,
    first_look,
    learned_elsewhere,
    next_batch,
    values_at,
)
from metanotes.task import Batch, Functions
from metanotes.theta import How, KnownGradient
from metanotes.theta.parameters import Theta
from metanotes.update_rules import State, UpdateRule, check_that_tasks_stay_apart


class Position(NamedTuple):
    """Where T descents stand: enough to go on.

    Args:
        theta: theta_t of each, tensors `[T, ...]`.
        state: the rule's.
        losses: f(theta_t), `[T]`.
        grads: grad f(theta_t), as theta.
        how: whether the functions are worked on at once or one by one.

    >>> from metanotes import SGD
    >>> from metanotes.data import quadratics
    >>> learner, functions = LearningToOptimize(SGD(lr=0.01), steps=5), quadratics(seed=0)(64)
    >>> losses, position = learner.unroll(functions, learner.start(functions), steps=2)
    >>> losses.shape, torch.equal(position.losses, losses[:, -1])
    (torch.Size([64, 2]), True)
    """

    theta: Theta
    state: State
    losses: Tensor
    grads: Theta
    how: How

    def detached(self) -> Position:
        """The same, without the graph that leads there: where truncated unrolling cuts."""
        return Position(
            {name: t.detach() for name, t in self.theta.items()},
            tuple({name: t.detach() for name, t in part.items()} for part in self.state),
            self.losses.detach(),
            {name: t.detach() for name, t in self.grads.items()},
            self.how,
        )


class LearningToOptimize(nn.Module):
    """The learner whose phi is an update rule, and whose loss is that of the whole way.

    On the map:
        phi: an update rule
        adapts: what it is to minimise, T steps
        outer loss: the sum of the values along the way
        needs: first derivatives; many functions of a kind

    Args:
        rule: makes a step of a gradient; its parameters are phi.
        steps: T, at least 1.
        weights: w_1 to w_T; by default 1 each.
        first_order: hold the gradients that the rule is given constant.
        unroll: steps of a window: how many `meta_train` descends between two steps of phi, at
            least 1; the last window of an episode may be shorter.

    Raises:
        ValueError: what is no rule, a count below 1, or weights that are not T numbers of at least
            0, one above.

    >>> from metanotes import LSTMRule
    >>> from metanotes.data import quadratics
    >>> learner = LearningToOptimize(LSTMRule(preprocess=None), steps=20)
    >>> losses = learner(quadratics(seed=0)(64))
    >>> losses.shape
    torch.Size([64])
    >>> losses.mean().backward()

    Trained on windows of 10 steps, so that each episode is two steps of phi:

    >>> from metanotes import meta_train
    >>> learner = LearningToOptimize(LSTMRule(preprocess=None), steps=20, unroll=10)
    >>> history = meta_train(
    ...     learner, quadratics(seed=0), iterations=3, meta_lr=3e-3, clip=10.0, progress=False
    ... )
    """

    def __init__(
        self,
        rule: UpdateRule,
        steps: int = 100,
        *,
        weights: Sequence[float] | Tensor | None = None,
        first_order: bool = True,
        unroll: int = 20,
    ) -> None:
        super().__init__()
        steps = count("steps", steps)
        w = torch.ones(steps) if weights is None else torch.as_tensor(weights).float()
        if w.shape != (steps,) or not (torch.isfinite(w).all() and (w >= 0).all() and w.any()):
            raise ValueError(
                f"weights={weights} must be steps={steps} finite numbers of at least 0, w_1 to "
                "w_T, one of them above"
            )
        self.rule, self.steps, self.first_order = check_rule(rule), steps, first_order
        self.window = count("unroll", unroll)
        self.register_buffer("weights", w, persistent=False)
        self.weights: Tensor
        self.apart: tuple[UpdateRule] | None = None  # a rule that has been tried on two functions

    def forward(self, functions: Functions) -> Tensor:
        """sum_t w_t f(theta_t) of each function: `[T]`."""
        losses, _ = self.unroll(functions, self.start(functions), self.steps)
        return losses @ self.weights.to(losses.dtype)

    def turns(self, functions: Functions) -> Iterator[Tensor]:
        """The losses of each window of an episode, after which phi takes a step: `[T]`."""
        position = self.start(functions)
        for window in self.weights.split(self.window):
            losses, position = self.unroll(functions, position, len(window))
            position = position.detached()
            if window.any():
                yield losses @ window.to(losses.dtype)

    def start(self, functions: Functions) -> Position:
        """theta_0, and f and its gradient there.

        Raises:
            TypeError, ValueError: these are no functions that can be descended, the rule mixes
                them, or something else than the rule is learned, which first order leaves out.
        """
        if len(self.weights) != self.steps:
            raise ValueError(
                f"steps={self.steps}, but there are {len(self.weights)} weights, w_1 to w_T: set "
                "both, or make a new learner"
            )
        theta, batch = check_functions(functions), next_batch(functions)
        how = first_look(functions, theta, batch, second_order=self._second_order())
        constant = torch.is_grad_enabled() and self.first_order
        if constant and learned_elsewhere(functions, theta, batch):
            raise ValueError(
                "something else than the rule requires a gradient (x, y, or parameters of the "
                "loss), which first order does not give: .detach() it, .requires_grad_(False), or "
                "first_order=False"
            )
        losses, grads = self._evaluate(functions, theta, batch, how)
        if self.apart is None or self.apart[0] is not self.rule:
            two = [
                {name: t.detach()[[0, -1]] for name, t in tensors.items()}
                for tensors in (theta, grads)
            ]
            check_that_tasks_stay_apart(self.rule, *two)
            self.apart = (self.rule,)
        return Position(theta, self.rule.init(theta), losses, grads, how)

    def unroll(
        self, functions: Functions, position: Position, steps: int
    ) -> tuple[Tensor, Position]:
        """Go on for some steps.

        Args:
            functions: those of the position.
            position: what `start` gave, or this method before.
            steps: how many, at least 1.

        Returns:
            f(theta) after each of them, `[T, steps]`, differentiable in phi, and the position after
            the last.
        """
        theta, state, _, grads, how = position
        losses = []
        for _ in range(count("steps", steps)):
            updates, state = self.rule(grads, state)
            theta = {name: t + updates[name] for name, t in theta.items()}
            values, grads = self._evaluate(functions, theta, next_batch(functions), how)
            losses.append(values)
        return torch.stack(losses, dim=1), Position(theta, state, losses[-1], grads, how)

    def _evaluate(
        self, functions: Functions, theta: Theta, batch: Batch, how: How
    ) -> tuple[Tensor, Theta]:
        """f(theta), `[T]`, and its gradient."""
        second_order = self._second_order()
        losses, grads = values_at(functions, theta, batch, how, second_order=second_order)
        if not second_order:
            losses = KnownGradient.apply(losses.detach(), list(grads.values()), *theta.values())
        return losses, grads

    def _second_order(self) -> bool:
        return torch.is_grad_enabled() and not self.first_order

    def extra_repr(self) -> str:
        text = f"steps={self.steps}, first_order={self.first_order}, unroll={self.window}"
        if (self.weights == 1).all():
            return text
        return f"{text}, weights=[{', '.join(f'{w:g}' for w in self.weights.tolist())}]"


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
