"""What transfer learning does instead: train on the labels of all classes, then use the features.

    phi* = argmin sum_(x, y) cross_entropy(W body(x), y)           y among all training classes
    fine-tuning:         a new head for the classes of a task, and gradient descent from there
    nearest neighbour:   the label of the support example whose features are nearest

These are the two baselines of Ravi and Larochelle (2017). Fine-tuning needs nothing new:
`MAML(nn.Sequential(body, head), inner_lr, steps)` adapts whatever start it is given.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes.inner_loop import over_tasks
from metanotes.learner import Learner, Loss, check_targets, cross_entropy
from metanotes.task import Batch


class Classifier(Learner):
    """Learns nothing from a support set: an ordinary network, whose loss is that of its outputs.

    With tasks that are minibatches of all classes (`metanotes.data.batches`), `meta_train` trains
    it as any other learner.

    Args:
        model: any module from `[N, ...]` to `[N, classes]`; its parameters are phi.
        loss: of one minibatch.

    >>> from metanotes import Classifier
    >>> from metanotes.data import batches, glyphs
    >>> from metanotes.nets import conv4
    >>> images = glyphs("background")
    >>> learner = Classifier(conv4(ways=len(images.names)))
    >>> learner(batches(images, size=32)(1)).shape               # one minibatch
    torch.Size([1])
    """

    def __init__(self, model: nn.Module, loss: Loss = cross_entropy) -> None:
        super().__init__(loss)
        self.model = model

    def adapt(self, support: Batch) -> None:
        """Nothing."""

    def predict(self, adapted: None, x: Tensor) -> Tensor:
        """f_phi(x): x `[T, M, ...]` to outputs `[T, M, ...]`."""
        return torch.stack([self.model(minibatch) for minibatch in x])


class Neighbours(NamedTuple):
    """What `NearestNeighbour` keeps of the support set: features `[T, N, F]`, labels `[T, N]`."""

    z: Tensor
    y: Tensor


class NearestNeighbour(Learner):
    """Answers with the label of the support example whose features are nearest.

    Args:
        body: from `[N, ...]` to features `[N, ...]`; `nn.Flatten()` compares pixels. If it is one
            that `torch.func.vmap` cannot batch, set the learner's `batchable` to False.
        ways: classes of a task.

    Raises:
        ValueError: labels outside the ways.

    >>> from metanotes import NearestNeighbour, evaluate
    >>> from metanotes.data import episodes, glyphs
    >>> tasks = episodes(glyphs("evaluation"), ways=5, shots=1, queries=5, seed=0)
    >>> evaluate(NearestNeighbour(nn.Flatten(), ways=5), tasks, tasks=50).mean > 0.4
    True
    """

    def __init__(self, body: nn.Module, ways: int) -> None:
        super().__init__()
        self.body, self.ways = body, ways

    def features(self, x: Tensor) -> Tensor:
        """`[T, N, ...]` to features of length 1, `[T, N, F]`."""
        z = over_tasks(lambda _, x: self.body(x), not self.batchable)({}, x)
        return F.normalize(z.flatten(2), dim=2)

    def adapt(self, support: Batch) -> Neighbours:
        """The support set as it is, in features."""
        check_targets(cross_entropy, torch.Size([self.ways]), support.y)
        return Neighbours(self.features(support.x), support.y)

    def predict(self, adapted: Neighbours, x: Tensor) -> Tensor:
        """The greatest cosine to an example of each class, `[T, M, ways]`."""
        cosines = self.features(x) @ adapted.z.mT  # [T, M, N]
        is_class = adapted.y[:, None, :] == torch.arange(self.ways, device=x.device)[:, None]
        return cosines[:, :, None, :].masked_fill(~is_class[:, None], -torch.inf).amax(3)
