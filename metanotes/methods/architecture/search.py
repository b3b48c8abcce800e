"""Searches that need no gradient: random search, and regularized evolution.

An architecture is K choices, `cell[k]` in 0 .. C_k - 1. A search asks for the reward of one after
another, such as its validation accuracy, and is judged by the best that it has asked for.

Regularized evolution keeps a population. Of a random sample of it the best is the parent; the child
is a copy of which a single choice is another; and the *oldest* dies, however good it is, so that
nothing stays because of a single lucky training.

Sources: Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 2012; Real,
Aggarwal, Huang and Le, "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019,
algorithm 1.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import product
from random import Random
from typing import NamedTuple

from metanotes._ground.checks import count
from metanotes._ground.checks import seed as checked_seed

Cell = tuple[int, ...]
Reward = Callable[[Cell], float]


class Trail(NamedTuple):
    """What a search asked for, in its order, and what it was told.

    Args:
        cells: the architectures.
        rewards: of each the reward that was seen.

    >>> trail = Trail([(0, 1), (1, 1), (0, 0)], [0.5, 0.9, 0.7])
    >>> trail.best(), trail.best(after=1)
    ((1, 1), (0, 1))
    """

    cells: list[Cell]
    rewards: list[float]

    def best(self, after: int | None = None) -> Cell:
        """The cell of the highest reward, of equal ones the first; NaN is the lowest of all.

        Args:
            after: among so many of the first, at least 1; default: all.
        """
        rewards = self.rewards[: None if after is None else count("after", after)]
        return self.cells[max(range(len(rewards)), key=lambda n: height(rewards[n]))]


def height(reward: float) -> float:
    """A reward to compare by: NaN, of a training that diverged, is the lowest of all.

    >>> max([math.nan, 0.2], key=height)
    0.2
    """
    return -math.inf if math.isnan(reward) else reward


def check_choices(choices: Sequence[int]) -> tuple[int, ...]:
    """How many options there are at each place.

    Raises:
        ValueError: no place, or none with two options.

    >>> check_choices([4, 4, 4])
    (4, 4, 4)
    """
    sizes = tuple(count(f"choices[{k}]", size) for k, size in enumerate(choices))
    if not sizes or max(sizes) < 2:
        raise ValueError(
            f"choices={list(sizes)} is a space with a single architecture: nothing to search"
        )
    return sizes


def random_search(
    choices: Sequence[int],
    reward: Reward,
    evaluations: int,
    *,
    repeats: bool = True,
    space: Sequence[Cell] | None = None,
    seed: int = 0,
) -> Trail:
    """Ask for random architectures.

    On the map:
        phi: an architecture
        adapts: a network from random weights
        outer loss: minus the validation accuracy
        needs: a training for each architecture, no derivative

    Args:
        choices: how many options there are at each place.
        reward: of an architecture; it may differ from call to call, as trainings do. NaN counts as
            the lowest of all.
        evaluations: how many to ask for, at least 1.
        repeats: whether one may be asked for again. Without repeats the search is over when all
            have been asked for, and so may take fewer evaluations.
        space: the architectures to draw from, if not all, such as one of each kind that computes
            the same.
        seed: of the search.

    Raises:
        ValueError: nothing to choose, a count below 1, or an empty space.

    Source: Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 2012.

    >>> trail = random_search([2, 3], sum, evaluations=100, repeats=False)
    >>> len(trail.cells), trail.best()
    (6, (1, 2))
    """
    choices, evaluations = check_choices(choices), count("evaluations", evaluations)
    every = list(product(*map(range, choices)) if space is None else space)
    if not every:
        raise ValueError("space=[] has no architecture to draw")
    random = Random(checked_seed(seed))
    if repeats:
        cells = random.choices(every, k=evaluations)
    else:
        cells = random.sample(every, min(evaluations, len(every)))
    return Trail(cells, [reward(cell) for cell in cells])


def regularized_evolution(
    choices: Sequence[int],
    reward: Reward,
    evaluations: int,
    *,
    population: int = 8,
    sample: int = 3,
    seed: int = 0,
) -> Trail:
    """Ask for random architectures first, and for children of the best then.

    On the map:
        phi: an architecture
        adapts: a network from random weights
        outer loss: minus the validation accuracy
        needs: a training for each architecture, no derivative

    Args:
        choices: how many options there are at each place.
        reward: of an architecture; NaN counts as the lowest of all.
        evaluations: how many to ask for, at least 1, those of the first population included.
        population: how many live at a time, at least 1.
        sample: how many of them compete to be a parent, 1 to population; drawn with replacement, as
            in the paper's code.
        seed: of the search.

    Raises:
        ValueError: nothing to choose, a count below 1, or a sample larger than the population.

    Source: Real, Aggarwal, Huang and Le, "Regularized Evolution for Image Classifier Architecture
        Search", AAAI 2019, algorithm 1.

    >>> trail = regularized_evolution([4, 4, 4], sum, evaluations=200)
    >>> trail.best()
    (3, 3, 3)
    """
    choices, evaluations = check_choices(choices), count("evaluations", evaluations)
    population, sample = count("population", population), count("sample", sample)
    if sample > population:
        raise ValueError(f"sample={sample} must be at most population={population}")
    random = Random(checked_seed(seed))
    trail = Trail([], [])
    alive: deque[tuple[float, Cell]] = deque(maxlen=population)  # the oldest falls out
    for number in range(evaluations):
        if number < population:
            cell = tuple(random.randrange(size) for size in choices)
        else:
            rivals = [random.choice(alive) for _ in range(sample)]
            cell = mutated(max(rivals, key=lambda rival: height(rival[0]))[1], choices, random)
        value = reward(cell)
        alive.append((value, cell))
        trail.cells.append(cell)
        trail.rewards.append(value)
    return trail


def mutated(cell: Cell, choices: Sequence[int], random: Random) -> Cell:
    """A copy of which one choice is another.

    >>> mutated((0, 0), [2, 1], Random(0))                    # the second leaves no choice
    (1, 0)
    """
    k = random.choice([k for k, size in enumerate(choices) if size > 1])
    other = random.randrange(choices[k] - 1)
    return (*cell[:k], other + (other >= cell[k]), *cell[k + 1 :])
