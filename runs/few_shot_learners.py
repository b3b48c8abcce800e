"""The learners of the few-shot runs: the settings of each, and how it is trained.

The fields of an object here are a learner's settings: they make the learner, and the digests in the
record are taken of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from metanotes.data import batches
from metanotes.learner import Learner
from metanotes.methods.bilevel import HyperRepresentation
from metanotes.methods.comparison import Classifier, NearestNeighbor
from metanotes.methods.initialization import ANIL, MAML, MetaSGD, Pretrained, Reptile
from metanotes.nets import dense4
from metanotes.update_rules import SGD
from runs.few_shot_comparing import RATES, Compares, Relates
from runs.few_shot_entry import Contender, Entry, Searching, as_text, zero_headed
from runs.jobs import Session

TEST_STEPS = (1, 3, 5, 10, 20)  # of these, the number that does best on validation classes
CLASSES = {kind.__name__: kind for kind in (ANIL, MAML, MetaSGD, Pretrained)}


@dataclass(frozen=True)
class Episodic(Searching):
    """Trained on episodes of its own setting: of the larger tasks, half as many or half as long.

    Args:
        learner_class: a name of `CLASSES`.
        arguments: of the class, beside the network.
        iterations: with one shot; half of them with more.
        rates: see `Searching`.
        batch: tasks; half of them with more ways.
        queries: of a class in training, with few ways and with more.
        warmup: the part of the iterations in which the outer rate rises.
        net: "conv4", the image set's own, its features scaled to one length; or "dense4".
        test_steps: see `Contender`.
        with_more_ways: the fields that have other values there.
    """

    learner_class: str
    arguments: Mapping[str, Any]
    iterations: int = 10000
    rates: tuple[float, ...] = (3e-4, *RATES)
    batch: int = 8
    queries: tuple[int, int] = (5, 2)
    warmup: float = 0.02
    net: Literal["conv4", "dense4"] = "conv4"
    test_steps: tuple[int, ...] = TEST_STEPS
    with_more_ways: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def trained(self, entry: Entry) -> str:
        return f"{entry.learner} {entry.setting}"

    def training(self, entry: Entry) -> dict[str, Any]:
        settings = super().training(entry) | {"setting": [entry.ways, entry.shots]}
        others = settings.pop("with_more_ways")
        return settings | (others if entry.ways > 5 else {})

    def after(
        self, entry: Entry, session: Session, what: str, rate: float, part: int = 1
    ) -> Learner:
        many, shots = entry.ways > 5, entry.shots > 1
        if many and self.with_more_ways:
            other = replace(self, **self.with_more_ways, with_more_ways={})
            return other.after(entry, session, what, rate, part)
        learner = CLASSES[self.learner_class](self.model(entry), **self.arguments)
        queries = self.queries[many]
        entry.train(
            session,
            what,
            learner,
            entry.episodes(queries=queries),
            self.iterations // (part * (2 if shots else 1)),
            self.batch // (2 if many else 1),
            entry.ways * (entry.shots + queries),
            optimizer=torch.optim.Adam(learner.parameters(), lr=rate),
            warmup=self.warmup,
        )
        return learner

    def model(self, entry: Entry) -> nn.Sequential:
        """The network as it starts."""
        if self.net == "dense4":
            image = entry.images.load().train.x.shape[1:]
            return zero_headed(dense4(entry.ways, image[0], image[1], seed=entry.seed))
        return scaled(entry.net())


@dataclass(frozen=True)
class ManySteps(Searching):
    """Reptile, gradient descent inside where the published one has Adam, see `few_shot_recipe`.

    It learns from ten examples of each class, whatever the shots: one training serves both. The
    pairs are for few and for many ways. The rates are those of the steps inside; the outer step
    is 1, falling to 0.
    """

    searched = "inner rate"

    rates: tuple[float, ...] = (0.1, 0.2, 0.4)
    iterations: int = 8000
    steps: tuple[int, int] = (5, 10)
    batch: tuple[int, int] = (10, 20)
    tasks: tuple[int, int] = (5, 2)
    outer_lr: float = 1.0
    test_steps: tuple[int, ...] = TEST_STEPS

    def trained(self, entry: Entry) -> str:
        return f"{entry.learner} {entry.ways}-way"

    def training(self, entry: Entry) -> dict[str, Any]:
        return {**super().training(entry), "ways": entry.ways}

    def judged_in(self, entry: Entry) -> Entry:
        return entry.first(entry.ways)

    def after(
        self, entry: Entry, session: Session, what: str, rate: float, part: int = 1
    ) -> Learner:
        many = entry.ways > 5
        rule, batch = SGD(rate), self.batch[many]
        learner = Reptile(scaled(entry.net()), rule, self.steps[many], batch=batch)
        self.judged_in(entry).train(
            session,
            what,
            learner,
            entry.episodes(shots=9, queries=1),  # ten of each class, support or not
            self.iterations // part,
            self.tasks[many],
            10 * entry.ways,
            optimizer=torch.optim.SGD(learner.parameters(), lr=self.outer_lr),
        )
        return learner


@dataclass(frozen=True)
class ManyWays(Searching):
    """Hyper-representation: trained on episodes of many classes, judged in every setting."""

    inner_lr: float = 0.3
    steps: int = 5
    queries: int = 3
    iterations: int = 6000
    rates: tuple[float, ...] = RATES
    test_steps: tuple[int, ...] = TEST_STEPS

    def trained(self, entry: Entry) -> str:
        return entry.learner

    def judged_in(self, entry: Entry) -> Entry:
        return entry.first()

    def after(
        self, entry: Entry, session: Session, what: str, rate: float, part: int = 1
    ) -> HyperRepresentation:
        many, first = entry.images.many, self.judged_in(entry)
        learner = HyperRepresentation(scaled(entry.net(many)), self.inner_lr, self.steps)
        tasks = entry.episodes(many, shots=1, queries=self.queries)
        adam = torch.optim.Adam(learner.parameters(), lr=rate)
        judged = self.on_body(body_of(learner.model), first)
        images = many * (1 + self.queries)
        iterations = self.iterations // part
        first.train(session, what, learner, tasks, iterations, 1, images, adam, judged)
        return judged

    def on_body(self, body: nn.Module, entry: Entry) -> HyperRepresentation:
        """With a head for the classes of a setting."""
        head = nn.Linear(entry.images.features, entry.ways)
        return HyperRepresentation(nn.Sequential(body, head), self.inner_lr, self.steps)

    def learner(self, entry: Entry, session: Session) -> Learner:
        learner = super().learner(entry, session)
        assert isinstance(learner, HyperRepresentation)
        return self.on_body(body_of(learner.model), entry)


@dataclass(frozen=True)
class OnBody(Searching):
    """What stands on the body of a network that was trained to tell all training classes apart.

    Args:
        head: "neighbour" compares the body's features; "descent" goes down from a head at zero.
        inner_rates: of the descent, of which that is taken which does best on validation classes.
        steps: of the descent, meanwhile; in testing, see `test_steps`.
        batch: images of a minibatch.
        iterations, rates: of the classifier, see `Searching`.
        test_steps: see `Contender`.
    """

    head: Literal["neighbour", "descent"]
    inner_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    steps: int = 10
    batch: int = 128
    iterations: int = 6000
    rates: tuple[float, ...] = RATES
    test_steps: tuple[int, ...] = ()

    def trained(self, entry: Entry) -> str:
        return "classifier"

    def training(self, entry: Entry) -> dict[str, Any]:
        settings = super().training(entry)
        return {name: settings[name] for name in ("batch", "iterations", "rates", "trial")}

    def judged_in(self, entry: Entry) -> Entry:
        return entry.first()

    def after(
        self, entry: Entry, session: Session, what: str, rate: float, part: int = 1
    ) -> NearestNeighbor:
        train, rotations = entry.images.load().train, entry.images.rotations
        classes = len(train.names) * (4 if rotations else 1)
        model, first = scaled(entry.images.net(classes, entry.seed)), self.judged_in(entry)
        classifier, judged = Classifier(model), NearestNeighbor(body_of(model), first.ways)
        tasks = batches(train, self.batch, rotations=rotations, seed=entry.seed)
        adam = torch.optim.Adam(classifier.parameters(), lr=rate)
        iterations = self.iterations // part
        first.train(session, what, classifier, tasks, iterations, 1, self.batch, adam, judged)
        return judged

    def learner(self, entry: Entry, session: Session) -> Learner:
        trained = super().learner(entry, session)
        assert isinstance(trained, NearestNeighbor)
        if self.head == "neighbour":
            return NearestNeighbor(trained.body, entry.ways)
        head = nn.Linear(entry.images.features, entry.ways)
        model = zero_headed(nn.Sequential(trained.body, head))
        accuracies = {
            rate: entry.validate(MAML(model, rate, self.steps)) for rate in self.inner_rates
        }
        best = max(self.inner_rates, key=lambda rate: accuracies[rate])
        session.note = f"inner rate {best:g} ({as_text(accuracies)}), {session.note}"
        return MAML(model, best, self.steps)


@dataclass(frozen=True)
class InPixels(Contender):
    """The nearest neighbour of the images as they are."""

    def learner(self, entry: Entry, session: Session) -> Learner:
        return NearestNeighbor(nn.Flatten(), entry.ways)


def body_of(model: nn.Module) -> nn.Sequential:
    """A sequence of layers but for the last, the head."""
    return nn.Sequential(*list(model.children())[:-1])


def scaled(model: nn.Sequential) -> nn.Sequential:
    """Features of one length below the head, so that one inner rate suits them all the time."""
    *body, head = model
    return nn.Sequential(*body, nn.LayerNorm(head.in_features, elementwise_affine=False), head)


def descends(
    learner_class: str,
    inner_lr: float,
    many: float,
    steps: int = 1,
    more: int = 1,
    rates: tuple[float, ...] = Episodic.rates,
    **how: Any,
) -> Episodic:
    """By what `few_shot_recipe` found; with many ways another inner rate and `more` such steps."""
    return Episodic(
        learner_class,
        {"inner_lr": inner_lr, "steps": steps, **how},
        rates=rates,
        with_more_ways={
            "arguments": {"inner_lr": many, "steps": more * steps, **how},
            "batch": 4,  # halved with more ways
            "iterations": 20000,
        },
    )


ONE_STEP = {"inner_lr": 0.4, "steps": 1}
CONTENDERS: dict[str, Contender] = {
    "hyper-representation": ManyWays(),
    "nearest neighbour in pixels": InPixels(),
    "nearest neighbour in features": OnBody("neighbour"),
    "fine-tuning": OnBody("descent", test_steps=(*TEST_STEPS, 50)),
    "MAML": descends("MAML", 0.4, 0.8, rates=(1e-3, 3e-3, 1e-2)),
    "first-order MAML": descends("MAML", 0.1, 0.2, more=5, first_order=True),
    "ANIL": descends("ANIL", 0.1, 0.3, steps=5),
    "Meta-SGD": descends("MetaSGD", 0.1, 0.4),
    "Reptile": ManySteps(),
    "MAML without convolutions": Episodic("MAML", ONE_STEP, batch=16, net="dense4"),
    "prototypical network": Compares("PrototypicalNetwork", 10000),
    "matching network": Compares("MatchingNetwork", 10000, {"learn_temperature": True}),
    "relation network": Relates(15000),
    # Its pairs are as many as the square of the examples: fewer ways, and more tasks.
    "Siamese network": Compares("SiameseNetwork", 15000, ways=20, queries=5, rates=(*RATES, 0.1)),
    "joint pre-training": Episodic("Pretrained", ONE_STEP),
}
