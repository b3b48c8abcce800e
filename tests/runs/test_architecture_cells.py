"""The record of all cells, in small: what it holds, and that searches see no test image."""

import json

import pytest
import torch

from metanotes.data import Images
from metanotes.methods.architecture import CELLS, function_of
from runs import architecture_cells
from runs.__main__ import main


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Noise for digits, four cells, and searches of three steps."""
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    for name, value in {"TRAIN": 20, "VALIDATION": 30, "BATCH": 10, "EPOCHS": 1}.items():
        monkeypatch.setattr(architecture_cells, name, value)
    for name, value in {"STEPS": 3, "PATHS": 3, "CELL_SEEDS": 2}.items():
        monkeypatch.setattr(architecture_cells, name, value)
    monkeypatch.setattr(architecture_cells, "FUNCTIONS", architecture_cells.FUNCTIONS[:4])
    monkeypatch.setattr(architecture_cells, "digits", noise)
    architecture_cells.image_set.cache_clear()
    yield tmp_path / "results" / "architecture_cells.json"
    architecture_cells.image_set.cache_clear()


def noise(name, split="train", size=8):
    generator = torch.Generator().manual_seed(len(split))
    x = torch.randint(256, (60, 1, size, size), generator=generator, dtype=torch.uint8)
    return Images(x, torch.arange(60) % 10, tuple("0123456789"))


def record(path, *seeds):
    main(["architecture_cells", "--seeds", *map(str, seeds)], path.parent)
    return json.loads(path.read_text(encoding="utf-8"))


def test_it_has_every_cell_and_every_search(small):
    content = record(small, 0, 2)
    rows = {(row["name"], row["seed"]): row for row in content["rows"]}
    cells = ["/".join(cell) for cell in architecture_cells.FUNCTIONS]
    searches = [*architecture_cells.ORDERS, architecture_cells.ONE_SHOT]
    assert set(rows) == {
        (f"{c}, {split}", 0) for c in cells for split in ("validation", "test")
    } | {(name, seed) for name in searches for seed in (0, 2)}
    for name in searches:
        assert tuple(rows[name, 0]["note"].split("/")) in CELLS
    lengths = {(c["name"], c["seed"]): len(c["value"]) for c in content["curves"]}
    assert len(lengths) == 8
    assert lengths["one-shot, shared accuracy", 2] == 64
    assert lengths["DARTS, first order, log weights", 0] == 12


def test_no_test_image_decides_anything(small, monkeypatch):
    first = record(small, 0)
    small.unlink()
    digits = architecture_cells.digits

    def others(name, split="train", size=8):
        images = digits(name, split, size=size)
        return images._replace(y=images.y.flip(0)) if split == "test" else images

    monkeypatch.setattr(architecture_cells, "digits", others)
    architecture_cells.image_set.cache_clear()
    second = record(small, 0)

    def notes(content):
        return [row.get("note") for row in content["rows"]]

    assert notes(first) == notes(second)
    assert first["curves"] == second["curves"]


def test_all_functions_of_the_space_are_trained():
    functions = architecture_cells.FUNCTIONS
    assert set(functions) == {function_of(cell) for cell in CELLS}
    assert len(functions) == 26


def test_the_three_sets_of_images_have_none_in_common():
    seen = [
        {bytes(x.flatten().tolist()) for x in architecture_cells.image_set(name).x}
        for name in ("train", "validation", "test")
    ]
    assert [len(s) for s in seen] == [400, 600, 797]
    assert len(set.union(*seen)) == 400 + 600 + 797
