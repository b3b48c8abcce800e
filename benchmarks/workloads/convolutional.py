"""MAML on the four-block convolutional network, in the shapes that the field's papers use."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.measure import OURS, REFERENCE, Curve, Workload
from benchmarks.meta_step import Contenders, images, meta_step
from benchmarks.peers import ALL, BASIC, CHECKPOINT, LIGHT, some
from metanotes import cross_entropy
from metanotes.nets import conv4


def conv(
    tasks: int = 16,
    steps: int = 1,
    pool: str = "stride",
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    width: int = 64,
    channels: int = 1,
    size: int = 28,
    first_order: bool = False,
    contenders: Contenders | None = None,
) -> Workload:
    """On images shaped as Omniglot's, or mini-ImageNet's."""
    if contenders is None:
        contenders = ALL if steps == 1 or first_order else {**ALL, **CHECKPOINT}
    return meta_step(
        f"conv4-{width} ({pool}), {size}x{size}x{channels}, {ways}-way {shots}-shot",
        partial(conv4, ways, channels=width, in_channels=channels, size=size, pool=pool),
        partial(images, ways=ways, shots=shots, queries=queries, channels=channels, size=size),
        cross_entropy,
        contenders,
        count=tasks,
        inner_lr=0.4 if size == 28 else 0.01,
        steps=steps,
        first_order=first_order,
    )


def standard() -> Iterator[Workload]:
    """What `make bench` measures."""
    for steps in (1, 5):
        yield conv(steps=steps)
    yield conv(pool="max")
    yield conv(steps=5, pool="max", contenders={**LIGHT, **CHECKPOINT})
    first_order = {name: contender for name, contender in ALL.items() if name != "TorchOpt"}
    for steps in (1, 5):
        yield conv(steps=steps, first_order=True, contenders=first_order)
    for steps in (1, 5):
        yield conv(tasks=32, steps=steps, contenders=LIGHT)
    yield conv(tasks=4, ways=20, shots=5, contenders=LIGHT)
    memory = {**LIGHT, **CHECKPOINT}
    yield conv(4, 5, "max", width=32, channels=3, size=84, contenders=memory)


def quick() -> Iterator[Workload]:
    """A small one, for the contenders that need nothing installed."""
    yield conv(tasks=2, width=8, contenders=BASIC)


def allocation() -> Iterator[Workload]:
    """What is measured under both settings of the allocator: it matters where tensors are large."""
    few = some(REFERENCE, "learn2learn", "TorchOpt", "torch.func", OURS)
    for steps in (1, 5):
        yield conv(steps=steps, contenders=few)
    yield conv(pool="max", contenders=few)


def curves() -> Iterator[Curve]:
    """8 tasks, 2 steps, 64 channels, but for one of them."""
    pair = some(REFERENCE, "learn2learn", OURS)
    for axis, values in {
        "tasks": (4, 8, 16, 32),
        "steps": (1, 2, 5, 10),
        "width": (16, 32, 64, 128),
    }.items():

        def at(value: int, axis: str = axis) -> Workload:
            settings = {"tasks": 8, "steps": 2, "width": 64} | {axis: value}
            return conv(**settings, contenders=pair)  # type: ignore[arg-type]

        yield Curve(f"growth with {axis}", axis, values, at)
