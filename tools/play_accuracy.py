"""How often the drawing page is right about people's drawings, beside the package.

Lake's way of testing: the characters of a task are of one alphabet, a drawing of each is given, and
other people's drawings of them are asked for. The characters are those of Omniglot that phi was
never trained on. The page gets a drawing as its strokes, which the data do not have: so each image
of 105 x 105 is thinned to lines of one pixel, and neighbours on a line are joined. From there on
all is the page's own: size, place, pen, weights of 8 bits, JavaScript. The package has
the weights as they were trained, and gets both the page's pictures and those of the data set.

    python tools/play_accuracy.py            writes results/play/accuracy.json, a few minutes
"""

import hashlib
import io
import json
import math
import os
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import javascript
import numpy as np
import play_weights
import torch
from PIL import Image
from torch import nn

from metanotes import MAML, Batch, PrototypicalNetwork, Task, evaluate
from metanotes.data import omniglot
from metanotes.nets import conv4

RECORD = play_weights.KEPT / "accuracy.json"
COMMAND = "python tools/play_accuracy.py"
WAYS, QUERIES, TASKS, STEPS = 5, 1, 100, 3
PROTOCOL = (
    f"{TASKS} tasks of {WAYS} unseen Omniglot characters of one alphabet, one drawing of each, "
    "and one query of each by another person, predicted on its own."
)
SCRIPTS = [
    "packed.js",
    "phi/omniglot_maml.js",
    "phi/omniglot_prototypes.js",
    "net.js",
    "strokes.js",
]
ANSWERS = """(tasks) => {
  const net = Play.conv4, best = (logits) => logits.indexOf(Math.max(...logits));
  const phi = Play.unpack(Play.packed.omniglot_maml);
  const body = Play.unpack(Play.packed.omniglot_prototypes);
  const maml = (start, steps, images, labels, queries) => {
    let theta = start;
    for (let t = 0; t < steps; t++) {
      theta = net.step(theta, net.lossAndGradient(theta, images, labels).gradient, 0.4);
    }
    return queries.map((query) => best(net.logits(theta, images, query)));
  };
  return tasks.map(({ support, labels, queries }) => {
    const images = support.map(Play.image), asked = queries.map(Play.image);
    const means = net.prototypes(body, images, labels);
    return {
      "MAML, STEPS steps": maml(phi, STEPS, images, labels, asked),
      "MAML, 0 steps": maml(phi, 0, images, labels, asked),
      "a random start, STEPS steps": maml(net.randomStart(1), STEPS, images, labels, asked),
      "prototypes": asked.map((query) => best(net.distanceLogits(body, means, images, query))),
    };
  });
}""".replace("STEPS", str(STEPS))


def thinned(ink: np.ndarray) -> np.ndarray:
    """Lines of one pixel in the middle of the ink (Zhang and Suen 1984): from [H, W] to [H, W]."""
    ink = np.pad(ink.astype(bool), 1)
    around = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]  # from above on
    before = None
    while before is None or (ink != before).any():
        before = ink
        for one, other in (((0, 2, 4), (2, 4, 6)), ((0, 2, 6), (0, 4, 6))):
            ring = np.stack([np.roll(ink, (-dy, -dx), (0, 1)) for dy, dx in around])
            turns = (~ring & np.roll(ring, -1, 0)).sum(0)  # from white to ink, round a pixel
            number = ring.sum(0)
            edge = (turns == 1) & (number >= 2) & (number <= 6)
            ink = ink & ~(edge & ~ring[list(one)].all(0) & ~ring[list(other)].all(0))
    return ink[1:-1, 1:-1]


def strokes(ink: np.ndarray) -> list[list[list[int]]]:
    """The lines of a drawing: a stroke for each two neighbours, one for a pixel without any."""
    line = thinned(ink)
    lines, alone = [], {(int(x), int(y)) for y, x in np.argwhere(line)}
    points = set(alone)
    for x, y in sorted(points):
        for other in ((x + 1, y), (x, y + 1), (x + 1, y + 1), (x + 1, y - 1)):
            if other in points:
                lines.append([[x, y], list(other)])
                alone -= {(x, y), other}
    return lines + [[list(point)] for point in sorted(alone)]


def originals(names: list[str]) -> dict[str, list[np.ndarray]]:
    """The drawings of characters as they are, [105, 105], ink true, in the order of `omniglot`."""
    folder, files = Path(os.environ["METANOTES_DATA"]) / "omniglot-py", defaultdict(list)
    for archive in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(folder / f"{archive}.zip") as packed:
            for path in sorted(packed.namelist()):
                name = path.removeprefix(f"{archive}/").rpartition("/")[0]
                if path.endswith(".png") and name in names:
                    drawing = Image.open(io.BytesIO(packed.read(path))).convert("1")
                    files[name].append(~np.asarray(drawing))
    return files


def draw_tasks(number: int, seed: int = 0) -> tuple[Task, list[dict[str, Any]]]:
    """Tasks for the package, and the same for the page."""
    images = omniglot("test", protocol="1200/423")
    pictures = (
        images.x.float().div(255).unflatten(0, (len(images.names), -1))
    )  # [423, 20, 1, 28, 28]
    alphabets = defaultdict(list)
    for row, name in enumerate(images.names):
        alphabets[name.split("/")[0]].append(row)
    large = [rows for rows in alphabets.values() if len(rows) >= WAYS]
    random = np.random.default_rng(seed)
    picked = []
    for _ in range(number):
        rows = random.choice(large[random.integers(len(large))], WAYS, replace=False)
        drawers = [random.permutation(pictures.shape[1])[: 1 + QUERIES] for _ in rows]
        picked.append(
            [[(int(row), int(d)) for d in own] for row, own in zip(rows, drawers, strict=True)]
        )
    names = sorted({images.names[row] for task in picked for own in task for row, _ in own})
    drawn = originals(names)

    def batch(part: slice) -> Batch:
        x = [[pictures[at] for own in task for at in own[part]] for task in picked]
        y = torch.arange(WAYS).repeat_interleave(len(picked[0][0][part])).expand(number, -1)
        return Batch(torch.stack([torch.stack(task) for task in x]), y)

    def page(task: list[list[tuple[int, int]]], part: slice) -> list[list[list[list[int]]]]:
        return [strokes(drawn[images.names[row]][d]) for own in task for row, d in own[part]]

    first, rest = slice(0, 1), slice(1, None)
    for_page = [
        {"support": page(task, first), "labels": list(range(WAYS)), "queries": page(task, rest)}
        for task in picked
    ]
    return Task(batch(first), batch(rest)), for_page


def right_on_the_page(tasks: Task, for_page: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The share of right answers in each task, [T], by learner."""
    answers = javascript.call(javascript.source(SCRIPTS), ANSWERS, for_page)
    y = tasks.query.y.numpy()
    return {
        name: (np.array([answer[name] for answer in answers]) == y).mean(1) for name in answers[0]
    }


def as_the_page_sees(tasks: Task, for_page: list[dict[str, Any]]) -> Task:
    """The same tasks with the page's pictures, for the package."""
    pictures = javascript.call(
        javascript.source(["strokes.js"]),
        "(tasks) => tasks.map(({ support, queries }) =>"
        " [...support, ...queries].map((drawing) => [...Play.image(drawing)]))",
        for_page,
    )
    x = torch.tensor(pictures, dtype=torch.float32).unflatten(2, (1, 28, 28))
    return Task(Batch(x[:, :WAYS], tasks.support.y), Batch(x[:, WAYS:], tasks.query.y))


def right_in_the_package(tasks: Task) -> dict[str, np.ndarray]:
    """The same for the package's learners, with `evaluate`."""
    start = conv4(ways=WAYS)
    for p in start[-1].parameters():
        nn.init.zeros_(p)
    maml = MAML(play_weights.network("omniglot_maml"), inner_lr=0.4)
    learners = {
        f"MAML, {STEPS} steps": (maml, STEPS),
        "MAML, 0 steps": (maml, 0),
        f"a random start, {STEPS} steps": (MAML(start, inner_lr=0.4), STEPS),
        "prototypes": (
            PrototypicalNetwork(play_weights.network("omniglot_prototypes"), WAYS),
            None,
        ),
    }
    right = {}
    for name, (learner, steps) in learners.items():
        left = iter(range(0, len(tasks.query.y), 25))

        def sample(number: int, left: Any = left) -> Task:
            some = slice(at := next(left), at + number)
            return Task(*(Batch(x[some], y[some]) for x, y in tasks))

        right[name] = evaluate(learner, sample, len(tasks.query.y), steps=steps).values.numpy()
    return right


def digests() -> dict[str, str]:
    """Of each phi that is judged."""
    names = ("omniglot_maml", "omniglot_prototypes")
    files = {name: play_weights.KEPT / f"{name}.safetensors" for name in names}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}


def measured(number: int) -> list[dict[str, Any]]:
    """A row a learner: the accuracies of the page, of the package with the page's pictures and with
    those of the data set; the mean of the difference to the last, with its 95 % interval."""
    tasks, for_page = draw_tasks(number)
    same = right_in_the_package(as_the_page_sees(tasks, for_page))
    page, package = right_on_the_page(tasks, for_page), right_in_the_package(tasks)
    rows = []
    for name in page:
        difference = page[name] - package[name]
        ci95 = 1.96 * difference.std(ddof=1) / math.sqrt(number)
        values = {"page": page[name].mean(), "same pictures": same[name].mean()}
        values |= {"package": package[name].mean()}
        values |= {"difference": difference.mean(), "ci95": ci95}
        rows.append({"learner": name, **{k: round(float(v), 4) for k, v in values.items()}})
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    content = {"command": COMMAND, "protocol": PROTOCOL, "tasks": TASKS, "phi": digests()}
    content["rows"] = measured(TASKS)
    RECORD.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
