"""What the pages that learn in the browser compute, beside torch; without the website."""

import json
import os
from pathlib import Path
from typing import Any

import javascript
import play_weights
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from metanotes import MAML, Batch, PrototypicalNetwork, mse
from metanotes.nets import conv4

ALPHA = 0.4
NET = (
    javascript.source(["packed.js", "net.js", "strokes.js", "examples.js"])
    + """
const plain = (theta) => Object.fromEntries(Object.entries(theta).map(([n, w]) => [n, [...w]]));
"""
)
LOSSES = """({ packed, images, labels, alpha, steps }) => {
  let theta = Play.unpack(packed);
  const losses = [];
  for (let t = 0; t < steps; t++) {
    const { loss, gradient } = Play.conv4.lossAndGradient(theta, images, labels);
    losses.push(loss);
    theta = Play.conv4.step(theta, gradient, alpha);
  }
  return losses;
}"""
GRADIENT = """({ packed, images, labels }) => {
  const { loss, gradient } = Play.conv4.lossAndGradient(Play.unpack(packed), images, labels);
  return { loss, gradient: plain(gradient) };
}"""


@pytest.fixture(scope="module")
def drawings() -> tuple[Tensor, Tensor, Tensor]:
    """Images of the page's own examples: five characters, some of them drawn twice; a query."""
    images, query = javascript.call(
        NET,
        "() => { const [a, b] = [Play.examples(3), Play.examples(4)];"
        " return [[...a.drawings, b.drawings[1], b.drawings[4]], a.query].map((s, i) =>"
        " i ? [...Play.image(s)] : s.map((d) => [...Play.image(d)])); }",
    )
    x = torch.tensor(images, dtype=torch.float64).view(-1, 1, 28, 28)
    return x, torch.tensor([0, 1, 2, 3, 4, 1, 4]), torch.tensor(query).double().view(1, 1, 28, 28)


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    return play_weights.network("omniglot_maml")


def given(
    model: nn.Sequential, x: Tensor, y: Tensor, bits: int = 32, **more: Any
) -> dict[str, Any]:
    packed = play_weights.packed(model.state_dict(), bits)
    return {"packed": packed, "images": x.flatten(1).tolist(), "labels": y.tolist(), **more}


def losses_of_torch(model: nn.Sequential, x: Tensor, y: Tensor, steps: int) -> list[float]:
    theta = {n: p.detach().double().requires_grad_() for n, p in model.named_parameters()}
    losses = []
    for _ in range(steps):
        loss = cross_entropy(functional_call(model, theta, (x,)), y)
        gradients = torch.autograd.grad(loss, list(theta.values()))
        pairs = zip(theta.items(), gradients, strict=True)
        theta = {n: (t - ALPHA * g).detach().requires_grad_() for (n, t), g in pairs}
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", play_weights.NETS)
def test_the_weights_of_a_page_are_those_kept(name: str) -> None:
    path = play_weights.WRITTEN / f"{name}.js"
    right = path.read_text(encoding="utf-8") == play_weights.script(name)
    assert right, "run: python tools/play_weights.py"


@pytest.mark.parametrize(("bits", "error"), [(32, 0), (16, 2**-11), (8, 1 / 254)])
def test_weights_are_unpacked(bits: int, error: float) -> None:
    phi = {n: p.detach() for n, p in conv4(ways=5, seed=3).named_parameters()}
    phi["1.bias"] = 3e-6 * torch.arange(-32, 32)  # so small that 16 bits have no leading one
    theta = javascript.call(
        NET,
        "(packed) => plain(Play.unpack(packed))",
        play_weights.packed(phi, bits),
    )
    assert theta.keys() == play_weights.without_idle_biases(phi).keys()
    for name, w in theta.items():
        rows = phi[name].reshape(len(phi[name]), -1)
        off = (torch.tensor(w).view_as(rows) - rows).abs()
        assert (off <= error * rows.abs().amax(1, keepdim=True) + (bits < 32) * 3e-8).all(), name


def test_the_gradient_is_that_of_torch(drawings: Any, model: nn.Sequential) -> None:
    """All coordinates; unequal numbers of examples, so that no two axes are alike."""
    x, y, _ = drawings
    ours = javascript.call(NET, GRADIENT, given(model, x, y))
    theta = {n: p.detach().double().requires_grad_() for n, p in model.named_parameters()}
    loss = cross_entropy(functional_call(model, theta, (x,)), y)
    gradients = dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))
    assert abs(ours["loss"] - loss.item()) < 1e-12
    assert ours["gradient"].keys() == play_weights.without_idle_biases(gradients).keys()
    for name, gradient in gradients.items():
        if name in ours["gradient"]:
            got = torch.tensor(ours["gradient"][name], dtype=torch.float64).view_as(gradient)
            assert (got - gradient).abs().max() < 1e-10 * (1 + gradient.abs().max()), name
        else:
            assert gradient.abs().max() < 1e-12, "a bias of a convolution has no effect"


@pytest.mark.parametrize(
    ("whole", "broken"),
    [
        ("- (zs[j] * dgamma[c]) / places", ""),  # the variance depends on u, too
        ("if (y[c * places + j] <= 0) own[j] = 0;", ""),  # the ReLU
        ("dx[place] += dP[p];", "dx[place] = dP[p];"),  # a pixel is in several neighbourhoods
    ],
)
def test_a_wrong_gradient_is_noticed(drawings: Any, model: Any, whole: str, broken: str) -> None:
    assert whole in NET
    x, y, _ = drawings
    ours = javascript.call(
        NET.replace(whole, broken), LOSSES, given(model, x, y, alpha=ALPHA, steps=2)
    )
    right = losses_of_torch(model, x, y, 2)
    assert abs(ours[0] - right[0]) < 1e-10
    assert abs(ours[1] - right[1]) > 1e-4


@pytest.mark.parametrize(("bits", "error"), [(32, 1e-5), (8, 1e-3)])
def test_the_losses_of_four_steps_are_those_of_torch(
    drawings: Any, model: nn.Sequential, bits: int, error: float
) -> None:
    """With 8 bits, too, beside torch with the weights as they were trained."""
    x, y = (t[:5] for t in drawings[:2])
    ours = javascript.call(NET, LOSSES, given(model, x, y, bits, alpha=ALPHA, steps=4))
    right = losses_of_torch(model, x, y, 4)
    assert max(abs(a - b) for a, b in zip(ours, right, strict=True)) < error, (ours, right)
    assert right[3] < right[0] / 5


def test_a_query_is_answered_as_by_the_package(drawings: Any, model: nn.Sequential) -> None:
    x, y, query = drawings
    support = Batch(x[None], y[None])
    beside = torch.cat([x, query])[None]  # not transductive: the support set and one query
    maml = MAML(play_weights.network("omniglot_maml").double(), ALPHA)
    body = play_weights.network("omniglot_prototypes")
    compared = PrototypicalNetwork(play_weights.network("omniglot_prototypes").double(), ways=5)
    with torch.no_grad():
        by_maml = maml.predict(maml.adapt(support, steps=3), beside)[0, -1]
        by_distance = compared.predict(compared.adapt(support), beside)[0, -1]
    input = given(model, x, y, query=query.flatten().tolist())
    input["body"] = play_weights.packed(body.state_dict(), 32)
    ours = javascript.call(
        NET,
        """({ packed, body, images, labels, query }) => {
          const { lossAndGradient, step, logits, prototypes, distanceLogits } = Play.conv4;
          const features = Play.unpack(body), means = prototypes(features, images, labels);
          let theta = Play.unpack(packed);
          for (let t = 0; t < 3; t++) {
            theta = step(theta, lossAndGradient(theta, images, labels).gradient, 0.4);
          }
          return [logits(theta, images, query), distanceLogits(features, means, images, query)];
        }""",
        input,
    )
    for got, right in zip(ours, (by_maml, by_distance), strict=True):
        assert (
            torch.tensor(got, dtype=torch.float64) - right
        ).abs().max() < 1e-6 * right.abs().max()


def test_a_random_start_is_drawn_as_torch_draws_it() -> None:
    ours = javascript.call(
        NET, "() => Object.entries(Play.conv4.randomStart(5)).map(([n, w]) => [n, [...w]])"
    )
    start = dict(conv4(ways=5).named_parameters())
    for name, w in ours:
        values, theirs = torch.tensor(w).float(), start[name].detach().flatten()
        assert len(values) == len(theirs)
        if name.startswith("13."):
            assert not values.any()
        else:
            assert abs(values.abs().max() - theirs.abs().max()) < 0.02 * theirs.abs().max() + 1e-9
            assert abs(values.mean() - theirs.mean()) < 0.05


# ------------------------------------------------------------------------------- drawings to images


def image(strokes: list[list[list[float]]]) -> Tensor:
    flat = javascript.call(NET, "(strokes) => [...Play.image(strokes)]", strokes)
    return torch.tensor(flat).view(28, 28)


def test_a_drawing_is_brought_to_the_size_and_place_of_omniglot() -> None:
    """A cross with a long foot: 18 pixels high, its mass where Omniglot's is on average."""
    x = image([[[10, 0], [10, 60]], [[0, 20], [20, 20]]])
    rows, columns = x.any(1).nonzero(), x.any(0).nonzero()
    assert rows.max() - rows.min() + 1 in (18, 19)
    assert columns.max() - columns.min() + 1 in (7, 8, 9)
    middle = torch.arange(28) + 0.5
    assert abs((x.sum(0) @ middle / x.sum()) - 13.9) < 0.1
    assert abs((x.sum(1) @ middle / x.sum()) - 13.7) < 0.1
    assert x.max() == 1
    assert x.min() == 0


def test_it_does_not_matter_where_and_how_large_one_draws() -> None:
    strokes = [[[0.0, 0.0], [3.0, 4.0], [6.0, 1.0]], [[2.0, 8.0], [5.0, 8.0]]]
    moved = [[[20 + 7 * x, 70 + 7 * y] for x, y in stroke] for stroke in strokes]
    assert (image(strokes) - image(moved)).abs().max() <= 2 / 16
    assert (image(strokes) - image(moved)).abs().mean() < 1e-3


def test_a_dot_and_a_long_tail_stay_in_the_image() -> None:
    assert 1 < image([[[50, 50]]]).sum() < 2  # the area of the pen's tip, 1.33
    scribble = [[i % 7 / 2, i % 5 / 2] for i in range(60)]
    tail = image([[*scribble, [100, 0]]])
    columns = tail.any(0).nonzero()
    assert columns.max() - columns.min() + 1 in (18, 19)
    assert columns.max() <= 27


# --------------------------------------------------------------------------------------- sine waves


@pytest.mark.parametrize(("bits", "error"), [(32, 1e-9), (16, 1e-2)])
def test_the_sine_network_descends_as_in_torch(bits: int, error: float) -> None:
    model = play_weights.network("sine_maml")
    x = torch.linspace(-4.7, 4.9, 9, dtype=torch.float64)[:, None]
    y = 3 * torch.sin(x + 1)
    maml = MAML(play_weights.network("sine_maml").double(), inner_lr=0.01, loss=mse)
    batch = Batch(x[None], y[None])
    with torch.no_grad():
        right = [
            mse(maml.predict(maml.adapt(batch, steps=t), x[None]), y[None]).item() for t in range(5)
        ]
    ours = javascript.call(
        javascript.source(["packed.js", "mlp.js"]),
        "({ packed, points }) =>"
        " Play.mlp.descent(Play.unpack(packed), points, 4, 0.01).map(({ loss }) => loss)",
        {
            "packed": play_weights.packed(model.state_dict(), bits),
            "points": torch.cat([x, y], 1).tolist(),
        },
    )
    assert max(abs(a - b) for a, b in zip(ours, right, strict=True)) < error, (ours, right)
    assert right[4] < right[0] / 3


CLAIMS = """() => {
  const { predict, descent } = Play.mlp, random = Play.random(3), claims = {};
  const some = (number, f) => Array.from({ length: number }, (_, i) => f(i));
  const mean = (values) => values.reduce((sum, v) => sum + v / values.length, 0);
  const left = () => some(5, () => -5 * random());
  const waves = some(40, () => [0.1 + 4.9 * random(), Math.PI * random(), left()]);
  for (const name of ["sine_maml", "sine_joint"]) {
    const phi = Play.unpack(Play.packed[name]), line = some(10, (i) => [i - 4.5, i - 4.5]);
    const others = waves.map(([a, b, xs]) => {
      const wave = (x) => a * Math.sin(x + b), points = xs.map((x) => [x, wave(x)]);
      const path = descent(phi, points, 10, 0.01);
      const error = (t, x) => (predict(path[t].theta, x) - wave(x)) ** 2;
      return [0, 10].map((t) => mean(some(20, (i) => error(t, i / 4))));
    });
    claims[name] = {
      line: descent(phi, line, 3, 0.01).map(({ loss }) => loss),
      before: mean(others.map(([first]) => first)),
      after: mean(others.map(([, last]) => last)),
    };
  }
  return claims;
}"""


def test_what_the_sine_page_invites_to_try_is_so() -> None:
    scripts = ["packed.js", "phi/sine_maml.js", "phi/sine_joint.js", "mlp.js"]
    claims = javascript.call(javascript.source(scripts), CLAIMS)
    maml, joint = claims["sine_maml"], claims["sine_joint"]
    assert maml["after"] < 0.5 * maml["before"]  # on the side where no point was shown
    assert joint["after"] > 0.9 * joint["before"]
    assert maml["line"][1] > 1.3 * joint["line"][1]  # the points of a straight line
    assert maml["line"][3] > 1.3 * joint["line"][3]


# ---------------------------------------------------------------------------- people's own drawings

omniglot_is_there = pytest.mark.skipif(
    not (Path(os.environ.get("METANOTES_DATA", "nowhere")) / "omniglot-py").is_dir(),
    reason="Omniglot is not there",
)


def test_what_the_page_says_of_its_accuracy_is_of_its_weights() -> None:
    import play_accuracy

    record = json.loads(play_accuracy.RECORD.read_text(encoding="utf-8"))
    assert record["phi"] == play_accuracy.digests(), f"run: {play_accuracy.COMMAND}"
    assert record["protocol"] == play_accuracy.PROTOCOL
    rows = {row["learner"]: row for row in record["rows"]}
    for name in ("MAML, 3 steps", "prototypes"):
        assert abs(rows[name]["page"] - rows[name]["same pictures"]) < 0.03
        assert rows[name]["difference"] > -0.03, "the page's pictures do no harm"


@omniglot_is_there
def test_some_tasks_of_it_are_answered_as_by_the_package() -> None:
    import play_accuracy

    tasks, for_page = play_accuracy.draw_tasks(6)
    page = play_accuracy.right_on_the_page(tasks, for_page)
    same = play_accuracy.right_in_the_package(play_accuracy.as_the_page_sees(tasks, for_page))
    for name in ("MAML, 3 steps", "MAML, 0 steps", "prototypes"):
        assert abs(page[name].mean() - same[name].mean()) < 0.07, name  # 2 of 30 answers


def test_lines_are_thinned_without_breaking_them() -> None:
    import numpy as np
    import play_accuracy

    ink = np.zeros((30, 30), bool)
    ink[5:8, 4:26] = ink[5:26, 10:14] = True  # a T of thick lines
    ink[28, 2] = True
    line = play_accuracy.thinned(ink)
    assert line.sum() < 45
    assert (line & ~ink).sum() == 0
    strokes = play_accuracy.strokes(ink)
    assert [[2, 28]] in strokes
    reached, places = {(13, 20), (12, 20), (11, 20), (10, 20)}, None
    while places != len(reached):  # from the foot all of the T is reached
        places = len(reached)
        for a, b in (s for s in strokes if len(s) == 2):
            if tuple(a) in reached or tuple(b) in reached:
                reached |= {tuple(a), tuple(b)}
    assert min(x for x, _ in reached) < 7
    assert max(x for x, _ in reached) > 22
