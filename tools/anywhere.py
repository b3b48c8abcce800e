"""Run the chapters as a reader does who has no copy of the book's repository.

    python tools/anywhere.py                                      # all of them
    python tools/anywhere.py notebooks/15_hypergradients.ipynb --environment ../reader

A new environment gets what `pip install ".[notebooks]"` brings, and nothing else. The chapters are
copied to another folder, without data sets, and `jupyter nbconvert` executes one after the other.
Only Python's own library is needed here. With --environment the environment is kept, and a later
call installs nothing but the package anew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ["pyproject.toml", "setup.py", "README.md", "LICENSE", "metanotes", "results"]
SECONDS = 900  # of a cell, at most


def copy_source(folder: Path) -> Path:
    """What the package is built from, in a folder of its own: a build leaves files beside it."""
    unwanted = shutil.ignore_patterns("__pycache__", ".*")
    for name in SOURCE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def install(environment: Path, scratch: Path) -> Path:
    """The commands of an environment with the package and what its chapters ask for."""
    if not (environment / "pyvenv.cfg").exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    commands = environment / ("Scripts" if os.name == "nt" else "bin")
    source = copy_source(scratch / "source")
    pip = [str(commands / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"{source}[notebooks]"], check=True)
    shutil.rmtree(source)
    return commands


def surroundings(scratch: Path) -> dict[str, str]:
    """The variables of a reader who has set none: nobody's packages, data or settings."""
    ours = ("PYTHON", "METANOTES", "JUPYTER", "IPYTHON", "VIRTUAL_ENV", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    home = scratch / "home"
    home.mkdir(exist_ok=True)
    return {**kept, "HOME": str(home), "USERPROFILE": str(home), "TQDM_DISABLE": "1"}


def execute(chapter: Path, commands: Path, folder: Path, variables: dict[str, str]) -> str:
    """Execute a chapter in `folder`; what went wrong, or nothing."""
    shutil.copy(chapter, folder)
    command = [str(commands / "jupyter"), "nbconvert", "--to", "notebook", "--execute", "--inplace"]
    command += [f"--ExecutePreprocessor.timeout={SECONDS}", chapter.name]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    return done.stderr if done.returncode else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all in notebooks/")
    parser.add_argument("--environment", type=Path, help="where to make and keep the environment")
    asked = parser.parse_args()
    chapters = asked.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    failed = []
    with tempfile.TemporaryDirectory(prefix="chapters-") as name:
        scratch = Path(name)
        commands = install((asked.environment or scratch / "environment").absolute(), scratch)
        folder = scratch / "elsewhere"
        folder.mkdir()
        for chapter in chapters:
            start = time.perf_counter()
            complaint = execute(chapter, commands, folder, surroundings(scratch))
            how = "failed" if complaint else "passed"
            print(f"{chapter.name}: {how}, {time.perf_counter() - start:.0f} s", flush=True)
            if complaint:
                failed.append(chapter.name)
                print("\n".join(complaint.splitlines()[-30:]), file=sys.stderr, flush=True)
    print(f"{len(chapters) - len(failed)} of {len(chapters)} chapters passed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
