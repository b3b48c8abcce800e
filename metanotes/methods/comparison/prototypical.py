"""A prototypical network: a class is the mean of its examples' features (Snell et al. 2017).

    c_k = 1/|S_k| sum_(x_i, y_i) in S_k body(x_i)                                              (1)
    p(y = k | x) = softmax_k(-|body(x) - c_k|^2)                                               (2)

(2) is a linear classifier of the features: `|z - c|^2 = |z|^2 - 2 c.z + |c|^2`, and `|z|^2` is the
same for all classes, so that class k has the weights `2 c_k` and the bias `-|c_k|^2`. The mean (1)
is what the squared distance asks for: it minimises the sum of the distances to the examples of its
class, as it does for every Bregman divergence.
"""

from __future__ import annotations

from torch import Tensor

from metanotes.methods.comparison.features import Comparing, features_of, means, squared_distances
from metanotes.task import Batch, Inputs


class PrototypicalNetwork(Comparing):
    """Answers with the class whose mean in feature space is nearest; phi is the body.

    No number of classes or examples is part of phi: what was trained on tasks of 20 classes serves
    tasks of 5, by `with_ways`. The classes of a task may have different numbers of examples, and
    tasks other numbers than the next: each mean is over its own. (All tasks of a `Task` have the
    same number of support examples in all, as they lie in one tensor.)

    On the map:
        phi: a body
        adapts: a mean for each class
        outer loss: of the query set
        needs: first derivatives; an example of each class

    Args:
        body: any module from `[N, ...]` to features `[N, ...]`, such as `conv4(ways=None)`.
        ways: classes of a task, at least 2.
        loss: of one task.
        keep_graph, checkpoint, record, compile, group: see `metanotes.engine.Options`.

    Raises:
        ValueError: fewer than 2 ways; in use, labels outside them or a class without an example.

    Source: Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning", NeurIPS 2017,
    equations 1 and 2.

    >>> from metanotes import PrototypicalNetwork
    >>> from metanotes.data import episodes, glyphs
    >>> from metanotes.nets import conv4
    >>> learner = PrototypicalNetwork(conv4(ways=None), ways=20)
    >>> learner(episodes(glyphs("background"), ways=20, shots=1, queries=5)(2)).shape
    torch.Size([2])
    >>> support = episodes(glyphs("evaluation"), ways=5, shots=3, queries=5)(4).support
    >>> learner.with_ways(5).adapt(support).shape                         # c: T, ways, F
    torch.Size([4, 5, 256])
    """

    def represent(self, support: Batch) -> Tensor:
        """The prototypes (1), `[T, ways, F]`."""
        return means(features_of(self.body, support.x).flatten(2), support.y, self.ways)

    def predict(self, adapted: Tensor, x: Inputs) -> Tensor:
        """The logits of (2), `[T, M, ways]`."""
        return -squared_distances(features_of(self.body, x).flatten(2), adapted)
