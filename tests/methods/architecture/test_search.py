"""Random search and regularized evolution on spaces made by hand."""

import math
from collections import Counter
from itertools import pairwise, product

import pytest

from metanotes.methods.architecture import Trail, random_search, regularized_evolution

EVERY = list(product(range(2), range(3)))


def test_random_search_without_repeats_sees_each_once_and_then_stops():
    asked = []
    trail = random_search([2, 3], lambda cell: asked.append(cell) or 1.0, 50, repeats=False)
    assert sorted(trail.cells) == EVERY
    assert asked == trail.cells
    orders = {tuple(random_search([2, 3], sum, 6, repeats=False, seed=s).cells) for s in range(20)}
    assert len(orders) > 15


def test_random_search_with_repeats_draws_all_equally_often():
    counts = Counter(random_search([2, 3], sum, 6000).cells)
    assert sorted(counts) == EVERY
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 5 + 4 * 10**0.5


def test_random_search_in_a_part_of_the_space():
    trail = random_search([2, 3], sum, 10, repeats=False, space=[(0, 1), (1, 1)])
    assert sorted(trail.cells) == [(0, 1), (1, 1)]


def test_the_best_so_far_never_falls():
    trail = random_search([4, 4, 4], lambda cell: -abs(sum(cell) - 5), 40, seed=3)
    best = [trail.rewards[trail.cells.index(trail.best(after=n))] for n in range(1, 41)]
    assert best == sorted(best)
    assert trail.best() == trail.best(after=40)


def test_of_equal_rewards_the_first_is_the_best():
    assert Trail([(0,), (1,), (2,)], [0.1, 0.7, 0.7]).best() == (1,)


def test_a_child_differs_from_someone_alive_in_one_choice():
    population = 4
    trail = regularized_evolution([4, 3, 5], sum, 60, population=population, sample=2)
    for n in range(population, 60):
        alive = trail.cells[n - population : n]
        apart = [sum(a != b for a, b in zip(trail.cells[n], c, strict=True)) for c in alive]
        assert 1 in apart
    assert all(
        0 <= c < size for cell in trail.cells for c, size in zip(cell, (4, 3, 5), strict=True)
    )


def test_the_oldest_dies_however_good_it_is():
    """One lucky reward has children while it lives, and is nobody's parent any more afterwards."""
    near = 0
    for seed in range(40):
        rewards = iter([100.0] + [0.0] * 200)
        cells = regularized_evolution(
            [50] * 3, lambda _, left=rewards: next(left), 40, population=3, sample=3, seed=seed
        ).cells
        apart = [sum(a != b for a, b in zip(cell, cells[0], strict=True)) for cell in cells]
        near += apart[3] == 1
        assert apart[4:].count(1) < 36  # if it lived on, nearly all would be its children
        assert min(apart[25:]) > 1
    assert near == pytest.approx(40 * (1 - (2 / 3) ** 3), abs=9)  # how likely it is to be drawn


def test_in_a_population_of_one_each_is_the_child_of_the_last():
    cells = regularized_evolution([4, 3], sum, 60, population=1, sample=1).cells
    for parent, child in pairwise(cells):
        assert sum(a != b for a, b in zip(parent, child, strict=True)) == 1


def test_evolution_climbs_where_random_search_wanders():
    """100 evaluations of 4096 architectures whose reward is a sum over six choices."""
    choices = [4] * 6
    evolved, random = (
        sum(max(search(choices, sum, 100, seed=seed).rewards) for seed in range(30)) / 30
        for search in (regularized_evolution, random_search)
    )
    assert evolved > random + 1


def test_the_same_seed_is_the_same_search():
    for search in (random_search, regularized_evolution):
        assert search([4] * 3, sum, 30, seed=5) == search([4] * 3, sum, 30, seed=5)
        assert search([4] * 3, sum, 30, seed=5) != search([4] * 3, sum, 30, seed=6)


def test_what_cannot_work_is_refused():
    for search in (random_search, regularized_evolution):
        with pytest.raises(ValueError, match=r"choices=\[1, 1\] is a space with a single"):
            search([1, 1], sum, 5)
        with pytest.raises(ValueError, match=r"choices\[1\]=0 must be"):
            search([2, 0], sum, 5)
        with pytest.raises(ValueError, match="evaluations=0 must be"):
            search([2, 2], sum, 0)
    with pytest.raises(ValueError, match="sample=9 must be at most population=8"):
        regularized_evolution([2, 2], sum, 5, sample=9)
    with pytest.raises(ValueError, match=r"space=\[\] has no architecture"):
        random_search([2, 2], sum, 5, space=[])


def test_a_training_that_diverged_is_nobodys_best():
    def reward(cell):
        return math.nan if cell[0] == 0 else float(sum(cell))

    for seed in range(4):
        assert regularized_evolution([3, 3, 3], reward, 150, seed=seed).best() == (2, 2, 2)
        assert random_search([3, 3], reward, 9, repeats=False, seed=seed).best() == (2, 2)
    assert Trail([(0,), (1,)], [math.nan, 1.0]).best() == (1,)
