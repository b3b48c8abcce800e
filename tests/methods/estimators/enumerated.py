"""A small problem that can be enumerated: two choices among three, a loss for each of the nine.

J(phi) = sum_ab softmax(phi_0)_a softmax(phi_1)_b L_ab
"""

import torch
from torch import Tensor

TABLE = torch.tensor([[3.0, 1.0, 4.0], [1.0, 5.0, 9.0], [2.0, 6.0, 5.0]], dtype=torch.float64)
PHI = torch.tensor([[0.3, -0.2, 0.5], [-0.4, 0.1, 0.6]], dtype=torch.float64)


def learned() -> Tensor:
    return PHI.clone().requires_grad_()


def expected(phi: Tensor) -> Tensor:
    """J, by enumeration."""
    p, q = phi.softmax(-1)
    return sum((p[a] * q[b] * TABLE[a, b] for a in range(3) for b in range(3)), torch.zeros(()))


def exact() -> Tensor:
    """grad J by hand, `[2, 3]`: dp_a/dphi_k = p_a (1[a = k] - p_k)."""
    p, q = PHI.softmax(-1)
    given_first, given_second, mean = TABLE @ q, p @ TABLE, p @ TABLE @ q
    return torch.stack([p * (given_first - mean), q * (given_second - mean)])


def relaxed(z: Tensor) -> Tensor:
    """L of soft choices `[..., 2, 3]`, which at one-hot vectors is TABLE, and bent between them."""
    between = torch.einsum("...a,ab,...b->...", z[..., 0, :], TABLE, z[..., 1, :])
    return between + 2 * (z * (1 - z)).sum((-1, -2))


def gradient(loss: Tensor, phi: Tensor) -> Tensor:
    (g,) = torch.autograd.grad(loss, phi)
    return g


def check_mean(estimates: Tensor, truth: Tensor) -> None:
    """The mean of `[R, ...]` is the truth within 4.5 standard errors, in every coordinate."""
    error = estimates.std(0) / len(estimates) ** 0.5
    assert ((estimates.mean(0) - truth).abs() <= 4.5 * error + 1e-12).all(), (
        estimates.mean(0) - truth,
        error,
    )
