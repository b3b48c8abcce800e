"""mini-ImageNet: a small imitation of it, whole and damaged; and the real one where present."""

import gzip
import io
import shutil
import sys
import zlib
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image

from metanotes.data import DamagedDataError, episodes, mini_imagenet
from tests.data.damage import flip_a_byte, overwrite, png_that_claims, write_folder, write_tar
from tests.plainly import needs_data

FULL = {"train": (3, 4), "val": (2, 4), "test": (2, 4)}  # classes, images of each
SUBSET = {"train": (3, 2), "val": (2, 1), "test": (2, 2)}
FIRST = {"train": 0, "val": 3, "test": 5}  # the number of a split's first class


def module():
    return sys.modules["metanotes.data.images.mini_imagenet"]


def photograph(name, width=84, height=84):
    """The JPEG file of an image that is like no other."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    coarse = Image.fromarray(random.integers(0, 256, (5, 4, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((width, height)).save(file, "JPEG")
    return file.getvalue()


def rows(split, counts):
    """(file name, class) of a split's images, in no order."""
    classes, each = counts[split]
    names = [f"n0{FIRST[split] + c}" for c in range(classes)]
    found = [(f"{name}000{i}.jpg", name) for i in range(each) for name in names]
    return found[1:] + found[:1]


def listing(found):
    return "".join(f"{name},{label}\n" for name, label in [("filename", "label"), *found]).encode()


def subset_files():
    """Path in the archive -> contents."""
    files = {}
    for split in SUBSET:
        found = rows(split, SUBSET)
        files |= {f"{split}/{label}/{name}": photograph(name) for name, label in found}
        files[f"splits/subset_{split}.csv"] = listing(found)
    return files


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty `mini-imagenet/`, and a cache folder of its own."""
    folder = tmp_path / "data" / "mini-imagenet"
    folder.mkdir(parents=True)
    monkeypatch.setattr(module(), "FULL", FULL)
    monkeypatch.setattr(module(), "SUBSET", SUBSET)
    monkeypatch.setenv("METANOTES_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def archive(folder):
    path = folder / "mini-imagenet-subset.tar.gz"
    write_tar(path, subset_files())
    return path


@pytest.fixture
def unpacked(folder):
    write_folder(folder, subset_files())
    return folder


@pytest.fixture
def full(folder):
    """The whole set; its images have the proportions that cameras gave them."""
    for split in FULL:
        found = rows(split, FULL)
        (folder / f"{split}.csv").write_bytes(listing(found))
        write_folder(folder, {f"images/{name}": photograph(name, 100, 75) for name, _ in found})
    return folder


def expected(split, counts, size, **shape):
    """x as it should be, decoded here, in the order of class and file name."""
    names = [name for name, _ in sorted(rows(split, counts), key=lambda row: row[::-1])]
    images = [Image.open(io.BytesIO(photograph(name, **shape))) for name in names]
    arrays = [np.asarray(image.resize((size, size), Image.LANCZOS)) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("split", SUBSET)
@pytest.mark.parametrize("size", [84, 42, 30])
def test_a_split_holds_every_image_in_order(archive, split, size):
    images = mini_imagenet(split, size=size)
    classes, each = SUBSET[split]
    assert images.names == tuple(f"n0{FIRST[split] + c}" for c in range(classes))
    assert images.x.dtype == torch.uint8
    assert images.x.is_contiguous()
    assert torch.equal(images.x, expected(split, SUBSET, size))
    assert torch.equal(images.y, torch.arange(classes).repeat_interleave(each))


def test_an_unpacked_folder_is_the_same_data(unpacked):
    for split in SUBSET:
        assert torch.equal(mini_imagenet(split).x, expected(split, SUBSET, 84))


@pytest.mark.parametrize("split", FULL)
def test_the_whole_set_is_read_through_its_lists(full, split):
    images = mini_imagenet(split, size=50)
    assert torch.equal(images.x, expected(split, FULL, 50, width=100, height=75))
    assert torch.equal(images.y.bincount(), torch.full((FULL[split][0],), 4))
    assert images.names[0] == f"n0{FIRST[split]}"


def test_the_whole_set_comes_before_the_subset(archive, full):
    assert len(mini_imagenet("train").x) == 12


def test_the_root_may_be_given(archive, monkeypatch, tmp_path):
    monkeypatch.setenv("METANOTES_DATA", str(tmp_path / "elsewhere"))
    assert len(mini_imagenet("test", root=archive.parent.parent).x) == 4


def test_half_of_the_whole_set_is_never_replaced_by_the_subset(archive, full):
    (full / "val.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"val\.csv is not there.*meta-learning-lstm"):
        mini_imagenet("val")
    shutil.rmtree(full / "images")
    with pytest.raises(DamagedDataError, match=r"images/n000000\.jpg.* and 9 more not there"):
        mini_imagenet("train")


def test_grey_photographs_have_three_channels_too(unpacked):
    Image.new("L", (84, 84), 77).save(unpacked / "val/n03/n030000.jpg")
    assert torch.equal(mini_imagenet("val").x[0], torch.full((3, 84, 84), 77, dtype=torch.uint8))


@pytest.mark.parametrize("source", ["archive", "unpacked", "full"])
def test_a_second_call_reads_the_array_file(source, request, monkeypatch):
    folder = request.getfixturevalue(source)
    first = mini_imagenet("train", size=42)

    def never(*_):
        raise AssertionError("read again")

    monkeypatch.setattr(module(), "_make", never)
    again = mini_imagenet("train", size=42)
    assert torch.equal(again.x, first.x)
    assert torch.equal(again.y, first.y)
    assert again.names == first.names
    for other in ({"size": 43}, {"split": "test", "size": 42}):
        with pytest.raises(AssertionError, match="read again"):
            mini_imagenet(**({"split": "train"} | other))
    changed = folder if folder.is_file() else next(folder.rglob("n000001.jpg"))
    changed.write_bytes(changed.read_bytes() + b"\0")
    with pytest.raises(AssertionError, match="read again"):
        mini_imagenet("train", size=42)


def test_nothing_is_written_beside_the_data(archive):
    mini_imagenet("val")
    assert list(archive.parent.parent.rglob("*")) == [archive.parent, archive]


def test_missing_data_names_the_folder_and_what_to_put_there(folder):
    with pytest.raises(FileNotFoundError) as caught:
        mini_imagenet("val")
    for part in (str(folder), "no automatic download", "mini-imagenet-subset.tar.gz", "val.csv"):
        assert part in str(caught.value)
    assert "METANOTES_DATA" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "validation"}, "split='validation' is unknown; use one of train, val, test"),
        ({"size": 0}, "size=0 must be a whole number of at least 1"),
        ({"size": 84.0}, r"size=84\.0 must be a whole number of at least 1"),
    ],
)
def test_bad_settings_are_refused(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        mini_imagenet(**settings)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3000])


def truncate_the_tar(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:5000]))


def lose_the_checksum(path):
    path.write_bytes(path.read_bytes()[:-4])


def spoil_the_first_block(path):
    """Its kind, one of three, becomes the fourth, which there is not."""
    contents = bytearray(path.read_bytes())
    start = 10 + contents[10:].index(0) + 1  # after the header and the name in it
    contents[start] |= 0b110
    path.write_bytes(contents)


def zip_something_else(path):
    path.write_bytes(gzip.compress(b"<html>404</html>"))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        truncate_the_tar,
        lose_the_checksum,
        flip_a_byte,
        spoil_the_first_block,
        overwrite,
        zip_something_else,
    ],
)
def test_a_damaged_archive_is_refused(archive, damage, tmp_path):
    damage(archive)
    with pytest.raises(DamagedDataError, match=r"subset\.tar\.gz is (damaged|not whole)"):
        mini_imagenet("train")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "path",
    [
        "../escaped.jpg",
        "train/../../escaped.jpg",
        "/elsewhere/escaped.jpg",
        "train\\..\\..\\escaped.jpg",
        "C:/escaped.jpg",
    ],
)
def test_an_archive_with_paths_that_leave_its_folder_is_refused(archive, path, tmp_path):
    write_tar(archive, subset_files() | {path: b"escaped"})
    with pytest.raises(DamagedDataError, match="has a path that leaves its folder"):
        mini_imagenet("train")
    assert not list(tmp_path.rglob("escaped*"))


def test_an_archive_with_links_is_refused(archive):
    write_tar(archive, subset_files(), links=[("train/n00/x.jpg", "/etc/hostname")])
    with pytest.raises(DamagedDataError, match=r"has a link, 'train/n00/x\.jpg'"):
        mini_imagenet("train")


def test_an_archive_in_which_files_are_missing_is_refused(archive):
    files = subset_files()
    write_tar(archive, {k: v for k, v in files.items() if "n00" not in k})
    with pytest.raises(DamagedDataError, match=r"train/n00/n000000\.jpg, .*1\.jpg not there"):
        mini_imagenet("train")
    write_tar(archive, {k: v for k, v in files.items() if "splits" not in k})
    with pytest.raises(DamagedDataError, match=r"splits/subset_train\.csv not there"):
        mini_imagenet("train")


def test_paths_may_begin_with_a_dot(archive):
    write_tar(archive, {f"./{path}": contents for path, contents in subset_files().items()})
    assert len(mini_imagenet("train").x) == 6


def remove(folder):
    (folder / "train/n01/n010001.jpg").unlink()
    return "train/n01/n010001.jpg not there"


def cut(folder):
    path = folder / "train/n01/n010001.jpg"
    path.write_bytes(path.read_bytes()[:400])
    return "train/n01/n010001.jpg cannot be read"


def empty(folder):
    (folder / "train/n01/n010001.jpg").write_bytes(b"")
    return "train/n01/n010001.jpg cannot be read"


def relist(folder, change):
    path = folder / "splits/subset_train.csv"
    path.write_bytes(change(path.read_bytes()))
    return "the list splits/subset_train.csv is damaged"


def shorten_the_list(folder):
    return relist(folder, lambda text: text[: text.rindex(b"\n", 0, -1) + 1])


def repeat_a_line(folder):
    return relist(folder, lambda text: text.replace(b"n010001.jpg", b"n010000.jpg"))


def drop_a_class(folder):
    return relist(folder, lambda text: listing(rows("test", SUBSET)))


def drop_the_header(folder):
    return relist(folder, lambda text: text.partition(b"\n")[2])


def drop_a_column(folder):
    return relist(folder, lambda text: text.replace(b",n01\n", b"\n"))


def leave_the_folder(folder):
    return relist(folder, lambda text: text.replace(b"n010001.jpg", b"../n010001.jpg"))


def leave_by_the_class(folder):
    return relist(folder, lambda text: text.replace(b",n01\n", b",..\n"))


def write_nonsense(folder):
    return relist(folder, lambda text: b"\xff\xfe\x00")


def end_lines_as_on_old_machines(folder):
    return relist(folder, lambda text: text.replace(b"\n", b"\r"))


@pytest.mark.parametrize(
    "damage",
    [
        remove,
        cut,
        empty,
        shorten_the_list,
        repeat_a_line,
        drop_a_class,
        drop_the_header,
        drop_a_column,
        leave_the_folder,
        leave_by_the_class,
        write_nonsense,
        end_lines_as_on_old_machines,
    ],
)
def test_a_damaged_folder_is_refused_and_the_damage_named(unpacked, damage, tmp_path):
    """Also where its array file had been made while it was whole."""
    mini_imagenet("train")
    cached = sorted((tmp_path / "cache").rglob("*"))
    message = damage(unpacked)
    with pytest.raises(DamagedDataError) as caught:
        mini_imagenet("train")
    assert message in str(caught.value)
    assert str(unpacked) in str(caught.value)
    assert sorted((tmp_path / "cache").rglob("*")) == cached  # and nothing was kept of it


def test_a_byte_order_mark_in_a_list_does_not_matter(unpacked):
    relist(unpacked, lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    assert len(mini_imagenet("train").x) == 6


real = needs_data("mini-imagenet")


@real
@pytest.mark.parametrize(
    ("split", "classes", "subset"), [("train", 64, 9600), ("val", 16, 1920), ("test", 20, 3000)]
)
def test_real_splits_are_whole_and_made_once(monkeypatch, split, classes, subset):
    images = mini_imagenet(split, size=42)
    assert len(images.names) == classes
    assert len(images.x) in (subset, classes * 600)
    assert torch.equal(images.y.bincount(), torch.full((classes,), len(images.x) // classes))
    assert all(len(name) == 9 and name[0] == "n" for name in images.names)
    means = images.x.float().mean((0, 2, 3))
    assert ((means > 90) & (means < 135)).all()
    assert means[0] > means[2]  # red, then green, then blue
    monkeypatch.setattr(import_module("metanotes.data.images.mini_imagenet"), "_make", None)
    assert torch.equal(mini_imagenet(split, size=42).x, images.x)  # read, not made again
    tasks = episodes(images, ways=5, shots=1, queries=3)(2)
    assert tasks.query.x.shape == (2, 15, 3, 42, 42)


@real
def test_real_splits_share_no_class():
    names = [name for split in FULL for name in mini_imagenet(split, size=42).names]
    assert len(names) == len(set(names)) == 100


@pytest.mark.parametrize("source", ["archive", "unpacked"])
def test_an_image_that_claims_to_be_huge_is_named(folder, source):
    files = subset_files() | {"train/n01/n010001.jpg": png_that_claims(60_000, 60_000)}
    if source == "archive":
        write_tar(folder / "mini-imagenet-subset.tar.gz", files)
    else:
        write_folder(folder, files)
    with pytest.raises(DamagedDataError, match=r"train/n01/n010001\.jpg cannot be read"):
        mini_imagenet("train")


@pytest.mark.parametrize("instead", ["folder", "link to nothing"])
def test_what_is_no_file_is_missing(unpacked, instead):
    path = unpacked / "train/n01/n010001.jpg"
    path.unlink()
    if instead == "folder":
        path.mkdir()
    else:
        path.symlink_to(unpacked / "nowhere.jpg")
    with pytest.raises(DamagedDataError, match=r"train/n01/n010001\.jpg not there"):
        mini_imagenet("train")


def test_half_files_and_other_folders_do_not_matter(unpacked, tmp_path):
    expected = mini_imagenet("train").x
    (unpacked / "train/n01/dir.jpg").mkdir()
    (unpacked / "train/n01/.n010001.jpg.123-0123abcd.part").write_bytes(b"half")
    (tmp_path / "cache/mini-imagenet/.train.npz.123-0123abcd.part").write_bytes(b"half")
    assert torch.equal(mini_imagenet("train").x, expected)


def test_a_tar_bomb_is_named(archive, monkeypatch):
    monkeypatch.setattr(module(), "LARGEST", 1_000_000)
    write_tar(archive, subset_files() | {"train/n01/more.jpg": bytes(10_000_000)})
    with pytest.raises(DamagedDataError, match=r"tar\.gz is damaged \(unpacked it has more than"):
        mini_imagenet("train")
