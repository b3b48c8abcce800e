"""House numbers and traffic signs: small imitations of their files, read by torchvision."""

import hashlib
import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from metanotes.data import DamagedDataError, data_folder, gtsrb, svhn
from metanotes.data.images import with_torchvision
from metanotes.data.images.with_torchvision import import_torchvision
from tests.data.damage import empty, flip_a_byte, overwrite, truncate

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None or importlib.util.find_spec("scipy") is None,
    reason="needs torchvision and scipy",
)
HOUSES = {"train": 23, "test": 12}
SIGNS = {"train": (90, 100), "test": (50,)}


def module():
    return sys.modules["metanotes.data.images.street"]


def house_numbers(split):
    """X [32, 32, 3, n], and y [n, 1] in 1..10, as in the files."""
    random = np.random.default_rng(len(split))
    n = HOUSES[split]
    x = random.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
    return x, (random.permutation(n).astype(np.uint8) % 10 + 1)[:, None]


def sign(k):
    """The k-th image: 20 to 31 pixels a side, like no other."""
    random = np.random.default_rng(k)
    return random.integers(0, 256, (20 + k % 11, 31 - k % 9, 3), dtype=np.uint8)


def sign_label(split, k):
    return k % 43 if split == "train" else k * 7 % 43


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A data folder in which there is nothing yet, and a cache folder of its own."""
    monkeypatch.setattr(module(), "GTSRB", SIGNS)
    monkeypatch.setenv("METANOTES_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def write_svhn(folder, monkeypatch):
    """The .mat files; torchvision is told their MD5, as it knows that of the real ones."""
    from scipy.io import savemat

    (folder / "svhn").mkdir(exist_ok=True)
    known = {}
    for split in HOUSES:
        x, y = house_numbers(split)
        path = folder / "svhn" / f"{split}_32x32.mat"
        savemat(path, {"X": x, "y": y}, do_compression=True)
        known[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(import_torchvision().datasets.SVHN, "split_list", known)
    return folder / "svhn" / "train_32x32.mat"


def write_gtsrb(folder):
    """Folders of .ppm files, and the list of the test split."""
    home = folder / "gtsrb" / "GTSRB"
    for k in range(SIGNS["train"][0]):
        (home / "Training" / f"{k % 43:05}").mkdir(parents=True, exist_ok=True)
        path = home / "Training" / f"{k % 43:05}" / f"{k // 43:05}_00000.ppm"
        Image.fromarray(sign(k)).save(path)
    (home / "Final_Test" / "Images").mkdir(parents=True)
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for k in range(SIGNS["test"][0]):
        Image.fromarray(sign(1000 + k)).save(home / "Final_Test" / "Images" / f"{k:05}.ppm")
        lines.append(f"{k:05}.ppm;20;20;1;1;19;19;{sign_label('test', k)}")
    (folder / "gtsrb" / "GT-final_test.csv").write_text("\n".join(lines) + "\n")
    return home


@pytest.mark.parametrize("split", HOUSES)
def test_svhn_holds_every_digit_in_order_and_zero_is_zero(folder, monkeypatch, split):
    write_svhn(folder, monkeypatch)
    x, y = house_numbers(split)
    images = svhn(split)
    assert images.x.dtype == torch.uint8
    assert images.x.is_contiguous()
    assert torch.equal(images.x, torch.from_numpy(x).permute(3, 2, 0, 1))
    assert images.y.dtype == torch.int64
    assert images.y.tolist() == (y[:, 0] % 10).tolist()
    assert 0 in images.y
    assert images.names == tuple("0123456789")


def test_svhn_is_resized_by_lanczos(folder, monkeypatch):
    write_svhn(folder, monkeypatch)
    images = svhn("test", size=28)
    x, y = house_numbers("test")
    for k in range(HOUSES["test"]):
        expected = Image.fromarray(x[..., k]).resize((28, 28), Image.LANCZOS)
        assert np.array_equal(images.x[k].permute(1, 2, 0).numpy(), np.asarray(expected))
    assert images.y.tolist() == (y[:, 0] % 10).tolist()


@pytest.mark.parametrize("split", SIGNS)
def test_gtsrb_holds_every_sign_with_its_number(folder, split):
    write_gtsrb(folder)
    images = gtsrb(split, size=24)
    first = {"train": 0, "test": 1000}[split]
    order = sorted(range(SIGNS[split][0]), key=lambda k: (k % 43, k) if split == "train" else k)
    assert images.y.tolist() == [sign_label(split, k) for k in order]
    for row, k in enumerate(order):
        expected = Image.fromarray(sign(first + k)).resize((24, 24), Image.LANCZOS)
        assert np.array_equal(images.x[row].permute(1, 2, 0).numpy(), np.asarray(expected))
    assert images.x.dtype == torch.uint8
    assert images.y.dtype == torch.int64


def test_there_are_43_signs_by_their_published_numbers(folder):
    write_gtsrb(folder)
    names = gtsrb("test").names
    assert len(set(names)) == len(names) == 43
    published = {0: "speed limit 20", 8: "speed limit 120", 13: "yield", 14: "stop", 17: "no entry"}
    published |= {25: "road work", 38: "keep right", 40: "roundabout"}
    assert {k: names[k] for k in published} == published


def test_a_second_call_decodes_nothing(folder, monkeypatch):
    home = write_gtsrb(folder)
    first = gtsrb("train")

    def never(*_):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patched:
        patched.setattr(module(), "decode", never)
        again = gtsrb("train")
    assert torch.equal(again.x, first.x)
    assert torch.equal(again.y, first.y)
    assert gtsrb("train", size=16).x.shape == (90, 3, 16, 16)  # nor does one size hide another
    Image.fromarray(sign(500)).save(home / "Training" / "00000" / "00000_00000.ppm")
    assert not torch.equal(gtsrb("train").x, first.x)  # nor an old file a new one


def test_the_labels_of_a_changed_list_are_read_anew(folder):
    write_gtsrb(folder)
    before = gtsrb("test").y
    path = folder / "gtsrb" / "GT-final_test.csv"
    path.write_text(
        path.read_text().replace("00000.ppm;20;20;1;1;19;19;0", "00000.ppm;2;2;1;1;1;1;9")
    )
    after = gtsrb("test").y
    assert (before[0], after[0]) == (0, 9)


def test_the_whole_training_set_is_read_too(folder):
    home = write_gtsrb(folder)
    for k in range(10):
        Image.fromarray(sign(k)).save(home / "Training" / "00042" / f"more{k}.ppm")
    assert len(gtsrb("train").x) == 100


@pytest.mark.parametrize("read", [svhn, gtsrb])
@pytest.mark.parametrize("split", HOUSES)
def test_missing_data_names_the_folder_and_the_call(folder, read, split):
    with pytest.raises(FileNotFoundError) as caught:
        read(split)
    name = read.__name__
    for part in (str(folder / name), f"{name}(download=True)", "METANOTES_DATA"):
        assert part in str(caught.value)


@pytest.mark.parametrize("read", [svhn, gtsrb])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "extra"}, "split='extra' is unknown; use train or test"),
        ({"size": 0}, "size=0 must be a whole number of at least 1"),
        ({"size": 32.0}, r"size=32\.0 must be a whole number of at least 1"),
    ],
)
def test_bad_settings_are_refused(read, settings, message):
    with pytest.raises(ValueError, match=message):
        read(**settings)


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, empty, overwrite])
def test_a_damaged_file_of_svhn_is_refused(folder, monkeypatch, damage):
    path = write_svhn(folder, monkeypatch)
    svhn()
    damage(path)
    with pytest.raises(DamagedDataError) as caught:
        svhn()
    for part in (str(folder / "svhn"), "is damaged", "delete train_32x32.mat", "download=True"):
        assert part in str(caught.value)


@pytest.mark.parametrize("damage", [truncate, empty, overwrite])
def test_a_damaged_sign_is_refused(folder, tmp_path, damage):
    home = write_gtsrb(folder)
    damage(home / "Training" / "00007" / "00000_00000.ppm")
    with pytest.raises(
        DamagedDataError,
        match=r"00007/00000_00000\.ppm cannot be read .*; delete Training, and gtsrb",
    ):
        gtsrb("train")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(gtsrb("test").x) == 50


def test_half_an_unpacked_set_is_refused(folder):
    """torchvision takes it for whole, and where a class is missing it renumbers the others."""
    home = write_gtsrb(folder)
    (home / "Training" / "00003" / "00001_00000.ppm").unlink()
    with pytest.raises(DamagedDataError, match=r"it has 89 images and not 90"):
        gtsrb("train")
    (home / "Training" / "00003" / "more.ppm").write_bytes(b"")
    (home / "Training" / "00003").rename(home / "Training" / "00043")
    with pytest.raises(DamagedDataError, match="its folders are not 00000 to 00042"):
        gtsrb("train")
    (home / "Final_Test" / "Images" / "00031.ppm").unlink()
    with pytest.raises(DamagedDataError, match=r"00031\.ppm"):
        gtsrb("test")
    (folder / "gtsrb" / "GT-final_test.csv").unlink()
    with pytest.raises(FileNotFoundError, match="gtsrb is not in"):
        gtsrb("test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(";21\n", ";43\n"), "a label is no sign"),
        (lambda text: text.replace(";21\n", ";-1\n"), "a label is no sign"),
        (lambda text: text.replace("ClassId", "Class"), "ClassId"),
        (lambda text: text[: text.rindex("\n", 0, -1) + 1], "it has 49 images and not 50"),
    ],
)
def test_a_damaged_list_is_refused(folder, change, message):
    write_gtsrb(folder)
    path = folder / "gtsrb" / "GT-final_test.csv"
    assert change(path.read_text()) != path.read_text()
    path.write_text(change(path.read_text()))
    with pytest.raises(DamagedDataError, match=message):
        gtsrb("test")


def test_a_cache_folder_that_cannot_be_written_is_not_taken_for_damage(
    folder, monkeypatch, tmp_path
):
    write_gtsrb(folder)
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "file"))
    with pytest.raises(PermissionError, match="METANOTES_CACHE"):
        gtsrb("test")


def fake_torchvision(monkeypatch, **datasets):
    fake = types.SimpleNamespace(datasets=types.SimpleNamespace(**datasets))
    for place in (module(), with_torchvision):
        monkeypatch.setattr(place, "import_torchvision", lambda: fake)


def test_download_fetches_only_what_is_missing(folder, monkeypatch):
    calls = []

    def fetch(root, split, download):
        calls.append((root, split, download))
        (folder / "svhn").mkdir(exist_ok=True)
        (folder / "svhn" / f"{split}_32x32.mat").touch()
        x, y = house_numbers(split)
        return types.SimpleNamespace(data=x.transpose(3, 2, 0, 1), labels=y[:, 0].astype(np.int64))

    fake_torchvision(monkeypatch, SVHN=fetch)
    for _ in range(2):
        assert len(svhn("test", download=True).x) == 12
    root = str(folder / "svhn")
    assert calls == [(root, "test", True), (root, "test", False), (root, "test", False)]


def test_gtsrb_is_downloaded_to_where_it_is_read(folder, monkeypatch):

    def fetch(root, split, download):
        assert (root, download) == (str(folder), True)
        write_gtsrb(folder)

    fake_torchvision(monkeypatch, GTSRB=fetch)
    assert len(gtsrb("train", download=True).x) == 90
    assert len(gtsrb("test", download=True).x) == 50


@pytest.mark.parametrize("read", [svhn, gtsrb])
def test_a_failed_download_says_what_would_do(folder, read, monkeypatch):
    def fetch(root, split, download):
        raise RuntimeError("no route to host")

    fake_torchvision(monkeypatch, **{read.__name__.upper(): fetch})
    with pytest.raises(OSError, match=r"could not be .*no route to host.*METANOTES_DATA"):
        read("test", download=True)


def test_without_scipy_the_error_says_what_to_install(folder, monkeypatch):
    write_svhn(folder, monkeypatch)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match="pip install scipy"):
        svhn()


def real(name):
    there = (data_folder() / name).is_dir()
    return pytest.mark.skipif(not there, reason=f"needs {name} in METANOTES_DATA")


@pytest.mark.parametrize(
    ("read", "split", "counts"),
    [
        pytest.param(svhn, "train", (73_257,), marks=real("svhn")),
        pytest.param(svhn, "test", (26_032,), marks=real("svhn")),
        pytest.param(gtsrb, "train", (26_640, 39_209), marks=real("gtsrb")),
        pytest.param(gtsrb, "test", (12_630,), marks=real("gtsrb")),
    ],
)
def test_real_splits_have_their_published_sizes(read, split, counts):
    images = read(split)
    assert len(images.x) in counts
    assert images.y.bincount().min() > 0


def test_folders_links_to_nothing_and_half_files_do_not_matter(folder):
    home = write_gtsrb(folder)
    expected = {split: gtsrb(split).x for split in SIGNS}
    for place in (home / "Training" / "00007", home / "Final_Test" / "Images"):
        (place / "dir.ppm").mkdir()
        (place / "dangling.ppm").symlink_to(place / "nowhere.ppm")
        (place / ".00000.ppm.123-0123abcd.part").write_bytes(b"half")
    for split in SIGNS:
        assert torch.equal(gtsrb(split).x, expected[split])


def test_a_sign_that_claims_to_be_huge_is_named(folder):
    home = write_gtsrb(folder)
    path = home / "Training" / "00007" / "00000_00000.ppm"
    path.write_bytes(b"P6 60000 60000 255\n" + bytes(1000))
    with pytest.raises(DamagedDataError, match=r"00007/00000_00000\.ppm cannot be read .*pixels"):
        gtsrb("train")


def test_a_list_that_leaves_the_folder_is_refused(folder):
    write_gtsrb(folder)
    path = folder / "gtsrb" / "GT-final_test.csv"
    path.write_text(path.read_text().replace("00031.ppm", "../../other.ppm"))
    with pytest.raises(DamagedDataError, match="a name in its list leaves the folder"):
        gtsrb("test")


def test_torchvision_is_asked_for_nothing_that_is_there(folder, monkeypatch):
    def never():
        raise AssertionError("imported")

    write_gtsrb(folder)
    for place in (module(), with_torchvision):
        monkeypatch.setattr(place, "import_torchvision", never)
    assert len(gtsrb("train").x) == 90


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="needs torchvision")
@pytest.mark.parametrize("split", SIGNS)
def test_the_signs_are_those_that_torchvision_reads(folder, split):
    write_gtsrb(folder)
    theirs = import_torchvision().datasets.GTSRB(str(folder), split=split)
    ours = gtsrb(split, size=24)
    assert len(ours.x) == len(theirs)
    for x, y, (picture, label) in zip(ours.x, ours.y.tolist(), theirs, strict=False):
        assert y == label
        expected = np.asarray(picture.resize((24, 24), Image.LANCZOS))
        assert np.array_equal(x.permute(1, 2, 0).numpy(), expected)
