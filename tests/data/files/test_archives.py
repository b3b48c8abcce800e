"""Archives: bounded before anything is unpacked, and named when they are refused."""

import bz2
import gzip
import io
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest

from metanotes.data import DamagedDataError
from metanotes.data.files import read_npz, read_tar, read_zip
from metanotes.data.files.archives import unzipped
from tests.data.damage import write_tar

LIMIT = 1_000_000
REMEDY = "fetch it anew"
FILES = {"a/one.png": b"first", "a/two.png": b"second", "a/words.txt": b"third"}


def write_zip(path, files, kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, contents in files.items():
            file.writestr(name, contents)


def peak(function):
    """The bytes of Python's that were in use at most."""
    tracemalloc.start()
    try:
        function()
    finally:
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return used


def refused(read, path):
    with pytest.raises(DamagedDataError) as caught:
        read(path, REMEDY, limit=LIMIT)
    assert str(path) in str(caught.value)
    assert REMEDY in str(caught.value)
    return str(caught.value)


def test_a_zip_is_read_and_its_files_are_chosen(tmp_path):
    path = tmp_path / "files.zip"
    write_zip(path, FILES | {"a/folder.png/": b""})
    assert read_zip(path, REMEDY) == FILES
    chosen = read_zip(path, REMEDY, prefix="a/", ending=".png")
    assert chosen == {"one.png": b"first", "two.png": b"second"}


def test_a_tar_is_read(tmp_path):
    path = tmp_path / "files.tar.gz"
    write_tar(path, {f"./{name}": contents for name, contents in FILES.items()})
    assert read_tar(path, REMEDY) == FILES


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.zip"
    write_zip(path, {f"{k}.png": bytes(10 * LIMIT) for k in range(3)})
    assert path.stat().st_size < LIMIT / 10

    def read():
        assert "unpacked it has more than 1,000,000 bytes" in refused(read_zip, path)

    assert peak(read) < LIMIT


def test_many_files_are_a_bomb_together(tmp_path):
    path = tmp_path / "bomb.zip"
    write_zip(path, {f"{k}.png": bytes(LIMIT // 2) for k in range(3)})
    assert "more than 1,000,000 bytes" in refused(read_zip, path)


def lie_about_the_size(path, size, told):
    """Both of the zip's directories say another size than the file in it has."""
    contents = path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", told))
    path.write_bytes(contents)


def test_a_zip_that_lies_about_its_size_is_not_unpacked_either(tmp_path):
    path, size = tmp_path / "bomb.zip", 50 * LIMIT + 12_345
    write_zip(path, {"a.png": bytes(size)})
    lie_about_the_size(path, size, 1000)
    assert peak(lambda: refused(read_zip, path)) < LIMIT


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_whose_packing_cannot_be_bounded_is_refused(tmp_path, kind):
    write_zip(tmp_path / "files.zip", FILES, kind)
    assert "packed in an unusual way" in refused(read_zip, tmp_path / "files.zip")


def test_an_encrypted_zip_is_refused(tmp_path):
    path = tmp_path / "files.zip"
    write_zip(path, {"a.png": b"secret"}, zipfile.ZIP_STORED)
    contents = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        contents[contents.index(signature) + place] |= 1
    path.write_bytes(contents)
    assert "encrypted" in refused(read_zip, path)


def test_a_tar_bomb_is_refused_while_it_is_unzipped(tmp_path):
    path = tmp_path / "bomb.tar.gz"
    write_tar(path, {"a.png": bytes(80 * LIMIT)})
    assert path.stat().st_size < LIMIT / 10

    def read():
        assert "unpacked it has more than 1,000,000 bytes" in refused(read_tar, path)

    assert peak(read) < 4 * LIMIT


def test_a_tar_of_holes_is_refused(tmp_path):
    """A sparse file's holes take no room in the archive."""
    member = tarfile.TarInfo("a.png")
    member.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "a.png",
        "GNU.sparse.realsize": str(100 * LIMIT),
    }
    member.size = 512
    sparse = f"1\n{100 * LIMIT - 1}\n1\n".encode().ljust(512, b"\0")
    with tarfile.open(tmp_path / "holes.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(sparse))
    with tarfile.open(tmp_path / "holes.tar.gz") as tar:
        assert tar.next().size == 100 * LIMIT  # what it would have been
    refused(read_tar, tmp_path / "holes.tar.gz")


@pytest.mark.parametrize("write", [gzip.compress, bz2.compress])
def test_a_single_file_is_unzipped_up_to_a_limit(tmp_path, write):
    path = tmp_path / ("file.gz" if write is gzip.compress else "file.bz2")
    path.write_bytes(write(b"words " * 1000))
    assert unzipped(path) == b"words " * 1000
    assert len(unzipped(path, 6000)) == 6000
    with pytest.raises(ValueError, match="more than 5,999 bytes"):
        unzipped(path, 5999)


def test_arrays_are_read_and_bounded(tmp_path):
    path = tmp_path / "arrays.npz"
    arrays = {"X": np.zeros((100, 1000), np.uint8), "y": np.arange(3)}
    np.savez_compressed(path, **arrays)
    for name, array in read_npz(path).items():
        assert np.array_equal(array, arrays[name])
    with pytest.raises(ValueError, match="more than 50,000 bytes"):
        read_npz(path, limit=50_000)


def test_arrays_that_claim_a_shape_that_they_have_not_are_refused(tmp_path):
    path = tmp_path / "arrays.npz"
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": (10**15,)}
    )
    write_zip(path, {"X.npy": file.getvalue() + bytes(100)})
    with pytest.raises((ValueError, MemoryError)):
        read_npz(path)
