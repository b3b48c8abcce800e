"""MNIST-M: a small imitation of it, whole and damaged; and the real one where it is present."""

import importlib.util
import io
import shutil
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image

from metanotes.data import DamagedDataError, digits, episodes, mnist_m
from tests.data.damage import (
    empty,
    flip_a_byte,
    overwrite,
    png_that_claims,
    truncate,
    write_folder,
    write_tar,
)
from tests.plainly import needs_data

COUNTS = {"train": 12, "test": 7}
SUBSET = 8  # the train images that a subset has


def module():
    return sys.modules["metanotes.data.images.mnist_m"]


def pixels(split, k):
    """The k-th image [32, 32, 3], which is like no other."""
    random = np.random.default_rng(len(split) * 100 + k)
    coarse = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((32, 32)))


def label(split, k):
    return (k * 3 + len(split)) % 10


def mnist_m_files(train=COUNTS["train"]):
    """Path in the archive -> contents, with the first `train` images to train on."""
    files = {}
    for split, count in COUNTS.items():
        lines = [f"{k:08}.png {label(split, k)}\n" for k in range(count)]
        files[f"mnist_m/mnist_m_{split}_labels.txt"] = "".join(lines).encode()
        for k in range(train if split == "train" else count):
            file = io.BytesIO()
            Image.fromarray(pixels(split, k)).save(file, "PNG")
            files[f"mnist_m/mnist_m_{split}/{k:08}.png"] = file.getvalue()
    return files


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty `mnist_m/`, and a cache folder of its own."""
    folder = tmp_path / "data" / "mnist_m"
    folder.mkdir(parents=True)
    monkeypatch.setattr(module(), "MNIST_M", COUNTS)
    monkeypatch.setenv("METANOTES_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def archive(folder):
    path = folder / "mnist_m.tar.gz"
    write_tar(path, mnist_m_files())
    return path


@pytest.fixture
def unpacked(folder):
    write_folder(folder.parent, mnist_m_files())
    return folder


def check_split(split, images, count):
    assert images.x.dtype == torch.uint8
    expected = np.stack([pixels(split, k) for k in range(count)]).transpose(0, 3, 1, 2)
    assert np.array_equal(images.x.numpy(), expected)
    assert images.y.dtype == torch.int64
    assert images.y.tolist() == [label(split, k) for k in range(count)]
    assert images.names == tuple("0123456789")


@pytest.mark.parametrize("split", COUNTS)
def test_the_archive_holds_every_image_in_order(archive, split):
    check_split(split, mnist_m(split, size=32), COUNTS[split])


@pytest.mark.parametrize("inside", ["", "mnist_m"])
@pytest.mark.parametrize("split", COUNTS)
def test_so_does_what_it_unpacks_to(folder, split, inside):
    """In the data folder, or in the folder in which the archive lies."""
    write_folder(folder / inside / "..", mnist_m_files())
    check_split(split, mnist_m(split, size=32), COUNTS[split])


def test_a_train_split_without_its_last_images_is_a_subset(folder):
    path = folder / "mnist_m.tar.gz"
    write_tar(path, mnist_m_files(train=SUBSET))
    check_split("train", mnist_m("train", size=32), SUBSET)
    check_split("test", mnist_m("test", size=32), COUNTS["test"])
    path.unlink()
    write_folder(folder.parent, mnist_m_files(train=SUBSET))
    check_split("train", mnist_m("train", size=32), SUBSET)


@pytest.mark.parametrize("size", [28, 40])
def test_the_size_is_changed_by_lanczos(archive, size):
    images = mnist_m("test", size=size)
    for k in range(COUNTS["test"]):
        expected = Image.fromarray(pixels("test", k)).resize((size, size), Image.LANCZOS)
        assert np.array_equal(images.x[k].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_the_root_may_be_given(archive, monkeypatch):
    monkeypatch.delenv("METANOTES_DATA")
    assert mnist_m("test", root=archive.parent.parent).x.shape == (7, 3, 28, 28)


def test_a_second_call_decodes_nothing(archive, monkeypatch):
    first = mnist_m("test")

    def never(*arguments):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patched:
        patched.setattr(module(), "decode", never)
        assert torch.equal(mnist_m("test").x, first.x)
    assert mnist_m("test", size=16).x.shape == (7, 3, 16, 16)
    assert len(mnist_m("train").x) == 12


def test_a_changed_image_or_label_is_read_anew(unpacked):
    mnist_m("test", size=32)
    path = unpacked / "mnist_m_test" / "00000000.png"
    Image.fromarray(pixels("other", 0)).save(path)
    changed = mnist_m("test", size=32)
    assert np.array_equal(changed.x[0].permute(1, 2, 0).numpy(), pixels("other", 0))
    listing = unpacked / "mnist_m_test_labels.txt"
    listing.write_text(listing.read_text().replace(f".png {label('test', 0)}", ".png 9", 1))
    assert mnist_m("test").y[0] == 9


def test_missing_data_names_the_folder_and_what_to_do(folder):
    with pytest.raises(FileNotFoundError) as caught:
        mnist_m()
    for part in (str(folder), "mnist_m.tar.gz", "METANOTES_DATA", "blend"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "val"}, "split='val' is unknown; use one of train, test"),
        ({"size": 0}, "size=0 must be a whole number of at least 1"),
        ({"size": 28.0}, r"size=28\.0 must be a whole number of at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        mnist_m(**settings)


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, empty, overwrite])
def test_a_damaged_archive_is_refused(archive, damage, tmp_path):
    mnist_m("train")
    shutil.rmtree(tmp_path / "cache")
    damage(archive)
    with pytest.raises(DamagedDataError, match=r"mnist_m\.tar\.gz is (damaged|not whole)"):
        mnist_m("train")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_an_archive_with_paths_that_leave_its_folder_is_refused(archive):
    write_tar(archive, mnist_m_files() | {"../escaped.png": b"escaped"})
    with pytest.raises(DamagedDataError, match="has a path that leaves its folder"):
        mnist_m("test")


@pytest.mark.parametrize(
    ("split", "path", "message"),
    [
        ("train", "mnist_m_train/00000005.png", r"mnist_m_train/00000011\.png not there"),
        ("test", "mnist_m_test/00000006.png", r"mnist_m_test/00000006\.png not there"),
        ("test", "mnist_m_test_labels.txt", r"mnist_m_test_labels\.txt not there"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_a_gap_is_no_subset(folder, split, path, message, packed):
    """Nor is a test split without its last image, or a split without its list."""
    files = mnist_m_files()
    del files[f"mnist_m/{path}"]
    if packed:
        write_tar(folder / "mnist_m.tar.gz", files)
    else:
        write_folder(folder.parent, files)
    if "00000005" in path:
        message = r"mnist_m_train/00000005\.png not there"
    with pytest.raises(DamagedDataError, match=message):
        mnist_m(split)


def test_a_train_split_without_images_is_no_subset(folder):
    write_tar(folder / "mnist_m.tar.gz", mnist_m_files(train=0))
    with pytest.raises(DamagedDataError, match=r"mnist_m_train/00000000\.png not there"):
        mnist_m("train")


@pytest.mark.parametrize("damage", [truncate, empty, overwrite])
def test_a_damaged_image_is_named(unpacked, damage):
    damage(unpacked / "mnist_m_test" / "00000003.png")
    with pytest.raises(DamagedDataError, match=r"mnist_m_test/00000003\.png cannot be read"):
        mnist_m("test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: text.rindex("\n", 0, -1) + 1], "it names 6 images and not 7"),
        (lambda text: text + "00000007.png 1\n", "it names 8 images and not 7"),
        (lambda text: text.replace("00000003", "00000004"), "not name the images in their order"),
        (lambda text: text.replace(".png 4", ".png 10"), "damaged"),
        (lambda text: text.replace(".png 4", ".png -1"), "damaged"),
        (lambda text: text.replace(".png 4", ".png four"), "damaged"),
        (lambda text: text.replace(" ", ","), "damaged"),
        (lambda text: text.replace(".png 4", ".png 4 4"), "damaged"),
        (lambda text: "\u0664" + text, "damaged"),
    ],
)
def test_a_damaged_list_is_refused(unpacked, change, message):
    path = unpacked / "mnist_m_test_labels.txt"
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text), encoding="utf-8")
    with pytest.raises(
        DamagedDataError, match=rf"the list mnist_m_test_labels\.txt is .*{message}"
    ):
        mnist_m("test")


@needs_data("mnist_m")
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_real_splits_are_whole_or_the_subset_and_made_once(monkeypatch, split):
    images = mnist_m(split)
    assert len(images.x) in {"train": (59_001, 10_000), "test": (9001,)}[split]
    assert images.x.shape[1:] == (3, 28, 28)
    assert images.y.bincount().min() > len(images.y) * 0.08
    monkeypatch.setattr(import_module("metanotes.data.images.mnist_m"), "_make", None)
    assert torch.equal(mnist_m(split).x, images.x)  # read, not made again
    assert episodes(images, ways=5, shots=1, queries=3)(2).query.x.shape == (2, 15, 3, 28, 28)


@needs_data("mnist_m")
@needs_data("mnist")
@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="needs torchvision")
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_real_image_shows_the_digit_of_mnist_that_has_its_number(split):
    """The same label throughout, and edges where that digit has them and the next has not."""
    images, originals = mnist_m(split), digits("mnist", split)
    assert torch.equal(images.y, originals.y[: len(images.y)])

    def edges(x):
        across, down = x.diff(dim=3).abs()[:, :, :-1], x.diff(dim=2).abs()[..., :-1]
        flat = (across + down).sum(1).flatten(1)
        return torch.nn.functional.normalize(flat - flat.mean(1, keepdim=True), dim=1)

    ours, theirs = (edges(x.x[:1000].float()) for x in (images, originals))
    own, next_ = (ours * theirs).sum(1), (ours * theirs.roll(1, 0)).sum(1)
    assert 0.40 < own.mean() < 0.46  # the docstring says 0.43
    assert next_.mean() < 0.25
    middle = edges(mnist_m(split, size=32).x[:1000, :, 2:30, 2:30].float())
    assert (middle * theirs).sum(1).mean() < own.mean() - 0.02


def test_folders_links_to_nothing_and_half_files_do_not_matter(unpacked, tmp_path):
    expected = mnist_m("test").x
    folder = unpacked / "mnist_m_test"
    (folder / "dir.png").mkdir()
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / ".00000000.png.123-0123abcd.part").write_bytes(b"half")
    (tmp_path / "cache/mnist_m/.test.npz.123-0123abcd.part").write_bytes(b"half")
    assert torch.equal(mnist_m("test").x, expected)


def test_an_image_that_claims_to_be_huge_is_named(unpacked):
    (unpacked / "mnist_m_test/00000003.png").write_bytes(png_that_claims(60_000, 60_000))
    with pytest.raises(DamagedDataError, match=r"mnist_m_test/00000003\.png cannot be read"):
        mnist_m("test")


def test_a_tar_bomb_is_named(archive, monkeypatch):
    monkeypatch.setattr(module(), "LARGEST", 1_000_000)
    write_tar(archive, mnist_m_files() | {"mnist_m/more.png": bytes(10_000_000)})
    with pytest.raises(DamagedDataError, match=r"tar\.gz is damaged \(unpacked it has more than"):
        mnist_m("test")
