"""A space of cells so small that every one of them can be trained.

    n_2 = b(n_0) + c(a(n_0)),    a, b, c each of none, skip, conv, pool                       (1)

That makes 64 cells. Not all of them are different functions: `skip` before or after an operation
does nothing, a path with `none` on it is no path, and the two terms may change places. 26 are left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metanotes._ground.checks import count, counts, positive
from metanotes._ground.randomness import seeded
from metanotes.methods.architecture.mixed_operation import Choice, MixedOperation

OPERATIONS = ("none", "skip", "conv", "pool")
CELLS = tuple(product(OPERATIONS, repeat=3))

MakeEdge = Callable[[int, int], nn.Module]  # of a number of channels and the place in the cell


class Zero(nn.Module):
    """The operation "none": nothing comes through."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def operation(name: str, channels: int, *, running_statistics: bool = True) -> nn.Module:
    """One of the four operations, from `[N, channels, H, W]` to the same shape.

    Args:
        name: "none"; "skip"; "conv", a ReLU, a 3x3 convolution and batch normalization; or "pool",
            the mean over 3x3 pixels and batch normalization. The normalization has no weights.
        channels: of the maps, at least 1.
        running_statistics: of the normalization; see `metanotes.nets.conv4`.

    Raises:
        ValueError: another name.

    >>> operation("conv", 8)(torch.zeros(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """
    channels = count("channels", channels)
    norm = nn.BatchNorm2d(channels, affine=False, track_running_stats=running_statistics)
    if name == "none":
        return Zero()
    if name == "skip":
        return nn.Identity()
    if name == "conv":
        return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 3, 1, 1, bias=False), norm)
    if name == "pool":
        return nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), norm)
    raise ValueError(f"operation {name!r} is none of {', '.join(OPERATIONS)}")


class DigitCell(nn.Module):
    """Equation (1), of whatever stands on its three edges.

    Args:
        channels: of the maps.
        make: makes what stands on an edge, from the number of channels and the place in a, b, c.

    >>> cell = DigitCell(4, lambda channels, place: nn.Identity())
    >>> cell(torch.ones(1, 4, 8, 8)).unique()                   # x + x
    tensor([2.])
    """

    def __init__(self, channels: int, make: MakeEdge) -> None:
        super().__init__()
        self.a, self.b, self.c = (make(channels, place) for place in range(3))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(x) + self.c(self.a(x))
        return result


class CellNetwork(nn.Module):
    """A small image classifier made of two cells, with a choice of operations on their edges.

    A convolution to 4 channels, the cell, a 1x1 convolution to 8, a ReLU and 2x2 max-pooling, the
    same cell again, the mean over the image and a linear layer.

    Args:
        cell: the operations a, b, c of both cells, by name; or None: all four on every edge, as
            mixed operations, whose alphas the two cells share.
        channels: of the first cell, at least 1; the second has twice as many.
        classes: outputs, at least 2.
        seed: of the initial weights (PyTorch's default initialisation).

    Raises:
        ValueError: a cell of other than three operations, a name that is none of them, or a count
            that is too small.

    >>> CellNetwork(("skip", "conv", "conv"))(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    >>> sum(p.numel() for p in CellNetwork().parameters())       # all operations, and 3 x 4 alphas
    2342
    """

    def __init__(
        self,
        cell: Sequence[str] | None = None,
        *,
        channels: int = 4,
        classes: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        counts(channels=channels)
        if cell is not None and (len(cell) != 3 or not set(cell) <= set(OPERATIONS)):
            raise ValueError(
                f"cell={tuple(cell)} must be three of the operations {', '.join(OPERATIONS)}"
            )
        alphas = [nn.Parameter(torch.zeros(len(OPERATIONS))) for _ in range(3)]

        def edge(channels: int, place: int) -> nn.Module:
            if cell is not None:
                return operation(cell[place], channels)
            return MixedOperation(
                {n: operation(n, channels, running_statistics=False) for n in OPERATIONS},
                alphas[place],
            )

        with seeded(seed):
            self.stem = nn.Conv2d(1, channels, 3, 1, 1)
            self.first = DigitCell(channels, edge)
            self.between = nn.Sequential(
                nn.Conv2d(channels, 2 * channels, 1), nn.ReLU(), nn.MaxPool2d(2)
            )
            self.second = DigitCell(2 * channels, edge)
            self.head = nn.Linear(2 * channels, count("classes", classes, least=2))

    def forward(self, x: Tensor) -> Tensor:
        features = self.second(self.between(self.first(self.stem(x))))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def function_of(cell: Sequence[str]) -> Choice:
    """The one of the 26 that computes the same as a cell: the first of them in `CELLS`.

    >>> function_of(("conv", "conv", "skip")), function_of(("pool", "conv", "none"))
    (('skip', 'conv', 'conv'), ('none', 'conv', 'none'))
    >>> len({function_of(cell) for cell in CELLS})
    26
    """
    return FIRST[terms(cell)]


def terms(cell: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """What a cell adds up, in alphabetical order, each term as the operations that work in turn."""
    a, b, c = cell
    paths = []
    for path in ((b,), (a, c)):
        if "none" not in path:
            paths.append(tuple(name for name in path if name != "skip"))
    return tuple(sorted(paths))


FIRST = {terms(cell): cell for cell in reversed(CELLS)}


def train_classifier(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int = 8,
    batch: int = 40,
    lr: float = 0.1,
    seed: int = 0,
) -> None:
    """Ordinary training: SGD with Nesterov's momentum .9, whose rate falls to 0 by half a cosine.

    Args:
        net: from `[N, ...]` to `[N, classes]`; trained in place.
        x, y: examples `[n, ...]`, real, and labels `[n]`.
        epochs: how often each example is seen, at least 1.
        batch: examples of a minibatch, at least 1; those that are left over at an epoch's end wait
            for the next.
        lr: the first rate, above 0.
        seed: of the order.

    Raises:
        ValueError: a count below 1, a rate that is not above 0, or a batch larger than the set.

    >>> net = CellNetwork(("none", "conv", "none"))
    >>> train_classifier(net, torch.rand(40, 1, 8, 8), torch.arange(40) % 10, epochs=1)
    """
    counts(epochs=epochs, batch=batch)
    steps = len(y) // batch
    if steps == 0:
        raise ValueError(f"batch={batch} is larger than the set of {len(y)} examples")
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=positive("lr", lr), momentum=0.9, nesterov=True
    )
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(y), generator=generator)
        for rows in order[: steps * batch].view(steps, batch):
            loss = cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
