"""Who imports whom, read from the sources: the graph that tests/test_house.py holds to its rules.

Nothing is imported. Every import counts as an arrow, wherever it stands: at the top of a file,
inside a function, under TYPE_CHECKING (who needs another's types knows of it). Examples in
docstrings do not: they are what a reader would write. Nor does a package's own `__init__`, which
Python runs before each of its modules.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

FOLDERS = ("metanotes", "runs", "benchmarks")
GROUND = "metanotes._ground"


@dataclass
class Source:
    """A file: its module's name, its tree, and what it imports.

    Args:
        name: `metanotes.methods.bilevel.problem`; of an `__init__`, the package's.
        path: the file, from the root.
        tree: what it says.
        package: whether it is an `__init__`.
    """

    name: str
    path: str
    tree: ast.Module
    package: bool
    imports: list[tuple[str, str | None, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                self.imports += [(alias.name, None, node.lineno) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                module = self._absolute(node)
                self.imports += [(module, alias.name, node.lineno) for alias in node.names]

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        base = parts[: len(parts) - node.level + self.package]
        return ".".join([*base, *([node.module] if node.module else [])])

    @cached_property
    def bound(self) -> list[str]:
        """The names that stand at the top of the file, as often as they are bound."""
        names: list[str] = []
        for node in self.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names += [alias.asname or alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.append(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names += [t.id for t in targets if isinstance(t, ast.Name)]
        return names

    @cached_property
    def exported(self) -> list[str] | None:
        """`__all__`, or None."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and [
                t.id for t in node.targets if isinstance(t, ast.Name)
            ] == ["__all__"]:
                return list(ast.literal_eval(node.value))
        return None

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        return {n.name: n for n in ast.walk(self.tree) if isinstance(n, ast.ClassDef)}

    @cached_property
    def own_private(self) -> set[str]:
        """The private names that are defined here."""
        names = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id in ("self", "cls")
            ):
                names.add(node.attr)
        return {name for name in names if is_private(name)}

    def private_attributes(self) -> Iterator[tuple[str, int]]:
        """`_name` in `x._name`, and where."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                yield node.attr, node.lineno

    def identifiers(self) -> Iterator[tuple[str, int]]:
        """Every name that the code uses, those in quoted annotations too, and where."""
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name):
                yield node.id, node.lineno
            elif isinstance(node, ast.Attribute):
                yield node.attr, node.lineno
            elif isinstance(node, ast.alias):
                yield from ((part, node.lineno) for part in node.name.split("."))
            elif (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and id(node) not in docstrings
                and node.value.isidentifier()
            ):
                yield node.value, node.lineno


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


class House:
    """All sources below a root.

    Args:
        root: the folder with `metanotes/`, and `runs/` and `benchmarks/` if there are any.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.sources = root, dict[str, Source]()
        for folder in FOLDERS:
            for path in sorted((root / folder).rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                package = parts[-1] == "__init__"
                name = ".".join(parts[:-1] if package else parts)
                tree = ast.parse(path.read_text(encoding="utf-8"))
                self.sources[name] = Source(name, str(path.relative_to(root)), tree, package)

    def target(self, module: str, name: str | None) -> str:
        """The module that an import leads to: a name of a package, or a module in it."""
        if name is None:
            return module
        package, inside = self.sources.get(module), f"{module}.{name}"
        if package is not None and name in package.bound:
            return module
        return inside if inside in self.sources else module

    def arrows(self) -> Iterator[tuple[Source, str, int]]:
        """Each import of one of our modules: from whom, of which module, and where."""
        for source in self.sources.values():
            for module, name, line in source.imports:
                if module.split(".")[0] in FOLDERS:
                    yield source, self.target(module, name), line

    def strangers(self) -> Iterator[tuple[Source, str, int]]:
        """Each import of what is neither ours nor Python's own."""
        for source in self.sources.values():
            for module, _, line in source.imports:
                first = module.split(".")[0]
                if first not in FOLDERS and first not in sys.stdlib_module_names:
                    yield source, first, line

    def circles(self) -> list[list[str]]:
        """The groups of modules that import one another (Tarjan's strongly connected parts)."""
        graph: dict[str, set[str]] = {name: set() for name in self.sources}
        for source, target, _ in self.arrows():
            if target in graph and target != source.name:
                graph[source.name].add(target)
        numbers, lowest = dict[str, int](), dict[str, int]()
        stack: list[str] = []
        groups: list[list[str]] = []

        def visit(name: str) -> None:
            numbers[name] = lowest[name] = len(numbers)
            stack.append(name)
            for other in graph[name]:
                if other not in numbers:
                    visit(other)
                if other in stack:
                    lowest[name] = min(lowest[name], lowest[other])
            if lowest[name] == numbers[name]:
                at = stack.index(name)
                group = stack[at:]
                del stack[at:]
                if len(group) > 1:
                    groups.append(sorted(group))

        for name in graph:
            if name not in numbers:
                visit(name)
        return groups

    def derived(self, base: str) -> set[str]:
        """The names of the classes that come from a class of this name, and that name."""
        names, before = {base}, set[str]()
        while names != before:
            before = set(names)
            for source in self.sources.values():
                for name, node in source.classes.items():
                    if names & set(base_names(node)):
                        names.add(name)
        return names

    def overridden(self) -> Iterator[tuple[Source, int, str, str]]:
        """Each private method that replaces one of a class in another file."""
        homes = {
            name: (source, node)
            for source in self.sources.values()
            for name, node in source.classes.items()
        }
        for source in self.sources.values():
            for node in source.classes.values():
                methods = private_methods(node)
                bases, seen = base_names(node), set[str]()
                while bases:
                    base = bases.pop()
                    if base in seen or base not in homes:
                        continue
                    seen.add(base)
                    home, parent = homes[base]
                    bases += base_names(parent)
                    if home is not source:
                        for name in sorted(methods.keys() & private_methods(parent).keys()):
                            yield source, methods[name], name, f"{home.name}.{base}"


def base_names(node: ast.ClassDef) -> list[str]:
    """The last names of a class's bases: `Learner` of `learner.Learner` and `Learner[int]`."""
    names = []
    for base in node.bases:
        inner = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(inner, ast.Name | ast.Attribute):
            names.append(inner.id if isinstance(inner, ast.Name) else inner.attr)
    return names


def private_methods(node: ast.ClassDef) -> dict[str, int]:
    return {
        n.name: n.lineno
        for n in node.body
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and is_private(n.name)
    }
