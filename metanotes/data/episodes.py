"""Episodes: N-way K-shot classification tasks, drawn from any labelled array.

A task is N classes, K labelled support examples of each, and some query examples of each to judge
by. Which class is called 0, which 1, ... is drawn anew in every task: were it not, a network could
learn the classes once and for all, and would need no support set (Vinyals et al. 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from metanotes.data.sampler import Sampler, check_positive
from metanotes.task import Batch, Task

Rotations = Literal["classes", "tasks"] | None


class Labelled(Protocol):
    """Anything with inputs `.x` `[n, ...]` and class ids `.y` `[n]`, as `Images` or `Batch`."""

    @property
    def x(self) -> Tensor: ...

    @property
    def y(self) -> Tensor: ...


class EpisodeSampler(Sampler):
    """The stream of classification tasks that `episodes` returns."""

    def __init__(
        self,
        data: Labelled,
        ways: int,
        shots: int,
        queries: int,
        rotations: Rotations,
        seed: int,
        device: torch.device | str,
    ):
        check_positive(ways=ways, shots=shots, queries=queries)
        check_data(data, rotations)
        ids, classes, counts = data.y.cpu().unique(return_inverse=True, return_counts=True)
        _check_sizes(ways, shots, queries, rotations, ids, counts, getattr(data, "names", None))
        super().__init__(seed, device)
        self.ways, self.shots, self.queries, self.rotations = ways, shots, queries, rotations
        self.x = data.x.detach().to(self.device).contiguous()
        self.counts = counts
        self.table = _examples_by_class(classes, counts)
        self.columns = torch.arange(self.table.shape[1], device="cpu")

    @property
    def classes(self) -> int:
        """How many classes the tasks are drawn from; rotated ones count where they are classes."""
        return len(self.counts) * (4 if self.rotations == "classes" else 1)

    def config(self) -> dict[str, Any]:
        return {
            "kind": "episodes",
            "ways": self.ways,
            "shots": self.shots,
            "queries": self.queries,
            "rotations": self.rotations,
            "classes": self.classes,
            "examples": len(self.x),
            "shape": tuple(self.x.shape[1:]),
            "seed": self.seed,
        }

    def _draw(self, tasks: int) -> Task:
        n, k, q = self.ways, self.shots, self.queries
        classes = self._rand(tasks, self.classes).topk(n).indices  # [T, N], in random order
        turns = torch.zeros_like(classes)
        if self.rotations == "classes":
            classes, turns = classes // 4, classes % 4
        elif self.rotations == "tasks":
            turns = torch.randint(4, (tasks, n), generator=self.generator, device="cpu")

        keys = self._rand(tasks, n, len(self.columns))
        # A class with fewer examples than the widest has none in the last columns of the table.
        missing = self.columns >= self.counts[classes][..., None]  # [T, N, M]
        columns = keys.masked_fill(missing, -1.0).topk(k + q).indices  # [T, N, K+Q]
        rows = self.table[classes[..., None], columns]  # [T, N, K+Q]: which examples

        # All support rows, then all query rows: one gather, and both parts are contiguous.
        rows = torch.cat([rows[..., :k].flatten(), rows[..., k:].flatten()]).to(self.device)
        x = self.x.index_select(0, rows)  # copies whole rows, where indexing goes by pixel
        if self.rotations is not None:
            turns = torch.cat([turns.flatten().repeat_interleave(m) for m in (k, q)])
            x = rotate(x, turns)
        if x.dtype == torch.uint8:
            x = x.float().div_(255)
        support, query = x.split([tasks * n * k, tasks * n * q])
        return Task(self._batch(support, tasks, k), self._batch(query, tasks, q))

    def _batch(self, x: Tensor, tasks: int, per_class: int) -> Batch:
        labels = torch.arange(self.ways, device=self.device).repeat_interleave(per_class)
        return Batch(x.unflatten(0, (tasks, -1)), labels.repeat(tasks, 1))

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float32, device="cpu")


def episodes(
    data: Labelled,
    ways: int,
    shots: int,
    queries: int,
    *,
    rotations: Rotations = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> EpisodeSampler:
    """N-way K-shot classification tasks from labelled examples.

    In every task the classes are drawn without replacement and in random order, and so are the
    examples of each; support and query share none. Within a task they are sorted by label.

    Args:
        data: anything with inputs `.x` `[n, C, H, W]` (uint8 in 0..255, or real numbers) and
            integer class ids `.y` `[n]`: `glyphs(...)`, `omniglot(...)`, a `Batch` of your own.
        ways: classes of a task, N, at most the classes of `data`.
        shots: support examples of each class, K >= 1.
        queries: query examples of each class, Q >= 1; K + Q is at most the examples of any class.
        rotations: `"classes"` makes each class four, one for each of 0, 90, 180, 270 degrees
            (Prototypical Networks); `"tasks"` turns each class of each task by a random one of
            these, support and query alike (MAML); None turns nothing.
        seed: where the stream of tasks starts.
        device: where the data is kept and the tasks are put; they are the same on each.

    Returns:
        A sampler: `sampler(T)` is a `Task` with support x `[T, N*K, C, H, W]` and y `[T, N*K]`
        (int64 in 0..N-1), and query alike with N*Q. uint8 inputs come as float32 in 0..1.

    Raises:
        ValueError: more ways than classes, more shots + queries than examples of some class, a
            count that is not positive, inputs and class ids that differ in number, NaN or infinite
            inputs, rotations that are none of these or of images that are not square.

    Source: Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016; rotations as
    classes: Santoro et al., "Meta-Learning with Memory-Augmented Neural Networks", ICML 2016.

    >>> x = torch.arange(6 * 4).view(24, 1, 1, 1).expand(24, 1, 8, 8) / 24
    >>> y = torch.arange(24) // 4                                      # 6 classes, 4 examples each
    >>> tasks = episodes(Batch(x, y), ways=5, shots=1, queries=3)(16)
    >>> tasks.support.x.shape, tasks.query.x.shape
    (torch.Size([16, 5, 1, 8, 8]), torch.Size([16, 15, 1, 8, 8]))
    >>> tasks.query.y[0]
    tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4])
    """
    return EpisodeSampler(data, ways, shots, queries, rotations, seed, device)


def _examples_by_class(classes: Tensor, counts: Tensor) -> Tensor:
    """Row c lists the examples of class c, padded with 0; `[classes, largest count]`."""
    order = classes.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    column = torch.arange(len(classes), device="cpu") - starts[classes[order]]
    table = classes.new_zeros(len(counts), int(counts.max()))
    table[classes[order], column] = order
    return table


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each image `[n, C, H, H]` in place, counterclockwise by its quarter turns `[n]`."""
    for quarter in (1, 2, 3):
        these = (turns == quarter).nonzero().squeeze(1).to(x.device)
        x.index_copy_(0, these, x.index_select(0, these).rot90(quarter, (2, 3)))
    return x


def check_data(data: Labelled, rotations: Rotations) -> None:
    x, y = data.x, data.y
    if rotations not in (None, "classes", "tasks"):
        raise ValueError(f"rotations={rotations!r} is unknown; use None, 'classes' or 'tasks'")
    if y.ndim != 1 or y.is_floating_point() or y.dtype == torch.bool:
        raise ValueError(f"y is one integer class id an example, [n]; got {y.dtype} {[*y.shape]}")
    if x.ndim < 2 or len(x) != len(y):
        raise ValueError(f"x [n, ...] and y [n] differ: x is {[*x.shape]} and y is {[*y.shape]}")
    if len(y) == 0:
        raise ValueError("the data has no examples")
    if x.is_floating_point() and not torch.isfinite(x).all():
        raise ValueError("x has NaN or infinite values; clean or rescale the data first")
    if rotations is not None and (x.ndim != 4 or x.shape[2] != x.shape[3]):
        raise ValueError(
            f"rotations={rotations!r} asks for square images [n, C, H, H]; x is {[*x.shape]}"
        )


def _check_sizes(
    ways: int,
    shots: int,
    queries: int,
    rotations: Rotations,
    ids: Tensor,
    counts: Tensor,
    names: Sequence[str] | None,
) -> None:
    classes = len(ids) * (4 if rotations == "classes" else 1)
    if ways > classes:
        raise ValueError(f"ways={ways} asks for more classes than the {classes} in this split")
    smallest = int(counts.argmin())
    if shots + queries > counts[smallest]:
        name = names[int(ids[smallest])] if names is not None else int(ids[smallest])
        raise ValueError(
            f"shots={shots} and queries={queries} ask for {shots + queries} examples of a class, "
            f"and class {name!r} has {int(counts[smallest])}"
        )
