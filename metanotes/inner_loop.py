"""The inner loop, shared by every method that descends.

    theta_0 = phi,    theta_{t+1} = theta_t + rule(grad l(theta_t)),    t = 0 .. k-1      (1)

`descend` computes theta_k of all tasks at once, as one graph: autograd pulls a cotangent v of
theta_{t+1} back through one step at a time, from t = k-1 down to 0,

    v <- v + H(theta_t) d,    d = the cotangent of the gradient, pulled back through the rule.  (2)

With `SGD(alpha)`, d = -alpha v, and (2) is MAML's product (I - alpha H_0) ... (I - alpha H_{k-1}) g
(Finn et al. 2017, section 2.2). First order leaves H d out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metanotes.engine import recomputed
from metanotes.task import Batch, task_count
from metanotes.theta import losses_and_gradients, with_task_axis
from metanotes.theta.gradients import TaskLoss
from metanotes.theta.parameters import Theta
from metanotes.update_rules import State, UpdateRule

__all__ = ["Descent", "descend"]


class Descent(NamedTuple):
    """What an inner loop is made of, beside where it starts.

    Args:
        loss: of one task, `loss(theta, x, y)`, a scalar.
        rule: makes a step of a gradient.
        batches: what the tasks learn from, x `[T, N, ...]`: step t takes the t-th, and after the
            last the first again. The whole support set, or minibatches of it.
        steps: k, at least 0.
        first_order: hold the inner gradients constant.

    >>> from metanotes.update_rules import SGD
    >>> away = lambda theta, x, y: (theta["w"] - y).square().sum()
    >>> batch = Batch(torch.zeros(3, 1), torch.ones(3, 1))
    >>> descent = Descent(away, SGD(lr=0.5), [batch], steps=1)
    >>> theta, state = descent.start({"w": torch.zeros(1)})
    >>> descent.step(0, theta, state)[0]["w"].flatten().detach()
    tensor([1., 1., 1.])
    """

    loss: TaskLoss
    rule: UpdateRule
    batches: Sequence[Batch]
    steps: int
    first_order: bool = False

    def start(self, phi: Theta) -> tuple[Theta, State]:
        """theta_0 of every task, which is phi with a task axis, and the rule's first state."""
        theta = with_task_axis(phi, task_count(self.batches[0]))
        return theta, self.rule.init(theta)

    def step(self, t: int, theta: Theta, state: State) -> tuple[Theta, State]:
        """Equation (1) at time t, differentiable where gradients are enabled."""
        x, y = self.batches[t % len(self.batches)]
        second_order = torch.is_grad_enabled() and not self.first_order
        _, grads = losses_and_gradients(self.loss, theta, x, y, create_graph=second_order)
        updates, state = self.rule(grads, state)
        return {name: theta[name] + updates[name] for name in theta}, state


def descend(
    phi: Theta, descent: Descent, *, checkpoint: bool = False, learned: Sequence[Tensor] = ()
) -> Theta:
    """theta_k of every task, differentiable in phi and in all that a step depends on.

    Args:
        phi: the start, by name, without a task axis.
        descent: the loss, the rule, the data and the number of steps.
        checkpoint: hold k copies of theta and compute each step but the last again in the backward
            pass, rather than hold the graph of each step.
        learned: with `checkpoint`, what the steps depend on beside theta: the rule's parameters,
            and those of the model that do not adapt.

    Returns:
        theta_k by name, tensors `[T, ...]`.

    >>> from metanotes.update_rules import SGD
    >>> phi = {"w": torch.tensor([4.0])}
    >>> batch = Batch(torch.zeros(3, 1), torch.zeros(3, 1))
    >>> halved = Descent(lambda theta, x, y: theta["w"].square().sum(), SGD(0.25), [batch], steps=2)
    >>> descend(phi, halved)["w"].flatten().detach()
    tensor([1., 1., 1.])
    """
    theta, state = descent.start(phi)
    if checkpoint and torch.is_grad_enabled() and descent.steps > 0:
        return recomputed(descent.step, theta, state, descent.steps, learned)
    for t in range(descent.steps):
        theta, state = descent.step(t, theta, state)
    return theta
