"""What can be imported from where: each room owns its names, and the top has the most used."""

import ast
import importlib
from pathlib import Path

import api_pages
import pytest

import metanotes
from metanotes import Learner, UpdateRule

ROOMS = [place for place in api_pages.packages() if place != "metanotes"]
KINDS = (Learner, UpdateRule)
METHODS = [room for room in ROOMS if room.startswith("metanotes.methods.")]

# Losses and helpers come from their rooms, but for these, which are used everywhere.
USED_EVERYWHERE = {
    "cross_entropy",
    "evaluate",
    "hypergradient",
    "meta_train",
    "mse",
    "over_tasks",
    "reinforce",
    "trajectory",
}


def exports(place: str) -> list[str]:
    names: list[str] = getattr(importlib.import_module(place), "__all__", [])
    return names


@pytest.mark.parametrize("place", [*api_pages.packages(), *api_pages.frame()])
def test_what_a_place_exports_is_there(place: str) -> None:
    module = importlib.import_module(place)
    assert [name for name in exports(place) if not hasattr(module, name)] == []
    assert len(set(exports(place))) == len(exports(place))


@pytest.mark.parametrize("room", METHODS)
def test_the_top_has_every_learner_and_rule_of_a_room(room: str) -> None:
    things = {name: getattr(importlib.import_module(room), name) for name in exports(room)}
    kinds = [n for n, t in things.items() if isinstance(t, type) and issubclass(t, KINDS)]
    assert [name for name in kinds if name not in metanotes.__all__] == []


def test_the_top_has_no_helper_but_those_used_everywhere() -> None:
    functions = {n for n in metanotes.__all__ if not isinstance(getattr(metanotes, n), type)}
    assert functions == USED_EVERYWHERE


def test_the_top_takes_its_names_from_rooms_and_the_frame() -> None:
    tree = ast.parse(Path(metanotes.__file__).read_text(encoding="utf-8"))
    sources = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert sources <= {*ROOMS, *api_pages.frame()}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert {alias.name for alias in node.names} <= set(exports(str(node.module)))


def test_two_things_never_share_a_name() -> None:
    things: dict[str, set[int]] = {}
    for place in (*api_pages.packages(), *api_pages.frame()):
        for name, thing in api_pages.public(place).items():
            things.setdefault(name, set()).add(id(thing))
    assert [name for name, different in things.items() if len(different) > 1] == []
