"""Every public name explains itself, with an example that runs (as a doctest, with the tests)."""

import inspect

import pytest

import metanotes
import metanotes.data
import metanotes.nets
import metanotes.notebook

PUBLIC = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package in (metanotes, metanotes.data, metanotes.notebook)
    for name in package.__all__
} | {f"metanotes.nets.{name}": getattr(metanotes.nets, name) for name in ("conv4", "mlp")}


@pytest.mark.parametrize(
    "name", [name for name, thing in PUBLIC.items() if thing.__module__.startswith("metanotes")]
)
def test_a_public_name_has_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(PUBLIC[name]) or ""), f"{name} has no example"
