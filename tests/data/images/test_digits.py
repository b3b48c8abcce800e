"""Digits: those of scikit-learn; small imitations of MNIST and USPS; the real ones if present."""

import bz2
import importlib.util
import struct
import sys
import types
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from metanotes.data import DamagedDataError, digits, episodes
from metanotes.data.images import with_torchvision
from tests.data.damage import empty, flip_a_byte, overwrite, truncate
from tests.plainly import needs_data

COUNTS = {"train": 30, "test": 20}
NATIVE = {"mnist": 28, "usps": 16}

needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="needs torchvision"
)


def module():
    return sys.modules["metanotes.data.images.digits"]


def pixels(name, split):
    """x [n, H, H] and y [n], uint8."""
    random = np.random.default_rng(len(name + split))
    n, size = COUNTS[split], NATIVE[name]
    return (
        random.integers(0, 256, (n, size, size), dtype=np.uint8),
        random.permutation(n).astype(np.uint8) % 10,
    )


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A data folder in which there is nothing yet."""
    contents = {name: {} for name in NATIVE}
    for split in COUNTS:
        x, y = pixels("mnist", split)
        crc = zlib.crc32(y.tobytes(), zlib.crc32(x.tobytes()))
        contents["mnist"][split] = (COUNTS[split], crc)
        contents["usps"][split] = (COUNTS[split], None)
    monkeypatch.setattr(module(), "CONTENTS", contents)
    monkeypatch.setenv("METANOTES_DATA", str(tmp_path))
    return tmp_path


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder):
    raw = folder / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        x, y = pixels("mnist", split)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(x))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(y))
    return raw / "train-images-idx3-ubyte"


def write_npz(folder):
    (folder / "usps").mkdir()
    for split in COUNTS:
        x, y = pixels("usps", split)
        np.savez_compressed(folder / "usps" / f"usps_{split}_uint8.npz", X=x, y=y)
    return folder / "usps" / "usps_train_uint8.npz"


def write_bz2(folder):
    """Lines of `label index:value ...`, labels from 1 and values in -1..1."""
    (folder / "usps").mkdir()
    for split, file in (("train", "usps.bz2"), ("test", "usps.t.bz2")):
        x, y = pixels("usps", split)
        values = (x.reshape(len(x), -1) + 0.5) / 127.5 - 1  # torchvision rounds down
        lines = [
            " ".join([str(label + 1), *(f"{i}:{v:.6f}" for i, v in enumerate(row, 1))])
            for row, label in zip(values.clip(-1, 1), y.tolist(), strict=True)
        ]
        (folder / "usps" / file).write_bytes(bz2.compress("\n".join(lines).encode()))
    return folder / "usps" / "usps.bz2"


WRITERS = [
    pytest.param("mnist", write_mnist, marks=needs_torchvision),
    ("usps", write_npz),
    pytest.param("usps", write_bz2, marks=needs_torchvision),
]


@pytest.mark.parametrize(("name", "write"), WRITERS)
@pytest.mark.parametrize("split", COUNTS)
def test_a_split_holds_every_digit_in_order(folder, name, write, split):
    write(folder)
    x, y = pixels(name, split)
    images = digits(name, split, size=NATIVE[name])
    assert images.x.dtype == torch.uint8
    assert torch.equal(images.x, torch.from_numpy(x).unsqueeze(1))
    assert images.y.dtype == torch.int64
    assert images.y.tolist() == y.tolist()
    assert images.names == tuple("0123456789")


@pytest.mark.parametrize("size", [28, 11])
def test_the_size_is_changed_by_lanczos(folder, size):
    write_npz(folder)
    images = digits("usps", "test", size=size)
    for row, pixels_ in enumerate(pixels("usps", "test")[0]):
        resized = Image.fromarray(pixels_).resize((size, size), Image.LANCZOS)
        assert np.array_equal(images.x[row, 0].numpy(), np.asarray(resized))


def test_sklearn_digits_are_split_by_order_and_scaled():
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    data = load_digits()
    train, test = (digits("sklearn", split, size=8) for split in ("train", "test"))
    assert (len(train.x), len(test.x)) == (1000, 797)
    x, y = torch.cat([train.x, test.x]), torch.cat([train.y, test.y])
    assert y.tolist() == data.target.tolist()
    expected = torch.from_numpy(data.images).unsqueeze(1) / 16 * 255
    assert (x.double() - expected).abs().max() <= 0.5
    assert x.max() == 255
    assert train.y.bincount(minlength=10).min() > 90
    assert test.y.bincount(minlength=10).min() > 70


def test_ink_is_high_in_few_pixels_of_the_border():
    """Paper is 0: a corner of a digit is empty more often than not."""
    pytest.importorskip("sklearn")
    images = digits()
    assert images.x.shape == (1000, 1, 28, 28)
    assert images.x[:, 0, 0, 0].float().mean() < 30
    assert images.x[:, 0, 14, :].amax(1).float().mean() > 180
    assert episodes(images, ways=5, shots=1, queries=2)(3).query.x.shape == (3, 10, 1, 28, 28)


def test_the_root_may_be_given(folder, monkeypatch):
    write_npz(folder)
    monkeypatch.delenv("METANOTES_DATA")
    assert len(digits("usps", root=folder).x) == 30


def test_the_arrays_come_before_the_text(folder):
    write_bz2(folder)
    (folder / "usps").rename(folder / "other")
    write_npz(folder)
    (folder / "other" / "usps.bz2").rename(folder / "usps" / "usps.bz2")
    (folder / "usps" / "usps.bz2").write_bytes(b"not looked at")
    assert len(digits("usps").x) == 30


@pytest.mark.parametrize("name", NATIVE)
def test_missing_data_names_the_folder_and_the_call(folder, name):
    with pytest.raises(FileNotFoundError) as caught:
        digits(name)
    for part in (str(folder / name), f"digits('{name}', download=True)", "METANOTES_DATA"):
        assert part in str(caught.value)


@needs_torchvision
def test_half_of_a_set_is_missing_data(folder):
    """Of MNIST torchvision asks for all; of USPS for the split's file."""
    write_mnist(folder).with_name("t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="mnist is not in"):
        digits("mnist", "train")
    write_bz2(folder).with_name("usps.t.bz2").unlink()
    with pytest.raises(FileNotFoundError, match="usps is not in"):
        digits("usps", "test")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "svhn"}, "name='svhn' is unknown; use one of sklearn, mnist, usps"),
        ({"split": "val"}, "split='val' is unknown; use train or test"),
        ({"size": 0}, "size=0 must be a whole number of at least 1"),
        ({"size": 28.0}, r"size=28\.0 must be a whole number of at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        digits(**settings)


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, empty, overwrite])
@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_a_damaged_file_is_refused(folder, name, write, damage):
    path = write(folder)
    digits(name)
    damage(path)
    with pytest.raises(DamagedDataError) as caught:
        digits(name)
    for part in ("is damaged", str(folder / name), path.name, "delete", "download=True"):
        assert part in str(caught.value)


@needs_torchvision
def test_an_altered_label_of_mnist_is_refused(folder):
    path = write_mnist(folder).with_name("t10k-labels-idx1-ubyte")
    contents = path.read_bytes()
    path.write_bytes(contents[:-1] + bytes([(contents[-1] + 1) % 10]))
    digits("mnist", "train")
    with pytest.raises(DamagedDataError, match="checksum differs"):
        digits("mnist", "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[1:], y[1:]), r"\(29, 16, 16\) are not 30 images"),
        (lambda x, y: (x[1:], y), "are not 30 images of bytes with their labels"),
        (lambda x, y: (x, y[1:]), "are not 30 images of bytes with their labels"),
        (lambda x, y: (x / 255, y), "float64"),
        (lambda x, y: (x.reshape(30, 256), y), r"\(30, 256\)"),
        (lambda x, y: (x, y + 1), "a label is no digit"),
        (lambda x, y: (x, np.array([object()] * 30)), "allow_pickle=False"),
    ],
)
def test_arrays_of_another_set_are_refused(folder, change, message):
    path = write_npz(folder)
    x, y = change(*pixels("usps", "train"))
    np.savez(path, X=x, y=y)
    with pytest.raises(DamagedDataError, match=message):
        digits("usps")


def test_arrays_without_their_names_are_refused(folder):
    np.savez(write_npz(folder), x=np.zeros(3))
    with pytest.raises(DamagedDataError, match="it has no array X"):
        digits("usps")


def fake_torchvision(monkeypatch, **datasets):
    fake = types.SimpleNamespace(datasets=types.SimpleNamespace(**datasets))
    for place in (module(), with_torchvision):
        monkeypatch.setattr(place, "import_torchvision", lambda: fake)


def test_download_fetches_only_what_is_missing(folder, monkeypatch):
    calls = []

    def fetch(root, train, download):
        calls.append((root, train, download))
        if download:
            write_mnist(folder)
        x, y = pixels("mnist", "train" if train else "test")
        return types.SimpleNamespace(data=torch.from_numpy(x), targets=torch.from_numpy(y))

    fake_torchvision(monkeypatch, MNIST=fetch)
    assert len(digits("mnist", download=True).x) == 30
    assert len(digits("mnist", "test", download=True).x) == 20
    root = str(folder / "mnist")
    assert calls == [(root, True, True), (root, True, False), (root, False, False)]


@pytest.mark.parametrize("name", NATIVE)
def test_a_failed_download_says_what_would_do(folder, name, monkeypatch):
    def fetch(root, train, download):
        raise RuntimeError("no route to host")

    fake_torchvision(monkeypatch, **{name.upper(): fetch})
    with pytest.raises(OSError, match=rf"{name} could not be .*no route to host.*METANOTES_DATA"):
        digits(name, download=True)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        digits()


@pytest.mark.parametrize(
    ("name", "split", "counts"),
    [
        pytest.param(name, split, counts, marks=[needs_data(name), *marks])
        for name, marks, split, counts in [
            ("mnist", [needs_torchvision], "train",
             [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
            ("mnist", [needs_torchvision], "test",
             [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
            ("usps", [], "train", [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]),
            ("usps", [], "test", [359, 264, 198, 166, 200, 160, 170, 147, 166, 177]),
        ]
    ],
)  # fmt: skip
def test_real_splits_have_their_published_sizes(name, split, counts):
    images = digits(name, split)
    assert images.y.bincount().tolist() == counts
    assert images.x.shape == (sum(counts), 1, 28, 28)
    assert 0.1 < images.x.float().mean() / 255 < 0.3  # ink is the smaller part


@needs_data("usps")
@needs_torchvision
@needs_data("mnist")
def test_real_digits_of_two_hands_are_the_same_digits():
    """Most digits' mean image is nearest to their own in the other set, margins cut off."""
    mnist, usps = digits("mnist", "test"), digits("usps", "test", size=20)
    cut = mnist.x[:, :, 4:24, 4:24]
    means = [
        torch.stack([x[y == k].float().mean(0).flatten() for k in range(10)])
        for x, y in ((cut, mnist.y), (usps.x, usps.y))
    ]
    alike = torch.nn.functional.cosine_similarity(means[0][:, None], means[1][None], dim=2)
    assert (alike.argmax(1) == torch.arange(10)).sum() >= 7


def test_arrays_that_unpack_to_too_much_are_named(folder, monkeypatch):
    monkeypatch.setattr(module(), "LARGEST", 10_000)
    path = write_npz(folder)
    np.savez_compressed(path, X=np.zeros((30, 16, 160), np.uint8), y=np.zeros(30, np.uint8))
    with pytest.raises(
        DamagedDataError, match=r"unpacked it has more than 10,000 .*delete usps_tr"
    ):
        digits("usps")


@needs_torchvision
def test_text_that_unpacks_to_too_much_is_named(folder, monkeypatch):
    monkeypatch.setattr(module(), "LARGEST", 10_000)
    write_bz2(folder).write_bytes(bz2.compress(b"1 1:0.5\n" * 100_000))
    with pytest.raises(DamagedDataError, match=r"unpacked it has more than 10,000 .*delete usps\."):
        digits("usps")
