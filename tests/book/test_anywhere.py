"""The chapters run away from the repository: what the package brings them, and the tool for it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import anywhere
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code(chapter: Path) -> str:
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The package as `pip install .` makes it, from the files that the tool copies."""
    folder = tmp_path_factory.mktemp("wheel")
    source = anywhere.copy_source(folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


@pytest.mark.slow
def test_the_package_brings_every_record_as_it_is(wheel: zipfile.ZipFile) -> None:
    records = [*(ROOT / "results").rglob("*.json"), *(ROOT / "results").rglob("*.safetensors")]
    assert len({path.suffix for path in records}) == 2
    for path in records:
        inside = f"metanotes/notebook/{path.relative_to(ROOT).as_posix()}"
        assert wheel.read(inside) == path.read_bytes()
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"metanotes"}


@pytest.mark.slow
def test_an_installed_package_reads_its_records_in_any_folder(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    wheel.extractall(tmp_path / "packages")
    (tmp_path / "elsewhere").mkdir()
    program = (
        "import metanotes\nfrom metanotes.notebook import record, record_data, record_names\n"
        "print(metanotes.__file__, record('sine').name, record_names('benchmarks/*'))\n"
        "record_data('hypergradients/cost')['curves']"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "elsewhere",
        env={"PYTHONPATH": str(tmp_path / "packages")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "packages"))
    assert "sine ['benchmarks/" in done.stdout


@pytest.mark.parametrize("chapter", CHAPTERS, ids=[path.stem for path in CHAPTERS])
def test_a_chapter_opens_no_file_of_the_repository(chapter: Path) -> None:
    """It reads what was recorded by name, and so finds it wherever it runs."""
    source = code(chapter)
    names = re.findall(r"\brecord(?:_data)?\(\s*\"([^\"]+)\"", source)
    assert [n for n in names if not (ROOT / "results" / f"{n}.json").exists()] == []
    assert not re.search(r"\.\./|[\"'](results|runs|tests|tools|book|notebooks)[\"'/]", source)
    assert not re.search(r"^\s*(?:from|import) (?:runs|benchmarks|tests|tools)\b", source, re.M)


def test_a_reader_has_none_of_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("PYTHONPATH", "METANOTES_DATA", "VIRTUAL_ENV", "JUPYTER_PATH")
    for name in ours:
        monkeypatch.setenv(name, str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    variables = anywhere.surroundings(tmp_path)
    assert not variables.keys() & set(ours)
    assert variables["HOME"] == str(tmp_path / "home")
    assert variables["OMP_NUM_THREADS"] == "1"
    assert variables["PATH"]


def test_a_chapter_that_fails_is_told(tmp_path: Path) -> None:
    """By the project's own environment, which has nbconvert too."""
    good = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    commands = Path(sys.executable).parent
    (tmp_path / "elsewhere").mkdir()
    for name, source in (("right", "x = 1 + 1"), ("wrong", "raise KeyError('no such thing')")):
        cells = [{**good, "source": source}]
        content = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}
        path = tmp_path / f"{name}.ipynb"
        path.write_text(json.dumps(content))
        variables = anywhere.surroundings(tmp_path)
        said = anywhere.execute(path, commands, tmp_path / "elsewhere", variables)
        assert ("no such thing" in said) == (name == "wrong")
        assert bool(said) == (name == "wrong")
