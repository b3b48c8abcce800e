"""The score function estimator, REINFORCE: choices are drawn, and good ones made more likely.

    J(phi) = E_{a ~ p_phi} L(a)                                                                  (1)
    grad J = E (L(a) - b) grad log p_phi(a)                                                      (2)

b may be anything that does not depend on a: E b grad log p = b grad sum_a p(a) = 0. It leaves the
mean of (2) alone, and near the mean loss it takes most of the variance away.

Source: Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement
Learning", Machine Learning 8, 1992; the mean of the others as b: Kool, van Hoof and Welling, "Buy 4
REINFORCE Samples, Get a Baseline for Free!", ICLR 2019 workshop.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metanotes._ground.checks import fraction


def score_function(
    log_probs: Tensor, losses: Tensor, baseline: str | float | Tensor | None = "others"
) -> Tensor:
    """The mean loss of n draws, whose gradient is the mean of the estimates (2).

    On the map:
        phi: the probabilities of a choice
        adapts: whatever the loss lets adapt
        outer loss: any loss of a choice, in the mean
        needs: values of the loss for drawn choices, no derivative

    Args:
        log_probs: log p(a_i) of n independent draws, `[n]`, which depend on phi.
        losses: L(a_i), `[n]`, or of T tasks each, `[n, T]`. What they depend on by themselves they
            are differentiated in as ever; the choices are drawn, and carry no gradient.
        baseline: b. "others": the mean loss of the other n - 1 draws, on the same task; None: 0; or
            a number or tensor that knows nothing of these draws, such as `RunningMean().value`.

    Returns:
        The mean of the losses, a scalar or `[T]`.

    Raises:
        ValueError: shapes that do not fit, log_probs without a gradient, an unknown baseline, or
            one draw that would have to be its own.

    >>> logits = torch.zeros(3, requires_grad=True)
    >>> log_probs = logits.log_softmax(0)[torch.tensor([0, 2])]         # two draws: 0 and 2
    >>> loss = score_function(log_probs, torch.tensor([1.0, 5.0]))      # b: 5 and 1
    >>> loss.backward()
    >>> loss, logits.grad
    (tensor(3., grad_fn=...), tensor([-2.,  0.,  2.]))
    """
    if log_probs.ndim != 1 or losses.shape[:1] != log_probs.shape or not len(log_probs):
        raise ValueError(
            f"log_probs {list(log_probs.shape)} and losses {list(losses.shape)} must be [n], and "
            "[n] or [n, T], of the same n >= 1 draws"
        )
    if not log_probs.requires_grad:
        raise ValueError("log_probs does not depend on anything that is learned")
    losses = losses if losses.is_floating_point() else losses.to(log_probs.dtype)
    n, held = len(losses), losses.detach().to(log_probs.dtype)
    advantages = held - _baseline(baseline, held)
    score = log_probs - log_probs.detach()  # 0, with the derivative grad log p
    return losses.mean(0) + torch.tensordot(score, advantages, 1) / n


def _baseline(baseline: str | float | Tensor | None, losses: Tensor) -> float | Tensor:
    """b, which can be subtracted from the losses `[n, ...]`."""
    if baseline is None:
        return 0.0
    if isinstance(baseline, str):
        if baseline != "others":
            raise ValueError(f"baseline={baseline!r} must be 'others', None, or a number or tensor")
        n = len(losses)
        if n < 2:
            raise ValueError(
                "baseline='others' needs other draws than the only one: draw at least 2, or take "
                "None or RunningMean().value"
            )
        return (losses.sum(0) - losses) / (n - 1)
    b = torch.as_tensor(baseline).detach().to(losses)
    try:
        fits = torch.broadcast_shapes(b.shape, losses.shape) == losses.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"baseline {list(b.shape)} does not fit losses {list(losses.shape)}")
    return b


class RunningMean(nn.Module):
    """The mean of earlier losses, the late ones counting more: a baseline for single draws.

        m <- decay m + (1 - decay) loss,    value = m / (1 - decay^t)

    Read `value` before `update`: a baseline must know nothing of the draws that it is taken from.
    It is a module so that a checkpoint carries it.

    Args:
        decay: in [0, 1).

    Raises:
        ValueError: a decay out of its range.

    >>> mean = RunningMean(decay=0.5)
    >>> for losses in (torch.tensor([8.0, 4.0]), torch.tensor([3.0])):
    ...     print(mean.value)
    ...     mean.update(losses)
    tensor(0.)
    tensor(6.)
    >>> mean.value                                    # (1/4 * 6 + 1/2 * 3) / (3/4)
    tensor(4.)
    """

    m: Tensor
    weight: Tensor

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = fraction("decay", decay)
        self.register_buffer("m", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    @property
    def value(self) -> Tensor:
        """The mean, a scalar; 0 before there was any loss."""
        return self.m / self.weight if self.weight > 0 else self.m.clone()

    @torch.no_grad()
    def update(self, losses: Tensor) -> None:
        """Take in the mean of some losses, of any shape."""
        self.m.lerp_(losses.mean().to(self.m), 1 - self.decay)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.decay)

    def extra_repr(self) -> str:
        return f"decay={self.decay}"
