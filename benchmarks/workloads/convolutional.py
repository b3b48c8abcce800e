"""The work: what is measured, in the shapes that the field's papers use.

A new one is a `Workload`: its name, a function that makes the work, and its contenders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks import bilevel, peers, unroll
from benchmarks.measure import Step, Workload
from benchmarks.peers import MetaStep
from metanotes import MAML, Batch, Task, cross_entropy, evaluate, mse
from metanotes.data import episodes, glyphs, sinusoid
from metanotes.data.images import Images
from metanotes.evaluation import BLOCK
from metanotes.learner import Loss
from metanotes.nets import conv4, mlp
from metanotes.task import task_to

Contenders = Mapping[str, Callable[[MetaStep], Step]]

LIGHT: Contenders = {
    name: peers.ALL[name] for name in (peers.REFERENCE, "learn2learn", "TorchOpt", peers.OURS)
}

COMPILED: Contenders = {
    "torch.func, compiled": peers.torch_func_compiled,
    "metanotes, compiled": partial(peers.metanotes, compile=True),
}
CHECKPOINT: Contenders = {"metanotes, checkpoint": peers.metanotes_checkpoint}


def cast(tasks: Task, dtype: torch.dtype) -> Task:
    """The tasks with their real numbers in another dtype."""
    return Task(*(Batch(*(t.to(dtype) if t.is_floating_point() else t for t in b)) for b in tasks))


def images(tasks: int, ways: int, shots: int, queries: int, channels: int, size: int) -> Task:
    """Random images in the shape of few-shot classification; queries a class."""
    g = torch.Generator().manual_seed(0)

    def batch(per_class: int) -> Batch:
        x = torch.rand(tasks, ways * per_class, channels, size, size, generator=g)
        return Batch(x, torch.arange(ways).repeat_interleave(per_class).repeat(tasks, 1))

    return Task(batch(shots), batch(queries))


def plural(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def meta_step(
    name: str,
    model: Callable[[], nn.Module],
    tasks: Callable[[], Task],
    inner_lr: float,
    steps: int,
    loss: Loss,
    first_order: bool,
    contenders: Contenders,
    parts: int,
) -> Workload:
    """A meta-step of MAML, of `parts` tasks."""

    def work(dtype: torch.dtype, device: torch.device) -> MetaStep:
        moved = task_to(cast(tasks(), dtype), device)
        return MetaStep(
            model().to(device, dtype), moved, inner_lr, steps, loss, first_order=first_order
        )

    name += f", {plural(parts, 'task')}, {plural(steps, 'step')}"
    if first_order:
        name += ", first order"
    return Workload(name, work, contenders, parts=parts)


def sine(
    tasks: int = 25,
    steps: int = 1,
    width: int = 40,
    shots: int = 10,
    queries: int = 10,
    first_order: bool = False,
    contenders: Contenders | None = None,
) -> Workload:
    """The sine network of the MAML paper, 1-width-width-1."""
    if contenders is None:
        contenders = {**peers.ALL, **COMPILED}
    return meta_step(
        f"sine network 1-{width}-{width}-1",
        lambda: mlp(1, width, width, 1),
        lambda: sinusoid(shots, queries, seed=0)(tasks),
        0.01,
        steps,
        mse,
        first_order,
        contenders,
        tasks,
    )


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
    """The four-block convolutional network on images shaped as Omniglot's, or mini-ImageNet's."""
    if contenders is None:
        contenders = peers.ALL if steps == 1 or first_order else {**peers.ALL, **CHECKPOINT}
    return meta_step(
        f"conv4-{width} ({pool}), {size}x{size}x{channels}, {ways}-way {shots}-shot",
        lambda: conv4(ways, width, channels, size, pool),
        lambda: images(tasks, ways, shots, queries, channels, size),
        0.4 if size == 28 else 0.01,
        steps,
        cross_entropy,
        first_order,
        contenders,
        tasks,
    )


def sampling(tasks: int = 32) -> Workload:
    """Episodes of glyphs, 5-way 1-shot with 15 queries a class, beside the meta-step on them."""

    def draw(rotations: bool) -> Callable[[MetaStep], Step]:
        def contender(work: MetaStep) -> Step:
            sampler = episodes(
                background(),
                ways=5,
                shots=1,
                queries=15,
                rotations="classes" if rotations else None,
                device=work.tasks.support.x.device,
            )

            def step() -> tuple[Tensor, ...]:
                sampler(tasks)
                return ()

            return step

        return contender

    contenders = {
        "the meta-step": peers.metanotes,
        "sampling its tasks": draw(rotations=False),
        "sampling, with rotations": draw(rotations=True),
    }
    made = conv(tasks, contenders={})
    return Workload(
        f"episodes beside {made.name}", made.work, contenders, reference="", ours="the meta-step"
    )


@cache
def background() -> Images:
    """The glyphs that tasks are drawn from."""
    return glyphs("background")


def evaluation(tasks: int = 600, steps: int = 1, transductive: bool = True) -> Workload:
    """`metanotes.evaluate` of conv4-64 on 5-way 1-shot tasks, beside a loop over the tasks."""

    def work(dtype: torch.dtype, device: torch.device) -> MetaStep:
        return conv(BLOCK, steps).work(dtype, device)  # the same tasks again in every block

    def ours(work: MetaStep) -> Step:
        learner = MAML(work.model, work.inner_lr, work.steps)

        def step() -> tuple[Tensor]:
            score = evaluate(
                learner,
                lambda n: work.tasks,
                tasks,
                transductive=transductive,
                metric=cross_entropy,
            )
            return (score.values,)

        return step

    def loop(work: MetaStep) -> Step:
        def one(x: Tensor, y: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
            theta = {n: p.detach().requires_grad_() for n, p in work.model.named_parameters()}
            for _ in range(work.steps):
                loss = work.loss(functional_call(work.model, theta, (x,)), y)
                grads = torch.autograd.grad(loss, list(theta.values()))
                theta = {
                    n: (t - work.inner_lr * g).detach().requires_grad_()
                    for (n, t), g in zip(theta.items(), grads, strict=True)
                }
            with torch.no_grad():
                if transductive:
                    outputs = functional_call(work.model, theta, (xq,))
                else:  # each query alone beside the support set
                    each = [
                        functional_call(work.model, theta, (torch.cat([x, q[None]]),))[-1]
                        for q in xq
                    ]
                    outputs = torch.stack(each)
                return cross_entropy(outputs, yq)

        def step() -> tuple[Tensor]:
            losses: list[Tensor] = []
            while len(losses) < tasks:
                losses += [one(*task) for task in work.each_task()]
            return (torch.stack(losses[:tasks]).cpu(),)

        return step

    how = "all queries at once" if transductive else "each query alone"
    name = f"evaluation of {tasks} tasks, {plural(steps, 'step')}, {how}"
    return Workload(name, work, {"plain loop": loop, "metanotes": ours}, parts=tasks)


def standard() -> list[Workload]:
    """What `make bench` measures."""
    first_order = {n: c for n, c in peers.ALL.items() if n != "TorchOpt"}
    memory = {**LIGHT, **CHECKPOINT}
    return [
        *(sine(steps=k) for k in (1, 5)),
        sine(steps=10, contenders=peers.ALL),  # compiling ten steps takes minutes
        *(conv(steps=k) for k in (1, 5)),
        conv(pool="max"),
        conv(steps=5, pool="max", contenders=memory),
        *(conv(steps=k, first_order=True, contenders=first_order) for k in (1, 5)),
        *(conv(tasks=32, steps=k, contenders=LIGHT) for k in (1, 5)),
        conv(tasks=4, ways=20, shots=5, contenders=LIGHT),
        conv(4, 5, "max", width=32, channels=3, size=84, contenders=memory),
        sampling(),
        evaluation(),
        evaluation(tasks=25, transductive=False),
        unroll.unroll(),
        *bilevel.standard(),
    ]


def allocation() -> list[Workload]:
    """What is measured under both settings of the allocator: it matters where tensors are large."""
    names = (peers.REFERENCE, "learn2learn", "TorchOpt", "torch.func", peers.OURS)
    few = {name: peers.ALL[name] for name in names}
    return [
        *(conv(steps=k, contenders=few) for k in (1, 5)),
        conv(pool="max", contenders=few),
    ]


GROWTH: dict[str, tuple[int, ...]] = {
    "tasks": (4, 8, 16, 32),
    "steps": (1, 2, 5, 10),
    "width": (16, 32, 64, 128),
}


def growth(axis: str, value: int) -> Workload:
    """conv4 with stride, 8 tasks, 2 steps, 64 channels, but for one of them."""
    settings = {"tasks": 8, "steps": 2, "width": 64} | {axis: value}
    pair = {name: peers.ALL[name] for name in (peers.REFERENCE, "learn2learn", peers.OURS)}
    return conv(**settings, contenders=pair)  # type: ignore[arg-type]


def quick() -> list[Workload]:
    """Small work for the contenders that need nothing installed, to see that all runs."""
    return [
        sine(tasks=3, contenders=peers.BASIC),
        conv(tasks=2, width=8, contenders=peers.BASIC),
    ]
