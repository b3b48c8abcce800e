"""Few-shot classification: every learner on the same episodes.

A job trains one learner in one setting with one seed and judges it, transductive and not. What can
be used with any number of classes and examples (a body without a head of its own) is trained once
and judged in every setting; Reptile once for each number of classes, the relation network once for
each number of shots; the others are trained in each setting.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

from metanotes.data import mini_imagenet
from metanotes.evaluation import evaluate
from metanotes.learner import Learner
from metanotes.methods.comparison import map_relation
from metanotes.nets import conv4
from runs.few_shot_entry import CLIP, VALIDATION_TASKS, Entry, ImageSet
from runs.few_shot_learners import CONTENDERS
from runs.jobs import Job, LongRun, Session
from runs.omniglot import Classes, omniglot_classes

TEST_TASKS = 600
TEST_QUERIES = {True: 15, False: 1}  # of a class, transductive or not
FIVE_WAY = {"5-way 1-shot": (5, 1), "5-way 5-shot": (5, 5)}


@cache
def mini_imagenet_classes() -> Classes:
    """mini-ImageNet's 64, 16 and 20 classes, at 42x42."""
    return Classes(*(mini_imagenet(part, size=42) for part in ("train", "val", "test")))


IMAGE_SETS = {
    "few_shot_omniglot": ImageSet(
        title="Omniglot: every learner on unseen characters",
        load=omniglot_classes,
        net=lambda ways, seed: conv4(ways, seed=seed),
        related=lambda seed: (
            conv4(None, seed=seed, halvings=2)[:-1],
            map_relation(64, size=7, seed=seed),
        ),
        features=256,
        rotations="classes",
        many=60,
        settings={**FIVE_WAY, "20-way 1-shot": (20, 1), "20-way 5-shot": (20, 5)},
        scale=1.0,
        about="Omniglot, 1200/423 characters, of the 1200 100 for validation; training characters "
        "in four rotations, each a class; test characters upright. conv4, 64 channels, stride 2",
    ),
    "few_shot_mini_imagenet": ImageSet(
        title="mini-ImageNet: every learner on unseen classes",
        load=mini_imagenet_classes,
        net=lambda ways, seed: conv4(ways, 32, 3, size=42, pool="max", seed=seed),
        related=lambda seed: (
            conv4(None, 32, 3, size=42, pool="max", seed=seed, halvings=2)[:-1],
            map_relation(32, size=10, seed=seed),
        ),
        features=128,
        rotations=None,
        many=20,
        settings=FIVE_WAY,
        scale=0.2,
        about="mini-ImageNet, 64/16/20 classes, at 42x42 rather than the usual 84x84, for speed; "
        "conv4, 32 channels, max-pooling",
    ),
}


def about(name: str) -> dict[str, Any]:
    """The words of the record."""
    images = IMAGE_SETS[name]
    return {
        "title": images.title,
        "config": {
            "data": f"{images.about}. {len(images.load().train.y)} training images",
            "episodes in training": "5 queries a class, with 20 ways 2 (Reptile: 10 examples)",
            "inner": "MAML: rate 0.4, 1 step (with 20 ways 0.8); first-order MAML: 0.1, 1 step "
            "(with 20 ways 0.2, 5 steps); Meta-SGD: rates that start at 0.1, 1 step (with 20 ways "
            "0.4); ANIL: 0.1, 5 steps (with 20 ways 0.3); hyper-representation: rate 0.3, 5 steps; "
            "Reptile: gradient descent, 5 steps, with 20 ways 10, of the rates 0.1, 0.2 and 0.4 "
            "that which did best on validation classes after a tenth of the iterations. All have "
            "features of one length below the head (a LayerNorm without parameters), see "
            "few_shot_recipe",
            "outer": "Adam, its rate rising for the first 2 % of the iterations and then falling "
            "to 0 (cosine), gradient norm at most 10; of the rates 0.0003, 0.001, 0.003, 0.01 and "
            "0.03 (MAML: the middle three) that which did best on validation classes "
            "after a tenth of the iterations. Hyper-representation and classifier: of 0.001, "
            "0.003, 0.01 and 0.03 likewise, falling from the start; Reptile: step 1 falling to 0",
            "older rows": "those of learners that descend and that carry no note (in tables, a °) "
            "were made before: "
            "features of one length for ANIL and the hyper-representation alone, outer rate 0.003 "
            "(hyper-representation 0.008) without search or warm-up, 500 to 5 000 iterations at "
            "5-way 1-shot, see the runs; Reptile with Adam inside and a head at random",
            "comparing": "trained on 1-shot episodes and judged in every setting: prototypical and "
            f"matching network (its temperature learned), {images.many} ways, 3 queries a class; "
            "Siamese network, 20 ways, 5 queries. Relation network: 10 ways, 5 queries, trained "
            "once with 1 shot and once with 5. Of Adam's rates 0.001, 0.003, 0.01 and 0.03, for "
            "the Siamese network, whose first seed was best at the last of them, 0.1 too, that "
            "which did best on validation classes after a tenth of the iterations",
            "heads": "start at zero",
            "hyper-representation": f"trained once on {images.many}-way 1-shot episodes, 3 queries "
            "a class, and judged in every setting; so are the features of fine-tuning and of the "
            "nearest neighbour, a network trained to tell all training classes apart. Fine-tuning: "
            "of the inner rates 0.003, 0.01, 0.03, 0.1, 0.3, 1 and 3 that which did best on "
            "validation classes after 10 steps",
        },
        "protocol": f"{TEST_TASKS} test tasks of unseen classes, the same for all learners; "
        "accuracy with the 95 % interval over tasks. Phi, and the number of steps in testing, are "
        "chosen on the validation classes. Transductive: 15 queries a class in one batch, whose "
        "statistics normalise it; not transductive: one query a class, each predicted on its own, "
        "beside the support set. Runs are short; see their iterations and learning curves.",
        "curve_label": "accuracy, 100 validation tasks",
    }


def jobs(name: str, seeds: Sequence[int]) -> list[Job]:
    """A job a seed, learner and setting."""
    images = IMAGE_SETS[name]
    return [
        _job(Entry(images, learner, setting, seed))
        for seed in seeds
        for learner in CONTENDERS
        for setting in images.settings
    ]


def _job(entry: Entry) -> Job:
    contender = CONTENDERS[entry.learner]
    training = {
        "contender": contender.training(entry),
        "images": entry.images.plain,
        "outer": [CLIP, VALIDATION_TASKS],
    }
    judging = {
        "contender": repr(contender),
        "setting": [entry.ways, entry.shots],
        "steps": contender.test_steps,
        "tasks": [TEST_TASKS, TEST_QUERIES],
    }
    return Job(
        learner=entry.learner,
        seed=entry.seed,
        rows=f"{re.escape(entry.learner)}$",
        work=partial(_work, entry),
        training=training,
        judging=judging,
        setting=entry.setting,
        trained=contender.trainings(entry),
    )


def _work(entry: Entry, session: Session) -> None:
    contender = CONTENDERS[entry.learner]
    learner = contender.learner(entry, session)
    steps = _best_steps(entry, learner, contender.test_steps)
    for transductive, queries in TEST_QUERIES.items():
        score = evaluate(
            learner,
            entry.held_out("test", queries),
            tasks=TEST_TASKS,
            steps=steps,
            transductive=transductive,
        )
        session.score(entry.learner, score, **({} if steps is None else {"steps": steps}))


def _best_steps(entry: Entry, learner: Learner, choice: Sequence[int]) -> int | None:
    """Of some numbers of steps in testing, that which does best on validation classes."""
    if len(choice) < 2:
        return choice[0] if choice else None
    tried = {k: entry.validate(learner, steps=k) for k in choice}
    return max(tried, key=lambda k: tried[k])


RUNS = [
    LongRun(name, f"{text}: every learner", partial(about, name), partial(jobs, name))
    for name, text in (
        ("few_shot_omniglot", "5 and 20 ways, 1 and 5 shots of Omniglot"),
        ("few_shot_mini_imagenet", "5 ways, 1 and 5 shots of mini-ImageNet"),
    )
]
