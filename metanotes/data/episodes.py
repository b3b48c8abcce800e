"""Episodes: N-way K-shot classification tasks, drawn from any labelled array.

A task is N classes, K labelled support examples of each, and some query examples of each to judge
by. Which class is called 0, which 1, ... is drawn anew in every task: were it not, a network could
learn the classes once and for all, and would need no support set (Vinyals et al. 2016). The queries
come in random order for the same reason: were they sorted, their places would tell their labels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metanotes.data.labelled import ExamplesByClass, Labelled, Rotations, mapped
from metanotes.data.sampler import (
    Count,
    Sampler,
    check_count,
    draw_count,
    draw_uniform,
    most,
)
from metanotes.task import Batch, Task


class EpisodeSampler(Sampler[Task]):
    """The stream of classification tasks that `episodes` returns."""

    def __init__(
        self,
        data: Labelled,
        ways: Count,
        shots: Count,
        queries: Count,
        rotations: Rotations,
        seed: int,
        device: torch.device | str,
    ):
        super().__init__(seed, device)
        self.ways, self.shots = check_count("ways", ways), check_count("shots", shots)
        self.queries = check_count("queries", queries)
        self.examples = ExamplesByClass(data, self.device, rotations)
        up_to = "" if isinstance(self.shots, int) and isinstance(self.queries, int) else " up to"
        self.examples.check(
            most(self.ways),
            most(self.shots) + most(self.queries),
            f"shots={self.shots} and queries={self.queries} ask for{up_to}",
        )

    @property
    def classes(self) -> int:
        """How many classes the tasks are drawn from; rotated ones count where they are classes."""
        return self.examples.classes

    def config(self) -> dict[str, Any]:
        return {
            "kind": "episodes",
            "ways": self.ways,
            "shots": self.shots,
            "queries": self.queries,
            "rotations": self.examples.rotations,
            "classes": self.classes,
            "examples": len(self.examples),
            "shape": self.examples.shape,
            "seed": self.seed,
        }

    def _draw(self, tasks: int) -> Task:
        n, k, q = (draw_count(c, self.generator) for c in (self.ways, self.shots, self.queries))
        rows, turns = self.examples.draw(tasks, n, k + q, self.generator)  # [T, N, K+Q], [T, N]
        order = self._order(tasks, n * q)  # [T, N*Q]
        support_y = torch.arange(n, device="cpu").repeat_interleave(k).repeat(tasks, 1)  # [T, N*K]
        query_y = order // q  # class by class, query i has the label i // Q
        # All support rows, then all query rows: one gather, and both parts are contiguous.
        queries = rows[..., k:].flatten(1).gather(1, order)
        rows = torch.cat([rows[..., :k].flatten(), queries.flatten()])
        turns = torch.cat([turns.gather(1, y).flatten() for y in (support_y, query_y)])
        x = self.examples.inputs(rows, turns)
        support, query = slice(tasks * n * k), slice(tasks * n * k, None)
        return Task(self._batch(x, support, support_y), self._batch(x, query, query_y))

    def _order(self, tasks: int, queries: int) -> Tensor:
        """A random order of the queries of each task, `[T, queries]`.

        It is drawn aside, by a generator that is seeded from where the stream stands and does not
        move it: what a seed draws does not depend on the order in which it is asked for.
        """
        aside = self.generator.clone_state()
        aside.manual_seed(int(torch.randint(2**62, (), generator=aside, device="cpu")))
        return draw_uniform(aside, tasks, queries).argsort(1)

    def _batch(self, x: Any, part: slice, y: Tensor) -> Batch:
        return Batch(mapped(x, lambda t: t[part].unflatten(0, tuple(y.shape))), y.to(self.device))


def episodes(
    data: Labelled,
    ways: Count,
    shots: Count,
    queries: Count,
    *,
    rotations: Rotations = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> EpisodeSampler:
    """N-way K-shot classification tasks from labelled examples.

    In every task the classes are drawn without replacement and in random order, and so are the
    examples of each; support and query share none. Within a task the support set is sorted by
    label, and the queries come in random order.

    Each of the three numbers may be a range `(low, high)`, both ends included: a number is then
    drawn from it for every batch of tasks, the same for all tasks of the batch.

    Args:
        data: anything with inputs `.x` `[n, C, H, W]` (uint8 in 0..255, or real numbers) and
            integer class ids `.y` `[n]`: `glyphs(...)`, `omniglot(...)`, a `Batch` of your own. The
            inputs may be a dict of tensors `[n, ...]`, whose tasks have a dict for x.
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
        (int64 in 0..N-1), and query alike with N*Q. uint8 inputs come as float32 in 0..1; the
        tensors of a dict come as they are.

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
    >>> tasks.support.y[0], tasks.query.y[0].bincount()
    (tensor([0, 1, 2, 3, 4]), tensor([3, 3, 3, 3, 3]))
    >>> varied = episodes(Batch(x, y), ways=5, shots=(1, 3), queries=1)
    >>> [varied(16).support.x.shape[1] for _ in range(5)]
    [15, 10, 10, 10, 10]
    """
    return EpisodeSampler(data, ways, shots, queries, rotations, seed, device)
