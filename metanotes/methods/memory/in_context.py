"""Training and test set in, answers out: a transformer that reads both as one sequence.

    support example    (x_i, y_i, 1)
    query              (x_j,   0, 0)            y^_j = what the last layer makes of its place

Every place sees the support set and itself. So the answer to a query depends on no other query
(it is not transductive, unless a body mixes the examples, as one with the statistics of a batch
does), and since there are no positions, the order of the examples does not matter. phi is the
transformer; no weight changes when a task is learned.

Source: the layout is ours; the idea is Garg, Tsipras, Liang and Valiant, "What Can Transformers
Learn In-Context?", NeurIPS 2022, and Müller et al., "Transformers Can Do Bayesian Inference", ICLR
2022, whose masks are as here.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes._ground.checks import counts
from metanotes._ground.randomness import seeded
from metanotes.engine import Computing
from metanotes.learner import Learner, Loss, mse
from metanotes.methods.memory.examples import check_inputs, vectors
from metanotes.nets import TransformerBody
from metanotes.task import Batch, Inputs
from metanotes.theta import call, over_tasks


class InContextLearner(Learner):
    """A transformer that reads the support set with a query, and answers.

    On the map:
        phi: a transformer
        adapts: nothing: the examples are read again with each query
        outer loss: of the query set
        needs: first derivatives; many tasks

    Args:
        inputs: numbers in an x; with a body, features.
        outputs: numbers in a y, or classes where the targets are labels.
        body: from x `[N, ...]` to features `[N, inputs]`; None where x is a vector already.
        width, heads, layers: of the transformer, see `metanotes.nets.TransformerBody`.
        loss: of one task; `metanotes.cross_entropy` for labels.
        seed: of the initial weights (PyTorch's default initialisation).
        computing: see `Options`.

    Raises:
        ValueError: a count below 1, a width that is no multiple of the heads, or examples of
            another size.

    Source: see the module's.

    >>> from metanotes.data import sinusoid
    >>> learner = InContextLearner(inputs=1, width=32)
    >>> tasks = sinusoid(shots=10, queries=15, seed=0)(25)
    >>> learner(tasks).shape
    torch.Size([25])

    For images and labels:

    >>> from metanotes import cross_entropy
    >>> from metanotes.nets import conv4
    >>> learner = InContextLearner(256, outputs=5, body=conv4(None), loss=cross_entropy)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int = 1,
        *,
        body: nn.Module | None = None,
        width: int = 64,
        heads: int = 4,
        layers: int = 3,
        loss: Loss = mse,
        seed: int = 0,
        **computing: Unpack[Computing],
    ) -> None:
        super().__init__(loss, **computing)
        counts(inputs=inputs, outputs=outputs, width=width, heads=heads, layers=layers)
        self.inputs, self.outputs = inputs, outputs
        self.body = nn.Identity() if body is None else body
        with seeded(seed):
            self.embedding = nn.Linear(inputs + outputs + 1, width)
            self.transformer = TransformerBody(width, heads, layers)
            self.head = nn.Linear(width, outputs)

    def features(self, x: Inputs) -> Tensor:
        """`[T, N, ...]` to `[T, N, inputs]`."""
        z = over_tasks(lambda x: call(self.body, {}, x))(x)
        check_inputs(z, self.inputs)
        return z

    def adapt(self, support: Batch, steps: int | None = None) -> Tensor:
        """The support set as the transformer reads it, `[T, N, width]`."""
        examples = Batch(self.features(support.x), support.y)
        xy = vectors(examples, self.inputs, self.outputs)
        return self.embedding(F.pad(xy, (0, 1), value=1.0))

    def predict(self, adapted: Tensor, x: Inputs) -> Tensor:
        """The answer to each query by itself: `[T, M, ...]` to `[T, M, outputs]`."""
        queries = self.embedding(F.pad(self.features(x), (0, self.outputs + 1)))
        N, M = adapted.shape[1], queries.shape[1]
        visible = torch.eye(N + M, dtype=torch.bool, device=queries.device)  # itself
        visible[:, :N] = True  # and the support set
        read = self.transformer(torch.cat([adapted, queries], 1), visible=visible)
        return self.head(read[:, N:])

    def extra_repr(self) -> str:
        return f"inputs={self.inputs}, outputs={self.outputs}"
