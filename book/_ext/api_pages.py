"""The API pages: every public name of the package, once, under the module that it is written in.

A package's public names are those of its `__all__`; a module's of the frame those of its `__all__`,
or else its functions and classes without an underscore. In a page of book/api/ a line

    {{ api metanotes.methods.initialization: maml reptile }}

becomes a section for each module of that package which has public names, those named first, and
`{{ api metanotes.task }}` the section of one module.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import metanotes

LINE = re.compile(r"^\{\{ api ([\w.]+)(?:: ([\w ]+))? \}\}$", re.M)
LISTS = "{{ imports }}"


def filled_in(source: str) -> str:
    """A page, with its lines replaced by what they stand for."""
    source = source.replace(LISTS, imports())
    return LINE.sub(lambda m: section(m[1], (m[2] or "").split()), source)


# ------------------------------------------------------------------------------- public names


def packages() -> list[str]:
    """The package and its rooms, those that are private left out."""
    found = pkgutil.walk_packages(metanotes.__path__, "metanotes.")
    return ["metanotes"] + [info.name for info in found if info.ispkg and "._" not in info.name]


def public(name: str) -> dict[str, Any]:
    """The public names of a package or module that metanotes defines, and what they are."""
    module = importlib.import_module(name)
    names = getattr(module, "__all__", None)
    if names is None:
        names = [] if hasattr(module, "__path__") else [*_defined_in(module)]
    things = {name: getattr(module, name) for name in names}
    return {n: t for n, t in things.items() if _is_ours(t)}


def _is_ours(thing: Any) -> bool:
    return str(getattr(thing, "__module__", None)).partition(".")[0] == "metanotes"


def _defined_in(module: ModuleType) -> Iterator[str]:
    for name, thing in vars(module).items():
        a_thing = inspect.isclass(thing) or inspect.isfunction(thing)
        if a_thing and thing.__module__ == module.__name__ and not name.startswith("_"):
            yield name


def home(thing: Any) -> str:
    """The module under which a thing is documented: where it is written, if that is no secret."""
    written: str = thing.__module__
    if "._" not in written:
        return written
    return next(name for name in frame() if thing in public(name).values())


def frame() -> list[str]:
    """The modules beside the rooms."""
    found = pkgutil.iter_modules(metanotes.__path__, "metanotes.")
    return [info.name for info in found if not info.ispkg]


# ------------------------------------------------------------------------------------- pages


def documented(source: str) -> list[str]:
    """The full names of what the lines of a page document, in their order."""
    return [
        f"{module}.{name}"
        for line in LINE.finditer(source)
        for module, names in _modules(line[1], (line[2] or "").split()).items()
        for name in names
    ]


def pages(book: Path) -> list[str]:
    """The sources of the API pages."""
    return [path.read_text(encoding="utf-8") for path in sorted((book / "api").glob("*.md"))]


def section(name: str, first: list[str]) -> str:
    """The documentation of a module, or of the modules of a package."""
    modules = _modules(name, first)
    if not modules:
        raise ValueError(f"{name} has no public name: nothing to document")
    return "\n".join(_module(module, names) for module, names in modules.items())


def _modules(name: str, first: list[str]) -> dict[str, list[str]]:
    """The modules of a package, in their order, with the public names that belong to each."""
    holder = importlib.import_module(name)
    things = public(name)
    if not hasattr(holder, "__path__"):
        return {name: [n for n, t in things.items() if home(t) == name]}
    modules: dict[str, list[str]] = {f"{name}.{module}": [] for module in first}
    for n, thing in sorted(things.items(), key=lambda pair: home(pair[1])):
        if home(thing).rpartition(".")[0] == name:
            modules.setdefault(home(thing), []).append(n)
    return modules


def _module(name: str, names: list[str]) -> str:
    label = name.replace(".", "-").replace("_", "-")
    title = name.removeprefix("metanotes.").removeprefix("methods.")
    lines = [
        f"(api-{label})=",
        f"## `{title}`",
        "",
        "```{eval-rst}",
        f".. automodule:: {name}",
        f"   :members: {', '.join(names)}" if names else "   :no-members:",
        "   :show-inheritance:",
        "```",
        "",
    ]
    return "\n".join(lines)


def imports() -> str:
    """What each package offers to import, with links."""
    lists = []
    for package in packages():
        holder = importlib.import_module(package)
        links = []
        for name in getattr(holder, "__all__", []):
            thing = getattr(holder, name)
            if name in public(package):
                links.append(f"{{py:obj}}`{name} <{home(thing)}.{thing.__qualname__}>`")
            elif hasattr(thing, "__module__"):
                links.append(f"`{name}` (`{thing.__module__}.{thing.__name__}`)")
            else:  # a constant
                links.append(f"`{name}`")
        if links:
            lists.append(f"`from {package} import ...`\n: " + ",\n  ".join(links) + "\n")
    return "\n".join(lists)
