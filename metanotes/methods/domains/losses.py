"""The losses that separate what two domains share from what is each one's own.

Source: Bousmalis et al., "Domain Separation Networks", NeurIPS 2016; the first is after Eigen et
al., "Depth Map Prediction from a Single Image", NeurIPS 2014.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def scale_invariant_mse(x_hat: Tensor, x: Tensor) -> Tensor:
    """The variance of the residual d = x - x_hat of an example, over its k entries.

        sum_i d_i^2 / k - (sum_i d_i)^2 / k^2

    The second term is subtracted: a reconstruction that is off by one constant everywhere costs
    nothing. It is not invariant to a scale; Eigen et al. take it of log depths, where a constant
    is a scale.

    Args:
        x_hat: reconstructions, `[n, ...]`.
        x: what they are of, of the same shape.

    Returns:
        The mean over the n examples, a scalar.

    Raises:
        ValueError: the shapes differ, there is no example, or something else than real numbers.

    >>> import torch
    >>> x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> float(scale_invariant_mse(x + 0.3, x)) < 1e-9, float(scale_invariant_mse(2 * x, x)) > 0.05
    (True, True)
    """
    _check_real(x_hat=x_hat, x=x)
    if x_hat.shape != x.shape or not x.numel() or x.ndim < 2:
        raise ValueError(
            f"x_hat {list(x_hat.shape)} and x {list(x.shape)} must have one shape, [n, ...], not "
            "empty"
        )
    d = (x - x_hat).flatten(1)
    return (d - d.mean(1, keepdim=True)).square().mean()


def difference_loss(shared: Tensor, private: Tensor, *, normalize: bool = True) -> Tensor:
    """How much of the private code can be told from the shared one: the size of H_c^T H_p.

    It is 0 where every entry of the one is orthogonal to every entry of the other, over the
    batch. For centred codes that is to be uncorrelated, which is less than to be independent.

    Args:
        shared: H_c, a code a row, `[n, d]`.
        private: H_p, `[n, e]`.
        normalize: centre the codes over the batch, scale each row to length 1 and divide by n^2:
            between 0 and 1, whatever the size of the codes, of their entries and of the batch
            (a single example is its own centre: 0).
            The authors' code does so too, but divides by d e. False: the paper's equation,
            the squared Frobenius norm of H_c^T H_p, as it stands.

    Returns:
        A scalar.

    Raises:
        ValueError: the codes are not of the same examples, there is none, or something else than
            real numbers.

    >>> import torch
    >>> a, b = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).T.split(1, dim=1)  # two orthogonal columns
    >>> float(difference_loss(a, b, normalize=False)), float(difference_loss(a, a, normalize=False))
    (0.0, 4.0)
    """
    _check_real(shared=shared, private=private)
    if shared.ndim != 2 or private.ndim != 2 or len(shared) != len(private) or not len(shared):
        raise ValueError(
            "the two codes of the same n >= 1 examples are [n, d] and [n, e]; got shared "
            f"{list(shared.shape)} and private {list(private.shape)}"
        )
    if normalize:
        shared, private = (_directions(h) for h in (shared, private))
    # |H_c^T H_p|_F^2 = sum_ij (H_c H_c^T)_ij (H_p H_p^T)_ij, which is n x n rather than d x e
    size = ((shared @ shared.mT) * (private @ private.mT)).sum()
    return size / len(shared) ** 2 if normalize else size


def _directions(h: Tensor) -> Tensor:
    """Codes `[n, d]` from their mean, each of length 1; 0 where nothing but rounding is left."""
    centred = h - h.mean(0)
    nothing = centred.norm(dim=1) <= 8 * torch.finfo(h.dtype).eps * h.norm(dim=1)
    return F.normalize(centred.masked_fill(nothing[:, None], 0.0), dim=1)


def _check_real(**tensors: Tensor) -> None:
    """Pixels of 0 to 255 beside numbers of 0 to 1 would be compared without a word."""
    for name, t in tensors.items():
        if not isinstance(t, Tensor):
            raise TypeError(f"{name} is a {type(t).__name__}; it must be a tensor")
        if not t.is_floating_point():
            remedy = ": x.float() / 255 of pixels" if t.dtype == torch.uint8 else ""
            raise ValueError(f"{name} is of {t.dtype}; it must be of real numbers{remedy}")
