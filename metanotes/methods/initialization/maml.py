"""Model-agnostic meta-learning: phi is where to start (Finn, Abbeel and Levine 2017).

    theta^n = phi - alpha grad l^n(phi; D_train)                    (one step; k are alike)
    L(phi)  = sum_n l^n(theta^n; D_test)
    grad L  = sum_n (I - alpha H^n) grad l^n(theta^n; D_test),   H^n = Hessian of l^n(.; D_train)

First order (FOMAML) takes I - alpha H for I: the gradient at theta^n is applied at phi.

Joint pre-training asks for the loss at phi itself, before any learning:

    L(phi)  = sum_n l^n(phi)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metanotes.inner_loop_learner import InnerLoopLearner
from metanotes.learner import Loss, cross_entropy
from metanotes.task import Batch, Task
from metanotes.update_rules import SGD, positive


class MAML(InnerLoopLearner):
    """Learn the start phi from which k steps of gradient descent do best.

    Args:
        model: any module; its parameters are phi. See `InnerLoopLearner`.
        inner_lr: the inner step size alpha, above 0.
        steps: inner steps k in training; `adapt` and `evaluate` may take more.
        first_order: FOMAML, without second derivatives.
        loss: of one task, inside and outside; `metanotes.mse` for regression.
        keep_graph, checkpoint, compile: see `InnerLoopLearner`.

    Raises:
        ValueError: see `InnerLoopLearner`.

    >>> from metanotes import MAML, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> learner = MAML(mlp(1, 40, 40, 1), inner_lr=0.01, steps=1, loss=mse)
    >>> losses = learner(sinusoid(shots=10, queries=10, seed=0)(25))
    >>> losses.shape
    torch.Size([25])
    >>> losses.mean().backward()                # grad L(phi), second derivatives and all
    """

    def __init__(
        self,
        model: nn.Module,
        inner_lr: float,
        steps: int = 1,
        first_order: bool = False,
        loss: Loss = cross_entropy,
        keep_graph: bool = False,
        checkpoint: bool = False,
        compile: bool = False,
    ) -> None:
        rule = SGD(positive("inner_lr", inner_lr))
        super().__init__(model, rule, steps, loss, first_order, keep_graph, checkpoint, compile)


class Pretrained(InnerLoopLearner):
    """Joint pre-training: phi does best on all tasks as it is, and is fine-tuned afterwards.

    Its loss is that of phi on all the data of a task, support and query. Its `adapt` is
    that of `MAML`, so both are judged alike.

    Args:
        model: any module; its parameters are phi. See `InnerLoopLearner`.
        inner_lr: the step size of fine-tuning, above 0.
        steps: steps of fine-tuning.
        loss: of one task.

    >>> from metanotes import Pretrained, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> learner = Pretrained(mlp(1, 40, 40, 1), inner_lr=0.01, steps=1, loss=mse)
    >>> learner(sinusoid(shots=10, queries=10, seed=0)(25)).shape
    torch.Size([25])
    """

    def __init__(
        self, model: nn.Module, inner_lr: float, steps: int = 1, loss: Loss = cross_entropy
    ) -> None:
        super().__init__(model, SGD(positive("inner_lr", inner_lr)), steps, loss)

    def query_losses(self, tasks: Task) -> Tensor:
        """l^n(phi), the loss before any learning, on all data of every task: `[T]`."""
        x = torch.cat([tasks.support.x, tasks.query.x], 1)
        y = torch.cat([tasks.support.y, tasks.query.y], 1)
        return self.losses_at(self.descend([tasks.support], steps=0), Batch(x, y))
