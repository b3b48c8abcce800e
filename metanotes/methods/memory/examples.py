"""What a net is told of an example: x and y, side by side in one vector."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from metanotes.learner import check_targets, cross_entropy
from metanotes.task import Batch


def check_inputs(x: Tensor, inputs: int) -> None:
    """Refuse inputs that are no vectors of this size.

    Args:
        x: `[T, N, inputs]`.
        inputs: numbers in an x.

    Raises:
        ValueError: they are not.

    >>> check_inputs(torch.zeros(3, 5, 2), inputs=2)
    """
    if not isinstance(x, Tensor) or x.shape[2:] != (inputs,):
        shape = list(x.shape[2:]) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"an input has the shape {shape}; this learner is for [{inputs}]")


def vectors(examples: Batch, inputs: int, outputs: int) -> Tensor:
    """(x, y) of every example; a label is told by ones and zeros.

    Args:
        examples: x `[T, N, inputs]`; y `[T, N, outputs]`, or labels `[T, N]` in 0..outputs - 1.
        inputs: numbers in an x.
        outputs: numbers in a y, or classes.

    Returns:
        `[T, N, inputs + outputs]`.

    Raises:
        ValueError: examples of another size, labels that are no classes.

    >>> vectors(Batch(torch.ones(1, 2, 1), torch.tensor([[2, 0]])), inputs=1, outputs=3)
    tensor([[[1., 0., 0., 1.],
             [1., 1., 0., 0.]]])
    """
    x, y = examples
    check_inputs(x, inputs)
    if not y.is_floating_point():
        check_targets(cross_entropy, torch.Size([outputs]), y)
        y = one_hot(y, outputs).to(x)
    if y.shape[2:] != (outputs,):
        raise ValueError(
            f"a target has the shape {list(y.shape[2:])}; this learner is for [{outputs}]"
        )
    return torch.cat([x, y], 2)
