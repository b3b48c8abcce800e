"""Every learner of the package, small and in float64, with something to learn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import metanotes
from metanotes import SGD, Adam, Batch, Momentum, RMSprop, Task, mse
from metanotes.data import quadratics
from metanotes.methods.architecture import CellNetwork, Spline
from metanotes.methods.comparison import FullContext, map_relation
from metanotes.methods.domains import DomainAdversary, mmd
from metanotes.nets import conv4, lstm, mlp
from tests.methods.datapolicy import minibatches
from tests.methods.memory import remembered, sets
from tests.plainly import image_tasks, shaken


class Case(NamedTuple):
    """A learner, and what it is given."""

    learner: nn.Module
    drawn: Any


def conv(ways: int | None = 5) -> nn.Sequential:
    model = shaken(conv4(ways, channels=4))
    assert isinstance(model, nn.Sequential)
    return model


def net(*sizes: int) -> nn.Sequential:
    """Smooth, so that rounding decides nothing."""
    return mlp(*sizes, activation=nn.Tanh).double()


def headed() -> nn.Sequential:
    """A body and a head."""
    return nn.Sequential(nn.Sequential(*net(2, 6, 5), nn.Tanh()), nn.Linear(5, 3)).double()


def doubled(learner: nn.Module, drawn: Any) -> Case:
    return Case(learner.double(), drawn)


def domains() -> Task:
    """Labelled examples of one domain, and some of another."""
    g = torch.Generator().manual_seed(0)
    x, z = (torch.randn(2, n, 4, generator=g, dtype=torch.float64) for n in (6, 5))
    return Task(Batch(x, torch.arange(6).expand(2, -1) % 2), Batch(z, torch.full((2, 5), -1)))


def stream() -> Task:
    """Class by class."""
    tasks = sets.labelled_tasks()
    order = tasks.support.y.argsort(1)
    x = tasks.support.x.gather(1, order[..., None].expand_as(tasks.support.x))
    return Task(Batch(x, tasks.support.y.gather(1, order)), tasks.query)


def digits() -> Task:
    """Minibatches of images of 8x8."""
    g = torch.Generator().manual_seed(0)
    x, xq = (torch.rand(2, n, 1, 8, 8, generator=g, dtype=torch.float64) for n in (9, 6))
    y, yq = (torch.randint(10, (2, n), generator=g) for n in (9, 6))
    return Task(Batch(x, y), Batch(xq, yq))


def rewarded() -> tuple[Tensor, Tensor]:
    """Architectures and what they are worth."""
    g = torch.Generator().manual_seed(0)
    cells = torch.randint(3, (5, 4), generator=g)
    return cells, torch.rand(5, generator=g, dtype=torch.float64)


class Plainly(metanotes.LookaheadLearner):
    """The least that a learner by a look ahead can be."""

    def training_loss(self, theta: Any, x: Any, y: Tensor, learns: bool) -> Tensor:
        scale = self.policy.weight if learns else self.policy.weight.detach()
        return scale.square().mean() * self.losses_of_each(theta, x, y).mean()


def descending(rule: metanotes.UpdateRule, **settings: Any) -> Callable[[], Case]:
    def case() -> Case:
        learner = metanotes.InnerLoopLearner(net(2, 6, 3), rule, 2, loss=mse, **settings)
        return doubled(learner, sets.vector_tasks())

    return case


def on_images(name: str, *arguments: Any, **settings: Any) -> Callable[[], Case]:
    """A learner whose first argument is a convolutional network with a head."""
    return lambda: Case(getattr(metanotes, name)(conv(), *arguments, **settings), image_tasks())


def comparing(name: str, **settings: Any) -> Callable[[], Case]:
    """A learner whose first argument is a convolutional body."""
    return lambda: doubled(getattr(metanotes, name)(conv(None), 5, **settings), image_tasks())


def on_sets(
    name: str, *arguments: Any, labels: bool = False, **settings: Any
) -> Callable[[], Case]:
    drawn = sets.labelled_tasks if labels else sets.vector_tasks
    return lambda: doubled(getattr(metanotes, name)(*arguments, **settings), drawn())


def with_functions(learner: Callable[[], nn.Module]) -> Callable[[], Case]:
    return lambda: doubled(learner(), quadratics(dim=4, seed=3, dtype=torch.float64)(3))


def optimizing(first_order: bool = True, **settings: Any) -> Callable[[], Case]:
    return with_functions(
        lambda: metanotes.LearningToOptimize(
            metanotes.LSTMRule(hidden=4, **settings), steps=4, unroll=2, first_order=first_order
        )
    )


CASES: dict[str, Callable[[], Case]] = {
    "MAML": on_images("MAML", 0.1, 2),
    "MAML, first order": on_images("MAML", 0.1, 2, first_order=True),
    "MAML, one graph": on_images("MAML", 0.1, 2, keep_graph=True),
    "MAML, less memory": on_images("MAML", 0.1, 3, checkpoint=True),
    "MAML, in groups": on_images("MAML", 0.1, 2, group=2),
    "MAML, minibatches": on_images("MAML", 0.1, 2, batch=3),
    "InnerLoopLearner, Adam": descending(Adam(0.05)),
    "InnerLoopLearner, Momentum": descending(Momentum(0.05, nesterov=True)),
    "InnerLoopLearner, RMSprop": descending(RMSprop(0.05), batch=4),
    "ANIL": on_images("ANIL", 0.1, 2),
    "MetaSGD": on_images("MetaSGD", 0.1, 2),
    "Pretrained": on_images("Pretrained", 0.1, 2),
    "Reptile": on_images("Reptile", SGD(0.1), 2),
    "HyperRepresentation": on_images("HyperRepresentation", 0.1, 2),
    "Classifier": on_images("Classifier"),
    "PrototypicalNetwork": comparing("PrototypicalNetwork"),
    "MatchingNetwork": comparing("MatchingNetwork", learn_temperature=True),
    "MatchingNetwork, full context": lambda: doubled(
        metanotes.MatchingNetwork(net(2, 6), 3, full_context=FullContext(6)), sets.labelled_tasks()
    ),
    "SiameseNetwork": comparing("SiameseNetwork"),
    "LogisticNetwork": comparing("LogisticNetwork", steps=20),
    "RelationNetwork": lambda: doubled(
        metanotes.RelationNetwork(
            conv4(None, channels=4, halvings=2)[:-1], map_relation(4), ways=5
        ),
        image_tasks(),
    ),
    "LearnedActivation": lambda: doubled(
        metanotes.LearnedActivation(
            mlp(2, 6, 3, activation=lambda: Spline(torch.tanh)), inner_lr=0.05, steps=2
        ),
        sets.vector_tasks(),
    ),
    "MetaLearnerLSTM": lambda: doubled(
        metanotes.MetaLearnerLSTM(net(2, 6, 3), steps=2), sets.labelled_tasks()
    ),
    "StreamLearner": lambda: doubled(
        metanotes.StreamLearner(net(2, 6, 3), SGD(0.1), replay=1), stream()
    ),
    "OML": lambda: Case(metanotes.OML(headed(), 0.1), stream()),
    "L2RW": lambda: Case(metanotes.L2RW(net(5, 6, 3)), minibatches.minibatches()),
    "MetaWeightNet": lambda: doubled(
        metanotes.MetaWeightNet(net(5, 6, 3), 0.1), minibatches.minibatches()
    ),
    "LookaheadLearner": lambda: doubled(
        Plainly(net(5, 6, 3), 0.1, nn.Linear(2, 2)), minibatches.minibatches()
    ),
    "LearnedAugmentation": lambda: doubled(
        metanotes.LearnedAugmentation(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), inner_lr=0.1),
        minibatches.image_minibatches(),
    ),
    "DomainAdaptation": lambda: doubled(
        metanotes.DomainAdaptation(
            net(4, 5, 3), nn.Linear(3, 2), similarity=DomainAdversary(nn.Linear(3, 1)), ramp=5
        ),
        domains(),
    ),
    "DSN": lambda: doubled(
        metanotes.DSN(
            *(net(4, 5, 3), nn.Linear(3, 2), net(4, 5, 3), net(4, 6, 3), net(3, 4)), similarity=mmd
        ),
        domains(),
    ),
    "HyperNetwork": on_sets("HyperNetwork", net(2, 4, 3), inputs=2, outputs=3, hidden=6),
    "InContextLearner": on_sets(
        "InContextLearner", inputs=2, outputs=3, width=8, heads=2, layers=1
    ),
    "NeuralProcess": on_sets("NeuralProcess", inputs=2, outputs=3, hidden=6),
    "NeuralStatistician": on_sets(
        "NeuralStatistician",
        net(2, 8, 8),
        net(4 + 3, 8, 4),
        ways=3,
        context=3,
        latent=4,
        likelihood="normal",
        labels=True,
    ),
    "RecurrentLearner": on_sets("RecurrentLearner", inputs=2, outputs=3, hidden=4),
    "SequenceLearner": lambda: doubled(
        metanotes.SequenceLearner(lstm(7, 3, hidden=6), ways=3), remembered.sampler()(5)
    ),
    "MANN": lambda: doubled(
        metanotes.MANN(4, 3, hidden=6, slots=5, width=7, heads=2), remembered.sampler()(5)
    ),
    "MemoryModule": lambda: doubled(
        metanotes.MemoryModule(nn.Linear(4, 6), slots=9), remembered.sampler()(5)
    ),
    "LearningToOptimize": optimizing(),
    "LearningToOptimize, unfused": optimizing(fused=False, preprocess=None),
    "LearningToOptimize, second order": optimizing(first_order=False, fused=False),
    "StepSizeController": with_functions(lambda: metanotes.StepSizeController(lr=0.01, steps=3)),
    "DARTS": lambda: doubled(metanotes.DARTS(CellNetwork(), inner_lr=0.05), digits()),
    "OneShot": lambda: doubled(metanotes.OneShot(CellNetwork()), digits()),
    "Controller": lambda: doubled(metanotes.Controller([3] * 4, hidden=5), rewarded()),
    "DatasetDistillation": lambda: doubled(
        metanotes.DatasetDistillation(
            lambda seed: mlp(2, 4, 3, seed=seed), 0.1, 2, classes=3, shape=(2,)
        ),
        sets.labelled_tasks(),
    ),
    "MetaDistillation": lambda: doubled(
        metanotes.MetaDistillation(net(2, 4, 3), 0.1, teacher=net(2, 6, 3)), sets.labelled_tasks()
    ),
}

# Bases, that a learner fills in; rules, which learners above have; and what learns nothing.
NO_CASES = frozenset(
    (
        *("Learner", "Comparing", "UpdateRule"),
        *("SGD", "GatedRule", "LSTMRule", "LearnedRates", "TensorRates"),
        *("Adam", "Momentum", "RMSprop"),
        *("GaussianProcess", "NearestNeighbor"),
    )
)


def losses_and_gradients(case: Case) -> list[Tensor]:
    """What `forward` gives and the gradient of its mean, and likewise each of its turns."""
    learner, drawn = case
    phi = [p for p in learner.parameters() if p.requires_grad]
    numbers: list[Tensor] = []

    def pull_back(losses: Tensor) -> None:
        gradient = torch.autograd.grad(losses.mean(), phi, materialize_grads=True)
        numbers.extend((losses.detach(), *gradient))

    turns: Any = getattr(learner, "turns", None)
    if turns is None:
        pull_back(learner(drawn))
    else:
        for turn in turns(drawn):
            pull_back(turn[1] if isinstance(turn, tuple) else turn)
    return numbers
