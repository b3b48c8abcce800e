"""Drawing episodes, beside the meta-step on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from benchmarks.measure import Step, Workload
from benchmarks.meta_step import MetaStep
from benchmarks.peers import metanotes
from benchmarks.workloads.convolutional import conv
from metanotes.data import episodes, glyphs


@cache
def background() -> Any:
    """The glyphs that tasks are drawn from."""
    return glyphs("background")


def draw(tasks: int, rotations: bool) -> Callable[[MetaStep], Step]:
    """Episodes of glyphs, 5-way 1-shot with 15 queries a class."""

    def contender(work: MetaStep) -> Step:
        sampler = episodes(
            background(),
            ways=5,
            shots=1,
            queries=15,
            rotations="classes" if rotations else None,
            device=work.tasks.support.x.device,
        )

        def step() -> tuple[()]:
            sampler(tasks)
            return ()

        return step

    return contender


def sampling(tasks: int = 32) -> Workload:
    """Drawing so many tasks, and one step of MAML on as many."""
    meta_step = conv(tasks, contenders={})
    ours = "metanotes, the meta-step"
    contenders = {
        ours: metanotes,
        "metanotes, sampling": draw(tasks, rotations=False),
        "metanotes, with rotations": draw(tasks, rotations=True),
    }
    name = f"episodes beside {meta_step.name}"
    return Workload(name, meta_step.work, contenders, reference="", ours=ours)


def standard() -> Iterator[Workload]:
    """What `make bench` measures."""
    yield sampling()
