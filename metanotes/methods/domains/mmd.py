"""Maximum mean discrepancy: the distance between the means of two samples, in a kernel's space.

    MMD^2(p, q) = E k(x, x') - 2 E k(x, y) + E k(y, y')             x, x' ~ p and y, y' ~ q      (1)
    k(x, y) = sum_n exp(-dist(x, y)^2 / (2 sigma_n))                                            (2)

It is 0 if and only if p = q. With the means over all pairs in place of (1)'s expectations (a
V-statistic) the estimate is biased, never negative, and 0 for a sample and itself; without the
pairs of a point and itself (a U-statistic) it is unbiased, and may be negative.

Source: Gretton et al., "A Kernel Two-Sample Test", JMLR 13, 2012; the kernels: Bousmalis et al.,
"Domain Separation Networks", NeurIPS 2016, whose sigma_n stand where variances do in (2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# The 19 sigma_n of the paper.
BANDWIDTHS = (
    *(1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 5.0, 10.0, 15.0),
    *(20.0, 25.0, 30.0, 35.0, 100.0, 1e3, 1e4, 1e5, 1e6),
)


def gaussian_kernels(x: Tensor, y: Tensor, bandwidths: Sequence[float] = BANDWIDTHS) -> Tensor:
    """Equation (2) for all pairs.

    Args:
        x: `[n, d]`.
        y: `[m, d]`.
        bandwidths: sigma_n, in units of a squared distance; above 0.

    Returns:
        k(x_i, y_j), `[n, m]`.

    >>> x = torch.tensor([[0.0], [2.0]])
    >>> gaussian_kernels(x, x, [2.0])                 # exp(-4 / 4) off the diagonal
    tensor([[1.0000, 0.3679],
            [0.3679, 1.0000]])
    """
    if not bandwidths or min(bandwidths) <= 0:
        raise ValueError(f"bandwidths={bandwidths} must be one or more numbers above 0")
    exact = "donot_use_mm_for_euclid_dist"  # 0 for equal points, which a product would miss
    squared = torch.cdist(x, y, compute_mode=exact).square()
    scales = squared.new_tensor(bandwidths)
    return torch.exp(-squared[..., None] / (2 * scales)).sum(2)


def mmd(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] = BANDWIDTHS,
    *,
    unbiased: bool = False,
) -> Tensor:
    """The squared maximum mean discrepancy (1) of two samples; its gradient is exact.

    Args:
        x: a sample, `[n, d]`.
        y: another, `[m, d]`.
        bandwidths: sigma_n of (2).
        unbiased: leave out the pairs of a point and itself; needs two points of each sample.

    Returns:
        A scalar.

    Raises:
        ValueError: a sample is empty, or the two differ in d.

    >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    >>> float(mmd(x, x)), bool(mmd(x, x + 1) > 0.1)
    (0.0, True)
    """
    _check(x, y, 2 if unbiased else 1)
    joint = torch.cat([x, y])
    return _mmd(gaussian_kernels(joint, joint, bandwidths), len(x), unbiased)


def _mmd(kernel: Tensor, n: int, unbiased: bool) -> Tensor:
    """(1) from the kernel of all points with all, the first n of which are x."""
    xx, yy, xy = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]
    if unbiased:
        (inside_x, inside_y) = (
            (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (xx, yy)
        )
    else:
        inside_x, inside_y = xx.mean(), yy.mean()
    return inside_x + inside_y - 2 * xy.mean()


class TwoSampleTest(NamedTuple):
    """What `mmd_test` returns.

    Args:
        statistic: the unbiased squared MMD of the two samples.
        null: what it is when the points are dealt to the two samples at random, `[permutations]`.
        p_value: how often chance alone reaches the statistic.

    >>> test = mmd_test(torch.zeros(4, 1), torch.ones(4, 1), permutations=20)
    >>> test.null.shape, test.statistic > float(test.null.median())
    (torch.Size([20]), True)
    """

    statistic: float
    null: Tensor
    p_value: float


def mmd_test(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] = BANDWIDTHS,
    *,
    permutations: int = 500,
    seed: int = 0,
) -> TwoSampleTest:
    """Whether two samples are from one distribution: the MMD beside its null distribution.

    Args:
        x: a sample, `[n, d]`.
        y: another, `[m, d]`.
        bandwidths: sigma_n of (2).
        permutations: draws from the null distribution, at least 1.
        seed: of these.

    Raises:
        ValueError: as of `mmd`, or no permutation.

    >>> x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    >>> mmd_test(x[:30], x[30:]).p_value > 0.05, mmd_test(x[:30], x[30:] + 2).p_value < 0.01
    (True, True)
    """
    _check(x, y, 2)
    if permutations < 1:
        raise ValueError(f"permutations={permutations} must be at least 1")
    joint = torch.cat([x, y]).detach()
    kernel = gaussian_kernels(joint, joint, bandwidths)
    statistic = float(_mmd(kernel, len(x), True))
    generator = torch.Generator().manual_seed(seed)
    null = []
    for _ in range(permutations):
        order = torch.randperm(len(joint), generator=generator).to(joint.device)
        null.append(_mmd(kernel[order][:, order], len(x), True))
    drawn = torch.stack(null).cpu()
    at_least = int((drawn >= statistic).sum())
    return TwoSampleTest(statistic, drawn, (at_least + 1) / (permutations + 1))


def _check(x: Tensor, y: Tensor, least: int) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"two samples of points of one dimension are [n, d] and [m, d]; got x {list(x.shape)} "
            f"and y {list(y.shape)}"
        )
    if min(len(x), len(y)) < least:
        raise ValueError(
            f"x has {len(x)} points and y has {len(y)}: at least {least} of each are needed"
        )
