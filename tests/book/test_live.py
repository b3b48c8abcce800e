"""What the live figures of the chapters compute, beside torch; without the website."""

import json
from pathlib import Path
from typing import Any

import javascript
import pytest
import torch
from torch import Tensor, nn

from metanotes import MAML, SGD, Batch, Momentum, Reptile, Task, mse
from metanotes.nets import mlp

ROOT = Path(__file__).resolve().parent.parent.parent
FIGURES = ["valleys", "ravine", "updates", "game"]
CODE = javascript.source(["packed.js", "mlp.js", "plane.js", *(f"{name}.js" for name in FIGURES)])


def cell(chapter: str, words: str) -> str:
    """The first code cell of a chapter that holds some words."""
    (path,) = (ROOT / "notebooks").glob(f"{chapter}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    return next(source for source in sources if words in source)


# --------------------------------------------------------------------------- chapter 3, two valleys


def valleys(code: str = CODE) -> Any:
    return javascript.call(
        code,
        "(starts) => Object.values(Play.valleys.tasks).map((task) => starts.map((phi) =>"
        " Play.valleys.descend(task, phi, 10).map((theta) => [theta, task.loss(theta)])))",
        STARTS,
    )


STARTS = [-2.4, -1.05, 0.2, 0.5, 1.65, 3.5]


def off_the_chapter(ours: Any) -> float:
    chapter: dict[str, Any] = {"torch": torch}
    exec(cell("03", "def task_1"), chapter)
    start = torch.tensor(STARTS, dtype=torch.float64)
    off = 0.0
    for task, paths in zip((chapter["task_1"], chapter["task_2"]), ours, strict=True):
        path = chapter["descend"](task, start)  # [steps + 1, starts]
        right = torch.stack([path, task(path)], -1).transpose(0, 1)
        off = max(off, (torch.tensor(paths, dtype=torch.float64) - right).abs().max().item())
    return off


def test_the_descents_of_the_valleys_are_the_chapters(capsys: pytest.CaptureFixture[str]) -> None:
    assert off_the_chapter(valleys()) < 1e-12


def test_a_wrong_valley_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    assert off_the_chapter(valleys(CODE.replace("0.06 * theta", "0.03 * theta"))) > 1e-3


# --------------------------------------------------------------------------- chapter 10, the ravine


@pytest.mark.parametrize(("share", "mu"), [(0.5, 0.0), (0.5, 0.9), (1.2, 0.0), (1.96, 0.98)])
def test_the_descents_in_the_ravine_are_the_packages(share: float, mu: float) -> None:
    start, alpha = [-1.7, 0.45], share * 2 / 25
    ours = javascript.call(
        CODE,
        "([start, alpha, mu]) => Play.ravine.descend(start, alpha, mu, 40)",
        [start, alpha, mu],
    )
    rule = Momentum(alpha, mu) if mu else SGD(alpha)
    theta = {"w": torch.tensor(start, dtype=torch.float64)}
    state = rule.init(theta)
    for now in ours:
        w = theta["w"].requires_grad_()
        torch.testing.assert_close(torch.tensor(now, dtype=torch.float64), w, rtol=1e-9, atol=1e-12)
        height = (w[0] ** 2 + 25 * w[1] ** 2) / 2
        updates, state = rule({"w": torch.autograd.grad(height, w)[0]}, state)
        theta = {"w": (w + updates["w"]).detach()}


# ----------------------------------------------------------------------------- chapter 19, the game


@pytest.mark.parametrize("c", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("eta", [0.02, 0.2, 0.5, 0.8])
def test_the_game_is_played_as_its_gradients_say(c: float, eta: float) -> None:
    start = [1.0, -0.3]
    path, factor = javascript.call(
        CODE,
        "([start, c, eta]) => [Play.game.walk(start, c, eta, 60), Play.game.factor(c, eta)]",
        [start, c, eta],
    )
    players = torch.tensor(start, dtype=torch.float64)
    sides = torch.tensor([1.0, -1.0], dtype=torch.float64)  # e ascends, d descends
    for now in path:
        torch.testing.assert_close(torch.tensor(now, dtype=torch.float64), players)
        e, d = players.requires_grad_()
        (gradient,) = torch.autograd.grad(c / 2 * d**2 + e * d, players)
        players = (players + eta * sides * gradient).detach()
    step = torch.tensor([[1.0, eta], [-eta, 1 - eta * c]], dtype=torch.float64)
    assert abs(torch.linalg.eigvals(step).abs().max().item() - factor) < 1e-7


# ------------------------------------------------------------- chapter 5, four updates in one plane

UPDATES = """({ alpha, points }) => {
  const random = Play.random(5), theta = Play.updates.randomStart(random);
  const plain = (g) => Object.fromEntries(Object.entries(g).map(([name, w]) => [name, [...w]]));
  const found = Play.updates.gradients(theta, points.slice(0, 10), points.slice(10), alpha);
  const gradients = Object.fromEntries(Object.entries(found).map(([name, g]) => [name, plain(g)]));
  return { theta: plain(theta), gradients, ...Play.updates.inPlane(found) };
}"""


def vector(parts: Any) -> Tensor:
    return torch.cat([p.reshape(-1) for p in parts])


def gradients(model: nn.Module, task: Task, alpha: float) -> dict[str, Tensor]:
    """What the four methods of the package descend."""

    def gradient(losses: Tensor) -> Tensor:
        return vector(torch.autograd.grad(losses.sum(), list(model.parameters())))

    first_order = MAML(model, alpha, steps=1, first_order=True, loss=mse)
    reptile = Reptile(model, SGD(alpha), steps=2, batch=10, loss=mse)
    in_turn = Batch(*(torch.cat(both, 1) for both in zip(*task, strict=True)))
    return {
        "red": gradient(mse(model(task.support.x[0]), task.support.y[0])),
        "orange": gradient(first_order(task)),
        "blue": gradient(MAML(model, alpha, steps=1, loss=mse)(task)),
        "green": gradient(reptile.query_losses(Task(in_turn, task.query))) / alpha,
    }


@pytest.mark.parametrize("alpha", [0.001, 0.02, 0.1])
def test_the_four_updates_are_the_packages(alpha: float) -> None:
    x = torch.linspace(-4.8, 4.9, 20, dtype=torch.float64)[torch.randperm(20)]
    y = 3 * torch.sin(x + 1)
    ours = javascript.call(
        CODE, UPDATES, {"alpha": alpha, "points": torch.stack([x, y], 1).tolist()}
    )
    model = mlp(1, 64, 64, 1).double()
    model.load_state_dict(
        {
            name: torch.tensor(ours["theta"][name], dtype=torch.float64).view_as(p)
            for name, p in model.state_dict().items()
        }
    )
    xs, ys = x.view(1, 20, 1), y.view(1, 20, 1)
    task = Task(Batch(xs[:, :10], ys[:, :10]), Batch(xs[:, 10:], ys[:, 10:]))
    right = gradients(model, task, alpha)
    for name, gradient in right.items():
        parts = [
            torch.tensor(ours["gradients"][name][n], dtype=torch.float64)
            for n, _ in model.named_parameters()
        ]
        error = (vector(parts) - gradient).norm() / gradient.norm()
        assert error < (1e-5 if name == "blue" else 1e-10), name
    g_1, g_2, maml = right["red"], right["orange"], right["blue"]
    plane, _ = torch.linalg.qr(torch.stack([g_1, g_2], 1))
    shadow = (plane.T @ maml).norm() / maml.norm()
    assert abs(torch.rad2deg(torch.arccos(shadow)).item() - ours["rise"]) < 1e-2
    ends = {name: torch.tensor(end, dtype=torch.float64) for name, end in ours["ends"].items()}
    torch.testing.assert_close(ends["red"], torch.tensor([1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(ends["green"], ends["red"] + ends["orange"])
    for name, end in ends.items():
        inner = (-right[name] @ -g_1) / g_1.norm() ** 2
        assert abs(end[0] - inner) < 1e-5 * (1 + abs(inner)), name


CLAIMS = """() => {
  const { tasks, descend } = Play.valleys, end = (phi) => descend(tasks.red, phi, 10).at(-1);
  const { ravine, game } = Play;
  const height = (share, mu) => {
    return ravine.height(ravine.descend([-1.8, 0.6], share * 0.08, mu, 40).at(-1));
  };
  return {
    lost: end(0.2), saved: end(0.5),
    slides: height(0.5, 0), jumps: height(1, 0), leaves: height(1.02, 0),
    bears: height(1.8, 0.9), tooMuch: height(2, 0.9),
    circles: game.factor(0, 0.02), arrives: game.factor(0.5, 0.48), spirals: game.factor(0.5, 0.52),
  };
}"""


def test_what_the_chapters_invite_to_try_is_so() -> None:
    claims = javascript.call(CODE, CLAIMS)
    assert claims["lost"] < 0 < 1 < claims["saved"]
    assert claims["slides"] < 0.1 < claims["jumps"] < claims["leaves"]
    assert claims["tooMuch"] > 10 * claims["bears"]
    assert claims["circles"] > 1 > claims["arrives"]
    assert claims["spirals"] > 1
