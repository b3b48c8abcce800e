"""Learning in the course of a sequence: a network answers, and is told the label a step later.

    y^_t = net_phi(x_1, (x_2, y_1), ..., (x_t, y_{t-1}))                                      (1)
    L(phi) = sum_n (1/L) sum_t cross_entropy(y^_t^n, y_t^n)                                   (2)

The labels are shuffled from sequence to sequence, so that no weight can hold them: what a class is
called has to be remembered from its first presentation to its second, by whatever `net` has for it:
the cells of an LSTM, the past that a causal transformer looks back on, or an external memory
(`MANN`). Every step counts in (2), also a class's first, at which nothing can be known.

Source: Santoro et al., "Meta-Learning with Memory-Augmented Neural Networks", ICML 2016, section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes._ground.checks import count
from metanotes.task import Sequences


class SequenceLearner(nn.Module):
    """Any network on sequences, as a learner: its answer at a place is for the example there.

    On the map:
        phi: a network on sequences
        adapts: its state, or nothing: the past is read again
        outer loss: of each answer along the sequence
        needs: first derivatives, back through the sequence

    Args:
        net: from `[T, L, F + ways]`, the numbers of an x and the label before it, to logits
            `[T, L, ways]`. It must not look ahead: an LSTM, or a causal transformer.
        ways: classes of a sequence.

    Raises:
        ValueError: a count below 1.

    >>> from metanotes.data import glyphs, sequences
    >>> from metanotes.nets import lstm
    >>> learner = SequenceLearner(lstm(inputs=784 + 5, outputs=5), ways=5)
    >>> drawn = sequences(glyphs("background"), ways=5, length=50)(16)
    >>> learner(drawn).shape
    torch.Size([16])
    """

    def __init__(self, net: nn.Module, ways: int) -> None:
        super().__init__()
        self.net, self.ways = net, count("ways", ways)

    def logits(self, sequences: Sequences) -> Tensor:
        """y^_t of (1) at each step, `[T, L, ways]`; an x of several axes is flattened.

        Raises:
            TypeError, ValueError: sequences that `check_sequences` refuses, or a network that gives
                something else.
        """
        check_sequences(sequences, self.ways)
        x, y, previous, _ = sequences
        logits: Tensor = self.net(torch.cat([x.flatten(2), previous], 2))
        if logits.shape != (*y.shape, self.ways):
            raise ValueError(
                f"net gives {list(logits.shape)}; it must give logits {[*y.shape, self.ways]}, "
                f"ways={self.ways} of them at each step"
            )
        return logits

    def forward(self, sequences: Sequences) -> Tensor:
        """(2) for each sequence, `[T]`."""
        logits = self.logits(sequences)
        losses = F.cross_entropy(logits.flatten(0, 1), sequences.y.flatten(), reduction="none")
        return losses.view(sequences.y.shape).mean(1)

    def answers(self, sequences: Sequences) -> Tensor:
        """The class it names at each step, `[T, L]`."""
        return self.logits(sequences).argmax(2)


class Counting(nn.Module):
    """Never looks at an example: it names the class that has been shown least often so far.

    At a class's first presentation that is as good as anything. If j of N classes have not been
    shown yet, one of them is named, and it is right with a chance of 1/j: over the N first
    presentations 1/N (1/N + ... + 1/2 + 1), 45.7 % for five classes. To remember is what a learner
    does that is better than this at the second.

    Args:
        ways: classes of a sequence.

    Raises:
        ValueError: a count below 1.

    >>> y = torch.tensor([[2, 0, 0, 1]])
    >>> previous = torch.tensor([[[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 0]]])
    >>> drawn = Sequences(torch.zeros(1, 4, 1), y, previous, torch.tensor([[1, 1, 2, 1]]))
    >>> Counting(ways=3).answers(drawn)
    tensor([[0, 0, 1, 1]])
    """

    def __init__(self, ways: int) -> None:
        super().__init__()
        self.ways = count("ways", ways)

    def answers(self, sequences: Sequences) -> Tensor:
        """The class it names at each step, `[T, L]`; of several, the one with the lowest label."""
        check_sequences(sequences, self.ways)
        return sequences.previous.cumsum(1).argmin(2)


def check_sequences(sequences: Sequences, ways: int | None = None) -> None:
    """Refuse sequences that no learner can work on, or that tell an answer beforehand.

    Args:
        sequences: what is to be learned from.
        ways: how many classes there must be; None takes any number.

    Raises:
        TypeError: something in it is no tensor, such as a list of sequences of unequal length.
        ValueError: shapes that do not fit, labels outside the classes, an input that is NaN or
            infinite, or a `previous` that is not the label of the step before.

    >>> y = torch.tensor([[1, 0, 2]])
    >>> check_sequences(Sequences(torch.randn(1, 3, 4), y, torch.zeros(1, 3, 2), y), ways=2)
    Traceback (most recent call last):
    ValueError: labels run from 0 to 2, and the sequences have ways=2: labels are 0 to 1
    """
    if not isinstance(sequences, tuple) or len(sequences) != len(Sequences._fields):
        raise TypeError(
            f"a sequence learner takes Sequences(x, y, previous, presentation), as "
            f"metanotes.data.sequences draws; got {type(sequences).__name__}"
        )
    named = dict(zip(Sequences._fields, sequences, strict=True))
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name} is a {type(value).__name__}, not a tensor: all sequences of a batch have "
                "the same length; put those of another length into another batch"
            )
    x, y, previous, presentation = sequences
    got = ", ".join(f"{name} {list(value.shape)}" for name, value in named.items())
    if y.ndim != 2 or 0 in y.shape or x.ndim < 3:
        raise ValueError(f"x is [T, L, ...] and y [T, L], at least one step of one; got {got}")
    if {x.shape[:2], previous.shape[:2], presentation.shape} != {y.shape} or previous.ndim != 3:
        raise ValueError(
            f"x [T, L, ...], y [T, L], previous [T, L, ways] and presentation [T, L] differ in "
            f"their number of sequences or steps; got {got}"
        )
    if ways is not None and previous.shape[2] != ways:
        raise ValueError(
            f"the sequences have ways={previous.shape[2]} and the learner was made for ways={ways}"
        )
    if y.is_floating_point() or y.min() < 0 or y.max() >= previous.shape[2]:
        raise ValueError(
            f"labels run from {y.min()} to {y.max()}, and the sequences have "
            f"ways={previous.shape[2]}: labels are 0 to {previous.shape[2] - 1}"
        )
    if not torch.isfinite(x).all():
        raise ValueError("x has NaN or infinite values; clean or rescale the data first")
    before = F.one_hot(y[:, :-1], previous.shape[2])
    if previous[:, 0].any() or not torch.equal(previous[:, 1:], before.to(previous)):
        raise ValueError(
            "previous is not the label of the step before: previous[:, t] must be y[:, t - 1] as "
            "ones and zeros, and all zeros at t = 0. Anything else may give an answer away"
        )
