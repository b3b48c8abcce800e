"""The nearest neighbour: the label of the support example whose features are nearest.

    y^(x) = y_j,    j = argmax_i cos(body(x), body(x_i)),    i in the support set

With the features of a `Classifier` of all training classes it is a baseline of Ravi and Larochelle
(2017); with pixels for features, the least that a learner must beat.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes.learner import Learner, check_targets, cross_entropy
from metanotes.methods.comparison.features import by_class, features_of
from metanotes.task import Batch, Inputs


class Neighbors(NamedTuple):
    """What `NearestNeighbor` keeps of the support set: features `[T, N, F]`, labels `[T, N]`.

    >>> support = Batch(torch.rand(3, 5, 4), torch.arange(5).expand(3, 5))
    >>> NearestNeighbor(nn.Flatten(), ways=5).adapt(support).z.shape
    torch.Size([3, 5, 4])
    """

    z: Tensor
    y: Tensor


class NearestNeighbor(Learner):
    """Answers with the label of the support example whose features are nearest.

    On the map:
        phi: nothing: the body was learned elsewhere
        adapts: nothing: the features of the examples are kept
        outer loss: none
        needs: features, or pixels

    Args:
        body: from `[N, ...]` to features `[N, ...]`; `nn.Flatten()` compares pixels.
        ways: classes of a task.

    Raises:
        ValueError: labels outside the ways.

    >>> from metanotes import NearestNeighbor, evaluate
    >>> from metanotes.data import episodes, glyphs
    >>> tasks = episodes(glyphs("evaluation"), ways=5, shots=1, queries=5, seed=0)
    >>> evaluate(NearestNeighbor(nn.Flatten(), ways=5), tasks, tasks=50).mean > 0.4
    True
    """

    def __init__(self, body: nn.Module, ways: int) -> None:
        super().__init__()
        self.body, self.ways = body, ways

    def features(self, x: Inputs) -> Tensor:
        """`[T, N, ...]` to features of length 1, `[T, N, F]`."""
        return F.normalize(features_of(self.body, x).flatten(2), dim=2)

    def adapt(self, support: Batch, steps: int | None = None) -> Neighbors:
        """The support set as it is, in features."""
        check_targets(cross_entropy, torch.Size([self.ways]), support.y)
        return Neighbors(self.features(support.x), support.y)

    def predict(self, adapted: Neighbors, x: Inputs) -> Tensor:
        """The greatest cosine to an example of each class, `[T, M, ways]`."""
        cosines = self.features(x) @ adapted.z.mT  # [T, M, N]
        return by_class(cosines, adapted.y, self.ways).amax(3)
