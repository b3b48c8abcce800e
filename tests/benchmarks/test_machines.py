"""The record of how cost grows: its sections, small, and the page that draws it."""

from __future__ import annotations

import json
from pathlib import Path

import machines_page
import pytest

from benchmarks import large, machines

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "book" / "many_machines.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both records, small."""
    folder = tmp_path_factory.mktemp("machines")
    machines.main(["--small", "--record", str(folder / "growth.json")])
    seconds = {"one process": 0.1, "ranks": 0.05}
    ranks = {"command": "c", "processor": "p", "cores": 2, "ranks": 2, "tasks": 16}
    ranks |= {"network": "conv4", "seconds": seconds}
    (folder / "ranks.json").write_text(json.dumps(ranks))
    return folder


def test_every_section_is_measured(folder: Path) -> None:
    record = json.loads((folder / "growth.json").read_text(encoding="utf-8"))
    sections = record["sections"]
    assert list(sections) == list(machines.SECTIONS)
    for name, section in sections.items():
        assert section["rows"], name
        assert section["processor"]
    assert {r["axis"] for r in sections["growth"]["rows"]} == set(machines.AXES)
    assert all(r["processor_seconds"] > 0 for r in sections["growth"]["rows"])
    sizes = {r["network"]: r["parameters"] for r in sections["networks"]["rows"]}
    assert {r["network"]: r["bytes"] / 4 for r in sections["messages"]["rows"]} == sizes


def test_a_section_is_measured_again_and_the_others_stay(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "growth.json"
    path.write_text((folder / "growth.json").read_text())
    before = json.loads(path.read_text())["sections"]
    machines.main(["--small", "--only", "networks", "--record", str(path)])
    after = json.loads(path.read_text())["sections"]
    assert after["large"] == before["large"]
    assert len(after["networks"]["rows"]) == len(before["networks"]["rows"])


def test_operations_are_those_of_the_formula() -> None:
    """One layer of conv4 by hand: 28x28 to 14x14, 3x3, from 1 channel to 2, and so on."""
    network = large.convolutional(width=2)
    layers = [(14, 1), (7, 2), (4, 2), (2, 2)]
    forward = sum(2 * side**2 * 9 * channels * 2 for side, channels in layers) + 2 * 8 * 5
    assert large.flops(network, queries=15) == (9 * 5 + 3 * 75) * forward


def test_the_page_draws_the_records(folder: Path, tmp_path: Path) -> None:
    text = machines_page.filled_in(PAGE.read_text(encoding="utf-8"), folder, tmp_path)
    assert "{{" not in text
    assert "2.00 times as fast" in text
    assert "Not recorded" not in text
    for name in ("machines-growth.svg", "machines-speedup.svg"):
        assert f"_generated/{name}" in text
        assert (tmp_path / name).stat().st_size > 5000


def test_what_has_not_been_measured_is_said_with_its_command(tmp_path: Path) -> None:
    text = machines_page.filled_in("{{ machines large }} {{ machines ranks }}", tmp_path, tmp_path)
    assert "python -m benchmarks.machines --only large" in text
    assert "python tools/ranks.py --record" in text


def test_computed_speed_is_that_of_the_equations() -> None:
    row = {"flops": 1e12, "parameters": 10_000_000}
    sending = 1 / 2 * 2 * 4 * 1e7 / (10e9 / 8)
    computing = machines_page.TASKS * 1e12 / 10e12
    expected = computing / (computing / 2 + sending)
    assert machines_page.times_as_fast(row, 2, 10, 10e12) == pytest.approx(expected)
    assert machines_page.times_as_fast(row, 1, 10, 10e12) == 1


def test_the_committed_record_is_whole() -> None:
    path = ROOT / "results" / "machines" / "growth.json"
    sections = json.loads(path.read_text(encoding="utf-8"))["sections"]
    assert {"growth", "networks", "messages"} <= set(sections) <= set(machines.SECTIONS)
    assert {r["network"] for r in sections["networks"]["rows"]} == set(large.NETWORKS)
    assert {r["value"] for r in sections["growth"]["rows"]} == {
        value for values in machines.AXES.values() for value in values
    }
