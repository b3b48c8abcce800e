"""A Siamese network: are these two of one class? (Koch, Zemel and Salakhutdinov 2015).

    p(x, x') = sigmoid(r(x, x')),    r(x, x') = b + sum_j alpha_j |z_j - z'_j|,    z = body(x)  (1)
    L(phi) = sum_n 1/2 (mean of -log p over the pairs of one class
                        + mean of -log(1 - p) over all other pairs),    phi = body, alpha, b    (2)
    y^(x) = y_j,    j = argmax_i r(x, x_i),    i in the support set                             (3)

It learns from pairs, and a task is what it is asked afterwards. In (2) the pairs are all those of a
task's examples, support and query. Few of them are of one class, so each kind has half the weight.
"""

from __future__ import annotations

from typing import NamedTuple, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes._ground.checks import count
from metanotes.engine import Computing
from metanotes.methods.comparison.features import Comparing, by_class, features_of
from metanotes.nets import feature_count
from metanotes.task import Batch, Inputs, Task


def pair_loss(r: Tensor, same: Tensor) -> Tensor:
    """(2) of one task: binary cross entropy, with half of the weight on the pairs of one class.

    Args:
        r: scores of pairs, `[P]`.
        same: whether both are of one class, `[P]`; some are, and some are not.

    >>> pair_loss(torch.tensor([9.0, -9.0, -9.0]), torch.tensor([True, False, False])) < 1e-3
    tensor(True)
    """
    one, zero = same.to(r), (~same).to(r)
    weights = one / one.sum() + zero / zero.sum()
    return F.binary_cross_entropy_with_logits(r, one, weights / 2, reduction="sum")


class Examples(NamedTuple):
    """What `SiameseNetwork` keeps of the support set: features `[T, N, F]`, labels `[T, N]`.

    >>> support = Batch(torch.rand(3, 5, 4), torch.arange(5).expand(3, 5))
    >>> SiameseNetwork(nn.Flatten(), ways=5, features=4).adapt(support).z.shape
    torch.Size([3, 5, 4])
    """

    z: Tensor
    y: Tensor


class SiameseNetwork(Comparing):
    """Learns whether two examples are of one class, and answers with that of the most similar.

    alpha starts at -1/F, so that r is minus the mean distance of the features, and b at zero.

    On the map:
        phi: a body, and how its features are compared
        adapts: nothing: the features of the examples are kept
        outer loss: of all pairs of examples: are they of one class
        needs: first derivatives; labels of both sets

    Args:
        body: any module from `[N, ...]` to features `[N, ...]`.
        ways: classes of a task, at least 2.
        features: F, how many the body gives; default: read off its last layer.
        keep_graph, checkpoint, record, compile, group: see `metanotes.engine.Options`.

    Raises:
        ValueError: a body that does not tell its features, fewer than 2 ways; in use, labels
            outside them or a class without an example.

    Source: Koch, Zemel and Salakhutdinov, "Siamese Neural Networks for One-shot Image Recognition",
    ICML Deep Learning Workshop 2015, section 3.

    >>> from metanotes import SiameseNetwork
    >>> from metanotes.data import episodes, glyphs
    >>> from metanotes.nets import conv4
    >>> tasks = episodes(glyphs("background"), ways=5, shots=1, queries=3)(4)
    >>> learner = SiameseNetwork(conv4(ways=None), ways=5)
    >>> learner(tasks).shape
    torch.Size([4])
    >>> learner.predict(learner.adapt(tasks.support), tasks.query.x).shape
    torch.Size([4, 15, 5])
    """

    def __init__(
        self,
        body: nn.Module,
        ways: int,
        *,
        features: int | None = None,
        **computing: Unpack[Computing],
    ) -> None:
        super().__init__(body, ways, loss=pair_loss, **computing)
        size = feature_count(body) if features is None else count("features", features)
        self.alpha = nn.Parameter(torch.full((size,), -1 / size))
        self.b = nn.Parameter(torch.zeros(()))

    def represent(self, support: Batch) -> Examples:
        """The support set as it is, in features."""
        return Examples(features_of(self.body, support.x).flatten(2), support.y)

    def predict(self, adapted: Examples, x: Inputs) -> Tensor:
        """r of (1) with the most similar example of each class, `[T, M, ways]`: (3) by `argmax`."""
        z = features_of(self.body, x).flatten(2)
        r = self.similarity(z[:, :, None], adapted.z[:, None])  # [T, M, N]
        return by_class(r, adapted.y, self.ways).amax(3)

    def similarity(self, z: Tensor, other: Tensor) -> Tensor:
        """r of (1), from features `[..., F]` of both to `[...]`."""
        return self.b + (z - other).abs() @ self.alpha

    def query_losses(self, tasks: Task) -> Tensor:
        """(2) of every task, over all pairs of its examples: `[T]`."""
        z = torch.cat([features_of(self.body, batch.x).flatten(2) for batch in tasks], 1)
        y = torch.cat([batch.y for batch in tasks], 1)
        i, j = torch.triu_indices(y.shape[1], y.shape[1], 1, device=y.device)
        r = self.similarity(z.index_select(1, i), z.index_select(1, j))  # [T, P]
        return self.task_losses(r, y[:, i] == y[:, j])
