"""A network that writes networks: a training set in, a model out.

    r^n     = (1/N) sum_i h(x_i, y_i)                        (x_i, y_i) in D_train^n             (1)
    theta^n = theta_0 + g(r^n)                                                                   (2)
    y^      = f_theta^n(x)

h and g are networks and theta_0 a vector; phi = (h, g, theta_0). The mean in (1) makes theta^n the
same in whatever order the examples come. MAML has theta_0 too, and finds what to add to it by
descending the loss of D_train; here g answers at once, without ever asking what the loss is.

Sources: Ha, Dai and Le, "HyperNetworks", ICLR 2017, for networks that write weights; Zaheer et al.,
"Deep Sets", NeurIPS 2017, for (1).
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from metanotes._ground.checks import counts
from metanotes.engine import Computing
from metanotes.learner import Learner, Loss, mse, refuse_running_statistics
from metanotes.methods.memory.examples import vectors
from metanotes.nets import mlp
from metanotes.task import Batch, Inputs, Task, map_tensors
from metanotes.theta import call, over_tasks, trainable
from metanotes.theta.parameters import Theta
from metanotes.theta.seen import check_that_weights_are_seen
from metanotes.theta.task_axis import ONE_BY_ONE, present

SMALL = 0.3  # share of the usual initial weights with which g begins, so that theta^n is theta_0's


class HyperNetwork(Learner):
    """Writes the weights of a model, (2), from a code (1) of the support set.

    On the map:
        phi: a network that writes the weights of another
        adapts: all weights of the other, written at once
        outer loss: of the query set
        needs: first derivatives; sets of points, of any size

    Args:
        model: f, any module from `[N, ...]` to `[N, ...]`; its parameters are theta_0.
        inputs: numbers in an x.
        outputs: numbers in a y, or classes where the targets are labels.
        hidden: units of the hidden layers of h and g, and numbers in the code r.
        loss: of one task.
        seed: of the initial weights of h and g.
        computing: see `Options`.

    Raises:
        ValueError: a count below 1, a model without parameters or with running statistics, or
            examples of another size.

    >>> from metanotes.data import sinusoid
    >>> learner = HyperNetwork(mlp(1, 32, 32, 1), inputs=1)
    >>> tasks = sinusoid(shots=10, queries=15, seed=0)(25)
    >>> learner(tasks).shape
    torch.Size([25])
    >>> theta = learner.adapt(tasks.support)
    >>> {name: tuple(t.shape) for name, t in theta.items()}["2.weight"]
    (25, 32, 32)
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: int,
        outputs: int = 1,
        *,
        hidden: int = 128,
        loss: Loss = mse,
        seed: int = 0,
        **computing: Unpack[Computing],
    ) -> None:
        super().__init__(loss, **computing)
        counts(inputs=inputs, outputs=outputs, hidden=hidden)
        refuse_running_statistics(model)
        numbers = sum(p.numel() for p in trainable(model).values())
        if not numbers:
            raise ValueError(
                "the model has no parameter that requires a gradient: nothing to write"
            )
        self.model, self.inputs, self.outputs = model, inputs, outputs
        self.h = mlp(inputs + outputs, hidden, hidden, seed=seed)
        self.g = mlp(hidden, hidden, numbers, seed=seed + 1)
        with torch.no_grad():
            for p in self.g[-1].parameters():
                p.mul_(SMALL)

    def adapt(self, support: Batch, steps: int | None = None) -> Theta:
        """The parameters of the model by name, `[T, ...]`."""
        r = self.h(vectors(support, self.inputs, self.outputs)).mean(1)  # [T, hidden]
        theta_0 = trainable(self.model)
        parts = self.g(r).split([p.numel() for p in theta_0.values()], 1)
        return {
            name: p + part.unflatten(1, p.shape)
            for (name, p), part in zip(theta_0.items(), parts, strict=True)
        }

    def predict(self, adapted: Theta, x: Inputs) -> Tensor:
        """f_theta(x) of every task: `[T, M, ...]` to outputs `[T, M, ...]`."""
        f = over_tasks(lambda theta, x: call(self.model, theta, x), predicts=True)
        return f(adapted, x)

    @torch.enable_grad()
    def probe(self, tasks: Task) -> list[Tensor]:
        """As of any learner, of a model that sees the weights that are written."""
        if present() == ONE_BY_ONE:
            x, y = map_tensors(lambda t: t[0], tasks.query)
            check_that_weights_are_seen(self.model, self.loss, x, y)
        return super().probe(tasks)

    def check(self, tasks: Task, output: torch.Size) -> None:
        """Refuse a model that is being trained with running statistics, and targets that do not
        fit."""
        refuse_running_statistics(self.model)
        super().check(tasks, output)

    def extra_repr(self) -> str:
        return f"inputs={self.inputs}, outputs={self.outputs}"
