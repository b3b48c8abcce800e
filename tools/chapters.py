"""Run the chapters in place, so that a second run changes no byte.

    python tools/chapters.py [notebooks/03_maml.ipynb ...]      # all of them by default
    python tools/chapters.py --check                            # what is missing or stale, and fail

What makes the bytes stable: no timings in the metadata, seeded names for the widgets' connections,
one thread, no progress bars, figures without a date. Digests of the code that gave the stored
outputs, and of the records that it read, are kept in the notebook's metadata (`metanotes`), and a
file that `kept` has filled carries one of the cells that did; the tests compare them.

The file is a plugin for nbval too (`pytest -p chapters --nbval-lax notebooks`): the kernels of the
tests run under the same environment, and pictures are not compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import symtable
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
RECORDS = ROOT / "results"
MADE_BY = "made by cells with the digest"  # in a file that `kept` has filled

# What a notebook's kernel runs under, here and in the tests.
ENVIRONMENT = {
    "TQDM_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "SOURCE_DATE_EPOCH": "0",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}

# Run in the kernel before the first cell, outside the history: the ids of widgets from a counter.
SEED = """
import comm.base_comm as _comm, itertools as _it, types as _types, uuid as _uuid
_ids = _it.count(1)
_comm.uuid = _types.SimpleNamespace(uuid4=lambda: _uuid.UUID(int=next(_ids), version=4))
del _comm, _it, _types
"""


def code_digest(notebook: dict) -> str:
    """A digest of the sources of the code cells, in their order."""
    return hashlib.sha256("\0".join(_sources(notebook)).encode()).hexdigest()


def record_digests(notebook: dict) -> dict[str, str]:
    """Of the files of results/ that a chapter names: a digest of what they hold.

    A long run's words about itself do not count, as its record is read by rows, runs and curves.
    """
    code, digests = "\n".join(_sources(notebook)), {}
    patterns = re.findall(r'\brecord_names\("([^"]+)"\)', code)
    for path in sorted(RECORDS.rglob("*.json")):
        name = path.relative_to(RECORDS).with_suffix("").as_posix()
        of_a_run = path.parent == RECORDS
        if of_a_run and not re.search(r"\brecord\(", code):
            continue
        if f'"{name}"' in code or any(fnmatch(name, pattern) for pattern in patterns):
            held = json.loads(path.read_text(encoding="utf-8"))
            if of_a_run:
                held = [held[part] for part in ("rows", "runs", "curves")]
            digests[name] = hashlib.sha256(json.dumps(held).encode()).hexdigest()[:16]
    return digests


def kept_digests(notebook: dict) -> dict[str, str]:
    """Of the files of results/ that cells fill by `kept`: a digest of these cells, and of all that
    bind, before them, a name that they use, or that one of those uses.
    """
    sources = _sources(notebook)
    names = [_names(source) for source in sources]
    digests = {}
    for name in sorted(set(re.findall(r'\bkept\("([^"]+)"', "\n".join(sources)))):
        behind = {i for i, source in enumerate(sources) if f'kept("{name}"' in source}
        for i in reversed(range(max(behind, default=-1) + 1)):
            if names[i][0] & set().union(*(names[j][1] for j in behind if j > i)):
                behind.add(i)
        code = "\0".join(sources[i] for i in sorted(behind))
        digests[name] = hashlib.sha256(code.encode()).hexdigest()[:16]
    return digests


def _names(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell binds, and those of other cells that it uses."""
    top = symtable.symtable(source, "cell", "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    tables, used = [top], set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        used |= {s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()}
    return bound, used - bound


def _sources(notebook: dict) -> list[str]:
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]


def problems(path: Path) -> list[str]:
    """What is wrong with a notebook's stored outputs; empty if nothing is."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    found = []
    stored = notebook["metadata"].get("metanotes", {})
    if "code" not in stored:
        found.append("its outputs were not made by `make notebooks`")
    elif stored["code"] != code_digest(notebook):
        found.append("its code has changed since its outputs were made")
    found += [
        f"results/{name}.json has changed since its outputs were made"
        for name, digest in record_digests(notebook).items()
        if stored.get("records", {}).get(name) != digest
    ]
    for name, digest in kept_digests(notebook).items():
        path = RECORDS / f"{name}.json"
        if path.exists() and json.loads(path.read_text(encoding="utf-8")).get(MADE_BY) != digest:
            found.append(f"other cells filled results/{name}.json: remove it, run the chapter")
    count = 0
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code" or not "".join(cell["source"]).strip():
            continue
        count += 1
        where = f"cell {number} ({''.join(cell['source']).strip().splitlines()[0][:50]!r})"
        if cell["execution_count"] != count:
            found.append(f"{where} has execution count {cell['execution_count']}, not {count}")
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                found.append(f"{where} ends in an error: {output['ename']}")
            if output.get("name") == "stderr":
                text = "".join(output["text"]).strip()
                found.append(f"{where} writes to stderr: {text[:60]!r}")
    return found


def run(path: Path) -> None:
    """Execute a notebook in its folder and write it back."""
    import nbformat
    from nbclient import NotebookClient

    class Client(NotebookClient):
        async def async_start_new_kernel_client(self):  # type: ignore[no-untyped-def]
            client = await super().async_start_new_kernel_client()
            reply = client.execute(SEED, silent=True, store_history=False)
            while (await client.get_shell_msg())["parent_header"].get("msg_id") != reply:
                pass
            return client

    notebook = nbformat.read(path, as_version=4)
    files = {RECORDS / f"{name}.json": digest for name, digest in kept_digests(notebook).items()}
    anew = [file for file in files if not file.exists()]
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    resources = {"metadata": {"path": str(path.parent)}}
    Client(
        notebook,
        timeout=900,
        record_timing=False,
        coalesce_streams=True,  # prints in one box, however they were spaced in time
        resources=resources,
        extra_arguments=["--log-level=ERROR"],
    ).execute()
    for file in anew:
        held = json.loads(file.read_text(encoding="utf-8")) | {MADE_BY: files[file]}
        file.write_text(json.dumps(held, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    notebook.metadata["language_info"] = {"name": "python"}  # no version of this machine's
    for cell in notebook.cells:
        if cell.cell_type == "code" and not cell.source.strip():
            cell.execution_count = None
    notebook.metadata["metanotes"] = {
        "code": code_digest(notebook),
        "records": record_digests(notebook),
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    text = nbformat.writes(notebook, version=4) + "\n"
    scratch = path.with_suffix(".tmp")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def prepare_environment() -> None:
    """What every kernel started from here runs under; the real data, where they lie beside."""
    os.environ.update(ENVIRONMENT)
    beside = ROOT.parent / "shared" / "data"
    if "METANOTES_DATA" not in os.environ and beside.is_dir():
        os.environ["METANOTES_DATA"] = str(beside)


def pytest_configure(config: Any) -> None:
    prepare_environment()
    from nbval.plugin import IPyNbFile

    setup = IPyNbFile.__init__

    def without_pictures(self: Any, *args: Any, **kwargs: Any) -> None:
        setup(self, *args, **kwargs)
        self.skip_compare = (*self.skip_compare, "image/svg+xml")

    IPyNbFile.__init__ = without_pictures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all in notebooks/")
    parser.add_argument("--check", action="store_true", help="run nothing; report what is stale")
    asked = parser.parse_args()
    paths = asked.notebooks or sorted(FOLDER.glob("*.ipynb"))
    failed = False
    prepare_environment()
    for path in paths:
        start = time.perf_counter()
        if not asked.check:
            run(path)
            print(f"{path}: {time.perf_counter() - start:.0f} s", flush=True)
        for problem in problems(path):
            failed = True
            print(f"{path}: {problem}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
