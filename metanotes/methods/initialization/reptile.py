"""Reptile: walk k steps on a task, then move phi towards where they ended (Nichol et al. 2018).

    theta_0 = phi,    theta_{t+1} = theta_t + rule(grad l(theta_t; minibatch t)),    t = 0 .. k-1
    phi <- phi + epsilon (theta_k - phi)                                                  (1)

As a loss, so that any optimizer does (1) by descending it:

    L(phi) = sum_n 1/2 (phi - stop(theta_k^n))^2,    grad L = sum_n (phi - theta_k^n)     (2)

`stop` holds theta_k constant: nothing is differentiated through the steps. Plain gradient descent
with rate epsilon on the mean of (2) over tasks is (1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from metanotes._ground.checks import count
from metanotes.engine import Computing
from metanotes.inner_loop_learner import InnerLoopLearner
from metanotes.learner import Loss, cross_entropy
from metanotes.task import Batch, Task, check_tasks, joined
from metanotes.theta.parameters import Part
from metanotes.update_rules import UpdateRule


class Reptile(InnerLoopLearner):
    """Learn the start phi that lies nearest to where k steps on each task lead.

    In training a task's support and query sets are one set of examples, since Reptile needs no
    split: each step takes the next minibatch of them, in a random order. The order is drawn from
    torch's global generator, as the masks of dropout are. `adapt` takes the whole support set in
    every step.

    On the map:
        phi: where all weights start
        adapts: all weights, k steps
        outer loss: half the squared distance to where the steps ended
        needs: first derivatives; no query set

    Args:
        model: any module; its parameters are phi. See `InnerLoopLearner`.
        rule: makes a step of a gradient: `SGD(lr)`, or as published `Adam(lr, betas=(0, 0.999))`.
        steps: inner steps k in training, at least 1; `adapt` and `evaluate` may take more.
        loss: of one task, inside; `metanotes.mse` for regression.
        adapts: which part adapts, see `InnerLoopLearner`; the rest is not learned either, and has
            to be frozen.
        batch: examples of a minibatch, at least 1; default: all of a task, in every step.
        record, compile, group: see `metanotes.engine.Options`.

    Raises:
        ValueError: steps or batch below 1, more examples of a minibatch than a task has, something
            to learn (in the rule, the loss, or the model) that does not adapt; or see
            `InnerLoopLearner`.

    Source: Nichol, Achiam and Schulman, "On First-Order Meta-Learning Algorithms", 2018,
    algorithms 1 and 2.

    >>> from metanotes import Reptile, SGD, meta_train, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> learner = Reptile(mlp(1, 64, 64, 1), SGD(lr=0.02), steps=8, batch=10, loss=mse)
    >>> outer = torch.optim.SGD(learner.parameters(), lr=0.1)         # epsilon
    >>> history = meta_train(
    ...     learner, sinusoid(seed=0), iterations=3, tasks=5, optimizer=outer, progress=False
    ... )
    """

    def __init__(
        self,
        model: nn.Module,
        rule: UpdateRule,
        steps: int,
        *,
        loss: Loss = cross_entropy,
        adapts: Part | Sequence[Part] | None = None,
        batch: int | None = None,
        **computing: Unpack[Computing],
    ) -> None:
        count("steps", steps)
        super().__init__(
            model,
            rule,
            steps,
            loss=loss,
            first_order=True,
            adapts=adapts,
            batch=batch,
            **computing,
        )
        walks = {id(p) for p in self.phi().values()}
        others = [n for n, p in self.named_parameters() if p.requires_grad and id(p) not in walks]
        if others:
            raise ValueError(
                f"Reptile holds theta_k constant and would never learn {others}, which do not "
                "adapt: freeze them (requires_grad_(False)), and use a rule without parameters, "
                "such as SGD or Adam"
            )

    def minibatches(self, support: Batch, steps: int) -> Sequence[Batch]:
        """A new task's steps are on the whole support set; those of training are in `forward`."""
        return [support]

    def forward(self, tasks: Task) -> Tensor:
        """`1/2 (phi - theta_k)^2` of every task, `[T]`: how far it has walked, not how well."""
        check_tasks(tasks)
        return super().forward(Task(joined(*tasks), tasks.query))

    def query_losses(self, tasks: Task) -> Tensor:
        """Equation (2) of every task."""
        with torch.no_grad():
            theta = self.descend(self.in_turn(tasks.support), self.steps)
        away = (p - theta[name] for name, p in self.phi().items())  # [T, ...] each
        return torch.stack([0.5 * d.square().reshape(len(d), -1).sum(1) for d in away]).sum(0)
