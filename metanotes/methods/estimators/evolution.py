"""An evolution strategy: the gradient of a loss that is smoothed by Gaussian noise.

    L_sigma(phi) = E L(phi + sigma epsilon),    epsilon ~ N(0, I)                                (1)
    grad L_sigma = E L(phi + sigma epsilon) epsilon / sigma                                      (2)
                 = E (L(phi + sigma epsilon) - L(phi - sigma epsilon)) epsilon / (2 sigma)       (3)

L_sigma has a gradient wherever L is bounded, steps and all. (2) is the score function estimator of
a Gaussian over parameters. (3) takes the noise in pairs of opposites, so that whatever L has in
common on both sides cancels: of a smooth L the variance no longer grows as sigma goes to 0.

Source: Salimans, Ho, Chen, Sidor and Sutskever, "Evolution Strategies as a Scalable Alternative to
Reinforcement Learning", 2017; (1) and (2): Nesterov and Spokoiny, "Random Gradient-Free
Minimization of Convex Functions", Foundations of Computational Mathematics 17, 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metanotes._ground.checks import count, positive
from metanotes.methods.estimators.candidates import Candidates, Loss, Parameters, with_gradient


def evolution_strategy(
    loss: Loss,
    phi: Parameters,
    sigma: float,
    evaluations: int = 32,
    *,
    antithetic: bool = True,
    batched: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The smoothed loss (1), whose gradient in phi is the estimate (3), or (2).

    On the map:
        phi: any numbers
        adapts: whatever the loss lets adapt
        outer loss: any loss, smoothed by noise in phi
        needs: m values of the loss, no derivative

    Args:
        loss: L, of one phi, a number or the losses of tasks `[T]`. It is never differentiated.
        phi: a tensor, or tensors by name, that require a gradient.
        sigma: the spread of the noise, above 0. The estimate is biased by what it smooths away.
        evaluations: m, how often L is worked out; even where the noise is in pairs.
        antithetic: (3), the first half of the noise and then its negatives in the same order;
            False: (2), in which a constant added to L adds to the variance.
        batched: loss takes all candidates at once, `[m, *shape]`, and gives `[m]` or `[m, T]`.
        generator: of the noise; None for torch's own.

    Returns:
        The mean of the m losses, a scalar or `[T]`.

    Raises:
        ValueError: a number out of its range, losses of a wrong shape, or phi without a gradient.
        TypeError: phi is no tensor and no dictionary of tensors.

    The gradient of a step, which has none:

    >>> phi = torch.tensor([0.5, 0.0], requires_grad=True)
    >>> def step(phi): return (phi[0] > 0).double() + 3
    >>> noise = torch.Generator().manual_seed(0)
    >>> evolution_strategy(step, phi, sigma=0.5, evaluations=2000, generator=noise).backward()
    >>> bool((phi.grad - torch.tensor([0.484, 0.0])).abs().max() < 0.1)   # N(0.5; 0, 0.5^2)
    True
    """
    sigma, m = positive("sigma", sigma), count("evaluations", evaluations)
    if antithetic and m % 2:
        raise ValueError(f"evaluations={m} must be even: antithetic noise comes in pairs")
    candidates = Candidates(phi)
    vector = candidates.vector.detach()
    epsilon = torch.randn(
        m // 2 if antithetic else m,
        len(vector),
        generator=generator,
        dtype=vector.dtype,
        device=vector.device if generator is None else generator.device,
    ).to(vector.device)
    if antithetic:
        epsilon = torch.cat([epsilon, -epsilon])  # [m, P]
    losses = candidates.losses(loss, vector + sigma * epsilon, batched)
    return with_gradient(losses, epsilon @ candidates.move / sigma)
