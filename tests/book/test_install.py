"""The package stands alone: light to import, and complete without the book's tools."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
HEAVY = ["torchvision", "matplotlib", "ipywidgets", "IPython", "sklearn", "scipy", "PIL"]


def child(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_metanotes_imports_no_heavy_library() -> None:
    code = (
        "import json, sys, metanotes, metanotes.data, metanotes.nets, metanotes.notebook\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    loaded = json.loads(child(code))
    # torch itself may load some of these; what matters is what metanotes adds.
    base = json.loads(
        child(
            "import json, sys, torch\n"
            "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
        )
    )
    assert sorted(set(HEAVY) & (set(loaded) - set(base))) == []


def test_every_import_of_the_package_is_declared() -> None:
    """Each third-party module that metanotes imports is a dependency or an extra of it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        asked += extra
    declared = {re.split(r"[<>=\[ ]", name)[0] for name in asked}
    declared |= {"PIL", "sklearn", "IPython", "matplotlib_inline"}  # of matplotlib, of jupyterlab
    used = set()
    for path in (ROOT / "metanotes").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                used.add(node.module.partition(".")[0])
    foreign = used - set(sys.stdlib_module_names) - {"metanotes"}
    assert sorted(foreign - declared) == []


def test_every_import_of_a_chapter_is_declared() -> None:
    """`pip install metanotes[notebooks]` is enough to run them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["notebooks"]
    declared = {re.split(r"[<>=\[ ]", name)[0] for name in asked}
    declared |= {"sklearn"} if "scikit-learn" in declared else set()
    declared |= {"IPython", "PIL", "metanotes"}  # of ipywidgets, of matplotlib
    used = set()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                source = "".join(cell["source"])
                used |= set(re.findall(r"^\s*(?:import|from) (\w+)", source, re.M))
    assert sorted(used - set(sys.stdlib_module_names) - declared) == []


def test_the_package_asks_for_little() -> None:
    asked = [line for line in requires("metanotes") or [] if "extra ==" not in line]
    assert len(asked) <= 6, asked
    assert not any("==" in line for line in asked), f"exact pins belong to the book: {asked}"


def test_the_book_pins_everything() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 100
    for line in pins:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line
    given = (ROOT / "tools" / "requirements.in").read_text(encoding="utf-8").splitlines()
    names = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in pins}
    for line in given:
        if line and not line.startswith("#"):
            assert re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() in names, line


def test_the_address_of_the_repository_agrees() -> None:
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    found = re.search(r"^repository:\n\s+url: (\S+)", config, re.M)
    assert found
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Repository"] == found[1]


@pytest.mark.parametrize(
    "name",
    ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", ".ci/run"],
)
def test_the_project_has(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8").strip()
