"""The code in the pages that are read only: every Python block runs, in the order of its page."""

import re
import socket
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from metanotes import MAML, Batch, Task, meta_train
from metanotes.data import episodes, glyphs
from metanotes.nets import conv4
from tests.devices.elsewhere import ELSEWHERE, Elsewhere, Pretended

ROOT = Path(__file__).resolve().parent.parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
CHAPTER = re.compile(r"^%|\bplt\.|metanotes\.notebook|# tag:", re.M)  # of use in a notebook only

# Long runs, made short.
SHORTER = {
    r"iterations=\d+": "iterations=2",
    r"tasks=\d{2,}": "tasks=4",
}


class SummaryWriter:
    """Stands for TensorBoard's, which need not be installed."""

    def __init__(self, folder: str) -> None:
        self.written: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.written.append((tag, value, step))


def resnet18(weights: str) -> nn.Sequential:
    """Stands for torchvision's, whose weights would have to be fetched."""
    layers = {
        "conv1": nn.Conv2d(3, 512, 7, stride=8),
        "bn1": nn.BatchNorm2d(512),
        "avgpool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(512, 1000),
    }
    return nn.Sequential(OrderedDict(layers))


def run(page: str) -> dict[str, Any]:
    """The names that a page's code leaves behind."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [block for block in BLOCK.findall(text) if not CHAPTER.search(block)]
    assert blocks
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        for long, short in SHORTER.items():
            block = re.sub(long, short, block)
        exec(compile(block, page, "exec"), names)
    return names


@pytest.fixture(scope="module")
def questions() -> dict[str, Any]:
    board: Any = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = SummaryWriter
    zoo: Any = types.ModuleType("torchvision.models")
    zoo.resnet18 = resnet18
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, board.__name__, board)
        patch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
        patch.setitem(sys.modules, zoo.__name__, zoo)
        return run("book/questions.md")


@pytest.mark.parametrize("page", ["README.md", "book/how_to_use.md"])
def test_the_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "1"}
    for name, value in {**here, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)  # as torchrun does
    run(page)
    assert not torch.distributed.is_initialized()


def test_the_table_of_many_machines_is_what_its_formulas_give() -> None:
    names = run("book/many_machines.md")
    text = (ROOT / "book" / "many_machines.md").read_text(encoding="utf-8")
    for network, (parameters, flops) in names["costs"].items():
        compute, at_10 = names["seconds"](parameters, flops, gbit=10)
        at_100 = names["seconds"](parameters, flops, gbit=100)[1]
        sent = 7 / 8 * 8 * parameters
        numbers = [parameters / 1e6, sent / 1e6, 1e3 * compute, 1e3 * at_10, 1e3 * at_100]
        row = " | ".join(f"{number:.3g}" for number in numbers)
        assert f"| {network} | {row} |" in text


def test_the_moments_of_named_parameters_lie_elsewhere_between_two_steps() -> None:
    offload = run("book/many_machines.md")["offload"]
    ends = []
    with Pretended():
        for away in (False, True):
            learner = MAML(conv4(5, channels=4), inner_lr=0.1)
            adam = torch.optim.Adam(learner.parameters(), lr=0.01)
            weights = [p for name, p in learner.named_parameters() if name.endswith("weight")]
            if away:
                offload(adam, weights, ELSEWHERE)
            sample = episodes(glyphs("background"), ways=5, shots=1, queries=2, seed=0)
            meta_train(learner, sample, 3, 2, optimizer=adam, progress=False)
            ends.append(torch.nn.utils.parameters_to_vector(learner.parameters()))
            for p in learner.parameters():
                named = any(p is w for w in weights)
                for moment in (adam.state[p]["exp_avg"], adam.state[p]["exp_avg_sq"]):
                    assert isinstance(moment, Elsewhere) == (away and named)
                assert not isinstance(adam.state[p]["step"], Elsewhere)
    assert torch.equal(*ends)


def test_a_kept_model_answers_as_the_learner_does(questions: dict[str, Any]) -> None:
    learner, adapted = questions["learner"], questions["adapted"]
    outputs = learner.predict(adapted, questions["mine"])[0]
    assert torch.allclose(questions["logits"], outputs, atol=1e-4)


def test_what_is_said_of_running_statistics(questions: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="keep running statistics"):
        MAML(conv4(ways=5, running_statistics=True), inner_lr=0.1)
    learner = questions["finetuned"]
    statistics = [b.clone() for b in learner.buffers()]
    meta_train(learner, questions["train"], iterations=1, tasks=2, progress=False)
    assert all(map(torch.equal, statistics, learner.buffers()))


def test_a_resnet_adapts_its_new_head(questions: dict[str, Any]) -> None:
    learner = questions["on_photographs"]
    x, y = torch.rand(2, 5, 3, 32, 32), torch.arange(5).expand(2, 5)
    learner(Task(Batch(x, y), Batch(x, y))).mean().backward()
    assert list(learner.adapt(Batch(x, y))) == ["fc.weight", "fc.bias"]
    assert all(p.grad is not None for p in learner.parameters())


def test_what_is_said_of_modules_used_twice(questions: dict[str, Any]) -> None:
    assert "1.weight" in questions["theta"]
    assert "3.weight" not in questions["theta"]


def test_a_loss_learns(questions: dict[str, Any]) -> None:
    assert questions["robust"].loss.log_scale.grad.abs() > 0


def test_a_gradient_of_the_meta_gradient_reaches_phi(questions: dict[str, Any]) -> None:
    assert all(p.grad.any() for p in questions["phi"])


def test_a_penalty_acts_inside_alone(questions: dict[str, Any]) -> None:
    tasks, kind = questions["sines"](4), questions["Decayed"]
    same = {"model": questions["robust"].model, "inner_lr": 0.01, "loss": questions["mse"]}
    decayed, plain = kind(**same, steps=2), MAML(**same, steps=2)
    assert not torch.allclose(decayed(tasks), plain(tasks))
    decayed, plain = kind(**same, steps=0), MAML(**same, steps=0)
    assert torch.equal(decayed(tasks), plain(tasks))


def test_a_board_is_written_to(questions: dict[str, Any]) -> None:
    assert [(tag, step) for tag, _, step in questions["board"].written] == [
        ("loss", 1),
        ("loss", 2),
    ]


def test_the_learner_of_fifteen_lines_learns() -> None:
    names = run("CONTRIBUTING.md")
    questions = run("README.md")
    learner = names["RidgeNetwork"](conv4(ways=None, channels=8), ways=5)
    history = meta_train(learner, questions["train"], iterations=20, tasks=4, progress=False)
    assert sum(history.losses[-5:]) < sum(history.losses[:5])
