"""Reptile: walk k steps on a task, then move phi towards where they ended (Nichol et al. 2018).

    theta_0 = phi,    theta_{t+1} = theta_t + rule(grad l(theta_t; minibatch t)),    t = 0 .. k-1
    phi <- phi + epsilon (theta_k - phi)                                                  (1)

As a loss, so that any optimizer does (1) by descending it:

    L(phi) = sum_n 1/2 (phi - stop(theta_k^n))^2,    grad L = sum_n (phi - theta_k^n)     (2)

`stop` holds theta_k constant: nothing is differentiated through the steps. Plain gradient descent
with rate epsilon on the mean of (2) over tasks is (1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metanotes.inner_loop_learner import InnerLoopLearner
from metanotes.learner import Loss, cross_entropy
from metanotes.task import Batch, Task, check_tasks
from metanotes.update_rules import UpdateRule


class Reptile(InnerLoopLearner):
    """Learn the start phi that lies nearest to where k steps on each task lead.

    In training a task's support and query sets are one set of examples, since Reptile needs no
    split: each step takes the next minibatch of them, in a random order. The order is drawn from
    torch's global generator, as the masks of dropout are. `adapt` takes the whole support set in
    every step.

    Args:
        model: any module; its parameters are phi. See `InnerLoopLearner`.
        rule: makes a step of a gradient: `SGD(lr)`, or as published `Adam(lr, betas=(0, 0.999))`.
        steps: inner steps k in training, at least 1; `adapt` and `evaluate` may take more.
        batch: examples of a minibatch, at least 1; default: all of a task, in every step.
        loss: of one task, inside; `metanotes.mse` for regression.
        compile: see `InnerLoopLearner`.

    Raises:
        ValueError: steps or batch below 1, more examples of a minibatch than a task has, a rule
            with parameters to learn; or see `InnerLoopLearner`.

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
        batch: int | None = None,
        loss: Loss = cross_entropy,
        compile: bool = False,
    ) -> None:
        for name, count in {"steps": steps, "batch": batch}.items():
            if count is not None and count < 1:
                raise ValueError(f"{name}={count} must be at least 1")
        if any(p.requires_grad for p in rule.parameters()):
            raise ValueError(
                f"{type(rule).__name__} has parameters to learn, and Reptile, which holds theta_k "
                "constant, would never learn them: use SGD or Adam"
            )
        super().__init__(model, rule, steps, loss, first_order=True, compile=compile)
        self.batch = batch

    def forward(self, tasks: Task) -> Tensor:
        """`1/2 (phi - theta_k)^2` of every task, `[T]`: how far it has walked, not how well."""
        check_tasks(tasks)
        both = Batch(*(torch.cat(pair, 1) for pair in zip(*tasks, strict=True)))
        if self.batch is not None:
            both = minibatches(both, self.batch, self.steps)
        return super().forward(Task(both, tasks.query))

    def query_losses(self, tasks: Task) -> Tensor:
        """Equation (2) of every task, whose support set is its minibatches, one after the other."""
        examples = tasks.support.x.shape[1]
        parts = (t.split(self.batch or examples, 1) for t in tasks.support)
        batches = [Batch(x, y) for x, y in zip(*parts, strict=True)]
        with torch.no_grad():
            theta = self.descend(batches, self.steps)
        away = (p - theta[name] for name, p in self.phi().items())  # [T, ...] each
        return torch.stack([0.5 * d.square().reshape(len(d), -1).sum(1) for d in away]).sum(0)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, batch={self.batch}"


def minibatches(examples: Batch, size: int, steps: int) -> Batch:
    """The minibatches of so many steps, one after the other: x `[T, steps * size, ...]`.

    Each task's examples are gone through in a random order; when all have been used, in another.
    """
    tasks, count = examples.x.shape[:2]
    if size > count:
        raise ValueError(f"batch={size} asks for more examples than the {count} of a task")
    rounds = -(-size * steps // count)
    order = torch.cat([torch.rand(tasks, count).argsort(1) for _ in range(rounds)], 1)
    rows = order[:, : size * steps].to(examples.x.device)
    task = torch.arange(tasks, device=rows.device)[:, None]
    return Batch(*(t[task, rows] for t in examples))
