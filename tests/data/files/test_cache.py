"""The array files: whole or not used."""

import os
from pathlib import Path

import numpy as np
import pytest

from metanotes.data import cache_folder, data_folder
from metanotes.data.files import cached_arrays

ARRAYS = {"x": np.arange(500, dtype=np.uint8).reshape(20, 25), "names": np.array(["a/b", "c/d"])}


def make():
    return ARRAYS


def never():
    raise AssertionError("the file was there and should have been used")


def same(arrays):
    return arrays.keys() == ARRAYS.keys() and all(
        np.array_equal(arrays[k], ARRAYS[k]) for k in arrays
    )


def test_arrays_are_made_once_and_then_read(tmp_path):
    path = tmp_path / "deep" / "er" / "arrays.npz"
    assert same(cached_arrays(path, make))
    assert same(cached_arrays(path, never))
    assert [file.name for file in path.parent.iterdir()] == ["arrays.npz"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def empty(path):
    path.write_bytes(b"")


def flip_a_byte(path):
    contents = bytearray(path.read_bytes())
    contents[contents.index(bytes(range(100, 120)))] ^= 1
    path.write_bytes(contents)


def replace_an_array(path):
    """A well-formed file whose contents are not those that the checksum was made of."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["x"] = arrays["x"] + 1
    np.savez(path, **arrays)


def drop_the_checksum(path):
    np.savez(path, **ARRAYS)


@pytest.mark.parametrize(
    "damage", [truncate, empty, flip_a_byte, replace_an_array, drop_the_checksum]
)
def test_a_damaged_file_is_never_used(tmp_path, damage):
    path = tmp_path / "arrays.npz"
    cached_arrays(path, make)
    damage(path)
    with pytest.warns(UserWarning, match="is damaged .* and is made anew"):
        assert same(cached_arrays(path, make))
    assert same(cached_arrays(path, never))


def test_an_interrupted_writer_leaves_nothing_under_the_real_name(tmp_path, monkeypatch):
    path = tmp_path / "arrays.npz"

    def half(file, **arrays):
        file.write(b"PK half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(KeyboardInterrupt):
        cached_arrays(path, make)
    assert list(tmp_path.iterdir()) == []


def test_a_file_appears_only_when_it_is_whole(tmp_path, monkeypatch):
    """The rename comes last, and what is renamed is already readable."""
    path, seen = tmp_path / "arrays.npz", []

    def replace(old, new):
        with np.load(old) as file:
            seen.append((Path(new), sorted(file.files), path.exists()))
        rename(old, new)

    rename = os.replace
    monkeypatch.setattr(os, "replace", replace)
    cached_arrays(path, make)
    assert seen == [(path, ["names", "sha256", "x"], False)]


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(PermissionError, match=r"file/cache cannot be written .* METANOTES_CACHE"):
        cached_arrays(tmp_path / "file" / "cache" / "arrays.npz", never)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused_unless_the_file_is_there(tmp_path):
    cached_arrays(tmp_path / "arrays.npz", make)
    tmp_path.chmod(0o500)
    assert same(cached_arrays(tmp_path / "arrays.npz", never))
    with pytest.raises(PermissionError, match="METANOTES_CACHE"):
        cached_arrays(tmp_path / "others.npz", never)


@pytest.mark.parametrize(
    ("folder", "variable"), [(data_folder, "METANOTES_DATA"), (cache_folder, "METANOTES_CACHE")]
)
def test_folders_are_named_by_argument_then_environment_then_default(folder, variable, monkeypatch):
    monkeypatch.setenv(variable, "/somewhere")
    assert folder("/else") == Path("/else")
    assert folder() == Path("/somewhere")
    monkeypatch.setenv(variable, "")
    assert folder() == Path.home() / ".cache" / "metanotes"
