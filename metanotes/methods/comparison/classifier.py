"""An ordinary network, trained on the labels of all classes: where transfer learning starts.

    phi* = argmin sum_(x, y) cross_entropy(W body(x), y)           y among all training classes

*Fine-tuning* puts a new head for the classes of a task on the body, and descends from there; it
needs nothing new: `MAML(nn.Sequential(body, head), inner_lr, steps)` adapts whatever start it is
given. These are a baseline of Ravi and Larochelle (2017).
"""

from __future__ import annotations

from torch import Tensor, nn

from metanotes.learner import Learner, Loss, cross_entropy
from metanotes.task import Batch, Inputs
from metanotes.theta import call, over_tasks


class Classifier(Learner):
    """Learns nothing from a support set: an ordinary network, whose loss is that of its outputs.

    With tasks that are minibatches of all classes (`metanotes.data.batches`), `meta_train` trains
    it as any other learner.

    On the map:
        phi: a network for all classes
        adapts: nothing
        outer loss: of all examples
        needs: one labelled set of many classes

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

    def adapt(self, support: Batch, steps: int | None = None) -> None:
        """Nothing."""

    def predict(self, adapted: None, x: Inputs) -> Tensor:
        """f_phi(x): x `[T, M, ...]` to outputs `[T, M, ...]`."""
        return over_tasks(lambda x: call(self.model, {}, x))(x)
