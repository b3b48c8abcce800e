"""MAML on the sine network of its paper: so small that what is not arithmetic is what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.measure import OURS, Workload
from benchmarks.meta_step import Contenders, meta_step
from benchmarks.peers import ALL, BASIC, COMPILED, DOZEN_LINES, metanotes
from metanotes import mse
from metanotes.data import sinusoid
from metanotes.nets import mlp


def sine(
    tasks: int = 25,
    steps: int = 1,
    width: int = 40,
    shots: int = 10,
    queries: int = 10,
    first_order: bool = False,
    contenders: Contenders | None = None,
    recorded: bool = True,
) -> Workload:
    """The network 1-width-width-1; ours with recordings, as `meta_train` asks for them, or not."""
    contenders = {**ALL, **COMPILED} if contenders is None else contenders
    if OURS in contenders:
        ours = partial(metanotes, small=True) if recorded else partial(metanotes, record=False)
        contenders = {**contenders, OURS: ours}
    return meta_step(
        f"sine network 1-{width}-{width}-1" + ("" if recorded else ", nothing recorded"),
        partial(mlp, 1, width, width, 1),
        lambda count: sinusoid(shots, queries, seed=0)(count),
        mse,
        contenders,
        count=tasks,
        inner_lr=0.01,
        steps=steps,
        first_order=first_order,
    )


def standard() -> Iterator[Workload]:
    """What `make bench` measures."""
    for steps in (1, 5):
        yield sine(steps=steps)
    yield sine(steps=10, contenders=ALL)  # compiling ten steps takes minutes
    for steps in (1, 5):
        yield sine(steps=steps, contenders=DOZEN_LINES, recorded=False)


def quick() -> Iterator[Workload]:
    """A small one, for the contenders that need nothing installed."""
    yield sine(tasks=3, contenders=BASIC)
