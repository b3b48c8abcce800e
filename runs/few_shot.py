"""Few-shot classification: every learner of Part I on the same episodes.

A run trains one learner with one seed, and each of its scores goes to the record at once. Given
again, the command goes on with the run that was interrupted and leaves out those that are done.
What can be used with any number of classes and examples (a body without a head of its own) is
trained once and judged in every setting; Reptile once for each number of classes; the others are
trained in each setting.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from metanotes.data import Images, Sampler, batches, episodes, mini_imagenet, omniglot
from metanotes.evaluation import evaluate
from metanotes.inner_loop_learner import InnerLoopLearner
from metanotes.learner import Learner
from metanotes.methods.bilevel import HyperRepresentation
from metanotes.methods.comparison import Classifier, NearestNeighbor
from metanotes.methods.initialization import ANIL, MAML, MetaSGD, Pretrained, Reptile
from metanotes.nets import conv4, dense4
from metanotes.training import meta_train
from metanotes.update_rules import Adam
from runs.omniglot_maml import split_classes
from runs.record import Record, Stopwatch

Settings = dict[str, tuple[int, int]]  # name -> ways, shots
TEST_TASKS = 600
TEST_STEPS = (1, 3, 5, 10, 20)  # of these, the number that does best on validation classes


@dataclass(frozen=True)
class Data:
    """A data set, and what is made of it.

    Args:
        title: of the record.
        load: training, validation and test classes.
        net: `net(ways, seed)`, an `nn.Sequential` that ends in a linear head.
        features: how many the head takes.
        rotations: what the training classes are turned to.
        many: the ways of episodes for a body that serves any number of them.
        settings: by name, ways and shots.
        scale: iterations of a run, relative to those of `LEARNERS`.
        about: the data, in a sentence.
    """

    title: str
    load: Callable[[], tuple[Images, Images, Images]]
    net: Callable[[int, int], nn.Sequential]
    features: int
    rotations: Literal["classes"] | None
    many: int
    settings: Settings
    scale: float
    about: str


def _omniglot() -> tuple[Images, Images, Images]:
    train = omniglot("train", protocol="1200/423")
    return *split_classes(train, 1100, seed=0), omniglot("test", protocol="1200/423")


def _mini_imagenet() -> tuple[Images, Images, Images]:
    return (
        mini_imagenet("train", size=42),
        mini_imagenet("val", size=42),
        mini_imagenet("test", size=42),
    )


FIVE_WAY = {"5-way 1-shot": (5, 1), "5-way 5-shot": (5, 5)}
DATA = {
    "few_shot_omniglot": Data(
        title="Omniglot: every learner of Part I on unseen characters",
        load=cache(_omniglot),
        net=lambda ways, seed: conv4(ways, seed=seed),
        features=256,
        rotations="classes",
        many=60,
        settings={**FIVE_WAY, "20-way 1-shot": (20, 1), "20-way 5-shot": (20, 5)},
        scale=1.0,
        about="Omniglot, 1200/423 characters, of the 1200 100 for validation; training characters "
        "in four rotations, each a class; test characters upright. conv4, 64 channels, stride 2",
    ),
    "few_shot_mini_imagenet": Data(
        title="mini-ImageNet: every learner of Part I on unseen classes",
        load=cache(_mini_imagenet),
        net=lambda ways, seed: conv4(ways, 32, 3, size=42, pool="max", seed=seed),
        features=128,
        rotations=None,
        many=20,
        settings=FIVE_WAY,
        scale=0.2,
        about="mini-ImageNet, 64/16/20 classes, at 42x42 rather than the usual 84x84, for speed; "
        "conv4, 32 channels, max-pooling",
    ),
}


@dataclass(frozen=True)
class Run:
    """One learner's run: where it gets its tasks, and where it keeps its checkpoint."""

    data: Data
    record: Record
    learner: str
    setting: str
    seed: int

    @property
    def ways(self) -> int:
        return self.data.settings[self.setting][0]

    @property
    def shots(self) -> int:
        return self.data.settings[self.setting][1]

    def net(self, ways: int | None = None) -> nn.Sequential:
        """The network, its head at zero: at the start no class differs from another."""
        model = self.data.net(self.ways if ways is None else ways, self.seed)
        for p in model[-1].parameters():
            nn.init.zeros_(p)
        return model

    def path(self, what: str) -> Path:
        return self.record.runs / re.sub(r"\W+", "-", f"{what} {self.seed}".lower())

    def episodes(
        self, ways: int | None = None, shots: int | None = None, queries: int = 5
    ) -> Sampler:
        """Training episodes."""
        ways, shots = ways or self.ways, shots or self.shots
        train = self.data.load()[0]
        return episodes(train, ways, shots, queries, rotations=self.data.rotations, seed=self.seed)

    def train(
        self,
        learner: Learner,
        tasks: Sampler,
        iterations: int,
        batch: int,
        validated: Learner | None = None,
        what: str | None = None,
        outer: Callable[[Any], torch.optim.Optimizer] | None = None,
    ) -> None:
        """Train, and note the curve and the time.

        Args:
            learner: what is trained.
            tasks: training tasks.
            iterations: how many, before the scale of the data.
            batch: tasks in a batch.
            validated: what the validation tasks are given to; default: the learner.
            what: names the checkpoint; default: the learner and the setting.
            outer: makes the outer optimizer; default: Adam. Its rate falls to 0.
        """
        iterations = max(1, int(iterations * self.data.scale))
        phi = [p for p in learner.parameters() if p.requires_grad]
        optimizer = outer(phi) if outer else torch.optim.Adam(phi, lr=3e-3)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
        what = what or f"{self.learner} {self.setting}"
        watch = Stopwatch(self.path(what).with_suffix(".seconds"))

        def validate(_: Learner) -> float:
            watch.note()
            judged = learner if validated is None else validated
            return evaluate(judged, self.held_out(1), tasks=100, transductive=True).mean

        history = meta_train(
            learner,
            tasks,
            iterations,
            tasks=batch,
            optimizer=optimizer,
            scheduler=falling,
            clip=10.0,
            validate=validate,
            validate_every=max(1, iterations // 10),
            checkpoint=self.path(what).with_suffix(".pt"),
            checkpoint_every=max(1, iterations // 20),
        )
        watch.note()
        self.record.reload()
        content = self.record.content
        if (what, self.seed) in {(run["what"], run["seed"]) for run in content["runs"]}:
            return
        at, values = zip(*history.validation, strict=True)
        content["runs"].append(
            {
                "what": what,
                "seed": self.seed,
                "iterations": iterations,
                "tasks in a batch": batch,
                "seconds": round(watch.seconds()),
                "curve": {"iteration": at, "value": [round(v, 4) for v in values]},
            }
        )
        content["wall_seconds"].append(round(watch.seconds()))
        self.record.write()

    def held_out(self, which: int, queries: int = 15) -> Sampler:
        """Episodes of the validation (1) or test (2) classes, the same for all learners."""
        return episodes(
            self.data.load()[which], self.ways, self.shots, queries, seed=1_000_000 * which
        )


# --------------------------------------------------------------------------------- the learners


def _episodic(
    make: Callable[[nn.Sequential], Learner], iterations: int
) -> Callable[[Run], Learner]:
    """A learner that is trained on episodes of its own setting."""

    def trained(run: Run) -> Learner:
        learner = make(run.net())
        _train_on_episodes(run, learner, iterations, batch=8)
        return learner

    return trained


def _train_on_episodes(run: Run, learner: Learner, iterations: int, batch: int) -> None:
    """As many iterations as given at 5-way 1-shot, and fewer of the larger tasks."""
    many, few = run.ways > 5, run.shots == 1
    iterations //= (2 if many else 1) * (1 if few else 2)
    run.train(learner, run.episodes(), iterations, batch // (4 if many else 1))


def _maml_without_convolutions(run: Run) -> Learner:
    image = run.data.load()[0].x.shape[1:]
    model = dense4(run.ways, image[0], image[1], seed=run.seed)
    for p in model[-1].parameters():
        nn.init.zeros_(p)
    learner = MAML(model, inner_lr=0.4)
    _train_on_episodes(run, learner, 5000, batch=16)
    return learner


def _reptile(run: Run) -> Learner:
    """As published, but for the number of iterations: Adam inside, its first moment off.

    It learns from ten examples of each class, whatever the shots: one run serves both settings.
    """
    many = run.ways > 5
    rule = Adam(lr=5e-4 if many else 1e-3, betas=(0.0, 0.999))
    model = run.data.net(run.ways, run.seed)
    learner = Reptile(model, rule, steps=10 if many else 5, batch=20 if many else 10)
    tasks = run.episodes(shots=9, queries=1)  # ten of each class, support or not
    outer = partial(torch.optim.SGD, lr=1.0)
    what = f"{run.learner} {run.ways}-way"
    run.train(learner, tasks, 1000 if many else 4000, 5, what=what, outer=outer)
    learner.steps = 50
    return learner


def _scaled(model: nn.Sequential) -> nn.Sequential:
    """Features of one length below the head, so that one inner rate suits them all the time."""
    *body, head = model
    return nn.Sequential(*body, nn.LayerNorm(head.in_features, elementwise_affine=False), head)


def _hyper_representation(run: Run) -> Learner:
    """Trained on episodes of many classes, judged in every setting."""
    learner = HyperRepresentation(_scaled(run.net(run.data.many)), inner_lr=0.3, steps=5)
    body = list(learner.model.children())[:-1]
    judged = HyperRepresentation(
        nn.Sequential(*body, nn.Linear(run.data.features, run.ways)), inner_lr=0.3, steps=5
    )
    tasks = run.episodes(run.data.many, shots=1, queries=3)
    outer = partial(torch.optim.Adam, lr=8e-3)
    run.train(learner, tasks, 6000, 1, judged, what=run.learner, outer=outer)
    return judged


def _body(run: Run) -> nn.Sequential:
    """The body of a network that was trained to tell all training classes apart."""
    train = run.data.load()[0]
    classes = len(train.names) * (4 if run.data.rotations else 1)
    model = run.data.net(classes, run.seed)
    body = nn.Sequential(*list(model)[:-1])
    tasks = batches(train, 128, rotations=run.data.rotations, seed=run.seed)
    judged = NearestNeighbor(body, run.ways)
    run.train(Classifier(model), tasks, 6000, 1, judged, what="classifier")
    return body


def _fine_tuning(run: Run) -> Learner:
    model = nn.Sequential(*_body(run), nn.Linear(run.data.features, run.ways))
    for p in model[-1].parameters():
        nn.init.zeros_(p)
    return MAML(model, inner_lr=0.05, steps=20)


def _joint(run: Run) -> Learner:
    learner = Pretrained(run.net(), inner_lr=0.4, steps=1)
    _train_on_episodes(run, learner, 500, batch=8)
    return learner


LEARNERS: dict[str, Callable[[Run], Learner]] = {
    "hyper-representation": _hyper_representation,
    "nearest neighbour in pixels": lambda run: NearestNeighbor(nn.Flatten(), run.ways),
    "nearest neighbour in features": lambda run: NearestNeighbor(_body(run), run.ways),
    "fine-tuning": _fine_tuning,
    "MAML": _episodic(lambda net: MAML(net, inner_lr=0.4), 3000),
    "first-order MAML": _episodic(lambda net: MAML(net, inner_lr=0.4, first_order=True), 4000),
    "ANIL": _episodic(lambda net: ANIL(_scaled(net), inner_lr=0.3, steps=5), 5000),
    "Meta-SGD": _episodic(lambda net: MetaSGD(net, inner_lr=0.4), 3000),
    "Reptile": _reptile,
    "MAML without convolutions": _maml_without_convolutions,
    "joint pre-training": _joint,
}


# -------------------------------------------------------------------------------------- the runs


def run(name: str, learners: str, settings: str, seeds: list[int]) -> None:
    """Make or complete a record, one seed after the other.

    Args:
        name: of the record, one of `DATA`.
        learners: a regular expression; only these.
        settings: likewise.
        seeds: of training.
    """
    data = DATA[name]
    record = Record(
        name,
        title=data.title,
        config={
            "data": f"{data.about}. {len(data.load()[0].y)} training images",
            "episodes in training": "5 queries a class (Reptile: 10 examples a class)",
            "inner": "MAML, Meta-SGD: rate 0.4, 1 step; ANIL, hyper-representation: rate 0.3, "
            "5 steps, features scaled to one length; Reptile: Adam, 5 or 10 steps",
            "outer": "Adam, rate 0.003 (hyper-representation: 0.008) falling to 0 (cosine), "
            "gradient norm at most 10; Reptile: step 1 falling to 0",
            "heads": "start at zero, but Reptile's",
            "hyper-representation": f"trained once on {data.many}-way 1-shot episodes, 3 queries a "
            "class, and judged in every setting; so are the features of fine-tuning and of the "
            "nearest neighbour, a network trained to tell all training classes apart",
        },
        protocol=f"{TEST_TASKS} test tasks of unseen classes, the same for all learners; accuracy "
        "with the 95 % interval over tasks. Phi, and the number of steps in testing, are chosen on "
        "the validation classes. Transductive: 15 queries a class in one batch, whose statistics "
        "normalise it; not transductive: one query a class, each predicted on its own, beside the "
        "support set. Runs are short; see their iterations and learning curves.",
        seeds=[],
        runs=[],
    )
    wanted = [
        Run(data, record, learner, setting, seed)
        for seed in seeds
        for learner in LEARNERS
        for setting in data.settings
        if re.search(learners, learner) and re.search(settings, setting)
    ]
    for one in wanted:
        record.reload()
        rows = record.content["rows"]
        done = {(row["name"], row["setting"], row["seed"]) for row in rows}
        if (one.learner, one.setting, one.seed) not in done:
            _judge(one, LEARNERS[one.learner](one))


def _judge(one: Run, learner: Learner) -> None:
    """The rows of a trained learner: with and without transduction."""
    steps = None
    if isinstance(learner, Reptile):
        steps = 50
    elif isinstance(learner, InnerLoopLearner):
        held_out = one.held_out(1)
        tried = {
            k: evaluate(learner, held_out, tasks=100, steps=k, transductive=True).mean
            for k in TEST_STEPS
        }
        steps = max(tried, key=lambda k: tried[k])
    scores = [
        evaluate(
            learner,
            one.held_out(2, queries),
            tasks=TEST_TASKS,
            steps=steps,
            transductive=transductive,
        )
        for transductive, queries in ((True, 15), (False, 1))
    ]
    more = {"setting": one.setting} | ({} if steps is None else {"steps": steps})
    one.record.reload()
    for score in scores:
        one.record.add(one.learner, score, one.seed, **more)
    one.record.content["seeds"] = sorted({row["seed"] for row in one.record.content["rows"]})
    one.record.write()
