"""A matching network: a weighted vote of the support examples (Vinyals et al. 2016).

    p(y = k | x) = sum_i a(x, x_i) [y_i = k]                                                   (1)
    a(x, x_i) = softmax_i(c(f(x), g(x_i)) / tau)                                               (2)

c is the cosine, or `-|f - g|^2`. f and g are one body, or a body and what `FullContext` makes of
its features in sight of the whole support set.

The paper has no temperature tau. But a cosine is between -1 and 1, so that at tau = 1 no example
of N gets more than e / (e + (N - 1)/e) of the attention. For N = 20 that is 28 %: whatever the
features, the cross entropy of 20-way 1-shot tasks stays above 1.27. After a ReLU, where no feature
is below zero and so no cosine, it is 12.5 % and 2.08.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Unpack, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes._ground.checks import positive
from metanotes.engine import Computing
from metanotes.learner import Loss, cross_entropy
from metanotes.methods.comparison.features import (
    Comparing,
    by_class,
    features_of,
    squared_distances,
)
from metanotes.methods.comparison.full_context import FullContext
from metanotes.task import Batch, Inputs

Similarity = Literal["cosine", "squared"]


class Voters(NamedTuple):
    """What `MatchingNetwork` keeps of the support set: g(x_i) `[T, N, F]` and labels `[T, N]`.

    >>> support = Batch(torch.rand(3, 5, 4), torch.arange(5).expand(3, 5))
    >>> MatchingNetwork(nn.Flatten(), ways=5).adapt(support).g.shape
    torch.Size([3, 5, 4])
    """

    g: Tensor
    y: Tensor


class MatchingNetwork(Comparing):
    """Answers with the class whose support examples draw most of a query's attention.

    With squared distances, tau = 1 and one example a class it is a `PrototypicalNetwork`. With more
    examples every one keeps its vote, and a class with more examples has more of them.

    On the map:
        phi: a body
        adapts: nothing: the features of the examples are kept
        outer loss: of the query set
        needs: first derivatives; an example of each class

    Args:
        body: any module from `[N, ...]` to features `[N, ...]`.
        ways: classes of a task, at least 2.
        similarity: "cosine" or "squared", for minus the squared distance.
        temperature: tau, above 0; default: 0.1 for cosines, 1 for squared distances. The paper's
            bare cosine is 1.
        learn_temperature: whether log tau is a part of phi, which starts there.
        full_context: makes f and g of the body's features; default: they are the features.
        loss: of one task.
        keep_graph, checkpoint, record, compile, group: see `metanotes.engine.Options`.

    Raises:
        ValueError: an unknown similarity, a temperature that is not above 0, fewer than 2 ways; in
            use, labels outside them or a class without an example.

    Source: Vinyals, Blundell, Lillicrap, Kavukcuoglu and Wierstra, "Matching Networks for One Shot
    Learning", NeurIPS 2016, equation 1 and section 2.1.

    >>> from metanotes import MatchingNetwork
    >>> from metanotes.data import episodes, glyphs
    >>> from metanotes.nets import conv4
    >>> tasks = episodes(glyphs("background"), ways=5, shots=1, queries=3)(4)
    >>> learner = MatchingNetwork(conv4(ways=None), ways=5)
    >>> learner(tasks).shape
    torch.Size([4])
    >>> outputs = learner.predict(learner.adapt(tasks.support), tasks.query.x)
    >>> outputs.softmax(2).shape                               # (1): T, M, ways
    torch.Size([4, 15, 5])
    """

    def __init__(
        self,
        body: nn.Module,
        ways: int,
        *,
        similarity: Similarity = "cosine",
        temperature: float | None = None,
        learn_temperature: bool = False,
        full_context: FullContext | None = None,
        loss: Loss = cross_entropy,
        **computing: Unpack[Computing],
    ) -> None:
        super().__init__(body, ways, loss=loss, **computing)
        if similarity not in get_args(Similarity):
            raise ValueError(f'similarity={similarity!r} must be "cosine" or "squared"')
        if temperature is None:
            temperature = 0.1 if similarity == "cosine" else 1.0
        self.similarity, self.start = similarity, positive("temperature", temperature)
        self.full_context, self.log_temperature = full_context, None
        if learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    @property
    def temperature(self) -> Tensor | float:
        """tau."""
        return self.start if self.log_temperature is None else self.log_temperature.exp()

    def represent(self, support: Batch) -> Voters:
        """g(x_i) and y_i of all support examples."""
        z = features_of(self.body, support.x).flatten(2)
        return Voters(z if self.full_context is None else self.full_context.g(z), support.y)

    def predict(self, adapted: Voters, x: Inputs) -> Tensor:
        """Log p of (1), but for what all classes have in common: `[T, M, ways]`."""
        f, g = features_of(self.body, x).flatten(2), adapted.g
        if self.full_context is not None:
            f = self.full_context.f(f, g)
        if self.similarity == "cosine":
            scores = F.normalize(f, dim=2) @ F.normalize(g, dim=2).mT  # [T, M, N]
        else:
            scores = -squared_distances(f, g)
        # The sum of (1) in logarithms; what (2) divides by is the same for all classes.
        return by_class(scores / self.temperature, adapted.y, self.ways).logsumexp(3)
