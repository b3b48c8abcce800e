"""What a reader changes after some calls, done to a learner and to the plain loop alike.

A scenario is a generator: it changes its side, `yield`s where the side is to be asked again, and
puts back what is not the side's own. It may yield other tasks to be asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import metanotes
from metanotes import Batch, Task
from tests.fuzz.draw import Draw
from tests.fuzz.modules import WithConstant
from tests.fuzz.networks import shaken
from tests.fuzz.plain import Plain, Rule
from tests.fuzz.sides import Case


class Mean2d(nn.Module):
    """The mean over an image: `[N, C, H, W]` to `[N, C]`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Scaling(nn.Module):
    """Multiplies with numbers that are kept in every way that Python has."""

    factor: Any = 1.0  # of the class
    everywhere: ClassVar[dict[str, float]] = {"factor": 1.0}

    def __init__(self) -> None:
        super().__init__()
        self.number = 0.9
        self.numbers = [1.1, 0.8]
        self.named = {"factor": 1.2}
        self.array = np.array([0.7, 1.3])
        self.function: Callable[[Tensor], Tensor] = torch.tanh
        self.tensor = torch.tensor(1.05, dtype=torch.float64)  # not a buffer

    def forward(self, x: Tensor) -> Tensor:
        factor = self.number * self.numbers[0] * self.named["factor"] * float(self.array[1])
        return self.function(x) * factor * self.factor * self.everywhere["factor"] * self.tensor


def vectors() -> nn.Module:
    layers = [
        nn.Linear(3, 4),
        nn.Tanh(),
        nn.Linear(4, 4),
        nn.Tanh(),
        nn.Linear(4, 4),
        nn.Softplus(),
    ]
    return nn.Sequential(*layers, nn.Linear(4, 2))


def readers() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), Scaling(), WithConstant(4), nn.Linear(4, 2))


def constant() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), WithConstant(4), nn.Linear(4, 2))


def shared() -> nn.Module:
    """An activation and a weight, each at two of three places."""
    tanh, sigmoid, first, second, third = nn.Tanh(), nn.Sigmoid(), *(LINEAR() for _ in range(3))
    third.weight = first.weight
    layers = [nn.Linear(3, 4), tanh, first, sigmoid, second, tanh, third]
    return nn.Sequential(*layers, nn.Linear(4, 2))


LINEAR = partial(nn.Linear, 4, 4)


def layered() -> nn.Module:
    layers = [nn.Linear(3, 4), nn.LayerNorm(4), nn.LeakyReLU(0.2), nn.Dropout(0.0), nn.Linear(4, 4)]
    return nn.Sequential(*layers, nn.GroupNorm(2, 4), nn.Softmax(1), nn.Linear(4, 2))


def images() -> nn.Module:
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False)]
    layers += [nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 1), nn.GELU(), Mean2d()]
    return nn.Sequential(*layers, nn.Linear(3, 3))


def rows() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 2))


def words() -> nn.Module:
    return nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 2))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vectors": (vectors, (3,)),
    "readers": (readers, (3,)),
    "constant": (constant, (3,)),
    "shared": (shared, (3,)),
    "layered": (layered, (3,)),
    "images": (images, (2, 6, 6)),
    "rows": (rows, (3, 4)),
    "words": (words, (2,)),
}


def begin(network: str = "vectors", method: str = "MAML", **settings: Any) -> Case:
    """A case before any change: 3 tasks of 4 and 5 examples, 2 steps."""
    draw = Draw(11)
    make, size = NETWORKS[network]
    case = Case(0, method, Rule(lr=0.2), steps=2)
    with torch.random.fork_rng(devices=[]):
        case.network = shaken(draw, make())
    tokens = network == "words"
    x, xq = (draw.labels(5, 3, n, *size) if tokens else draw.normal(3, n, *size) for n in (4, 5))
    if network == "images":
        y, yq, case.loss = draw.labels(3, 3, 4), draw.labels(3, 3, 5), metanotes.cross_entropy
    else:
        y, yq, case.loss = draw.normal(3, 4, 2), draw.normal(3, 5, 2), metanotes.mse
    case.tasks = Task(Batch(x, y), Batch(xq, yq))
    for name, value in settings.items():
        setattr(case, name, value)
    if method == "MetaSGD":
        case.rule.kind = "LearnedRates"
        case.rule.rates = {n: torch.full_like(p, 0.2) for n, p in case.network.named_parameters()}
    return case


class Scenario(NamedTuple):
    """A change, and where it begins.

    Args:
        change: the generator.
        case: makes the case.
        tensors: whether nothing but tensors changes, so that recordings must follow.
        part: how far off the results may be, in parts of their size.
        refusable: whether an error of ours is as good as the right value.
        network: the name of its network.
    """

    change: Callable[[Any], Iterator[Task | None]]
    case: Callable[[], Case]
    tensors: bool = False
    part: float = 1e-9
    refusable: bool = False
    network: str = "vectors"


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    network: str = "vectors",
    method: str = "MAML",
    *,
    tensors: bool = False,
    part: float = 1e-9,
    refusable: bool = False,
    **settings: Any,
) -> Callable[[Any], Any]:
    """Enter a change among the scenarios."""

    def enter(change: Callable[[Any], Iterator[Task | None]]) -> Any:
        case = partial(begin, network, method, **settings)
        name = change.__name__.replace("_", " ")
        assert name not in SCENARIOS
        SCENARIOS[name] = Scenario(change, case, tensors, part, refusable, network)
        return change

    return enter


def set_loss(side: Any, loss: Any) -> None:
    """A function in place of a loss that is a module, or the other way round."""
    del side.loss
    side.loss = loss


def package_rule(side: Any, plain: Rule, ours: Any) -> None:
    """Another rule."""
    side.rule = plain if isinstance(side, Plain) else ours


def fill(module: nn.Module) -> nn.Module:
    """Weights that are the same on both sides."""
    return shaken(Draw(21), module)
