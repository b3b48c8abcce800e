"""Learned augmentation: how far images are turned, shifted and scaled, by what it does for others.

Each image is moved by an affine map of its own, which is differentiable in its magnitudes m:

    x_i(m) = sample(x_i, A_i),    A_i: turn by m_1 u_i1, shift by m_2 (u_i2, u_i3),
                                       scale by exp(m_3 u_i4),    u ~ U(-1, 1)                   (1)

A policy may have several sub-policies k, each with magnitudes m_k of its own for some of the three.
Which of them an image gets is drawn from probabilities softmax(pi), and the choice is relaxed while
the policy learns, so that pi has a gradient too:

    c_i = softmax((pi + g_i) / tau),   g_ik ~ Gumbel(0, 1),   m_i = sum_k c_ik m_k               (2)

Magnitudes and pi learn through the model's step ahead (`metanotes.LookaheadLearner`).

Source: Li et al., "DADA: Differentiable Automatic Data Augmentation", ECCV 2020, where operations
are of many kinds, each with a probability, and most have no derivative in their magnitude;
Jaderberg et al., "Spatial Transformer Networks", NeurIPS 2015, for (1).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes._ground.checks import positive
from metanotes.learner import Loss, cross_entropy
from metanotes.methods.datapolicy.lookahead import LookaheadLearner
from metanotes.task import Inputs
from metanotes.theta.parameters import Theta

TRANSFORMS = ("turn", "shift", "scale")


class AffineAugmentation(nn.Module):
    """Images turned, shifted and scaled at random, within ranges that can be learned.

    Args:
        turn: m_1, the largest angle in degrees, above 0.
        shift: m_2, the farthest shift either way, as a part of the image's side, above 0.
        scale: m_3, the largest logarithm of the scale, above 0.
        subpolicies: what each sub-policy may do, such as `[("turn",), ("shift", "scale"), ()]`; by
            default one, which does all three. All begin with the magnitudes above and are equally
            probable.
        temperature: tau of (2), above 0: the lower, the nearer to a choice, and the less even the
            gradient.

    Parameters are the logarithms of the magnitudes, `[K, 3]`, and with several sub-policies pi,
    `[K]`. While pi is differentiated, choices are relaxed; under `torch.no_grad()`, or when it is
    frozen, they are drawn.

    Raises:
        ValueError: a magnitude or the temperature is not above 0, or a sub-policy has something
            else than these three; in use, what are no images.

    >>> augment = AffineAugmentation(turn=40.0, subpolicies=[("turn",)]).requires_grad_(False)
    >>> augment(torch.rand(8, 1, 28, 28)).shape                      # a fixed range: +-40 degrees
    torch.Size([8, 1, 28, 28])
    >>> augment
    AffineAugmentation(turn)
    """

    allowed: Tensor

    def __init__(
        self,
        turn: float = 5.0,
        shift: float = 0.02,
        scale: float = 0.02,
        *,
        subpolicies: Sequence[Collection[str]] = (TRANSFORMS,),
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        if not subpolicies:
            raise ValueError("subpolicies=[] has none to choose from: give at least one")
        for part in subpolicies:
            if isinstance(part, str) or not set(part) <= set(TRANSFORMS):
                raise ValueError(
                    f"subpolicies has {part!r}: each is a list of some of {', '.join(TRANSFORMS)}"
                )
        start = [positive("turn", turn), positive("shift", shift), positive("scale", scale)]
        self.temperature = positive("temperature", temperature)
        several = len(subpolicies)
        self.log_magnitudes = nn.Parameter(torch.tensor(start).log().repeat(several, 1))
        self.logits = nn.Parameter(torch.zeros(several)) if several > 1 else None
        allowed = [[name in part for name in TRANSFORMS] for part in subpolicies]
        self.register_buffer("allowed", torch.tensor(allowed), persistent=False)

    def magnitudes(self) -> Tensor:
        """m of each sub-policy: degrees, part of the side, logarithm; `[K, 3]`, 0 for the rest."""
        return self.log_magnitudes.exp() * self.allowed

    def probabilities(self) -> Tensor:
        """With which a sub-policy is drawn: `[K]`."""
        if self.logits is None:
            return self.log_magnitudes.new_ones(1)
        return self.logits.softmax(0)

    def choices(self, n: int) -> Tensor:
        """c of n images, (2): `[n, K]`."""
        if self.logits is None:
            return self.log_magnitudes.new_ones(n, 1)
        relaxed = torch.is_grad_enabled() and self.logits.requires_grad
        return F.gumbel_softmax(self.logits.expand(n, -1), self.temperature, hard=not relaxed)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, C, H, W]`, each altered in its own way; what comes from outside is 0."""
        check_images(x)
        (n, _, height, width), m = x.shape, self.choices(len(x)) @ self.magnitudes()
        u = 2 * torch.rand(n, 4, dtype=m.dtype, device=m.device) - 1
        angle, zoom = m[:, 0] * u[:, 0] * (math.pi / 180), (m[:, 2] * u[:, 3]).exp()
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        shift = 2 * m[:, 1:2] * u[:, 1:3]  # the side is from -1 to 1
        rows = [
            torch.stack([cos, -sin * (height / width), shift[:, 0]], 1),
            torch.stack([sin * (width / height), cos, shift[:, 1]], 1),
        ]
        grid = F.affine_grid(torch.stack(rows, 1).to(x.dtype), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)

    def extra_repr(self) -> str:
        parts = []
        for allowed in self.allowed.tolist():
            own = [name for name, is_allowed in zip(TRANSFORMS, allowed, strict=True) if is_allowed]
            parts.append(" + ".join(own) or "nothing")
        text = " | ".join(parts)  # what is learned is no part of it: a checkpoint compares it
        return text if self.logits is None else f"{text}, temperature={self.temperature:g}"


class LearnedAugmentation(LookaheadLearner):
    """A model that is trained on altered images, and learns how far to alter them.

    A task is a minibatch to train on, its support set, and examples as the model will meet them,
    its query set. They show how they vary; nobody has to say it.

    On the map:
        phi: how far images are altered
        adapts: a model, a step ahead
        outer loss: of examples as they will be met, after the step
        needs: second derivatives; alterations with a derivative

    Args:
        model: any module; its parameters are theta.
        inner_lr: alpha, the size of the step ahead, above 0.
        policy: from images to altered images of the same shape, differentiable in its parameters,
            which are phi; by default `AffineAugmentation()`.
        loss: from outputs `[N, ...]` and targets `[N]` or `[N, ...]` to a scalar.

    `meta_train` needs an optimizer for each of the turns `"policy"` and `"model"`.

    Raises:
        TypeError, ValueError: see `LookaheadLearner`; in use, a policy that gives another shape.

    Source: see the module's.

    >>> from metanotes import Batch, Task
    >>> x, y = torch.rand(1, 20, 1, 8, 8), torch.randint(3, (1, 20))
    >>> learner = LearnedAugmentation(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), inner_lr=0.1)
    >>> learner(Task(Batch(x, y), Batch(x, y))).mean().backward()
    >>> learner.policy.log_magnitudes.grad.shape
    torch.Size([1, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        inner_lr: float,
        policy: nn.Module | None = None,
        *,
        loss: Loss = cross_entropy,
    ) -> None:
        policy = AffineAugmentation() if policy is None else policy
        super().__init__(model, inner_lr, policy, loss=loss)

    def training_loss(self, theta: Theta, x: Inputs, y: Tensor, learns: bool) -> Tensor:
        """The loss on the altered images of one minibatch."""
        if isinstance(x, dict):
            raise ValueError(f"x is a dict of {list(x)}; augmentation needs images, one tensor")
        with torch.set_grad_enabled(learns):
            altered = self.policy(x)
        if not isinstance(altered, Tensor) or altered.shape != x.shape:
            kind = list(altered.shape) if isinstance(altered, Tensor) else type(altered).__name__
            raise ValueError(
                f"policy gave {kind} for images {list(x.shape)}: it must keep the shape"
            )
        return self.plain_loss(theta, altered, y)


def check_images(x: Tensor) -> None:
    """Refuse what cannot be moved by an affine map.

    Raises:
        ValueError: it is no batch of images of real numbers.
    """
    if not isinstance(x, Tensor) or x.ndim != 4:
        what = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x is {what}; augmentation needs images [n, C, H, W]")
    if not x.is_floating_point():
        raise ValueError(f"x is of {x.dtype}; augmentation needs real numbers: x.float() / 255")
