"""Central differences: a gradient from two losses a coordinate.

    dL/dphi_j = (L(phi + h e_j) - L(phi - h e_j)) / (2 h) + O(h^2)                               (1)

The truncation falls with h^2, and the error of L itself, of size e, enters as e / h. Where e is
rounding, the best h is near the cube root of it; where L is noisy, or a step, it is far larger.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metanotes._ground.checks import positive
from metanotes.methods.estimators.candidates import Candidates, Loss, Parameters, with_gradient


def finite_differences(
    loss: Loss, phi: Parameters, step: float | None = None, *, batched: bool = False
) -> Tensor:
    """The mean loss around phi, whose gradient in phi is the central difference (1).

    On the map:
        phi: any few numbers
        adapts: whatever the loss lets adapt
        outer loss: any loss
        needs: two values of the loss for each number, no derivative

    Args:
        loss: L, of one phi, a number or the losses of tasks `[T]`. It is never differentiated. One
            that draws should draw the same each time (common random numbers), or its noise is
            divided by the step.
        phi: a tensor, or tensors by name, of P numbers, that require a gradient.
        step: h, above 0; None: the cube root of the rounding of phi's kind of numbers, times the
            size of phi_j where that is above 1. That is for a smooth L without noise.
        batched: loss takes all candidates at once, `[2 P, *shape]`, first those with +h, and gives
            `[2 P]` or `[2 P, T]`.

    Returns:
        The mean of the 2 P losses, a scalar or `[T]`.

    Raises:
        ValueError: a step that is not above 0 or is lost in rounding, losses of a wrong shape, or
            phi without a gradient.
        TypeError: phi is no tensor and no dictionary of tensors.

    >>> phi = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    >>> finite_differences(lambda phi: phi[0] * phi[1] ** 2, phi).backward()
    >>> torch.allclose(phi.grad, torch.tensor([4.0, 4.0]).double(), atol=1e-8)
    True
    """
    candidates = Candidates(phi)
    vector = candidates.vector.detach()
    if step is None:
        h = torch.finfo(vector.dtype).eps ** (1 / 3) * vector.abs().clamp(min=1)
    else:
        h = torch.full_like(vector, positive("step", step))
    above, below = vector + torch.diag(h), vector - torch.diag(h)  # [P, P]
    apart = (above - below).diagonal()  # 2 h, as it is after rounding
    if not (apart > 0).all():
        raise ValueError(f"step={step} is lost in the rounding of phi, of {vector.dtype}")
    losses = candidates.losses(loss, torch.cat([above, below]), batched)
    c = candidates.move / apart * len(losses)
    return with_gradient(losses, torch.cat([c, -c]))
