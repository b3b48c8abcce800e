import itertools
import math

import numpy as np
import pytest
import torch

from metanotes.methods.domains import gaussian_kernels, mmd, mmd_test
from metanotes.methods.domains.mmd import BANDWIDTHS


def normal(*shape: int, seed: int = 0, at: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return at + torch.randn(*shape, generator=generator, dtype=torch.float64)


def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
    squared = sum((u - v) ** 2 for u, v in zip(a.tolist(), b.tolist(), strict=True))
    return sum(math.exp(-squared / (2 * s)) for s in BANDWIDTHS)


def test_there_are_the_papers_19_kernels() -> None:
    assert len(set(BANDWIDTHS)) == 19
    assert min(BANDWIDTHS) == 1e-6
    assert max(BANDWIDTHS) == 1e6


def test_the_kernels_are_their_definition() -> None:
    x, y = normal(4, 3), normal(5, 3, seed=1)
    got = gaussian_kernels(x, y)
    for i, j in itertools.product(range(4), range(5)):
        assert got[i, j].item() == pytest.approx(kernel(x[i], y[j]), rel=1e-12)


@pytest.mark.parametrize("unbiased", [False, True])
def test_mmd_is_its_definition(unbiased: bool) -> None:
    x, y = normal(4, 3), normal(6, 3, seed=1, at=0.5)

    def inside(points: torch.Tensor) -> float:
        pairs = [
            kernel(points[i], points[j])
            for i, j in itertools.product(range(len(points)), repeat=2)
            if not (unbiased and i == j)
        ]
        return sum(pairs) / len(pairs)

    across = [kernel(a, b) for a in x for b in y]
    expected = inside(x) + inside(y) - 2 * sum(across) / len(across)
    assert mmd(x, y, unbiased=unbiased).item() == pytest.approx(expected, rel=1e-11)


def test_a_sample_and_itself_are_at_distance_0() -> None:
    for x in (normal(30, 5), normal(30, 5).float(), 1e3 * normal(30, 100).float()):
        assert mmd(x, x).item() == pytest.approx(0, abs=1e-6)
    x = normal(20, 2)
    assert mmd(x, x.flip(0)).item() == pytest.approx(0, abs=1e-12)  # order does not count


def test_the_biased_estimate_is_never_negative_and_the_unbiased_has_mean_0() -> None:
    biased, unbiased = [], []
    for seed in range(200):
        x, y = normal(10, 2, seed=2 * seed), normal(10, 2, seed=2 * seed + 1)
        biased.append(mmd(x, y).item())
        unbiased.append(mmd(x, y, unbiased=True).item())
    assert min(biased) >= 0
    assert sum(biased) / 200 > 0.5
    mean = torch.tensor(unbiased).mean()
    error = torch.tensor(unbiased).std() / math.sqrt(200)
    assert abs(mean) < 3 * error
    assert min(unbiased) < 0


@pytest.mark.parametrize("unbiased", [False, True])
def test_its_gradient(unbiased: bool) -> None:
    x, y = normal(4, 2).requires_grad_(), normal(3, 2, seed=1).requires_grad_()
    # not the narrowest kernels: over a step of the check they change too much
    assert torch.autograd.gradcheck(
        lambda x, y: mmd(x, y, BANDWIDTHS[4:], unbiased=unbiased), (x, y)
    )


def test_the_two_sample_test_holds_its_level_and_has_power() -> None:
    same = [
        mmd_test(normal(20, 2, seed=2 * s), normal(20, 2, seed=2 * s + 1), permutations=99).p_value
        for s in range(100)
    ]
    rejected = sum(p <= 0.05 for p in same)
    assert rejected <= 12  # 5 of 100 are expected; the chance of more than 12 is below 1 in 1000
    assert max(same) > 0.7
    assert min(same) < 0.3
    result = mmd_test(normal(20, 2), normal(20, 2, seed=1, at=1.5), permutations=99)
    assert result.p_value == pytest.approx(0.01)
    assert result.statistic > result.null.max()
    assert result.null.shape == (99,)


def test_the_seed_decides_the_null_distribution() -> None:
    x, y = normal(10, 2), normal(10, 2, seed=1)
    a, b, c = (mmd_test(x, y, permutations=20, seed=s).null for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("x", "y", "unbiased", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(4, 3), False, "x has 0 points"),
        (torch.zeros(4, 3), torch.zeros(1, 3), True, "at least 2"),
        (torch.zeros(4, 3), torch.zeros(4, 2), False, r"\[4, 3\] and y \[4, 2\]"),
        (torch.zeros(4), torch.zeros(4), False, r"\[n, d\]"),
    ],
)
def test_samples_that_are_none(
    x: torch.Tensor, y: torch.Tensor, unbiased: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mmd(x, y, unbiased=unbiased)


@pytest.mark.parametrize("bandwidths", [[], [0.0], [1.0, -1.0]])
def test_bandwidths_that_are_none(bandwidths: list[float]) -> None:
    with pytest.raises(ValueError, match="bandwidths="):
        mmd(normal(3, 2), normal(3, 2), bandwidths)


def test_no_permutation() -> None:
    with pytest.raises(ValueError, match="permutations=0"):
        mmd_test(normal(3, 2), normal(3, 2), permutations=0)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.ones(4, 3, dtype=torch.uint8), ValueError, r"x is of torch\.uint8"),
        (torch.ones(4, 3).cfloat(), ValueError, r"x is of torch\.complex64"),
        (torch.ones(4, 3).numpy(), TypeError, "x is a ndarray; it must be a tensor"),
        (torch.ones(2, 4, 3), ValueError, r"\[n, d\] and \[m, d\]; got x \[2, 4, 3\]"),
        (torch.ones(4, 2), ValueError, r"got x \[4, 2\] and y \[5, 3\]"),
    ],
)
@pytest.mark.parametrize("function", [mmd, gaussian_kernels, mmd_test])
def test_what_are_no_points_is_named(x, error, message, function) -> None:
    with pytest.raises(error, match=message):
        function(x, torch.ones(5, 3))


def test_a_batch_of_samples_is_no_sample() -> None:
    """The kernels of T tasks would be summed over the wrong axis."""
    with pytest.raises(ValueError, match=r"got x \[4, 2, 3\] and y \[4, 5, 3\]"):
        gaussian_kernels(torch.ones(4, 2, 3), torch.ones(4, 5, 3))


@pytest.mark.parametrize(
    ("bandwidths", "error"),
    [
        (1.0, TypeError),
        ("12", TypeError),
        ([math.nan], ValueError),
        ([1.0, math.inf], ValueError),
        ([1e-50], ValueError),  # 0 in single precision
        (torch.nn.Parameter(torch.ones(2)), ValueError),
        ([torch.tensor(1.0, requires_grad=True)], ValueError),
    ],
)
def test_bandwidths_that_give_no_number(bandwidths, error) -> None:
    with pytest.raises(error, match="bandwidths"):
        mmd(normal(3, 2).float(), normal(3, 2).float(), bandwidths)


def test_bandwidths_in_an_array() -> None:
    x, y, expected = normal(3, 2), normal(4, 2, seed=1), [0.5, 2.0]
    for same in (np.array(expected), torch.tensor(expected), tuple(expected), [np.float64(0.5), 2]):
        assert torch.equal(mmd(x, y, same), mmd(x, y, expected))


def test_half_precision_is_worked_on_in_single() -> None:
    x, y = normal(6, 3).bfloat16(), normal(5, 3, seed=1).bfloat16()
    assert torch.equal(mmd(x, y), mmd(x.float(), y.float()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"permutations": 2.5}, "permutations=2.5 must be a whole number"),
        ({"permutations": True}, "permutations=True must be a whole number"),
        ({"seed": 0.5}, "seed=0.5 must be a whole number"),
    ],
)
def test_settings_of_the_test_are_named(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        mmd_test(normal(4, 2), normal(4, 2, seed=1), **settings)


def test_a_test_of_what_is_no_number_has_no_p_value() -> None:
    """Nothing is as large as NaN: it would be significant."""
    x = normal(4, 2)
    x[1, 0] = math.nan
    with pytest.raises(ValueError, match="x or y has NaN or infinite values"):
        mmd_test(x, normal(4, 2, seed=1))
    settings = {"permutations": np.int64(9), "seed": np.int64(1)}
    mmd_test(normal(4, 2), normal(4, 2, seed=1), **settings)


def test_the_same_split_in_another_order_counts_as_far_apart() -> None:
    """Of the 20 ways to deal six points two are the one that was seen."""
    x, y = normal(3, 3, seed=1).float(), normal(3, 3, seed=2).float() + 5
    assert mmd_test(x, y, permutations=4000).p_value == pytest.approx(0.1, abs=0.02)
