"""The Gumbel-softmax: a choice that is drawn, made soft, so that it has a derivative.

    a = argmax_k (logits_k + g_k),   g_k = -log e_k,  e_k ~ Exp(1):   P(a = k) = softmax(logits)_k
    z = softmax((logits + g) / temperature)                                                      (1)

As the temperature goes to 0, z goes to the one-hot vector of a, and E L(z) to E L(a). At a
temperature above 0 the gradient is that of another function, with a smaller variance.

Straight-through: L sees the one-hot vector, its derivative goes on as if it had seen z. As the
temperature goes to 0 this is the trapezoid rule for L's change from one choice to another: right
where L is quadratic between the two, and biased where it is not.

Source: Jang, Gu and Poole, "Categorical Reparameterization with Gumbel-Softmax", and Maddison, Mnih
and Teh, "The Concrete Distribution", both ICLR 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metanotes._ground.checks import positive


def gumbel_softmax(
    logits: Tensor,
    temperature: float,
    *,
    straight_through: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choices (1), drawn with the given generator: `torch.nn.functional.gumbel_softmax` has none.

    On the map:
        phi: the probabilities of a choice
        adapts: whatever the loss lets adapt
        outer loss: any loss of a softened choice
        needs: a derivative in what is chosen

    Args:
        logits: `[..., K]`, of choices among K; for n draws, `logits.expand(n, K)`.
        temperature: above 0.
        straight_through: one-hot vectors, with the gradient of (1).
        generator: of the noise; None for torch's own, with which it is torch's function.

    Returns:
        z, `[..., K]`, of at least 0 and with the sum 1.

    Raises:
        ValueError: a temperature that is not above 0, no logits, or not of real numbers.

    >>> logits = torch.tensor([2.0, 0.0, 0.0])
    >>> noise = torch.Generator().manual_seed(0)
    >>> z = gumbel_softmax(logits.expand(1000, 3), 0.5, straight_through=True, generator=noise)
    >>> float(z.mean(0)[0]), float(logits.softmax(0)[0])
    (0.79..., 0.78...)
    """
    temperature = positive("temperature", temperature)
    if not logits.is_floating_point() or not logits.ndim or not logits.shape[-1]:
        raise ValueError(
            f"logits {list(logits.shape)} of {logits.dtype} must be real numbers, [..., K] with "
            "K >= 1"
        )
    e = torch.empty(
        logits.shape,
        dtype=logits.dtype,
        device=logits.device if generator is None else generator.device,
    )
    g = -e.exponential_(generator=generator).log().to(logits.device)
    z = ((logits + g) / temperature).softmax(-1)
    if not straight_through:
        return z
    one_hot = torch.zeros_like(z).scatter_(-1, z.argmax(-1, keepdim=True), 1.0)
    return one_hot + (z - z.detach())  # exactly one-hot: the bracket is 0
