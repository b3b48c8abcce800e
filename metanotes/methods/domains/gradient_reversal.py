"""Gradient reversal: one backward pass for a game of two players.

A domain classifier D, with parameters theta_d, tells from a representation h = E(x) which of two
domains x is from. It descends its loss; the encoder, with parameters theta_e, ascends it:

    L_adversary = -sum_i [d_i log D(h_i) + (1 - d_i) log(1 - D(h_i))]     d_i: 1 in the target
    theta_d <- theta_d - eta dL/dtheta_d,    theta_e <- theta_e + eta lambda dL/dtheta_e     (1)

This is the direction of a saddle point, min over theta_d and max over theta_e. A layer R between
the two that is the identity forward, and multiplies by -lambda backward, makes both of (1) the
descent of one loss.

Source: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 17(59), 2016.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F


def gradient_reversal(x: Tensor, strength: float = 1.0) -> Tensor:
    """R(x) = x, whose gradient is -lambda times what comes from above.

    Args:
        x: any real tensor.
        strength: lambda, 0 or more.

    Raises:
        ValueError: `strength` is negative, or not finite.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> gradient_reversal(x, 0.5).sum().backward()
    >>> x.grad
    tensor([-0.5000, -0.5000])
    """
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength={strength} must be a finite number of at least 0")
    return _Reversal.apply(x, strength)


class _Reversal(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, strength: float) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.strength = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


def reversal_schedule(progress: float) -> float:
    """lambda as training goes on: 2 / (1 + exp(-10 p)) - 1, from 0 to 1 (Ganin et al. 2016, 5.2.2).

    At first the representation means little, and a strong adversary would only add noise.

    Args:
        progress: p, the part of the training that is over; above 1 it counts as 1.

    >>> [round(reversal_schedule(p), 2) for p in (0.0, 0.1, 0.5, 1.0)]
    [0.0, 0.46, 0.99, 1.0]
    """
    return 2 / (1 + math.exp(-10 * min(progress, 1.0))) - 1


class DomainAdversary(nn.Module):
    """The loss of a domain classifier, with the encoder against it.

    Args:
        net: D before its sigmoid, from `[n, d]` to `[n, 1]`.
        flipped: how the encoder fights. False: by the reversed gradient of (1). True: it descends
            the loss of the *other* domain's labels, as generators of adversarial networks do
            (Goodfellow et al. 2014). Both push the same way; the flipped one still pushes where D
            is certain, where the reversed gradient vanishes.

    >>> adversary = DomainAdversary(nn.Linear(8, 1))
    >>> adversary(torch.zeros(32, 8), torch.zeros(32, 8)).shape
    torch.Size([])
    """

    def __init__(self, net: nn.Module, flipped: bool = False) -> None:
        super().__init__()
        self.net, self.flipped = net, flipped

    def forward(self, source: Tensor, target: Tensor, strength: float = 1.0) -> Tensor:
        """The mean cross entropy of D.

        Args:
            source: its representations, `[n, d]`.
            target: likewise, `[m, d]`.
            strength: lambda, on the encoder's gradient alone.

        Returns:
            A scalar whose gradient is D's own for its parameters, and the encoder's, as (1) has
            it, for the representations.
        """
        h = torch.cat([source, target])
        is_target = torch.cat([source.new_zeros(len(source)), target.new_ones(len(target))])
        if not self.flipped:
            logits = self.net(gradient_reversal(h, strength)).squeeze(1)
            return F.binary_cross_entropy_with_logits(logits, is_target)
        fixed = {name: p.detach() for name, p in self.net.named_parameters()}
        fooled = functional_call(self.net, fixed, (h,)).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(self.net(h.detach()).squeeze(1), is_target)
        against = strength * F.binary_cross_entropy_with_logits(fooled, 1 - is_target)
        return loss + against - against.detach()  # the value of D's loss alone
