"""The peers' packages, in a folder of their own that only the benchmarks see.

pip fetches them from wherever it is configured to, never with their dependencies: the torch that is
measured is the one of the environment.
"""

from __future__ import annotations

import hashlib
import importlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from metanotes.data import cache_folder

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
# All of learn2learn's MAML. Its own `__init__` files import the parts that do not build, so each
# package gets an empty one.
LEARN2LEARN_MODULES = ("algorithms/maml.py", "algorithms/base_learner.py", "utils/__init__.py")


def install() -> list[str]:
    """Put the peers' folder on the path, filled at first use.

    Returns:
        The packages that could not be had, each with the end of pip's message.
    """
    pins = [line for line in REQUIREMENTS.read_text().splitlines() if line[:1] not in ("", "#")]
    digest = hashlib.sha256("\n".join([platform.python_version(), *pins]).encode()).hexdigest()
    folder = cache_folder() / "peers" / digest[:12]
    missing: list[str] = []
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            filled = Path(name) / "peers"
            filled.mkdir()
            for pin in pins:
                print(f"installing {pin}", flush=True)
                get = _unpack_learn2learn if pin.startswith("learn2learn") else _install_wheel
                try:
                    get(pin, filled)
                except subprocess.CalledProcessError as error:
                    missing.append(f"{pin}: {error.stderr.strip().splitlines()[-1]}")
            if missing:  # use what there is, and try again next time
                folder = Path(tempfile.mkdtemp(prefix="metanotes-peers-"))
                shutil.copytree(filled, folder, dirs_exist_ok=True)
            else:
                filled.rename(folder)
    sys.path.append(str(folder))  # last: nothing of the environment is hidden by it
    importlib.invalidate_caches()
    return missing


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--no-deps"]
    subprocess.run(command, check=True, capture_output=True, text=True)


def _install_wheel(pin: str, folder: Path) -> None:
    _pip("install", "--only-binary", ":all:", "--target", str(folder), pin)


def _unpack_learn2learn(pin: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        _pip("download", "--no-binary", "learn2learn", "--dest", name, pin)
        (sdist,) = Path(name).glob("*.tar.gz")
        with tarfile.open(sdist) as archive:
            for module in LEARN2LEARN_MODULES:
                target = folder / "learn2learn" / module
                target.parent.mkdir(parents=True, exist_ok=True)
                top = sdist.name.removesuffix(".tar.gz")
                source = archive.extractfile(f"{top}/learn2learn/{module}")
                assert source is not None
                target.write_bytes(source.read())
    for package in ("", "algorithms"):
        (folder / "learn2learn" / package / "__init__.py").touch()
