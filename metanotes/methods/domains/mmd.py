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

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metanotes._ground import checks

# The 19 sigma_n of the paper.
BANDWIDTHS = (
    *(1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 5.0, 10.0, 15.0),
    *(20.0, 25.0, 30.0, 35.0, 100.0, 1e3, 1e4, 1e5, 1e6),
)

HALF = (torch.float16, torch.bfloat16)  # in which no distance is worked out


def gaussian_kernels(x: Tensor, y: Tensor, bandwidths: Sequence[float] = BANDWIDTHS) -> Tensor:
    """Equation (2) for all pairs.

    Args:
        x: `[n, d]`.
        y: `[m, d]`.
        bandwidths: sigma_n, in units of a squared distance; above 0, and held constant.

    Returns:
        k(x_i, y_j), `[n, m]`, which can be differentiated once.

    Raises:
        ValueError: points of other shapes or kinds of numbers, or bandwidths out of their range.
        TypeError: something that is no tensor, or no list of bandwidths.

    >>> x = torch.tensor([[0.0], [2.0]])
    >>> gaussian_kernels(x, x, [2.0])                 # exp(-4 / 4) off the diagonal
    tensor([[1.0000, 0.3679],
            [0.3679, 1.0000]])
    """
    _check(x, y, 0)
    x, y = (t.float() if t.dtype in HALF else t for t in (x, y))
    scales = _scales(bandwidths, x.new_zeros(()) + y.new_zeros(()))
    exact = "donot_use_mm_for_euclid_dist"  # 0 for equal points, which a product would miss
    squared = torch.cdist(x, y, compute_mode=exact).square()
    return torch.exp(-squared[..., None] / (2 * scales)).sum(2)


def _scales(bandwidths: Sequence[float], like: Tensor) -> Tensor:
    """sigma_n as a tensor of the same kind."""
    if not isinstance(bandwidths, Iterable) or isinstance(bandwidths, str):
        raise TypeError(f"bandwidths={bandwidths!r} must be a list of numbers")
    if any(getattr(s, "requires_grad", False) for s in bandwidths):
        raise ValueError("bandwidths are learned, but would be held constant: .detach() them")
    values = [float(s) for s in bandwidths]
    scales = like.new_tensor(values)
    if not values or not all(map(math.isfinite, values)) or not (scales > 0).all():
        raise ValueError(
            f"bandwidths={bandwidths} must be one or more finite numbers above 0 (in {like.dtype})"
        )
    return scales


def mmd(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] = BANDWIDTHS,
    *,
    unbiased: bool = False,
) -> Tensor:
    """The squared maximum mean discrepancy (1) of two samples; its gradient is exact.

    On the map:
        phi: a representation
        adapts: nothing
        outer loss: the distance of two samples' means in a kernel's space
        needs: inputs of two domains, without labels

    Args:
        x: a sample, `[n, d]`.
        y: another, `[m, d]`.
        bandwidths: sigma_n of (2).
        unbiased: leave out the pairs of a point and itself; needs two points of each sample.

    Returns:
        A scalar, which can be differentiated once.

    Raises:
        ValueError: a sample is empty, the two differ in d, or something else than real numbers.

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
        ValueError: as of `mmd`, or values that are not finite, or no permutation.

    >>> x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    >>> mmd_test(x[:30], x[30:]).p_value > 0.05, mmd_test(x[:30], x[30:] + 2).p_value < 0.01
    (True, True)
    """
    _check(x, y, 2)
    permutations, seed = checks.count("permutations", permutations), checks.seed(seed)
    joint = torch.cat([x, y]).detach()
    if not joint.isfinite().all():
        raise ValueError("x or y has NaN or infinite values")
    joint = joint.double()
    kernel = gaussian_kernels(joint, joint, bandwidths)
    statistic = float(_mmd(kernel, len(x), True))
    generator = torch.Generator().manual_seed(seed)
    null = []
    for _ in range(permutations):
        order = torch.randperm(len(joint), generator=generator).to(joint.device)
        null.append(_mmd(kernel[order][:, order], len(x), True))
    drawn = torch.stack(null).cpu()
    rounding = 1e-9 * float(kernel.max())  # the same two samples in another order are as far apart
    at_least = int((drawn >= statistic - rounding).sum())
    return TwoSampleTest(statistic, drawn, (at_least + 1) / (permutations + 1))


def _check(x: Tensor, y: Tensor, least: int) -> None:
    for name, sample in (("x", x), ("y", y)):
        if not isinstance(sample, Tensor):
            raise TypeError(f"{name} is a {type(sample).__name__}; it must be a tensor")
        if not sample.is_floating_point():
            raise ValueError(f"{name} is of {sample.dtype}; it must be of real numbers")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not x.shape[1]:
        raise ValueError(
            f"two samples of points of one dimension are [n, d] and [m, d]; got x {list(x.shape)} "
            f"and y {list(y.shape)}"
        )
    if min(len(x), len(y)) < least:
        raise ValueError(
            f"x has {len(x)} points and y has {len(y)}: at least {least} of each are needed"
        )
