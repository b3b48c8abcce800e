"""Where data is read from and kept."""

from pathlib import Path

import pytest

from metanotes.data import cache_folder, data_folder


@pytest.mark.parametrize(
    ("folder", "variable"), [(data_folder, "METANOTES_DATA"), (cache_folder, "METANOTES_CACHE")]
)
def test_folders_are_named_by_argument_then_environment_then_default(folder, variable, monkeypatch):
    monkeypatch.setenv(variable, "/somewhere")
    assert folder("/else") == Path("/else")
    assert folder() == Path("/somewhere")
    monkeypatch.setenv(variable, "")
    assert folder() == Path.home() / ".cache" / "metanotes"
