"""The conditional neural process: a training set in, and for each x a mean and how sure (Garnelo).

    r^n         = (1/N) sum_i h(x_i, y_i)                    (x_i, y_i) in D_train^n             (1)
    mu, sigma   = g(x, r^n)                                                                      (2)
    l^n         = -(1/M) sum_j log N(y_j; mu(x_j), sigma(x_j)^2)                                 (3)

h and g are networks, phi = (h, g). It is a Gaussian process with its algebra replaced by two
networks: the time is linear in the number of examples, and what functions are likely is learned
from tasks rather than written into a kernel.

Given r, the answers of (2) are independent, so that a whole function cannot be drawn: only its
values, each by itself. The latent neural process (Garnelo et al. 2018b) draws an r; for means and
their errors, which is what is judged here, it is not needed.

Source: Garnelo et al., "Conditional Neural Processes", ICML 2018, equations (1) to (4).
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F

from metanotes._ground.checks import counts
from metanotes.engine import Computing
from metanotes.learner import Learner, check_targets, mse
from metanotes.methods.memory.examples import check_inputs, vectors
from metanotes.nets import mlp
from metanotes.task import Batch, Task

LEAST = 0.01  # sigma: where a set decides a function, the likelihood would grow without a bound


class NeuralProcess(Learner):
    """Answers each query with a mean and a standard deviation, (2), from a code (1) of the set.

    In training its losses are (3). `predict` gives the means, so that `evaluate` gives their mean
    squared error, and `distribution` both.

    On the map:
        phi: an encoder of examples, and a decoder of their mean code
        adapts: the code of the set
        outer loss: minus the log-likelihood of the query set
        needs: first derivatives; many tasks

    Args:
        inputs: numbers in an x.
        outputs: numbers in a y.
        hidden: units of the hidden layers of h and g, and numbers in the code r.
        seed: of the initial weights (PyTorch's default initialisation).
        computing: see `Options`.

    Raises:
        ValueError: a count below 1, or examples of another size.

    Source: see the module's.

    >>> from metanotes.data import sinusoid
    >>> learner = NeuralProcess(inputs=1)
    >>> tasks = sinusoid(shots=(3, 10), queries=15, seed=0)(25)
    >>> learner(tasks).shape
    torch.Size([25])
    >>> learner.distribution(learner.adapt(tasks.support), tasks.query.x).stddev.shape
    torch.Size([25, 15, 1])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int = 1,
        *,
        hidden: int = 128,
        seed: int = 0,
        **computing: Unpack[Computing],
    ) -> None:
        super().__init__(mse, **computing)
        counts(inputs=inputs, outputs=outputs, hidden=hidden)
        self.inputs, self.outputs = inputs, outputs
        self.h = mlp(inputs + outputs, hidden, hidden, hidden, seed=seed)
        self.g = mlp(inputs + hidden, hidden, hidden, 2 * outputs, seed=seed + 1)

    def adapt(self, support: Batch, steps: int | None = None) -> Tensor:
        """The code r of every task, `[T, hidden]`."""
        return self.h(vectors(support, self.inputs, self.outputs)).mean(1)

    def distribution(self, adapted: Tensor, x: Tensor) -> Normal:
        """(2) for every query: x `[T, M, inputs]` to a normal distribution `[T, M, outputs]`."""
        check_inputs(x, self.inputs)
        r = adapted[:, None].expand(-1, x.shape[1], -1)  # [T, M, hidden]
        mean, raw = self.g(torch.cat([x, r], 2)).chunk(2, 2)
        return Normal(mean, LEAST + F.softplus(raw), validate_args=False)

    def predict(self, adapted: Tensor, x: Tensor) -> Tensor:
        """The mean for every query: `[T, M, inputs]` to `[T, M, outputs]`."""
        return self.distribution(adapted, x).mean

    def query_losses(self, tasks: Task) -> Tensor:
        """(3) for every task, `[T]`."""
        answers = self.distribution(self.adapt(tasks.support), tasks.query.x)
        return -answers.log_prob(tasks.query.y).sum(2).mean(1)

    def check(self, tasks: Task, output: torch.Size) -> None:
        """The support set's targets are of the same kind as the query set's."""
        for batch in tasks:
            check_targets(mse, output, batch.y)

    def extra_repr(self) -> str:
        return f"inputs={self.inputs}, outputs={self.outputs}"
