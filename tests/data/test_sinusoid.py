"""Sine tasks, and what every sampler promises."""

import math

import pytest
import torch

from metanotes.data import sinusoid


def test_every_point_lies_on_its_tasks_wave():
    waves = sinusoid(shots=7, queries=4, dtype=torch.float64).draw(9)
    a, b = waves.amplitude, waves.phase
    assert a.shape == b.shape == (9,)
    for batch, points in ((waves.tasks.support, 7), (waves.tasks.query, 4)):
        assert batch.x.shape == batch.y.shape == (9, points, 1)
        for task in range(9):
            torch.testing.assert_close(
                batch.y[task], a[task] * torch.sin(batch.x[task] + b[task]), rtol=1e-14, atol=0
            )


def test_draws_are_uniform_in_their_ranges():
    waves = sinusoid(shots=3, queries=2, amplitude=(1, 3), phase=(0, 2 * math.pi)).draw(20_000)
    x = torch.cat([waves.tasks.support.x, waves.tasks.query.x], 1)
    for values, low, high in (
        (waves.amplitude, 1, 3),
        (waves.phase, 0, 2 * math.pi),
        (x.flatten(), -5, 5),
    ):
        scaled = (values - low) / (high - low)
        assert scaled.min() >= 0
        assert scaled.max() <= 1
        counts = torch.histc(scaled, 10, 0, 1) / len(scaled)
        assert (counts - 0.1).abs().max() < 0.01


def test_best_joint_prediction_is_the_closed_form():
    """E[y|x] is E[a] (2/pi) cos x for phases in [0, pi], with this sign, and 0 for [0, 2 pi]."""
    half = sinusoid(shots=10, queries=1, dtype=torch.float64)(40_000).support
    full = sinusoid(10, 1, phase=(0, 2 * math.pi), dtype=torch.float64)(40_000).support
    slope = (half.y * half.x.cos()).sum() / half.x.cos().square().sum()
    assert slope.item() == pytest.approx(2.55 * 2 / math.pi, abs=0.02)
    assert (full.y * full.x.cos()).mean().item() == pytest.approx(0, abs=0.02)


def test_every_dtype_sees_the_same_tasks():
    single, double = (sinusoid(dtype=dtype)(5) for dtype in (torch.float32, torch.float64))
    assert single.query.y.dtype == torch.float32
    torch.testing.assert_close(single.query.y.double(), double.query.y, rtol=0, atol=1e-6)


def test_successive_draws_differ_and_the_seed_decides_them():
    first, again, other = sinusoid(seed=3), sinusoid(seed=3), sinusoid(seed=4)
    x = first(4).support.x
    assert torch.equal(x, again(4).support.x)
    assert not torch.equal(x, first(4).support.x)
    assert not torch.equal(x, other(4).support.x)


def test_the_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    x = sinusoid()(4).support.x
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    with torch.device("meta"):  # nor is the default device
        assert torch.equal(x, sinusoid()(4).support.x)


def test_restarted_begins_at_the_seed_and_leaves_the_original_alone():
    sines, twin = sinusoid(seed=5), sinusoid(seed=5)
    first = sines(4).support.x
    twin(4)
    fresh = sines.restarted()
    assert torch.equal(fresh(4).support.x, first)
    assert torch.equal(sines(4).support.x, twin(4).support.x)


def test_a_resumed_stream_is_the_uninterrupted_one(tmp_path):
    sines = sinusoid(seed=5)
    sines(4)
    torch.save(sines.state_dict(), tmp_path / "state.pt")
    expected = sines(4).query.y
    resumed = sinusoid(seed=5)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(resumed(4).query.y, expected)


def test_a_state_of_another_sampler_is_refused():
    state = sinusoid(shots=10).state_dict()
    with pytest.raises(ValueError, match="another sampler: shots was 10 and is 5"):
        sinusoid(shots=5).load_state_dict(state)
    with pytest.raises(ValueError, match="not the state of a sampler"):
        sinusoid().load_state_dict({"weight": torch.zeros(2)})


def test_a_sampler_shows_its_settings():
    assert repr(sinusoid(shots=3)) == (
        "sinusoid(shots=3, queries=10, amplitude=(0.1, 5.0), phase=(0.0, 3.141592653589793), "
        "x_range=(-5.0, 5.0), seed=0)"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": 0}, "shots=0 must be a whole number of at least 1"),
        ({"queries": -1}, "queries=-1 must be a whole number of at least 1"),
        ({"shots": 2.5}, "shots=2.5 must be a whole number of at least 1"),
        ({"amplitude": (5, 1)}, r"amplitude=\(5, 1\) is not a range"),
        ({"phase": (0, math.inf)}, "phase=.* is not a range"),
        ({"dtype": torch.int64}, "has no fractions"),
        ({"device": "cuda:99"}, "device='cuda:99' cannot be used here"),
        ({"device": "abacus"}, "device='abacus' cannot be used here"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        sinusoid(**settings)


@pytest.mark.parametrize("tasks", [0, -3, 1.5, True])
def test_a_batch_of_no_tasks_is_refused(tasks):
    with pytest.raises(ValueError, match="must be a whole number of at least 1"):
        sinusoid()(tasks)
    with pytest.raises(ValueError, match="must be a whole number of at least 1"):
        sinusoid().draw(tasks)
