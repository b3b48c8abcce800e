"""The rules of the house, held: no circle, no arrow upward, no private name outside its file.

tests/house.py says which imports count: all of them. What stands where, from the ground up:

    _ground            imports torch, tqdm and Python's own
    task               _ground
    theta              task, _ground
    engine             theta, task, _ground; from outside there is its door alone
    the frame          the modules at the top: engine and below
    nets               _ground
    data               task, _ground
    methods' rooms     the frame and below, nets; never each other, never data
    notebook           the frame and below
    metanotes          the frame and the methods' rooms, by their doors
    runs, benchmarks   whatever is public; nothing in metanotes imports them
"""

import textwrap
from pathlib import Path

import pytest

from tests.house import GROUND, House

ROOT = Path(__file__).resolve().parent.parent
ENTRIES = 16  # at the package's top, at most

BELOW_FRAME = {"_ground", "task", "theta", "engine"}
MAY_IMPORT = {
    "_ground": set[str](),
    "task": {"_ground"},
    "theta": {"_ground", "task"},
    "engine": {"_ground", "task", "theta"},
    "frame": BELOW_FRAME,
    "nets": {"_ground"},
    "data": {"_ground", "task"},
    "methods": {"frame", *BELOW_FRAME, "nets"},
    "notebook": {"frame", *BELOW_FRAME},
    "top": {"frame", *BELOW_FRAME, "methods"},
}
FEW = {
    "_ground": {"torch", "tqdm"},
    **{kind: {"torch"} for kind in ("task", "theta", "engine", "nets")},
}
ROOMS = ("engine", "data", "nets", "notebook")


def place(module: str) -> tuple[str, str]:
    """Where a module stands, and its room: a kind of `MAY_IMPORT`, and what it may always import.

    >>> place("metanotes.methods.bilevel.problem"), place("metanotes.learner")
    (('methods', 'metanotes.methods.bilevel'), ('frame', 'frame'))
    """
    parts = module.split(".")
    if parts[0] != "metanotes":
        return parts[0], parts[0]
    if len(parts) == 1:
        return "top", "top"
    if parts[1] == "methods":
        return "methods", ".".join(parts[:3])
    if parts[1] in MAY_IMPORT:
        return parts[1], parts[1]
    return "frame", "frame"


def upward(house: House) -> list[str]:
    """Imports of what stands higher, or beside."""
    wrong = []
    for source, target, line in house.arrows():
        kind, room = place(source.name)
        other, other_room = place(target)
        if kind not in MAY_IMPORT:
            continue  # runs and benchmarks
        if room != other_room and (other not in MAY_IMPORT[kind] or kind == other):
            wrong.append(f"{source.path}:{line} imports {target}")
    return wrong


def past_the_door(house: House) -> list[str]:
    """Imports of a module inside the engine; and of one inside a room by the package's top."""
    wrong = []
    for source, target, line in house.arrows():
        kind, target_kind = place(source.name)[0], place(target)[0]
        inside = house.sources.get(target)
        if inside is None or inside.package or kind == target_kind:
            continue
        if target_kind == "engine" or (kind == "top" and target_kind in ("methods", *ROOMS)):
            wrong.append(f"{source.path}:{line} imports {target}")
    return wrong


def strangers(house: House) -> list[str]:
    """Imports of libraries where there are to be few."""
    return [
        f"{source.path}:{line} imports {library}"
        for source, library, line in house.strangers()
        if place(source.name)[0] in FEW and library not in FEW[place(source.name)[0]]
    ]


def circles(house: House) -> list[str]:
    return [" <-> ".join(group) for group in house.circles()]


def learners_in_the_engine(house: House) -> list[str]:
    """Names of learners' classes in the engine's code."""
    learners = house.derived("Learner")
    return [
        f"{source.path}:{line} names {name}"
        for source in house.sources.values()
        if place(source.name)[0] == "engine"
        for name, line in source.identifiers()
        if name in learners
    ]


# What a base class asks of its subclasses, in its docstring, and nobody else may call.
HOOKS = frozenset(("_draw",))  # of Sampler


def private_names(house: House) -> list[str]:
    """Private names of another file: imported, used as an attribute, or replaced in a subclass."""
    wrong = []
    everyone = {name for source in house.sources.values() for name in source.own_private}
    for source in house.sources.values():
        for module, name, line in source.imports:
            if not module.startswith(("metanotes", "runs", "benchmarks")):
                continue
            whole = f"{module}.{name}" if name else module
            parts = whole.removeprefix(GROUND).split(".")
            if any(part.startswith("_") and part != "__init__" for part in parts):
                wrong.append(f"{source.path}:{line} imports {whole}")
        for name, line in source.private_attributes():
            if name in everyone and name not in source.own_private:
                wrong.append(f"{source.path}:{line} uses {name}")
    for source, line, name, base in house.overridden():
        if name not in HOOKS:
            wrong.append(f"{source.path}:{line} replaces {name} of {base}")
    return wrong


def rooms(house: House) -> list[str]:
    """The packages that own public names."""
    named = [f"metanotes.{room}" for room in ROOMS]
    methods = [n for n, s in house.sources.items() if s.package and place(n)[0] == "methods"]
    return [n for n in named if n in house.sources] + [n for n in methods if n.count(".") == 2]


def exports(house: House) -> list[str]:
    """Rooms without `__all__`, names that it holds twice or that are not there, or in two rooms."""
    wrong, owners = [], dict[str, str]()
    for room in [*rooms(house), "metanotes"]:
        source = house.sources[room]
        if source.exported is None:
            wrong.append(f"{source.path} has no __all__")
            continue
        for name in source.exported:
            bound = source.bound.count(name)
            if source.exported.count(name) != 1 or bound != 1:
                wrong.append(f"{source.path}: {name} is bound {bound} times, and stands in __all__")
            if room != "metanotes" and owners.setdefault(name, room) != room:
                wrong.append(f"{source.path}: {name} is {owners[name]}'s already")
        spare = {n for n in source.bound if not n.startswith("_")} - {
            *source.exported,
            "annotations",
        }
        if room != "metanotes.engine":  # which defines what is at its door
            wrong += [f"{source.path}: {name} is not in __all__" for name in sorted(spare)]
    return wrong


def entries(house: House) -> list[str]:
    """What stands at the package's top, if it is too much."""
    top = house.root / "metanotes"
    names = [p.name for p in top.glob("*.py")]
    names += [p.name for p in top.iterdir() if p.is_dir() and any(p.rglob("*.py"))]
    return sorted(names) if len(names) > ENTRIES else []


RULES = [
    upward,
    past_the_door,
    strangers,
    circles,
    learners_in_the_engine,
    private_names,
    exports,
    entries,
]


@pytest.fixture(scope="module")
def house() -> House:
    return House(ROOT)


def test_the_house_is_read(house: House) -> None:
    assert {"metanotes", "metanotes.learner", "runs", "benchmarks"} <= house.sources.keys()
    assert len(list(house.arrows())) > 200
    assert len(rooms(house)) >= 8


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_of_the_house(rule, house: House) -> None:
    assert sorted(set(rule(house))) == []


SOUND = {
    "metanotes/__init__.py": """
        from metanotes.learner import Learner
        from metanotes.methods.start import MAML
        __all__ = ["MAML", "Learner"]
        """,
    "metanotes/_ground/__init__.py": "",
    "metanotes/_ground/checks.py": """
        import math
        import torch
        def positive(x): from tqdm import tqdm
        def _helper(): pass
        """,
    "metanotes/task.py": "from metanotes._ground.checks import positive",
    "metanotes/engine/__init__.py": """
        from metanotes.engine.step import meta_step
        __all__ = ["meta_step"]
        """,
    "metanotes/engine/step.py": '''
        """For a Learner, such as MAML."""
        import torch
        from metanotes.task import positive
        def meta_step(learner): return learner._replace
        ''',
    "metanotes/learner.py": """
        from metanotes.engine import meta_step
        from metanotes.task import positive
        class Learner:
            def __init__(self): self._mine = 1
            def _own(self): return self._mine
        """,
    "metanotes/nets/__init__.py": """
        from metanotes.nets.plain import mlp
        __all__ = ["mlp"]
        """,
    "metanotes/nets/plain.py": "import torch\ndef mlp(): pass",
    "metanotes/methods/__init__.py": "",
    "metanotes/methods/start/__init__.py": """
        from metanotes.methods.start.maml import MAML
        __all__ = ["MAML"]
        """,
    "metanotes/methods/start/maml.py": """
        from metanotes.learner import Learner
        from metanotes.nets import mlp
        from metanotes.methods.start.other import half
        class MAML(Learner): pass
        """,
    "metanotes/methods/start/other.py": "def half(): pass",
    "metanotes/methods/stop/__init__.py": """
        from metanotes.methods.stop.when import when
        __all__ = ["when"]
        """,
    "metanotes/methods/stop/when.py": "def when(): pass",
    "metanotes/data/__init__.py": "from metanotes.data.sets import digits\n__all__ = ['digits']",
    "metanotes/data/sets.py": "import numpy\nfrom ..task import positive\ndef digits(): pass",
    "runs/__init__.py": "from metanotes import MAML",
    "benchmarks/__init__.py": "import runs\nfrom metanotes.data.sets import digits",
}


def built(folder: Path, changes: dict[str, str]) -> House:
    """A small house; a change is written to the end of its file."""
    for name in SOUND.keys() | changes.keys():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = [textwrap.dedent(part.get(name, "")) for part in (SOUND, changes)]
        path.write_text("\n".join(text), encoding="utf-8")
    return House(folder)


def test_a_sound_house_breaks_no_rule(tmp_path: Path) -> None:
    house = built(tmp_path, {})
    assert [(rule.__name__, rule(house)) for rule in RULES if rule(house)] == []


@pytest.mark.parametrize(
    ("rule", "changes", "found"),
    [
        (upward, {"task.py": "import metanotes.learner"}, "task.py:2 imports metanotes.learner"),
        (upward, {"_ground/checks.py": "from metanotes import task"}, "imports metanotes.task"),
        (
            upward,
            {"engine/step.py": "def f():\n    from metanotes.learner import Learner"},
            "imports metanotes.learner",
        ),
        (
            upward,
            {
                "engine/step.py": "from typing import TYPE_CHECKING\n"
                "if TYPE_CHECKING:\n    from metanotes import learner"
            },
            "imports metanotes.learner",
        ),
        (upward, {"learner.py": "from metanotes.nets import mlp"}, "imports metanotes.nets"),
        (upward, {"learner.py": "import metanotes"}, "learner.py:8 imports metanotes"),
        (upward, {"learner.py": "from metanotes.methods.start import MAML"}, "methods.start"),
        (upward, {"learner.py": "import runs.sine"}, "imports runs.sine"),
        (upward, {"learner.py": "from benchmarks import x"}, "imports benchmarks"),
        (upward, {"nets/plain.py": "from metanotes.task import positive"}, "metanotes.task"),
        (upward, {"data/sets.py": "from metanotes.learner import Learner"}, "metanotes.learner"),
        (upward, {"data/sets.py": "from ..learner import Learner"}, "metanotes.learner"),
        (
            upward,
            {"methods/start/other.py": "from metanotes.data import digits"},
            "imports metanotes.data",
        ),
        (
            upward,
            {"methods/start/other.py": "from metanotes.methods.stop import when"},
            "imports metanotes.methods.stop",
        ),
        (
            upward,
            {"methods/start/other.py": "from metanotes.methods.stop.when import when"},
            "imports metanotes.methods.stop.when",
        ),
        (
            past_the_door,
            {"learner.py": "from metanotes.engine.step import meta_step"},
            "imports metanotes.engine.step",
        ),
        (
            past_the_door,
            {"__init__.py": "from metanotes.methods.start.other import half"},
            "imports metanotes.methods.start.other",
        ),
        (strangers, {"engine/step.py": "import numpy"}, "step.py:7 imports numpy"),
        (strangers, {"nets/plain.py": "from torchvision.models import x"}, "imports torchvision"),
        (
            circles,
            {"methods/start/other.py": "from metanotes.methods.start.maml import MAML"},
            "metanotes.methods.start.maml <-> metanotes.methods.start.other",
        ),
        (
            circles,
            {"methods/start/other.py": "def f():\n    from metanotes.methods.start import MAML"},
            "metanotes.methods.start <-> metanotes.methods.start.maml <-> "
            "metanotes.methods.start.other",
        ),
        (learners_in_the_engine, {"engine/step.py": "def f(x: 'MAML'): pass"}, "names MAML"),
        (
            learners_in_the_engine,
            {"engine/step.py": "def f(x): return type(x).__name__ == 'Learner'"},
            "names Learner",
        ),
        (
            private_names,
            {"task.py": "from metanotes._ground.checks import _helper"},
            "imports metanotes._ground.checks._helper",
        ),
        (
            private_names,
            {"data/_old.py": "", "data/sets.py": "from metanotes.data import _old"},
            "imports metanotes.data._old",
        ),
        (private_names, {"methods/start/maml.py": "x = Learner()._mine"}, "maml.py:7 uses _mine"),
        (private_names, {"methods/start/maml.py": "Learner()._mine = 2"}, "uses _mine"),
        (private_names, {"methods/start/maml.py": "def f(l): return l._own()"}, "uses _own"),
        (
            private_names,
            {"methods/start/maml.py": "class Half(MAML):\n    def _own(self): pass"},
            "maml.py:8 replaces _own of metanotes.learner.Learner",
        ),
        (exports, {"nets/__init__.py": "import torch"}, "torch is not in __all__"),
        (exports, {"nets/__init__.py": "def mlp(): pass"}, "mlp is bound 2 times"),
        (
            exports,
            {"methods/last/__init__.py": "from metanotes.methods.last.it import it"},
            "methods/last/__init__.py has no __all__",
        ),
        (
            exports,
            {
                "methods/last/__init__.py": "from metanotes.methods.last.it import MAML\n"
                "__all__ = ['MAML']"
            },
            "MAML is metanotes.methods.",
        ),
        (entries, {f"more_{n}.py": "" for n in range(20)}, "more_0.py"),
    ],
)
def test_a_broken_rule_is_noticed(tmp_path: Path, rule, changes, found) -> None:
    house = built(tmp_path, {f"metanotes/{name}": text for name, text in changes.items()})
    broken = rule(house)
    assert any(found in line for line in broken), broken


def test_nothing_of_the_host_program_is_set():
    # Its allocator least of all: benchmarks and runs, which are commands of ours, may set that.
    for file in (ROOT / "metanotes").rglob("*.py"):
        assert not {"ctypes", "mallopt", "MALLOC_"} & set(file.read_text().split()), file
