"""Other values of phi, the losses there, and a loss of phi that has a gradient all the same.

    L = 1/m sum_i l_i (1 + c_i),    c_i = 0,  grad c_i = what l_i adds to the gradient           (1)

With x - stop(x), which is 0 and has the derivative 1, any weights can be made into such c_i. Then
the value of L is the mean of the losses, and its gradient is the estimate 1/m sum_i l_i grad c_i.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Parameters = Tensor | dict[str, Tensor]  # phi: a tensor, or tensors by name
Loss = Callable[[Any], Any]  # of one phi: a number, or losses of tasks [T]; or of m at once


class Candidates:
    """phi as a vector, and other vectors as phi.

    Args:
        phi: what is learned.

    Raises:
        TypeError: phi is no tensor and no dictionary of tensors.
        ValueError: its numbers are not real, are of two kinds, or not one of them is learned.
    """

    def __init__(self, phi: Parameters) -> None:
        self.names = list(phi) if isinstance(phi, dict) else None
        tensors = list(phi.values()) if isinstance(phi, dict) else [phi]
        for t in tensors:
            if not isinstance(t, Tensor):
                raise TypeError(
                    f"phi has a {type(t).__name__} in it; it must be a tensor or a dict of "
                    "tensors, such as dict(module.named_parameters())"
                )
        kinds = {t.dtype for t in tensors}
        if len(kinds) != 1 or not next(iter(kinds)).is_floating_point:
            raise ValueError(
                f"phi is of {sorted(map(str, kinds))}; it must be of one kind of real numbers"
            )
        self.shapes = [t.shape for t in tensors]
        self.sizes = [t.numel() for t in tensors]
        self.vector = torch.cat([t.reshape(-1) for t in tensors])  # [P]
        if not self.vector.requires_grad or not self.vector.numel():
            raise ValueError(
                f"phi, {sum(self.sizes)} numbers, does not require a gradient, so that the "
                "estimate would be lost: .requires_grad_()"
            )

    @property
    def move(self) -> Tensor:
        """phi - stop(phi), `[P]`: 0, with the derivative 1."""
        return self.vector - self.vector.detach()

    def losses(self, loss: Loss, rows: Tensor, batched: bool) -> Tensor:
        """The losses of m candidates `[m, P]`, held constant: `[m, ...]`.

        Raises:
            ValueError: they are not the losses of m candidates.
        """
        m = len(rows)
        parts = [
            part.reshape(m, *shape)
            for part, shape in zip(rows.split(self.sizes, 1), self.shapes, strict=True)
        ]
        if batched:
            losses = torch.as_tensor(loss(self._tree(parts)))
            if losses.shape[:1] != (m,):
                raise ValueError(
                    f"loss gave the shape {list(losses.shape)} for {m} candidates at once; it must "
                    f"be [{m}] or [{m}, T]"
                )
        else:
            each = [torch.as_tensor(loss(self._tree([p[i] for p in parts]))) for i in range(m)]
            if len({t.shape for t in each}) != 1:
                raise ValueError("loss gave different shapes for different values of phi")
            losses = torch.stack(each)
        return losses.detach().to(self.vector)

    def _tree(self, parts: list[Tensor]) -> Parameters:
        return parts[0] if self.names is None else dict(zip(self.names, parts, strict=True))


def with_gradient(losses: Tensor, c: Tensor) -> Tensor:
    """Equation (1): losses `[m, ...]` and c `[m]` give `[...]`."""
    return losses.mean(0) + torch.tensordot(c, losses, 1) / len(losses)
