"""Resolve tools/requirements.in in a clean environment and write requirements.txt.

The pins hold for a CPU build of torch and for a CUDA build alike: local version suffixes are
dropped, and the CUDA libraries, which the CUDA build asks for itself, are left out.
"""

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# The whole environment of the book, pinned: what shapes the stored outputs of the chapters and the
# pages of the site. Written by `make lock` from tools/requirements.in; do not edit. The package
# itself asks for far less (pyproject.toml).
"""
LEFT_OUT = re.compile(r"pip==|nvidia-|cuda-|triton==|metanotes|-e ")


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        venv.create(name, with_pip=True)
        python = Path(name) / "bin" / "python"
        pip = [python, "-m", "pip"]
        given = ROOT / "tools" / "requirements.in"
        # torch first: a range that another package gives must not bring in a newer one.
        torch = next(line for line in given.read_text().splitlines() if line.startswith("torch=="))
        subprocess.run([*pip, "install", "--quiet", torch], check=True)
        subprocess.run([*pip, "install", "--quiet", "-r", given], check=True)
        out = subprocess.run([*pip, "freeze", "--all"], check=True, capture_output=True, text=True)
    pins = [re.sub(r"\+.*", "", line) for line in out.stdout.splitlines()]
    pins = sorted((pin for pin in pins if not LEFT_OUT.match(pin)), key=str.lower)
    (ROOT / "requirements.txt").write_text(HEAD + "\n".join(pins) + "\n")
    print(f"{len(pins)} packages pinned")
    return 0


if __name__ == "__main__":
    sys.exit(main())
