"""Joint pre-training: phi does best on all tasks as it is, before any learning.

    L(phi)  = sum_n l^n(phi)

Beside MAML, which asks for the loss *after* learning, it is the other end of the notes' comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor, nn

from metanotes.engine import Computing
from metanotes.inner_loop_learner import InnerLoopLearner
from metanotes.learner import Learner, Loss, cross_entropy
from metanotes.task import Task, joined
from metanotes.theta.parameters import Part
from metanotes.update_rules import SGD, step_size


class Pretrained(InnerLoopLearner):
    """Joint pre-training: phi does best on all tasks as it is, and is fine-tuned afterwards.

    Its loss is that of phi on all the data of a task, support and query. Its `adapt` is
    that of `MAML`, so both are judged alike.

    On the map:
        phi: where all weights start
        adapts: nothing in training; all weights afterwards
        outer loss: of all examples, before any step
        needs: first derivatives; the same outputs in every task

    Args:
        model: any module; its parameters are phi. See `InnerLoopLearner`.
        inner_lr: the step size of fine-tuning, above 0.
        steps: steps of fine-tuning.
        loss: of one task.
        adapts, batch: of fine-tuning, see `InnerLoopLearner`.
        keep_graph, checkpoint, record, compile, group: see `metanotes.engine.Options`.

    >>> from metanotes import Pretrained, mse
    >>> from metanotes.data import sinusoid
    >>> from metanotes.nets import mlp
    >>> learner = Pretrained(mlp(1, 40, 40, 1), inner_lr=0.01, steps=1, loss=mse)
    >>> learner(sinusoid(shots=10, queries=10, seed=0)(25)).shape
    torch.Size([25])
    """

    def __init__(
        self,
        model: nn.Module,
        inner_lr: float,
        steps: int = 1,
        *,
        loss: Loss = cross_entropy,
        adapts: Part | Sequence[Part] | None = None,
        batch: int | None = None,
        **computing: Unpack[Computing],
    ) -> None:
        rule = SGD(step_size("inner_lr", inner_lr))
        super().__init__(model, rule, steps, loss=loss, adapts=adapts, batch=batch, **computing)

    def forward(self, tasks: Task) -> Tensor:
        """l^n(phi), the loss before any learning, on all data of every task: `[T]`."""
        return Learner.forward(self, tasks)  # minibatches are those of fine-tuning

    def query_losses(self, tasks: Task) -> Tensor:
        """`forward`, plainly written."""
        return self.losses_at(self.descend([tasks.support], steps=0), joined(*tasks))
