"""Run the site's JavaScript from Python: in node, or where there is none in Chromium."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PLAY = Path(__file__).resolve().parent.parent / "book" / "_static" / "play"


def source(scripts: Sequence[str]) -> str:
    """Scripts of book/_static/play, one after another."""
    return "\n".join((PLAY / name).read_text(encoding="utf-8") for name in scripts)


def call(code: str, function: str, value: object = None) -> Any:
    """What a function gives for a value that JSON can hold, after some code has run.

    Raises:
        RuntimeError: the code throws an error.
    """
    node = shutil.which("node")
    return (
        in_chromium(code, function, value) if node is None else in_node(node, code, function, value)
    )


def in_node(node: str, code: str, function: str, value: object) -> Any:
    program = (
        f"{code}\nconst input = JSON.parse(require('fs').readFileSync(0, 'utf8'));\n"
        f"process.stdout.write(JSON.stringify(({function})(input)));\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.js"
        file.write_text(program, encoding="utf-8")
        done = subprocess.run([node, file], input=json.dumps(value), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout)


def in_chromium(code: str, function: str, value: object) -> Any:
    import pages
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        browser = pages.launch(playwright)
        try:
            page = browser.new_page()
            page.add_script_tag(content=code)
            return page.evaluate(function, value)
        except Error as error:
            raise RuntimeError(str(error)) from error
        finally:
            browser.close()
