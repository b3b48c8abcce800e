"""Omniglot: a small imitation of it, whole and damaged; and the real one where it is present."""

import io
import random
import shutil
import sys
import types
import zipfile
import zlib
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image

from metanotes.data import DamagedDataError, data_folder, episodes, omniglot
from tests.data.damage import png_that_claims
from tests.plainly import needs_data

# Archive -> alphabet -> number of characters.
SMALL = {
    "images_background": {"Alpha": 3, "Beta": 2},
    "images_evaluation": {"Gamma_(old)": 2},
}


def module():
    return sys.modules["metanotes.data.images.omniglot"]


def drawing(archive, alphabet, character, number):
    """A 105x105 one-bit image, paper 1 and ink 0, and the PNG file of it."""
    seed = zlib.crc32(f"{archive} {alphabet} {character} {number}".encode())
    bits = np.ones((105, 105), dtype=bool)
    row, column = np.random.default_rng(seed).integers(10, 70, 2)
    bits[row : row + 25, column : column + 8] = False
    file = io.BytesIO()
    Image.fromarray(bits).save(file, "PNG")
    return bits, file.getvalue()


def everything(archive):
    """Path in the archive -> (bits, PNG file), sorted by path."""
    return {
        f"{archive}/{alphabet}/character{c:02}/{c:04}_{d:02}.png": drawing(archive, alphabet, c, d)
        for alphabet, characters in SMALL[archive].items()
        for c in range(1, characters + 1)
        for d in range(1, 21)
    }


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A data folder with the small imitation as zips, and a cache folder of its own."""
    contents = {}
    folder = tmp_path / "data" / "omniglot-py"
    folder.mkdir(parents=True)
    for archive, alphabets in SMALL.items():
        files, contents[archive] = everything(archive), {}
        for alphabet, characters in alphabets.items():
            crc = 0
            for path, (bits, _) in files.items():
                if path.split("/")[1] == alphabet:
                    crc = zlib.crc32(np.packbits(bits).tobytes(), crc)
            contents[archive][alphabet] = (characters, crc)
        write_zip(folder / f"{archive}.zip", {path: png for path, (_, png) in files.items()})
    monkeypatch.setattr(module(), "CONTENTS", contents)
    monkeypatch.setenv("METANOTES_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    return folder


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, contents in files.items():
            file.writestr(name, contents)


def unpack(folder):
    for archive in SMALL:
        with zipfile.ZipFile(folder / f"{archive}.zip") as file:
            file.extractall(folder)
        (folder / f"{archive}.zip").unlink()


def test_a_split_holds_every_drawing_in_order(small):
    images = omniglot("background")
    assert images.names == tuple(
        f"{a}/character{c:02}" for a, n in (("Alpha", 3), ("Beta", 2)) for c in range(1, n + 1)
    )
    assert images.x.shape == (100, 1, 28, 28)
    assert images.x.dtype == torch.uint8
    assert torch.equal(images.y, torch.arange(5).repeat_interleave(20))
    assert omniglot("evaluation").names == ("Gamma_(old)/character01", "Gamma_(old)/character02")


def test_ink_is_high_and_the_size_is_reduced_by_lanczos(small):
    images = omniglot("background")
    for row, (bits, _) in enumerate(everything("images_background").values()):
        ink = Image.fromarray((~bits).astype(np.uint8) * 255).resize((28, 28), Image.LANCZOS)
        assert np.array_equal(images.x[row, 0].numpy(), np.asarray(ink))
    assert images.x.max() == 255
    assert images.x.float().mean() < 30


def test_an_unpacked_folder_is_the_same_data(small):
    packed = omniglot("background")
    unpack(small)
    unpacked = omniglot("background")
    assert torch.equal(packed.x, unpacked.x)
    assert packed.names == unpacked.names


def test_a_second_call_reads_the_array_file(small, monkeypatch):
    first = omniglot("background")

    def never(*_):
        raise AssertionError("read again")

    monkeypatch.setattr(module(), "_make", never)
    assert torch.equal(omniglot("background").x, first.x)


def test_nothing_is_written_beside_the_data(small):
    before = sorted(small.parent.rglob("*"))
    omniglot("background")
    assert sorted(small.parent.rglob("*")) == before


def test_the_root_may_be_given(small, monkeypatch):
    monkeypatch.delenv("METANOTES_DATA")
    assert len(omniglot("evaluation", root=small.parent).names) == 2


def test_the_1200_423_split_is_a_shuffle_of_the_sorted_names(small, monkeypatch):
    """1200 is more than the imitation has: all of it is training data, and nothing is lost."""
    train = omniglot("train", protocol="1200/423")
    assert len(train.names) == 7
    assert list(train.names) == sorted(train.names)
    gamma = train.x[train.y == train.names.index("Gamma_(old)/character02")]
    evaluation = omniglot("evaluation")
    assert torch.equal(gamma, evaluation.x[evaluation.y == 1])


def lists(folder, **splits):
    (folder / "splits_vinyals").mkdir(exist_ok=True)
    for split, characters in splits.items():
        lines = [f"{name}/rot{turn:03}" for name in characters for turn in (0, 90, 180, 270)]
        (folder / "splits_vinyals" / f"{split}.txt").write_text("\n".join(lines) + "\n")


def test_the_vinyals_split_is_that_of_its_lists_without_their_rotations(small):
    lists(small, train=["Gamma_(old)/character01", "Alpha/character03"], test=["Beta/character01"])
    train = omniglot("train", protocol="vinyals")
    assert train.names == ("Alpha/character03", "Gamma_(old)/character01")
    background = omniglot("background")
    assert torch.equal(train.x[train.y == 0], background.x[background.y == 2])
    assert omniglot("test", protocol="vinyals").names == ("Beta/character01",)


def test_a_missing_list_is_named(small):
    with pytest.raises(FileNotFoundError, match=r"splits_vinyals.val\.txt.*prototypical-networks"):
        omniglot("val", protocol="vinyals")


def test_an_altered_list_is_refused(small):
    lists(small, train=["Alpha/character03", "Delta/character01"], test=[])
    with pytest.raises(DamagedDataError, match="'Delta/character01' is no character"):
        omniglot("train", protocol="vinyals")
    with pytest.raises(DamagedDataError, match="it is empty"):
        omniglot("test", protocol="vinyals")


@pytest.mark.parametrize(
    ("split", "protocol", "message"),
    [
        ("train", "alphabets", "'alphabets' has no split='train'; use background or evaluation"),
        ("evaluation", "1200/423", "has no split='evaluation'; use train or test"),
        ("background", "vinyals", "use train or val or trainval or test"),
        ("train", "1000/623", "protocol='1000/623' is unknown; use one of alphabets, 1200/423"),
    ],
)
def test_an_unknown_split_is_refused(split, protocol, message):
    with pytest.raises(ValueError, match=message):
        omniglot(split, protocol=protocol)


def test_missing_data_names_the_folder_and_the_call(small):
    shutil.rmtree(small)
    with pytest.raises(FileNotFoundError, match=r"omniglot-py.*download=True.*METANOTES_DATA"):
        omniglot("background")


def test_a_cache_that_cannot_be_written_is_refused(small, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "file"))
    with pytest.raises(PermissionError, match="METANOTES_CACHE"):
        omniglot("background")


def drop_a_drawing(folder):
    (folder / "images_background/Alpha/character02/0002_07.png").unlink()
    return "Alpha/character02 has 19 of 20 drawings"


def drop_a_character(folder):
    shutil.rmtree(folder / "images_background/Alpha/character02")
    return "Alpha/character02 has 0 of 20 drawings"


def drop_an_alphabet(folder):
    shutil.rmtree(folder / "images_background/Beta")
    return "the alphabet Beta is missing"


def add_a_character(folder):
    archive = folder / "images_background"
    shutil.copytree(archive / "Alpha/character02", archive / "Alpha/character04")
    return "Alpha/character04 does not belong there"


def exchange_two_drawings(folder):
    first, second = (folder / f"images_background/Beta/character01/0001_0{i}.png" for i in (1, 2))
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    return "is altered: drawings of Beta"


def change_a_pixel(folder):
    path = folder / "images_background/Beta/character01/0001_01.png"
    image = Image.open(path)
    image.load()
    image.putpixel((50, 50), 1 - min(1, image.getpixel((50, 50))))
    image.save(path)
    return "is altered: drawings of Beta"


def cut_a_drawing(folder):
    path = folder / "images_background/Beta/character01/0001_01.png"
    path.write_bytes(path.read_bytes()[:60])
    return "Beta/character01/0001_01.png cannot be read"


def empty_a_drawing(folder):
    (folder / "images_background/Beta/character01/0001_01.png").write_bytes(b"")
    return "Beta/character01/0001_01.png cannot be read"


@pytest.mark.parametrize(
    "damage",
    [
        drop_a_drawing,
        drop_a_character,
        drop_an_alphabet,
        add_a_character,
        exchange_two_drawings,
        change_a_pixel,
        cut_a_drawing,
        empty_a_drawing,
    ],
)
def test_a_damaged_folder_is_refused_and_the_damage_named(small, damage, tmp_path):
    """Also where its array file had been made while it was whole."""
    unpack(small)
    omniglot("background")
    cached = sorted((tmp_path / "cache").rglob("*"))
    message = damage(small)
    with pytest.raises(DamagedDataError) as caught:
        omniglot("background")
    assert message in str(caught.value)
    assert "images_background" in str(caught.value)
    assert "download=True" in str(caught.value)
    assert sorted((tmp_path / "cache").rglob("*")) == cached  # and nothing was kept of it


def test_a_long_list_of_damage_is_shortened(small):
    unpack(small)
    for archive in (small / "images_background").glob("*/*"):
        next(archive.iterdir()).unlink()
    with pytest.raises(DamagedDataError, match=r"has 19 of 20 drawings and 2 more;"):
        omniglot("background")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-500])


def flip_a_byte(path):
    contents = bytearray(path.read_bytes())
    contents[200] ^= 0xFF
    path.write_bytes(contents)


def overwrite(path):
    path.write_bytes(b"<html>404</html>")


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, overwrite])
def test_a_damaged_zip_is_refused(small, damage):
    damage(small / "images_background.zip")
    with pytest.raises(DamagedDataError, match=r"images_background\.zip is damaged.*download=True"):
        omniglot("background")


@pytest.mark.parametrize(
    "path",
    [
        "../escaped.png",
        "images_background/../../escaped.png",
        "/elsewhere/escaped.png",
        "images_background\\..\\..\\escaped.png",
        "C:/escaped.png",
    ],
)
def test_a_zip_with_paths_that_leave_its_folder_is_refused(small, path):
    files = {name: png for name, (_, png) in everything("images_background").items()}
    write_zip(small / "images_background.zip", files | {path: b"escaped"})
    with pytest.raises(DamagedDataError, match="has a path that leaves its folder"):
        omniglot("background")
    assert not list(small.parent.parent.rglob("escaped*"))


def fake_torchvision(monkeypatch, download):
    datasets = types.SimpleNamespace(Omniglot=download)
    fake = types.SimpleNamespace(datasets=datasets)
    monkeypatch.setattr(module(), "import_torchvision", lambda: fake)


def test_download_fetches_only_what_is_missing_or_damaged(small, monkeypatch):
    whole = (small / "images_background.zip").read_bytes()
    calls = []

    def download(root, background, download):
        calls.append((root, background, download))
        (small / "images_background.zip").write_bytes(whole)

    fake_torchvision(monkeypatch, download)
    omniglot("background", download=True)
    assert calls == []
    flip_a_byte(small / "images_background.zip")
    omniglot("background", download=True)
    (small / "images_background.zip").unlink()
    omniglot("background", download=True)
    assert calls == [(str(small.parent), True, True)] * 2


def test_a_failed_download_says_what_would_do(small, monkeypatch):
    def download(root, background, download):
        raise OSError("no route to host")

    shutil.rmtree(small)
    fake_torchvision(monkeypatch, download)
    with pytest.raises(OSError, match=r"no route to host.*images_background\.zip.*METANOTES_DATA"):
        omniglot("background", download=True)


real = needs_data("omniglot-py")


@real
@pytest.mark.parametrize(
    ("split", "protocol", "classes", "alphabets"),
    [
        ("background", "alphabets", 964, 30),
        ("evaluation", "alphabets", 659, 20),
        ("train", "1200/423", 1200, 50),
        ("test", "1200/423", 423, 49),
    ],
)
def test_real_splits_have_their_published_sizes(split, protocol, classes, alphabets):
    images = omniglot(split, protocol=protocol)
    assert len(images.names) == classes
    assert len({name.split("/")[0] for name in images.names}) == alphabets
    assert torch.equal(images.y.bincount(), torch.full((classes,), 20))
    assert 0.02 < images.x.float().mean() / 255 < 0.15


@real
def test_real_1200_423_split_is_the_same_on_every_machine():
    train, test = (omniglot(split, protocol="1200/423").names for split in ("train", "test"))
    names = sorted(omniglot("background").names + omniglot("evaluation").names)
    assert sorted(train + test) == names
    random.Random(0).shuffle(names)
    assert set(test) == set(names[1200:])
    assert zlib.crc32("\n".join(test).encode()) == 3249031849


@real
@pytest.mark.skipif(
    not (data_folder() / "omniglot-py" / "splits_vinyals").is_dir(), reason="needs the lists"
)
def test_real_vinyals_splits_have_their_published_sizes():
    splits = ("train", "val", "trainval", "test")
    names = {split: set(omniglot(split, protocol="vinyals").names) for split in splits}
    assert {split: len(names[split]) for split in splits} == {
        "train": 1028, "val": 172, "trainval": 1200, "test": 423
    }  # fmt: skip
    assert names["train"] | names["val"] == names["trainval"]
    assert not names["train"] & names["val"]
    assert not names["trainval"] & names["test"]


@real
def test_real_array_files_are_made_once(monkeypatch):
    omniglot("background")
    monkeypatch.setattr(import_module("metanotes.data.images.omniglot"), "_make", None)
    images = omniglot("background")
    tasks = episodes(images, ways=20, shots=1, queries=1, rotations="classes")(2)
    assert tasks.support.x.shape == (2, 20, 1, 28, 28)


def clutter(folder):
    """What an interrupted copy or another program may leave: nothing of it is a drawing."""
    (folder / "dir.png").mkdir()
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / ".0001_01.png.123-0123abcd.part").write_bytes(b"half")
    (folder / "0001_01.png.part").write_bytes(b"half")


def test_folders_links_to_nothing_and_half_files_do_not_matter(small, tmp_path):
    expected = omniglot("background")
    unpack(small)
    for folder in (small, small / "images_background", small / "images_background/Alpha"):
        clutter(folder)
    clutter(small / "images_background/Alpha/character02")
    clutter(tmp_path / "cache" / "omniglot")
    images = omniglot("background")
    assert torch.equal(images.x, expected.x)
    assert images.names == expected.names


def test_a_drawing_that_is_a_link_to_nothing_is_missing(small):
    unpack(small)
    path = small / "images_background/Alpha/character02/0002_07.png"
    path.unlink()
    path.symlink_to(small / "nowhere.png")
    with pytest.raises(DamagedDataError, match="Alpha/character02 has 19 of 20 drawings"):
        omniglot("background")


@pytest.mark.parametrize("packed", [True, False])
def test_a_drawing_that_claims_to_be_huge_is_named(small, packed):
    name = "images_background/Alpha/character02/0002_07.png"
    files = {path: png for path, (_, png) in everything("images_background").items()}
    files[name] = png_that_claims(60_000, 60_000)
    write_zip(small / "images_background.zip", files)
    if not packed:
        unpack(small)
    with pytest.raises(DamagedDataError, match=r"Alpha/character02/0002_07\.png cannot be read"):
        omniglot("background")


def test_a_zip_bomb_is_named(small, monkeypatch):
    monkeypatch.setattr(module(), "LARGEST", 1_000_000)
    files = dict.fromkeys(everything("images_background"), bytes(100_000))
    write_zip(small / "images_background.zip", files)
    with pytest.raises(
        DamagedDataError, match=r"background\.zip is damaged \(unpacked it has more"
    ):
        omniglot("background")
