"""Meta-SGD: phi is where to start, and a step size for every parameter (Li et al. 2017).

    theta^n = phi - alpha * grad l^n(phi; D_train),    alpha as many numbers as phi
    L(phi, alpha) = sum_n l^n(theta^n; D_test)

A learned alpha is a direction as well as a length: where it is 0 nothing adapts, and where it is
negative the step goes uphill on the support set, if that helps on the query set.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import nn

from metanotes.inner_loop_learner import InnerLoopLearner, Settings
from metanotes.theta import trainable
from metanotes.theta.parameters import Theta, parts_of
from metanotes.update_rules import State, UpdateRule, step_size


class LearnedRates(UpdateRule):
    """Gradient descent with a step size for every parameter: u_t = -alpha * g_t.

    Args:
        like: tensors, by name, that there are rates for; without a task axis.
        lr: the value that every rate starts at, above 0.

    >>> rule = LearnedRates({"w": torch.zeros(2)}, lr=0.5)
    >>> rule.rates["w"].data[1] = -1.0
    >>> updates, state = rule({"w": torch.tensor([[4.0, 8.0]])}, ())
    >>> updates["w"].tolist()
    [[-2.0, 8.0]]
    """

    def __init__(self, like: Theta, lr: float) -> None:
        super().__init__()
        lr = step_size("lr", lr)
        self.names = tuple(like)  # may have dots in them, which names of parameters may not
        self.alpha = nn.ParameterList(torch.full_like(t, lr) for t in like.values())

    @property
    def rates(self) -> Theta:
        """alpha by name."""
        return dict(zip(self.names, self.alpha, strict=True))

    def forward(self, grads: Theta, state: State) -> tuple[Theta, State]:
        rates = self.rates
        return {name: -rates[name] * g for name, g in grads.items()}, state


class MetaSGD(InnerLoopLearner):
    """Learn the start and the step size of every parameter.

    On the map:
        phi: where all weights start, and a rate for each
        adapts: all weights, k steps
        outer loss: of the query set, through the steps
        needs: second derivatives, or first_order=True

    Args:
        model: any module; its parameters are phi, with as many step sizes. See `InnerLoopLearner`.
        inner_lr: the step size that all start at, above 0.
        steps: inner steps k in training; `adapt` and `evaluate` may take more.
        loss: of one task, inside and outside; `metanotes.mse` for regression.
        first_order: hold the inner gradients constant; the step sizes are learned all the same.
        adapts, batch: see `InnerLoopLearner`; there are step sizes of what adapts.
        keep_graph, checkpoint, record, compile, group: see `metanotes.engine.Options`.

    Raises:
        ValueError: see `InnerLoopLearner`.

    Source: Li, Zhou, Chen and Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning",
    2017, algorithm 1.

    >>> from metanotes import MetaSGD, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> learner = MetaSGD(mlp(1, 40, 40, 1), inner_lr=0.01, loss=mse)
    >>> learner(sinusoid(seed=0)(25)).mean().backward()
    >>> learner.rule.rates["0.weight"].grad.shape
    torch.Size([40, 1])
    """

    def __init__(
        self, model: nn.Module, inner_lr: float, steps: int = 1, **settings: Unpack[Settings]
    ) -> None:
        lr, adapts = step_size("inner_lr", inner_lr), settings.get("adapts")
        adapted = trainable(model)
        if adapts is not None:
            names = parts_of(model, adapts)
            adapted = {name: p for name, p in adapted.items() if name in names}
        super().__init__(model, LearnedRates(adapted, lr), steps, **settings)
