"""The one idea: a learner F_phi, and its loss after learning.

    theta^n = F_phi(D_train^n)         learner.adapt(tasks.support)
    f_theta^n(x)                       learner.predict(adapted, x)
    l^n(theta^n)                       learner(tasks), a tensor [T]
    L(phi) = sum_n l^n                 learner(tasks).mean(), up to the constant 1/T
    phi <- phi - eta grad L(phi)       learner(tasks).mean().backward(), and any torch optimizer

phi is whatever `learner.parameters()` gives. A method is a choice of what phi is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.functional import cross_entropy as cross_entropy
from torch.nn.functional import mse_loss as mse

from metanotes.task import Batch, Task, check_tasks

Loss = Callable[[Tensor, Tensor], Tensor]


class Learner(nn.Module):
    """F_phi: an ordinary module whose `forward` gives the loss after learning, task by task.

    A new method fills in `adapt` and `predict`, and everything else (training, evaluation,
    checkpoints, devices, data parallelism) works on it.

    Args:
        loss: from outputs `[N, ...]` and targets `[N]` or `[N, ...]` of one task to a scalar.

    >>> import torch
    >>> class Average(Learner):
    ...     def adapt(self, support): return support.y.mean(1)
    ...     def predict(self, adapted, x): return adapted[:, None, :].expand(-1, x.shape[1], -1)
    >>> x, y = torch.zeros(3, 4, 1), torch.ones(3, 4, 1)
    >>> Average(loss=mse)(Task(Batch(x, y), Batch(x, y + 2)))
    tensor([4., 4., 4.])
    """

    def __init__(self, loss: Loss = cross_entropy) -> None:
        super().__init__()
        self.loss = loss
        self.batchable = True  # whether torch.func.vmap can batch `predict`

    def adapt(self, support: Batch) -> Any:
        """F_phi(D_train) of every task; support.x is `[T, N, ...]`."""
        raise NotImplementedError

    def predict(self, adapted: Any, x: Tensor) -> Tensor:
        """f_theta(x) of every task: `[T, M, ...]` to outputs `[T, M, ...]`."""
        raise NotImplementedError

    def forward(self, tasks: Task) -> Tensor:
        """l^n, the loss on the query set after learning from the support set: `[T]`."""
        check_tasks(tasks)
        outputs = self.predict(self.adapt(tasks.support), tasks.query.x)
        check_targets(self.loss, outputs.shape[2:], tasks.query.y)
        return self.task_losses(outputs, tasks.query.y)

    def task_losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss of every task: outputs `[T, M, ...]`, y `[T, M]` or `[T, M, ...]`, to `[T]`."""
        return vmap(self.loss)(outputs, y)


def check_targets(loss: Loss, output: torch.Size, y: Tensor) -> None:
    """Refuse labels outside the ways, and targets that would be broadcast in silence.

    Args:
        loss: which loss they are for.
        output: the shape of the model's output for one example.
        y: targets, `[T, N]` or `[T, N, ...]`.
    """
    if loss is cross_entropy and not y.is_floating_point():
        ways = output[0]
        if ((y < 0) | (y >= ways)).any():
            raise ValueError(
                f"labels run from {int(y.min())} to {int(y.max())}, but the model's outputs "
                f"have {ways} classes: labels are 0 to {ways - 1}"
            )
    if loss is mse and y.shape[2:] != output:
        raise ValueError(
            f"a target has the shape {list(y.shape[2:])}, the model's output {list(output)}: "
            "they must agree"
        )
