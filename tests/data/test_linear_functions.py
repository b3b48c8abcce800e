"""Linear functions: what is drawn, and where the noise is."""

import pytest
import torch

from metanotes.data import linear_functions


def test_queries_lie_on_the_function_and_support_points_beside_it():
    support, query = linear_functions(500, 7, dim=3, noise=0.2, dtype=torch.float64)(4)
    for n in range(4):
        w = torch.linalg.lstsq(query.x[n], query.y[n]).solution
        torch.testing.assert_close(query.x[n] @ w, query.y[n], rtol=1e-10, atol=1e-12)
        off = support.y[n] - support.x[n] @ w
        assert off.std().item() == pytest.approx(0.2, rel=0.15)
        assert off.mean().abs() < 0.05


def test_weights_and_inputs_are_normal():
    support, _ = linear_functions(3, 1, dim=3, noise=0, scale=2, dtype=torch.float64)(20_000)
    assert support.x.std().item() == pytest.approx(2, rel=0.02)
    w = torch.linalg.solve(support.x, support.y)[..., 0]
    torch.testing.assert_close(w.T.cov(), torch.eye(3, dtype=torch.float64), rtol=0, atol=0.05)


def test_noise_and_scale_change_nothing_else():
    plain = linear_functions(5, 2, dim=2, noise=0, seed=3, dtype=torch.float64)(6)
    other = linear_functions(5, 2, dim=2, noise=1, scale=3, seed=3, dtype=torch.float64)(6)
    torch.testing.assert_close(other.query.y, 3 * plain.query.y)
    torch.testing.assert_close(other.support.x, 3 * plain.support.x)
    assert (other.support.y - 3 * plain.support.y).std() > 0.5


def test_the_seed_decides_and_a_stream_goes_on():
    first, again = (linear_functions((1, 9), 4, dim=2, seed=3) for _ in range(2))
    assert torch.equal(first(5).support.x, again(5).support.x)
    resumed = linear_functions((1, 9), 4, dim=2, seed=3)
    resumed.load_state_dict(first.state_dict())
    assert torch.equal(first(5).query.y, resumed(5).query.y)
    sizes = {first(1).support.x.shape[1] for _ in range(60)}
    assert {1, 9} <= sizes <= set(range(1, 10))


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="dim=0 must be a whole number of at least 1"):
        linear_functions(dim=0)
    with pytest.raises(ValueError, match=r"noise=-0.1 must be a finite number of at least 0"):
        linear_functions(noise=-0.1)
    with pytest.raises(ValueError, match="scale=0 must be a finite number above 0"):
        linear_functions(scale=0)
    with pytest.raises(ValueError, match=r"shots=\(3, 1\) must be a range"):
        linear_functions(shots=(3, 1))
