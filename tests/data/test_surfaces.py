"""Quadratic functions of several variables."""

import pytest
import torch

from metanotes.data import surfaces
from metanotes.data.surfaces import monomials


def test_monomials_are_all_products_once():
    x = torch.tensor([[2.0, 3.0, 5.0]])
    assert monomials(x).tolist() == [[4, 6, 10, 9, 15, 25, 2, 3, 5, 1]]


def test_support_and_query_lie_on_one_quadratic_function():
    support, query = surfaces(6, 50, seed=3, dtype=torch.float64)(7)
    a = torch.linalg.solve(monomials(support.x), support.y)  # 6 coefficients from 6 points
    torch.testing.assert_close(monomials(query.x) @ a, query.y, rtol=1e-6, atol=1e-6)
    assert (a.abs() <= 1 + 1e-6).all()
    assert a.std(0).min() > 0.3  # drawn anew for every task


def test_the_stream_is_seeded_and_scales():
    small, large = surfaces(seed=4)(3), surfaces(seed=4, scale=2.0)(3)
    torch.testing.assert_close(2 * small.query.y, large.query.y)
    assert torch.equal(small.support.x, large.support.x)
    sampler = surfaces(seed=4)
    sampler(3)
    assert torch.equal(sampler.restarted()(3).support.y, small.support.y)
    assert "scale=2.0" in repr(surfaces(scale=2.0))


def test_a_bad_count_is_named():
    with pytest.raises(ValueError, match="shots=0"):
        surfaces(shots=0)
