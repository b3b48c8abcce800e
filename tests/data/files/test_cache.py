"""The array files: whole or not used."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

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


def test_any_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "arrays.npz"
    cached_arrays(path, make)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for place in random.integers(len(whole), size=150):
        contents = bytearray(whole)
        contents[place] ^= 1 << random.integers(8)
        path.write_bytes(contents)
        with warnings.catch_warnings():  # a bit that nobody reads may be flipped
            warnings.simplefilter("ignore")
            assert same(cached_arrays(path, make))


def test_a_file_that_claims_more_than_it_has_is_made_anew(tmp_path):
    path = tmp_path / "arrays.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", bytes(10_000_000))
    assert path.stat().st_size < 20_000
    with pytest.warns(UserWarning, match=r"unpacked it has more than [\d,]+ bytes"):
        assert same(cached_arrays(path, make))


def test_a_full_disk_names_the_folder(tmp_path, monkeypatch):
    def full(file, **arrays):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(PermissionError, match=r"cannot be written to \(No space.*METANOTES_CACHE"):
        cached_arrays(tmp_path / "arrays.npz", make)
    assert list(tmp_path.iterdir()) == []


def kill_while_writing(folder):
    """A process that has written half of `arrays.npz` when it is killed."""
    code = f"""
        import os, signal, numpy as np
        from pathlib import Path
        from metanotes.data.files import cached_arrays
        def half(file, **arrays):
            file.write(b"PK half a file")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        np.savez = half
        cached_arrays(Path({str(folder / "arrays.npz")!r}), lambda: {{"x": np.arange(3)}})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.skipif(os.name == "nt", reason="has no SIGKILL")
def test_what_a_killed_writer_leaves_does_not_matter_and_goes_in_time(tmp_path):
    kill_while_writing(tmp_path)
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".part"
    assert same(cached_arrays(tmp_path / "arrays.npz", make))
    assert left.exists()  # for all we know, another process is writing it
    (tmp_path / "arrays.npz").unlink()
    long_ago = time.time() - 4000
    os.utime(left, (long_ago, long_ago))
    others = tmp_path / ".others.npz.1-00000000.part"  # not of this file
    others.touch()
    os.utime(others, (long_ago, long_ago))
    assert same(cached_arrays(tmp_path / "arrays.npz", make))
    assert {path.name for path in tmp_path.iterdir()} == {"arrays.npz", others.name}


def test_a_link_to_nothing_is_written_through(tmp_path):
    (tmp_path / "link.npz").symlink_to(tmp_path / "elsewhere" / "arrays.npz")
    assert same(cached_arrays(tmp_path / "link.npz", make))
    assert same(cached_arrays(tmp_path / "elsewhere" / "arrays.npz", never))
    assert (tmp_path / "link.npz").is_symlink()
