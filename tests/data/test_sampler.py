"""What every sampler promises, whatever it draws."""

import itertools

import numpy as np
import pytest
import torch

from metanotes import Batch
from metanotes.data import (
    Sampler,
    batches,
    domain_pairs,
    episodes,
    networks,
    quadratics,
    sequences,
    sinusoid,
    surfaces,
)
from metanotes.data.sampler import check_count, draw_count
from metanotes.nets import mlp

DATA = Batch(torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 4)
SAMPLERS = {
    "batches": lambda **s: batches(DATA, 3, **s),
    "domain_pairs": lambda **s: domain_pairs(DATA, DATA, 3, **s),
    "episodes": lambda **s: episodes(DATA, 3, 1, 2, **s),
    "varied episodes": lambda **s: episodes(DATA, (2, 4), (1, 3), (1, 3), **s),
    "networks": lambda **s: networks(lambda seed: mlp(4, 2, seed=seed), DATA, 3, **s),
    "quadratics": lambda **s: quadratics(3, **s),
    "sequences": lambda **s: sequences(DATA, 3, 10, **s),
    "sinusoid": lambda **s: sinusoid((2, 9), (1, 4), **s),
    "surfaces": lambda **s: surfaces((2, 9), (1, 4), **s),
}


def tensors(drawn):
    """All tensors of what was drawn, and those of the first minibatches of functions."""
    if isinstance(drawn, torch.Tensor):
        return [drawn]
    if isinstance(drawn, dict):
        return [t for part in drawn.values() for t in tensors(part)]
    if isinstance(drawn, tuple):
        return [t for part in drawn for t in tensors(part)]
    if hasattr(drawn, "__next__"):
        return tensors(tuple(itertools.islice(drawn, 2)))
    return []


def equal(first, second):
    pairs = list(zip(tensors(first), tensors(second), strict=False))
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_the_stream_restarts_stops_and_resumes(make, tmp_path):
    sampler = make(seed=3)
    assert isinstance(sampler, Sampler)
    first = [sampler(2) for _ in range(3)]
    torch.save(sampler.state_dict(), tmp_path / "state.pt")
    later = sampler(2)
    torch.manual_seed(0)
    resumed = make(seed=3)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert equal(resumed(2), later)
    fresh = sampler.restarted()
    assert all(equal(fresh(2), drawn) for drawn in first)
    assert not equal(make(seed=4)(2), first[0])
    with pytest.raises(ValueError, match="seed was 3 and is 4"):
        make(seed=4).load_state_dict(sampler.state_dict())


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_every_tensor_has_the_tasks_first(make):
    drawn = tensors(make(seed=0)(5))
    assert drawn
    assert {len(tensor) for tensor in drawn} == {5}


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("seed", [1.5, 2.0, True, "3", None, 2**64, -(2**63) - 1])
def test_a_seed_that_is_none_is_named(make, seed):
    with pytest.raises(ValueError, match="seed="):
        make(seed=seed)


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_a_seed_of_numpy_is_the_same_seed(make):
    assert equal(make(seed=np.int64(7))(2), make(seed=7)(2))
    assert make(seed=np.int64(7)).config() == make(seed=7).config()
    make(seed=-1)
    make(seed=2**64 - 1)


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("tasks", [0, -3, 1.5, True])
def test_a_batch_of_no_tasks_is_refused(make, tasks):
    with pytest.raises(ValueError, match=r"tasks=.* must be a whole number of at least 1"):
        make(seed=0)(tasks)


def test_a_count_is_a_number_or_a_range_of_them():
    assert check_count("shots", 5) == 5
    assert check_count("shots", (1, 5)) == (1, 5)
    assert check_count("shots", [1, np.int64(5)]) == (1, 5)
    assert check_count("shots", (5, 5)) == 5


@pytest.mark.parametrize(
    "value", [0, 1.5, True, None, "5", (0, 5), (5, 1), (1, 2.5), (1, 2, 3), (1,), ()]
)
def test_what_is_no_count_is_named(value):
    with pytest.raises(ValueError, match=r"shots=.* must be a .*whole number"):
        check_count("shots", value)


def test_a_range_is_drawn_uniformly_both_ends_included():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([draw_count((2, 5), generator) for _ in range(4000)])
    assert torch.equal(drawn.unique(), torch.arange(2, 6))
    assert (drawn.bincount()[2:] - 1000).abs().max() < 140  # five standard deviations


def test_a_single_number_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert draw_count(5, generator) == 5
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("family", [sinusoid, surfaces])
def test_regression_tasks_of_a_batch_have_as_many_points_and_batches_differ(family):
    sampler = family((2, 5), (3, 4), seed=0)
    drawn = [sampler(3) for _ in range(100)]
    assert {tasks.support.x.shape[1] for tasks in drawn} == {2, 3, 4, 5}
    assert {tasks.query.x.shape[1] for tasks in drawn} == {3, 4}
    assert "shots=(2, 5), queries=(3, 4)" in repr(sampler)
    with pytest.raises(ValueError, match=r"shots was \(2, 5\) and is 2"):
        family(2, (3, 4)).load_state_dict(sampler.state_dict())


@pytest.mark.parametrize("seed", [1.5, "1", True])
@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_a_seed_that_is_no_whole_number_is_named(make, seed):
    with pytest.raises(ValueError, match=f"seed={seed!r} must be a whole number"):
        make(seed=seed)
