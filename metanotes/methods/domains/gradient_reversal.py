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

from metanotes._ground.checks import nonnegative


def gradient_reversal(x: Tensor, strength: float | Tensor = 1.0) -> Tensor:
    """R(x) = x, whose gradient is -lambda times what comes from above.

    Args:
        x: any real tensor.
        strength: lambda, a number of at least 0; it is held constant.

    Raises:
        TypeError: x is no tensor.
        ValueError: `strength` is negative, not finite, or learned.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> gradient_reversal(x, 0.5).sum().backward()
    >>> x.grad
    tensor([-0.5000, -0.5000])
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a {type(x).__name__}; it must be a tensor")
    return _Reversal.apply(x, check_strength(strength))


def check_strength(strength: float | Tensor) -> float:
    """lambda as a number, if it is one.

    Raises:
        ValueError: it is negative, not finite, or learned.
    """
    if isinstance(strength, Tensor) and strength.ndim == 0 and not strength.requires_grad:
        strength = strength.item()
    return nonnegative("strength", strength)


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
        progress: p, the part of the training that is over, at least 0; above 1 it counts as 1.

    Raises:
        ValueError: p is negative, or not a number.

    >>> [round(reversal_schedule(p), 2) for p in (0.0, 0.1, 0.5, 1.0)]
    [0.0, 0.46, 0.99, 1.0]
    """
    if not float(progress) >= 0:
        raise ValueError(f"progress={progress} must be a number of at least 0")
    return 2 / (1 + math.exp(-10 * min(float(progress), 1.0))) - 1


class DomainAdversary(nn.Module):
    """The loss of a domain classifier, with the encoder against it.

    On the map:
        phi: a representation, against a classifier of the domains
        adapts: nothing
        outer loss: minus that of the classifier of the domains
        needs: inputs of two domains, without labels

    Args:
        net: D before its sigmoid, from `[n, d]` to `[n, 1]`.
        flipped: how the encoder fights. False: by the reversed gradient of (1). True: it descends
            the loss of the *other* domain's labels, as generators of adversarial networks do
            (Goodfellow et al. 2014). Both push the same way; the flipped one still pushes where D
            is certain, where the reversed gradient vanishes.

    Raises:
        TypeError: `net` is no module.
        ValueError: it ends in a sigmoid, which the loss has already.

    >>> adversary = DomainAdversary(nn.Linear(8, 1))
    >>> adversary(torch.zeros(32, 8), torch.zeros(32, 8)).shape
    torch.Size([])
    """

    def __init__(self, net: nn.Module, *, flipped: bool = False) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(f"net is a {type(net).__name__}; it must be a module")
        if isinstance(list(net.modules())[-1], nn.Sigmoid):
            raise ValueError(
                "net ends in a Sigmoid; leave it out: the loss takes what is before it"
            )
        self.net, self.flipped = net, flipped

    def forward(self, source: Tensor, target: Tensor, strength: float | Tensor = 1.0) -> Tensor:
        """The mean cross entropy of D.

        Args:
            source: its representations, `[n, d]`.
            target: likewise, `[m, d]`. One of the two may be without an example.
            strength: lambda, at least 0, on the encoder's gradient alone.

        Returns:
            A scalar whose gradient is D's own for its parameters, and the encoder's, as (1) has
            it, for the representations.

        Raises:
            ValueError: the representations do not go together, there is none, `net` gives another
                shape, or `strength` is out of its range.
        """
        _check_representations(source, target)
        strength = check_strength(strength)
        h = torch.cat([source, target])
        is_target = torch.cat([source.new_zeros(len(source)), target.new_ones(len(target))])
        if not self.flipped:
            logits = _logits(self.net(gradient_reversal(h, strength)), h)
            return F.binary_cross_entropy_with_logits(logits, is_target)
        fooled = _logits(functional_call(self.net, held(self.net), (h,), tie_weights=False), h)
        loss = F.binary_cross_entropy_with_logits(_logits(self.net(h.detach()), h), is_target)
        against = strength * F.binary_cross_entropy_with_logits(fooled, 1 - is_target)
        return loss + against - against.detach()  # the value of D's loss alone


def held(net: nn.Module) -> dict[str, Tensor]:
    """The weights of a net constant, and copies of its buffers (what it notes, it notes once).

    Each module once, however often it is registered: to be put back, a tensor that was replaced
    twice would be lost.
    """
    tensors = {}
    for prefix, module in net.named_modules():
        for name, t in module.named_parameters(prefix, recurse=False, remove_duplicate=False):
            tensors[name] = t.detach()
        for name, t in module.named_buffers(prefix, recurse=False, remove_duplicate=False):
            tensors[name] = t.clone()
    return tensors


def _check_representations(source: Tensor, target: Tensor) -> None:
    for name, h in (("source", source), ("target", target)):
        if not h.is_floating_point():
            raise ValueError(f"{name} is of {h.dtype}; representations are real numbers")
        if h.ndim < 2:
            raise ValueError(f"{name} is {list(h.shape)}; it must be [n, d]")
    if not len(source) + len(target):
        raise ValueError("source and target are both without an example")
    if source.shape[1:] != target.shape[1:] or source.dtype != target.dtype:
        raise ValueError(
            f"source {list(source.shape)} of {source.dtype} and target {list(target.shape)} of "
            f"{target.dtype} must be representations of one kind"
        )


def _logits(output: Tensor, h: Tensor) -> Tensor:
    """What D says of n representations, `[n]`."""
    if output.shape != (len(h), 1):
        raise ValueError(
            f"net gave {list(output.shape)} for {list(h.shape)}; it must give [{len(h)}, 1]"
        )
    return output.squeeze(1)
