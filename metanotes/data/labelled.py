"""Labelled examples: what minibatches, episodes, pairs and sequences are drawn from.

Any data with inputs `.x` and class ids `.y` will do. The inputs are one tensor, or a dict of
tensors where a model's forward takes several by name (`input_ids`, `attention_mask`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from metanotes.data.sampler import draw_uniform

Inputs = Tensor | dict[str, Tensor]
Rotations = Literal["classes", "tasks"] | None


class Labelled(Protocol):
    """Anything with inputs `.x` `[n, ...]` and class ids `.y` `[n]`, as `Images` or `Batch`.

    >>> from metanotes.data import Labelled, glyphs
    >>> examples: Labelled = glyphs("evaluation")
    >>> len(examples.x) == len(examples.y)
    True
    """

    @property
    def x(self) -> Tensor | Mapping[str, Tensor]: ...

    @property
    def y(self) -> Tensor: ...


class Examples:
    """Examples that have been looked over, on a device, from which some are taken by their number.

    Args:
        data: inputs `.x` `[n, ...]`, or a dict of such tensors; and integer class ids `.y` `[n]`.
        device: where they are put.
        rotations: in what way images will be turned, or None.

    Raises:
        ValueError: no inputs and class ids, or of different number, or no tensors; NaN or infinite
            inputs; rotations that are unknown, or of images that are not square.
    """

    def __init__(
        self, data: Labelled, device: torch.device | str, rotations: Rotations = None
    ) -> None:
        if not (hasattr(data, "x") and hasattr(data, "y")):
            raise ValueError(
                f"data is a {type(data).__name__}; it must have .x and .y, as metanotes.Batch(x, y)"
            )
        x: Any = dict(data.x) if isinstance(data.x, Mapping) else data.x
        _check(x, data.y, rotations)
        self.x: Any = mapped(x, lambda tensor: tensor.detach().to(device).contiguous())
        self.y = data.y.to(device).long()
        self.rotations = rotations

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> Any:
        """The shape of one example's input, or a dict of shapes."""
        if isinstance(self.x, dict):
            return {name: tuple(tensor.shape[1:]) for name, tensor in self.x.items()}
        return tuple(self.x.shape[1:])

    def inputs(self, rows: Tensor, turns: Tensor | None = None) -> Any:
        """The inputs of these examples.

        Args:
            rows: which examples, `[n]`, on any device.
            turns: how many quarter turns counterclockwise each is to be given, `[n]`; without
                rotations they are not looked at.

        Returns:
            `[n, ...]`, or a dict of such tensors. A tensor of uint8 comes as float32 in 0..1; the
            tensors of a dict come as they are.
        """
        # index_select copies whole rows, where indexing goes by pixel.
        x = mapped(self.x, lambda tensor: tensor.index_select(0, rows.to(tensor.device)))
        if self.rotations is not None and turns is not None:
            x = rotate(x, turns)
        if isinstance(x, Tensor) and x.dtype == torch.uint8:
            x = x.float().div_(255)
        return x

    def labels(self, rows: Tensor) -> Tensor:
        """The class ids of these examples, int64 `[n]`."""
        return self.y.index_select(0, rows.to(self.y.device))


class ExamplesByClass(Examples):
    """Examples from which classes are drawn, and some of each.

    Args:
        data: as `Examples` takes it; where it has `.names` of its classes, messages use them.
        device: where they are put.
        rotations: `"classes"` makes each class four, one for each of 0, 90, 180, 270 degrees;
            `"tasks"` turns each class of each task by a random one of these.
    """

    def __init__(
        self, data: Labelled, device: torch.device | str, rotations: Rotations = None
    ) -> None:
        super().__init__(data, device, rotations)
        ids, classes, counts = data.y.cpu().unique(return_inverse=True, return_counts=True)
        self.ids, self.counts = ids, counts
        self.names: Sequence[str] | None = getattr(data, "names", None)
        self.table = _examples_by_class(classes, counts)
        self.columns = torch.arange(self.table.shape[1], device="cpu")
        self.uneven = bool((counts < len(self.columns)).any())

    @property
    def classes(self) -> int:
        """How many classes there are; rotated ones count where they are classes."""
        return len(self.counts) * (4 if self.rotations == "classes" else 1)

    def check(self, ways: int, each: int, why: str) -> None:
        """Refuse to draw more than there is.

        Args:
            ways: classes of a task.
            each: examples of each class.
            why: what asks for so many, for the message.

        Raises:
            ValueError: there are fewer classes, or examples of some class.
        """
        if ways > self.classes:
            raise ValueError(
                f"ways={ways} asks for more classes than the {self.classes} in this split"
            )
        smallest = int(self.counts.argmin())
        if each > self.counts[smallest]:
            id_ = int(self.ids[smallest])
            name = id_ if self.names is None else self.names[id_]
            raise ValueError(
                f"{why} {each} examples of a class, and class {name!r} has "
                f"{int(self.counts[smallest])}"
            )

    def draw(
        self, tasks: int, ways: int, each: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Classes and examples of each, both without replacement and in random order.

        Args:
            tasks: T.
            ways: classes of a task, N.
            each: examples of each class, K.
            generator: on the CPU.

        Returns:
            The examples' numbers `[T, N, K]` and the classes' quarter turns `[T, N]`.
        """
        classes = draw_uniform(generator, tasks, self.classes).topk(ways).indices  # [T, N]
        turns = torch.zeros_like(classes)
        if self.rotations == "classes":
            classes, turns = classes // 4, classes % 4
        elif self.rotations == "tasks":
            turns = torch.randint(4, (tasks, ways), generator=generator, device="cpu")
        keys = draw_uniform(generator, tasks, ways, len(self.columns))
        if self.uneven:
            # A class with fewer examples than the widest has none in the table's last columns.
            missing = self.columns >= self.counts[classes][..., None]  # [T, N, M]
            keys = keys.masked_fill(missing, -1.0)
        columns = keys.topk(each).indices  # [T, N, K]
        return self.table[classes[..., None], columns], turns


def mapped(x: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The function of a tensor, or of each tensor of a dict.

    >>> mapped({"input_ids": torch.zeros(2, 3)}, len)
    {'input_ids': 2}
    """
    if isinstance(x, dict):
        return {name: function(tensor) for name, tensor in x.items()}
    return function(x)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each image `[n, C, H, H]` in place, counterclockwise by its quarter turns `[n]`."""
    for quarter in (1, 2, 3):
        these = (turns == quarter).nonzero().squeeze(1).to(x.device)
        x.index_copy_(0, these, x.index_select(0, these).rot90(quarter, (2, 3)))
    return x


def _examples_by_class(classes: Tensor, counts: Tensor) -> Tensor:
    """Row c lists the examples of class c, padded with 0; `[classes, largest count]`."""
    order = classes.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    column = torch.arange(len(classes), device="cpu") - starts[classes[order]]
    table = classes.new_zeros(len(counts), int(counts.max()))
    table[classes[order], column] = order
    return table


def _check(x: Any, y: Any, rotations: Rotations) -> None:
    if rotations not in (None, "classes", "tasks"):
        raise ValueError(f"rotations={rotations!r} is unknown; use None, 'classes' or 'tasks'")
    named = {f"x[{name!r}]": tensor for name, tensor in x.items()} if isinstance(x, dict) else {}
    named = named or {"x": x}
    for name, tensor in {**named, "y": y}.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"{name} is a {type(tensor).__name__} and not a tensor: give "
                "torch.as_tensor(...) of it"
            )
    if y.ndim != 1 or y.is_floating_point() or y.dtype == torch.bool:
        raise ValueError(f"y is one integer class id an example, [n]; got {y.dtype} {[*y.shape]}")
    for name, tensor in named.items():
        if tensor.ndim < (1 if isinstance(x, dict) else 2) or len(tensor) != len(y):
            raise ValueError(
                f"{name} [n, ...] and y [n] differ: {name} is {[*tensor.shape]} and y is "
                f"{[*y.shape]}"
            )
    if len(y) == 0:
        raise ValueError("the data has no examples")
    for name, tensor in named.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{name} has NaN or infinite values; clean or rescale the data first")
    if rotations is None:
        return
    if isinstance(x, dict) or x.ndim != 4 or x.shape[2] != x.shape[3]:
        shape = "a dict" if isinstance(x, dict) else [*x.shape]
        raise ValueError(
            f"rotations={rotations!r} asks for square images [n, C, H, H]; x is {shape}"
        )
