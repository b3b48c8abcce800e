"""A recurrent net that learns without changing a weight (Hochreiter, Younger and Conwell 2001).

    y^_j, s_j = net_phi((x_j, y_{j-1}), s_{j-1}),    y_0 = 0                                    (1)
    L(phi) = sum_n sum_j l(y^_j^n, y_j^n)                                                       (2)

The net is fed an input and the target of the example *before*, so that y^_j is a prediction: y_j
comes in one step later. Nothing but the state s_j can hold what was learned about function n;
phi is the same for all functions, and after training it is fixed. So (1) is the learning algorithm
(the subordinate one), and the descent of (2) over many functions is what finds it (the supervisory
one).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes._ground.checks import counts
from metanotes._ground.randomness import seeded
from metanotes.learner import Learner, Loss, check_targets, mse
from metanotes.task import Batch, Task, joined


class Activations(NamedTuple):
    """What `RecurrentLearner` has learned of T functions.

    Args:
        h: the LSTM's output, `[T, H]`.
        c: its cells, `[T, H]`.
        y: the last target, not yet fed, `[T, outputs]`.

    >>> support = Batch(torch.zeros(3, 7, 2), torch.ones(3, 7, 1))
    >>> RecurrentLearner(inputs=2, hidden=8).adapt(support).h.shape
    torch.Size([3, 8])
    """

    h: Tensor
    c: Tensor
    y: Tensor


class RecurrentLearner(Learner):
    """An LSTM with fixed weights that learns a function in its activations.

    In training every prediction along the sequence of support and query examples counts, as in
    (2). `adapt` runs the net along the support set, and `predict` answers each query from there
    on its own.

    On the map:
        phi: an LSTM
        adapts: its state
        outer loss: of each prediction along the sequence
        needs: first derivatives, back through the sequence

    Args:
        inputs: numbers in an x.
        outputs: numbers in a y.
        hidden: cells of the LSTM, H.
        loss: of one task.
        seed: of the initial weights (PyTorch's default initialisation; forget gates open).

    Raises:
        ValueError: a count below 1, or examples of another size.

    Source: Hochreiter, Younger and Conwell, "Learning to Learn Using Gradient Descent", ICANN 2001.

    >>> from metanotes.data import surfaces
    >>> learner = RecurrentLearner(inputs=2, hidden=40)
    >>> tasks = surfaces(shots=30, queries=10, seed=0)(25)
    >>> learner(tasks).shape
    torch.Size([25])
    >>> learner.predict(learner.adapt(tasks.support), tasks.query.x).shape
    torch.Size([25, 10, 1])
    """

    def __init__(
        self, inputs: int, outputs: int = 1, hidden: int = 40, loss: Loss = mse, seed: int = 0
    ) -> None:
        super().__init__(loss)
        counts(inputs=inputs, outputs=outputs, hidden=hidden)
        self.inputs, self.outputs, self.hidden = inputs, outputs, hidden
        with seeded(seed):
            self.lstm = nn.LSTM(inputs + outputs, hidden, batch_first=True)
            self.head = nn.Linear(hidden, outputs)
        with torch.no_grad():
            dict(self.lstm.named_parameters())["bias_hh_l0"][hidden : 2 * hidden] = 1.0

    def predictions(self, examples: Batch) -> Tensor:
        """y^_j for each j, `[T, N, outputs]`, from x_j and the examples before it.

        Args:
            examples: x `[T, N, inputs]` and y `[T, N, outputs]`, in the order of learning.
        """
        return self._run(examples)[0]

    def adapt(self, support: Batch, steps: int | None = None) -> Activations:
        """The activations after the support set."""
        _, (h, c) = self._run(support)
        return Activations(h[0], c[0], support.y[:, -1])

    def predict(self, adapted: Activations, x: Tensor) -> Tensor:
        """y^ of each query, `[T, M, outputs]`: one step more, from the same activations."""
        W = dict(self.lstm.named_parameters())
        h, c, y = (t[:, None].expand(-1, x.shape[1], -1) for t in adapted)
        gates = F.linear(torch.cat([x, y], 2), W["weight_ih_l0"], W["bias_ih_l0"])
        gates = gates + F.linear(h, W["weight_hh_l0"], W["bias_hh_l0"])
        i, f, g, o = gates.chunk(4, 2)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return self.head(o.sigmoid() * c.tanh())

    def query_losses(self, tasks: Task) -> Tensor:
        """(2) for each function, a mean over all its examples: `[T]`."""
        examples = joined(*tasks)
        return self.task_losses(self.predictions(examples), examples.y)

    def check(self, tasks: Task, output: torch.Size) -> None:
        """Every example of a sequence is a target."""
        for batch in tasks:
            check_targets(self.loss, output, batch.y)

    def _run(self, examples: Batch) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x, y = examples
        if x.shape[2:] != (self.inputs,) or y.shape[2:] != (self.outputs,):
            raise ValueError(
                f"an example has shapes {list(x.shape[2:])} and {list(y.shape[2:])}; this learner "
                f"is for [{self.inputs}] and [{self.outputs}]"
            )
        delayed = torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], 1)
        states, last = self.lstm(torch.cat([x, delayed], 2))
        return self.head(states), last

    def extra_repr(self) -> str:
        return f"inputs={self.inputs}, outputs={self.outputs}, hidden={self.hidden}"
