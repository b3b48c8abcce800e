"""One-shot search: all architectures share one set of weights, which is trained once.

    w* = argmin E_c L_train(w, c),    c drawn at random                                       (1)
    c* = argmin_c L_val(w*, c)                                                                (2)

Each minibatch of (1) trains the weights on one random path through a network that holds all
operations. Every architecture can then be judged (2) for the price of a forward pass. Whether the
order of the shared losses is that of the architectures trained alone is what one has to hope for.

Source: Bender, Kindermans, Zoph, Vasudevan and Le, "Understanding and Simplifying One-Shot
Architecture Search", ICML 2018; Li and Talwalkar, "Random Search and Reproducibility for Neural
Architecture Search", UAI 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metanotes.evaluation import accuracy
from metanotes.learner import Loss, check_outputs, check_targets, cross_entropy
from metanotes.methods.architecture.mixed_operation import Choice, edges, only_path
from metanotes.task import Task, check_tasks
from metanotes.theta.gradients import one_number


class OneShot(nn.Module):
    """Trains the weights that all choices share, a random choice a minibatch.

    A task is a minibatch of the training set; its query set counts (`metanotes.data.batches`).

    On the map:
        phi: one set of weights for all architectures
        adapts: nothing: an architecture is chosen afterwards
        outer loss: of a minibatch, on a random path
        needs: first derivatives; order kept by the shared weights

    Args:
        net: any module from `[N, ...]` to `[N, ...]` that holds mixed operations
            (`MixedOperation`), whose alphas are not used, and get no gradient.
        loss: of one minibatch.

    Raises:
        ValueError: a net without a mixed operation; in use, targets that outputs cannot be compared
            with, or a loss that is no scalar.

    >>> from metanotes.data import batches, digits
    >>> from metanotes.methods.architecture import CellNetwork
    >>> images = digits("sklearn", size=8)
    >>> search = OneShot(CellNetwork())
    >>> search(batches(images, size=40)(2)).shape              # two minibatches, a path each
    torch.Size([2])
    >>> score = search.accuracy(("skip", "conv", "conv"), images.x[:50] / 255, images.y[:50])
    >>> 0 <= score <= 1
    True
    """

    def __init__(self, net: nn.Module, *, loss: Loss = cross_entropy) -> None:
        super().__init__()
        edges(net)
        self.net, self.loss = net, loss

    def draw(self) -> Choice:
        """An operation for every edge, each as likely, from torch's global generator."""
        names = [together[0].names for together in edges(self.net).values()]
        return tuple(options[int(torch.randint(len(options), ()))] for options in names)

    def forward(self, tasks: Task) -> Tensor:
        """The loss of each minibatch on a path of its own: `[T]`."""
        check_tasks(tasks)
        losses = []
        for x, y in zip(*tasks.query, strict=True):
            with only_path(self.net, self.draw()):
                outputs = self.net(x)
                check_targets(self.loss, check_outputs(outputs, y), y[None])
                losses.append(one_number(self.loss(outputs, y)))
        return torch.stack(losses)

    @torch.no_grad()
    def accuracy(self, choice: Sequence[str], x: Tensor, y: Tensor) -> float:
        """Of a choice on the shared weights (2): examples x `[N, ...]`, labels y `[N]`.

        The network works in whatever mode it is. A batch normalization without running statistics
        takes those of these examples.
        """
        with only_path(self.net, choice):
            return float(accuracy(self.net(x), y))
