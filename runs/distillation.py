"""Distillation: a teacher who knows no more, one who does, and one who learns to teach."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, one_hot

from metanotes.data import digits
from metanotes.evaluation import evaluate
from metanotes.methods.teaching import MetaDistillation, distillation_loss
from metanotes.nets import mlp
from metanotes.task import Batch, Task
from metanotes.training import meta_train
from runs.data_policy import part, standing
from runs.jobs import Job, LongRun, Session

PIXELS, SIDE = 196, 14
TEACHER_UNITS, STUDENT_UNITS = 128, 16
OTHERS, TAUGHT, QUIZ, CHOICE = 20_000, 400, 100, 1000  # images of the training set
SEEN = 4000  # the first images of the test set, which trials looked at; the rest are the test
TEACHER_STEPS, TEACHER_SIZE, TEACHER_RATE = 600, 128, 3e-3  # Adam
STEPS, SIZE, RATE = 1000, 64, 0.3  # the student's: SGD
TEMPERATURE, WEIGHT = 4.0, 0.5
SMOOTHING = (0.05, 0.1, 0.2)
SURE = 0.9  # the probability of the right class with which a soft label starts
PILOT_RATES = (1e-6, 1e-5, 1e-4, 1e-3)  # of the teacher's Adam
LABEL_RATES = (0.003, 0.03, 0.3)  # of the soft labels' Adam
MARKS = 10

SAME, MORE = "teacher of the same 400", "teacher of 20 000 others"
TEACHER, ALONE, SMOOTHED, DISTILLED = "teacher", "student alone", "label smoothing", "distilled"
ALONE_ALL, DISTILLED_ALL = "student alone, quiz too", "distilled, quiz too"
PILOT, LABELS = "teacher by pilot steps", "soft labels by pilot steps"
SHORT = (TEACHER, ALONE, SMOOTHED, DISTILLED)
METHODS = {SAME: SHORT, MORE: (*SHORT, ALONE_ALL, DISTILLED_ALL, PILOT, LABELS)}


@cache
def small_mnist(split: Literal["train", "test"]) -> Batch:
    """MNIST, the mean of each 2x2 pixels: x `[n, 196]` and y `[n]`."""
    images = digits("mnist", split)
    return Batch(avg_pool2d(images.x.float() / 255, 2).flatten(1), images.y)


def unseen_test() -> Batch:
    """The test images that no trial has looked at."""
    return Batch(*(t[SEEN:] for t in small_mnist("test")))


class Data(NamedTuple):
    """What there is to learn from.

    Args:
        others: examples that only the teacher of `MORE` has seen.
        taught: the student's.
        quiz: on which the student is asked after a pilot step.
        choice: by which settings are chosen.
    """

    others: Batch
    taught: Batch
    quiz: Batch
    choice: Batch


def data(seed: int) -> Data:
    """The examples of a seed."""
    of = small_mnist("train")
    rows = torch.randperm(len(of.y), generator=torch.Generator().manual_seed(seed))
    sizes = [OTHERS, TAUGHT, QUIZ, CHOICE]
    return Data(*(part(of, some) for some in rows[: sum(sizes)].split(sizes)))


@cache
def teacher(setting: str, seed: int) -> nn.Module:
    """A network that has learned from its own examples."""
    drawn, g = data(seed), torch.Generator().manual_seed(seed)
    x, y = drawn.taught if setting == SAME else drawn.others
    net = mlp(PIXELS, TEACHER_UNITS, 10, seed=seed)
    optimizer = torch.optim.Adam(net.parameters(), TEACHER_RATE)
    for _ in range(TEACHER_STEPS):
        rows = torch.randint(len(y), (TEACHER_SIZE,), generator=g)
        optimizer.zero_grad()
        cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
    return net.requires_grad_(False)


def student(seed: int) -> nn.Sequential:
    """The same one for every method of a seed."""
    return mlp(PIXELS, STUDENT_UNITS, 10, seed=100 + seed)


class Taught(nn.Module):
    """Training on labels, and on a teacher's answers where there is one."""

    def __init__(self, net: nn.Module, teacher: nn.Module | None, smoothing: float) -> None:
        super().__init__()
        self.net, self.teacher, self.smoothing = net, teacher, smoothing

    def forward(self, tasks: Task) -> Tensor:
        ((x,), (y,)), _ = tasks
        z = self.net(x)
        if self.teacher is None:
            return cross_entropy(z, y, label_smoothing=self.smoothing)[None]
        answers, how = self.teacher(x), {"temperature": TEMPERATURE, "weight": WEIGHT}
        return distillation_loss(z, answers, y, **how)[None]


class Pixels(nn.Module):
    """A network that sees the pixels of an example, and not which one it is."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        z: Tensor = self.net(x)
        return z


class SoftLabels(nn.Module):
    """The smallest teacher: a row of scores for each example, whatever is in it."""

    def __init__(self, y: Tensor) -> None:
        super().__init__()
        odds = torch.tensor(9 * SURE / (1 - SURE))
        self.scores = nn.Parameter(odds.log() * one_hot(y, 10))

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        return self.scores[row]


class Run(NamedTuple):
    """A student, and what was seen of its teacher on the way.

    Args:
        setting: what was tried, as a note.
        net: the student.
        teacher: at the end.
        path: the teacher's accuracy on the choosing set at each mark.
    """

    setting: str
    net: nn.Module
    teacher: nn.Module | None
    path: list[float]


def plain_training(method: str, setting: str, seed: int, smoothing: float = 0.0) -> Run:
    """A student whose teacher stays as it is, or is not there."""
    drawn, g = data(seed), torch.Generator().manual_seed(seed)
    x, y = drawn.taught
    if method in (ALONE_ALL, DISTILLED_ALL):
        x, y = (torch.cat(pair) for pair in zip(drawn.taught, drawn.quiz, strict=True))

    def sample(tasks: int) -> Task:
        rows = torch.randint(len(y), (tasks, SIZE), generator=g)
        return Task(*(Batch(x[rows], y[rows]),) * 2)

    net = student(seed)
    distils = method in (DISTILLED, DISTILLED_ALL)
    learner = Taught(net, teacher(setting, seed) if distils else None, smoothing)
    optimizer = torch.optim.SGD(net.parameters(), RATE)
    meta_train(learner, sample, STEPS, 1, optimizer=optimizer, progress=False)
    return Run(f"smoothing {smoothing:g}" if smoothing else "", net, None, [])


def pilot_training(method: str, seed: int, rate: float) -> Run:
    """A student whose teacher, or whose soft labels, learn from the quiz after each pilot step."""
    drawn = data(seed)
    (x, y), (x_quiz, y_quiz) = drawn.taught, drawn.quiz
    g, g_quiz = (torch.Generator().manual_seed(n) for n in (seed, 1000 + seed))
    net, free, path = student(seed), method == LABELS, []
    pair: tuple[nn.Module, nn.Module]
    if free:
        pair, how = (Pixels(net), SoftLabels(y)), {"temperature": 1.0, "weight": 1.0}
    else:
        copy = mlp(PIXELS, TEACHER_UNITS, 10)
        copy.load_state_dict(teacher(MORE, seed).state_dict())
        pair, how = (net, copy), {"temperature": TEMPERATURE, "weight": WEIGHT}
    learner = MetaDistillation(pair[0], RATE, pair[1], **how)

    def sample(tasks: int) -> Task:
        rows = torch.randint(len(y), (tasks, SIZE), generator=g)
        asked = torch.randint(len(y_quiz), (tasks, SIZE), generator=g_quiz)
        seen: Any = (x[rows], x_quiz[asked])
        if free:
            seen = tuple({"x": x, "row": rows} for x in seen)
        return Task(Batch(seen[0], y[rows]), Batch(seen[1], y_quiz[asked]))

    def note(iteration: int, loss: float, _: nn.Module) -> None:
        if not free and iteration % (STEPS // MARKS) == 0:
            path.append(standing(pair[1], drawn.choice)[0])

    optimizer = {
        "teacher": torch.optim.Adam(pair[1].parameters(), rate),
        "student": torch.optim.SGD(net.parameters(), RATE),
    }
    meta_train(learner, sample, STEPS, 1, optimizer=optimizer, callback=note, progress=False)
    return Run(f"rate {rate:g}", net, None if free else pair[1], path)


def about() -> dict[str, Any]:
    """The words of the record."""
    return {
        "title": "Distillation, and a teacher that learns to teach",
        "config": {
            "data": f"MNIST, the mean of each 2x2 pixels. Of the training images, drawn for each "
            f"seed: {TAUGHT} for the student, {QUIZ} for the quiz, {CHOICE} to choose by, and "
            f"{OTHERS} others. Of the test images all but the first {SEEN}, which trials saw",
            "teacher": f"one hidden layer of {TEACHER_UNITS} units; {TEACHER_STEPS} steps of "
            f"{TEACHER_SIZE}, Adam, rate {TEACHER_RATE:g}",
            "student": f"one hidden layer of {STUDENT_UNITS} units; {STEPS} steps of {SIZE}, SGD, "
            f"rate {RATE:g}, which is the size of the pilot step, too; the same start and the same "
            "minibatches for every method",
            "distillation": f"temperature {TEMPERATURE:g}, half of the loss",
            "label smoothing": f"chosen from {SMOOTHING}",
            "pilot steps": f"the teacher's Adam of a rate chosen from {PILOT_RATES}; soft labels, "
            f"which start with {SURE:g} for the right class, from {LABEL_RATES}; a quiz of {SIZE}",
        },
        "protocol": "Accuracy on the test images after the last step, with the 95 % interval over "
        "images. What is chosen is chosen for each seed by the accuracy on the choosing set, then "
        "by the loss there.",
        "published": [],
        "curve_label": "accuracy of the teacher on the choosing set",
    }


def jobs(seeds: Sequence[int]) -> list[Job]:
    """A job a setting, seed and method."""
    return [
        Job(
            learner=method,
            seed=seed,
            setting=setting,
            rows=f"{re.escape(method)}(: |$)",
            work=partial(_work, setting, method),
            training={
                "method": [setting, method],
                "data": [SIDE, OTHERS, TAUGHT, QUIZ, CHOICE, SEEN],
                "teacher": [TEACHER_UNITS, TEACHER_STEPS, TEACHER_SIZE, TEACHER_RATE],
                "student": [STUDENT_UNITS, STEPS, SIZE, RATE, TEMPERATURE, WEIGHT],
                "tried": [SMOOTHING, SURE, PILOT_RATES, LABEL_RATES],
            },
            judging={"marks": MARKS},
        )
        for setting, methods in METHODS.items()
        for seed in seeds
        for method in methods
    ]


def _work(setting: str, method: str, session: Session) -> None:
    seed = session.seed
    if method == TEACHER:
        runs = [Run("", teacher(setting, seed), None, [])]
    elif method in (PILOT, LABELS):
        rates = PILOT_RATES if method == PILOT else LABEL_RATES
        runs = [pilot_training(method, seed, rate) for rate in rates]
    else:
        tried = SMOOTHING if method == SMOOTHED else (0.0,)
        runs = [plain_training(method, setting, seed, smoothing) for smoothing in tried]
    best = max(runs, key=lambda run: standing(run.net, data(seed).choice))
    test = unseen_test()
    judged = evaluate(best.net, test)
    session.score(method, judged, **({"note": best.setting} if best.setting else {}))
    for run in runs if len(runs) > 1 else []:
        session.score(f"{method}: {run.setting}", evaluate(run.net, test))
        if run.teacher is not None:
            session.score(f"{method}: {run.setting}, its teacher", evaluate(run.teacher, test))
            session.curve(f"{method}: {run.setting}, its teacher", run.path)


RUN = LongRun(
    "distillation",
    "distillation: teachers that know more or do not, and one that learns to teach",
    about,
    jobs,
    seeds=(0, 1, 2, 3, 4),
)
