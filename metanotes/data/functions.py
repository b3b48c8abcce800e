"""Functions to be minimised: what an optimizer is trained and judged on.

Where a learner of models meets tasks, a learner of optimizers meets functions f, drawn from a
family. T of them are worked on at once, each with parameters theta of its own. A function that is
the training loss of a network shows another minibatch at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from metanotes._ground import checks
from metanotes.data.labelled import Examples, Labelled
from metanotes.data.sampler import Sampler
from metanotes.task import Batch, Functions

Theta = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


class FunctionSampler(Sampler[Functions]):
    """A stream of functions: `sampler(30)` draws the next 30, with all their minibatches.

    >>> sampler = quadratics(dim=3, seed=0)
    >>> isinstance(sampler, FunctionSampler), sampler(30).theta["theta"].shape
    (True, torch.Size([30, 3]))
    """


class QuadraticSampler(FunctionSampler):
    """The stream of functions that `quadratics` returns.

    >>> quadratics(dim=3, seed=0).config()
    {'kind': 'quadratics', 'dim': 3, 'seed': 0}
    """

    def __init__(self, dim: int, seed: int, dtype: torch.dtype, device: torch.device | str):
        super().__init__(seed, device)
        self.dim, self.dtype = checks.count("dim", dim), dtype

    def config(self) -> dict[str, Any]:
        return {"kind": "quadratics", "dim": self.dim, "seed": self.seed}

    def _draw(self, tasks: int) -> Functions:
        shapes = (tasks, self.dim, self.dim), (tasks, self.dim)
        W, y = (
            torch.randn(s, generator=self.generator, dtype=torch.float64, device="cpu").to(
                self.device, self.dtype
            )
            for s in shapes
        )
        return Functions(_square, {"theta": torch.zeros_like(y)}, repeat(Batch(W, y)))


def _square(theta: Theta, W: Tensor, y: Tensor) -> Tensor:
    return (W @ theta["theta"] - y).square().sum()


def quadratics(
    dim: int = 10,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> QuadraticSampler:
    """Random quadratic functions, f(theta) = ||W theta - y||^2, minimised from theta = 0.

    Args:
        dim: of theta and y; W is square. All entries are standard normal.
        seed: where the stream starts.
        dtype: of the numbers; the functions are the same in each, up to rounding.
        device: where they are put.

    Returns:
        A sampler: `sampler(T)` is `Functions`, theta `[T, dim]`, x = W `[T, dim, dim]`, y
        `[T, dim]`, the same at every step.

    Raises:
        ValueError: `dim` is not positive, or the device does not exist.

    Source: Andrychowicz et al., "Learning to learn by gradient descent by gradient descent",
    NeurIPS 2016, section 3.1.

    >>> functions = quadratics(dim=10, seed=0)(64)
    >>> W, y = next(functions.batches)
    >>> W.shape, functions.theta["theta"].shape
    (torch.Size([64, 10, 10]), torch.Size([64, 10]))
    """
    return QuadraticSampler(dim, seed, dtype, device)


class NetworkSampler(FunctionSampler):
    """The stream of functions that `networks` returns."""

    def __init__(
        self,
        make: Callable[[int], nn.Module],
        data: Labelled,
        size: int,
        loss: Loss,
        seed: int,
        device: torch.device | str,
    ):
        super().__init__(seed, device)
        self.make, self.size, self.loss = make, checks.count("size", size), loss
        if isinstance(data.x, Mapping):
            raise ValueError("data.x is a dict; the networks of `networks` take one tensor")
        self.examples = Examples(data, self.device)
        self.model = make(0).to(self.device)

    def config(self) -> dict[str, Any]:
        return {
            "kind": "networks",
            "model": repr(self.model),
            "size": self.size,
            "examples": len(self.examples),
            "shape": self.examples.shape,
            "seed": self.seed,
        }

    def function(self, theta: Theta, x: Tensor, y: Tensor) -> Tensor:
        """f of one network: the loss on a minibatch."""
        return self.loss(functional_call(self.model, theta, (x,)), y)

    def _draw(self, tasks: int) -> Functions:
        seeds = torch.randint(2**31, (tasks + 1,), generator=self.generator, device="cpu").tolist()
        starts = [dict(self.make(seed).named_parameters()) for seed in seeds[1:]]
        theta = {
            name: torch.stack([start[name].detach() for start in starts]).to(self.device)
            for name in starts[0]
        }
        return Functions(self.function, theta, self._batches(tasks, seeds[0]))

    def _batches(self, tasks: int, seed: int) -> Iterator[Batch]:
        generator, shape = torch.Generator("cpu").manual_seed(seed), (tasks, self.size)
        while True:
            rows = torch.randint(len(self.examples), shape, generator=generator, device="cpu")
            rows = rows.flatten()
            x, y = self.examples.inputs(rows), self.examples.labels(rows)
            yield Batch(x.unflatten(0, shape), y.view(shape))


def networks(
    make: Callable[[int], nn.Module],
    data: Labelled,
    size: int = 128,
    *,
    loss: Loss = cross_entropy,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> NetworkSampler:
    """The training loss of a network as a function of its weights.

    What is random is where the weights start, and which minibatch is seen at each step.

    Args:
        make: from a seed to a network with its initial weights.
        data: anything with inputs `.x` `[n, ...]` (uint8 in 0..255, or real numbers) and class ids
            `.y` `[n]`.
        size: examples of a minibatch, drawn with replacement.
        loss: from outputs `[size, ...]` and targets `[size]` to a scalar.
        seed: where the stream starts.
        device: where the data is kept.

    Returns:
        A sampler: `sampler(T)` is `Functions`, theta by the network's names, `[T, ...]`, and
        another x `[T, size, ...]` and y `[T, size]` at every step. To give the same weights and
        minibatches to several optimizers, draw again from `sampler.restarted()`.

    Raises:
        ValueError: `size` is not positive, or the data is not as above.

    >>> from metanotes.data import digits
    >>> from metanotes.nets import mlp
    >>> make = lambda seed: torch.nn.Sequential(torch.nn.Flatten(), *mlp(64, 20, 10, seed=seed))
    >>> functions = networks(make, digits("sklearn", size=8), size=32)(5)
    >>> {name: tuple(t.shape) for name, t in functions.theta.items()}["1.weight"]
    (5, 20, 64)
    >>> next(functions.batches).x.shape
    torch.Size([5, 32, 1, 8, 8])
    """
    return NetworkSampler(make, data, size, loss, seed, device)
