"""Sets of points: each family has the mean and the spread that are said, and its own shape."""

import pytest
import torch

from metanotes.data import point_sets


def units():
    """The points of many sets, with center and spread taken away, by family."""
    sets = point_sets(shots=300, queries=100, dtype=torch.float64).draw(400)
    x = torch.cat([sets.tasks.support.x, sets.tasks.query.x], 1)
    u = (x - sets.center[:, None]) / sets.spread[:, None]
    return [u[sets.family == k].flatten(0, 1) for k in range(4)]


def test_mean_and_spread_are_as_said_in_every_family():
    for u in units():
        assert u.mean(0).abs().max() < 0.03
        torch.testing.assert_close(u.T.cov(), torch.eye(2).double(), rtol=0, atol=0.04)


def test_each_family_has_its_shape():
    normal, uniform, laplace, ring = units()
    for u, kurtosis in ((normal, 3), (uniform, 1.8), (laplace, 6)):
        assert u.pow(4).mean().item() == pytest.approx(kurtosis, rel=0.1)
        assert (u[:, 0].square() * u[:, 1].square()).mean().item() == pytest.approx(1, abs=0.1)
    assert uniform.abs().max() <= 3**0.5
    torch.testing.assert_close(ring.square().sum(1), torch.full((len(ring),), 2.0).double())


def test_centers_and_spreads_fill_their_ranges():
    sets = point_sets(1, 1).draw(5000)
    assert sets.center.shape == sets.spread.shape == (5000, 2)
    for values, low, high in ((sets.center, -1, 1), (sets.spread, 0.3, 1.5)):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.03)
    assert sets.family.bincount(minlength=4).min() > 1100


def test_a_set_is_a_task_of_one_class():
    tasks = point_sets(shots=(2, 6), queries=3, seed=4)(7)
    assert tasks.support.x.shape[2:] == (2,)
    assert 2 <= tasks.support.x.shape[1] <= 6
    assert tasks.query.y.shape == (7, 3)
    assert not tasks.query.y.any()
    assert torch.equal(point_sets(shots=(2, 6), queries=3, seed=4)(7).query.x, tasks.query.x)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="queries=0 must be a whole number of at least 1"):
        point_sets(queries=0)
    with pytest.raises(ValueError, match="tasks=0 must be a whole number of at least 1"):
        point_sets().draw(0)
