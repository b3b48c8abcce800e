"""Domains: a small imitation of MNIST-M; the recipe of it; folders of photographs; the real one."""

import importlib.util
import io
import shutil
import sys
import tarfile
import time

import numpy as np
import pytest
import torch
from PIL import Image

from metanotes.data import (
    DamagedDataError,
    Images,
    blend,
    clouded,
    digits,
    episodes,
    mnist_m,
    photographs,
)
from tests.plainly import needs_data

COUNTS = {"train": 12, "test": 7}
SUBSET = 8  # the train images that a subset has


def module():
    return sys.modules["metanotes.data.domains"]


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


def write_archive(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, contents in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            tar.addfile(member, io.BytesIO(contents))


def write_folder(folder, files):
    for name, contents in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(contents)


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
    write_archive(path, mnist_m_files())
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
    write_archive(path, mnist_m_files(train=SUBSET))
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
        patched.setattr(module(), "_decode", never)
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
        ({"size": 0}, "size=0 is not a count"),
        ({"size": 28.0}, r"size=28\.0 is not a count"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        mnist_m(**settings)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_byte(path):
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)


def empty(path):
    path.write_bytes(b"")


def overwrite(path):
    path.write_bytes(b"<html>404</html>")


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, empty, overwrite])
def test_a_damaged_archive_is_refused(archive, damage, tmp_path):
    mnist_m("train")
    shutil.rmtree(tmp_path / "cache")
    damage(archive)
    with pytest.raises(DamagedDataError, match=r"mnist_m\.tar\.gz is (damaged|not whole)"):
        mnist_m("train")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_an_archive_with_paths_that_leave_its_folder_is_refused(archive):
    write_archive(archive, mnist_m_files() | {"../escaped.png": b"escaped"})
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
        write_archive(folder / "mnist_m.tar.gz", files)
    else:
        write_folder(folder.parent, files)
    if "00000005" in path:
        message = r"mnist_m_train/00000005\.png not there"
    with pytest.raises(DamagedDataError, match=message):
        mnist_m(split)


def test_a_train_split_without_images_is_no_subset(folder):
    write_archive(folder / "mnist_m.tar.gz", mnist_m_files(train=0))
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


def grey(n=40, height=6, width=9, seed=0):
    """Random grey images, which hold 0 and 255 too."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, 1, height, width), generator=random, dtype=torch.uint8)
    x[:, :, 0], x[:, :, 1] = 0, 255
    return Images(x, torch.arange(n) % 10, tuple("0123456789"))


def colors(*sizes, seed=1):
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, *s), generator=random, dtype=torch.uint8) for s in sizes]


def cuts(x, digit, photograph):
    """Where in the photograph a cut of it, blended with the digit, gives x."""
    height, width = digit.shape[1:]
    windows = photograph.unfold(1, height, 1).unfold(2, width, 1).int()  # [3, rows, columns, H, W]
    expected = (windows - digit[0].int()).abs()
    return (expected == x[:, None, None].int()).all(4).all(3).all(0).nonzero().tolist()


def test_a_blend_is_the_difference_of_a_cut_and_the_digit():
    """Every image is found in just one photograph; every photograph and many places are used."""
    images, pictures = grey(), colors((6, 9), (20, 9), (12, 30))
    blended = blend(images, pictures)
    assert blended.x.dtype == torch.uint8
    assert blended.x.shape == (40, 3, 6, 9)
    assert torch.equal(blended.y, images.y)
    assert blended.names == images.names
    found = []
    for x, digit in zip(blended.x, images.x, strict=True):
        (place,) = [(k, *c) for k, p in enumerate(pictures) for c in cuts(x, digit, p)]
        found.append(place)
    assert {k for k, _, _ in found} == {0, 1, 2}
    assert len({place for place in found if place[0]}) > 15


def test_every_cut_is_as_likely_as_another():
    """Also those at the far edges: on a ramp, the first pixel tells the place."""
    images = Images(torch.zeros(6000, 1, 2, 2, dtype=torch.uint8), torch.zeros(6000).long(), ("0",))
    ramp = (torch.arange(4)[:, None] * 10 + torch.arange(5)).expand(3, 4, 5).to(torch.uint8)
    counts = blend(images, ramp[None]).x[:, 0, 0, 0].bincount()
    places = [10 * row + column for row in range(3) for column in range(4)]
    assert counts.nonzero().flatten().tolist() == places
    assert (counts[places] - 500).abs().max() < 110  # five standard deviations


def test_the_blends_depend_on_the_seed_alone():
    images, pictures = grey(), colors((20, 20), (20, 20))
    first = blend(images, pictures, seed=1).x
    state = torch.get_rng_state()
    with torch.device("meta"):
        again = blend(images, torch.stack(pictures).cpu(), seed=1).x
    assert torch.equal(first, again)  # a tensor of them is a sequence
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, blend(images, pictures, seed=2).x)


def test_what_is_blended_stays_as_it_was():
    images, pictures = grey(), colors((6, 9))
    before = images.x.clone(), pictures[0].clone()
    blend(images, pictures)
    assert torch.equal(images.x, before[0])
    assert torch.equal(pictures[0], before[1])


def test_ten_thousand_are_blended_in_a_second_or_so():
    images = Images(
        torch.zeros(10_000, 1, 28, 28, dtype=torch.uint8), torch.zeros(10_000).long(), ("0",)
    )
    start = time.process_time()
    blend(images, colors((321, 481), (481, 321)))
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("images", "pictures", "message"),
    [
        (
            grey()._replace(x=torch.zeros(4, 1, 6, 9)),
            colors((9, 9)),
            r"digits\.x is torch.float32",
        ),
        (
            grey()._replace(x=grey().x.expand(-1, 3, -1, -1)),
            colors((9, 9)),
            r"\[40, 3, 6, 9\]; use",
        ),
        (grey()._replace(x=grey().x[:, 0]), colors((9, 9)), r"\[40, 6, 9\]; use grey images"),
        (grey(), colors((9, 9), (5, 9)), r"photographs\[1\] is \[3, 5, 9\], too small to cut 6x9"),
        (grey(), colors((9, 8)), r"photographs\[0\] is \[3, 9, 8\], too small"),
        (
            grey(),
            [torch.zeros(3, 9, 9)],
            r"photographs\[0\] is torch.float32 \[3, 9, 9\]; use colour",
        ),
        (grey(), [torch.zeros(9, 9, 3).byte()], r"photographs\[0\] is torch.uint8 \[9, 9, 3\]"),
        (grey(), torch.zeros(3, 9, 9).byte(), r"photographs\[0\] is torch.uint8 \[9, 9\]"),
        (grey(), [], "photographs is empty; use at least one image"),
    ],
)
def test_what_cannot_be_blended_is_refused(images, pictures, message):
    with pytest.raises(ValueError, match=message):
        blend(images, pictures)


def picture(path, width, height, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(width)
    colour = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    colour.convert(mode).save(path)
    return np.asarray(colour.convert(mode).convert("RGB")).transpose(2, 0, 1)


def test_clouds_leave_as_much_of_the_image_as_asked():
    plain = torch.zeros(400, 1, 32, 32, dtype=torch.uint8)
    plain[..., 8:24, 8:24] = 255
    images = Images(plain, torch.arange(400) % 10, tuple("0123456789"))
    for ink in (0.2, 0.6, 1.0):
        x = clouded(images, ink, seed=1).x.float() / 255
        inside, outside = x[..., 8:24, 8:24], x.clone()
        outside[..., 8:24, 8:24] = torch.nan
        # What lies before the clouds is lighter by ink, on average; clouds have no favourite place.
        difference = inside.mean() - outside.nanmean()
        assert difference == pytest.approx(ink, abs=0.03)
        ground = x - ink * plain / 255
        assert ground.amin((1, 2, 3)).abs().max() < 0.005
        assert (ground.amax((1, 2, 3)) - (1 - ink)).abs().max() < 0.005
        # Neighbors in a cloud differ less than pixels at random.
        if ink < 1:
            step = ground.diff(dim=-1).abs().mean()
            assert (
                step < 0.5 * (ground.flatten(1)[:, :100] - ground.flatten(1)[:, -100:]).abs().mean()
            )
    same = [clouded(images, seed=seed).x for seed in (2, 2, 3)]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])
    assert torch.equal(images.x, plain)


@pytest.mark.parametrize(
    ("x", "ink", "message"),
    [
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), 0.5, "images.x is"),
        (torch.zeros(2, 1, 4, 4), 0.5, "images.x is torch.float32"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), 0.0, "ink=0.0 must be above 0"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), 1.5, "ink=1.5"),
    ],
)
def test_what_cannot_be_clouded_is_refused(x, ink, message):
    with pytest.raises(ValueError, match=message):
        clouded(Images(x, torch.zeros(2, dtype=torch.long), ("0",)), ink)


def test_photographs_are_all_pictures_of_a_folder_sorted_by_path(tmp_path):
    b = picture(tmp_path / "b.png", 20, 30)
    a = picture(tmp_path / "z" / "a.PNG", 25, 15, "L")
    c = picture(tmp_path / "c" / "deep" / "c.png", 31, 10, "RGBA")
    picture(tmp_path / "d.jpeg", 33, 12)
    picture(tmp_path / "e.JPG", 34, 12)
    (tmp_path / "readme.txt").write_text("not a picture")
    (tmp_path / "c.png").mkdir()
    found = photographs(tmp_path)
    assert [tuple(x.shape) for x in found] == [
        *[(3, 30, 20), (3, 10, 31), (3, 12, 33), (3, 12, 34), (3, 15, 25)]
    ]
    assert all(x.dtype == torch.uint8 and x.is_contiguous() for x in found)
    for k, expected in ((0, b), (1, c), (4, a)):
        assert np.array_equal(found[k].numpy(), expected)
    assert blend(grey(), photographs(str(tmp_path))).x.shape == (40, 3, 6, 9)


def test_a_large_photograph_is_reduced_and_a_small_one_is_not(tmp_path):
    small = picture(tmp_path / "a.png", 40, 20)
    large = picture(tmp_path / "b.png", 81, 40)
    found = photographs(tmp_path, largest=40)
    assert np.array_equal(found[0].numpy(), small)
    expected = Image.fromarray(large.transpose(1, 2, 0)).resize((40, 20), Image.LANCZOS)
    assert np.array_equal(found[1].permute(1, 2, 0).numpy(), np.asarray(expected))
    assert np.array_equal(photographs(tmp_path, largest=None)[1].numpy(), large)
    assert photographs(tmp_path, largest=1)[1].shape == (3, 1, 1)


def test_a_folder_without_photographs_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder; name a folder of"):
        photographs(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"has no \.jpg, \.jpeg or \.png file"):
        photographs(tmp_path)
    with pytest.raises(ValueError, match="largest=0 is not a count"):
        photographs(tmp_path, largest=0)


@pytest.mark.parametrize("damage", [truncate, empty, overwrite])
def test_a_photograph_that_cannot_be_read_is_named(tmp_path, damage):
    picture(tmp_path / "a.png", 20, 30)
    picture(tmp_path / "b.png", 40, 30)
    damage(tmp_path / "b.png")
    with pytest.raises(DamagedDataError, match=r"b\.png cannot be read .*; delete it"):
        photographs(tmp_path)


@needs_data("mnist_m")
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_real_splits_are_whole_or_the_subset_and_quick_to_read(split):
    images = mnist_m(split)
    assert len(images.x) in {"train": (59_001, 10_000), "test": (9001,)}[split]
    assert images.x.shape[1:] == (3, 28, 28)
    assert images.y.bincount().min() > len(images.y) * 0.08
    start = time.process_time()
    mnist_m(split)
    assert time.process_time() - start < 2
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
