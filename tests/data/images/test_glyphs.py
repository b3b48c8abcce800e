"""The glyphs: what they hold, that they can be told apart, and how they are kept."""

import subprocess
import sys
import unicodedata
import warnings
from importlib import import_module

import numpy as np
import pytest
import torch

from metanotes.data import Images, cache_folder, episodes, glyphs


def module():
    return sys.modules["metanotes.data.images.glyphs"]


@pytest.fixture(scope="module")
def splits():
    return glyphs("background"), glyphs("evaluation")


def alphabets(images):
    return {name.split("/")[0] for name in images.names}


def test_there_are_enough_classes_alphabets_and_drawings(splits):
    background, evaluation = splits
    assert len(background.names) + len(evaluation.names) >= 1000
    assert len(evaluation.names) >= 300
    assert len(alphabets(background) | alphabets(evaluation)) >= 15
    for images in splits:
        classes = len(images.names)
        assert images.x.shape == (20 * classes, 1, 28, 28)
        assert images.x.dtype == torch.uint8
        assert images.y.dtype == torch.int64
        assert torch.equal(images.y.bincount(), torch.full((classes,), 20))
        sizes = [sum(name.startswith(f"{a}/") for name in images.names) for a in alphabets(images)]
        assert min(sizes) >= 10


def test_background_and_evaluation_share_nothing(splits):
    background, evaluation = splits
    assert not alphabets(background) & alphabets(evaluation)
    characters = [name.split("/")[1] for images in splits for name in images.names]
    assert len(set(characters)) == len(characters)


def test_names_are_unicodes(splits):
    name = next(name for name in splits[0].names if name.endswith("CAPITAL LETTER A"))
    assert unicodedata.lookup(name.split("/")[1]) == "A"


def test_look_alikes_are_one_class(splits):
    """A, B, O of Greek and Cyrillic are Latin's; accents are not letters; distinct ones stay."""
    names = {name.split("/")[1] for images in splits for name in images.names}
    for script in ("GREEK", "CYRILLIC"):
        assert f"{script} CAPITAL LETTER O" not in names
        assert f"{script} CAPITAL LETTER OMICRON" not in names
    assert "LATIN CAPITAL LETTER A" in names
    assert "GREEK CAPITAL LETTER ALPHA" not in names
    assert "LATIN SMALL LETTER E WITH ACUTE" not in names
    assert {"GREEK SMALL LETTER OMEGA", "CYRILLIC CAPITAL LETTER YA", "HEBREW LETTER ALEF"} <= names


def test_every_drawing_has_ink_that_is_not_everywhere_and_no_two_are_equal(splits):
    for images in splits:
        ink = images.x.float().mean((1, 2, 3)) / 255
        assert ink.min() > 0.005
        assert ink.max() < 0.6
        assert len(images.x.flatten(1).unique(dim=0)) == len(images.x)
        assert (images.x.flatten(1).amax(1) > 128).all()


def test_drawings_are_centred_on_average(splits):
    mean = splits[0].x.float().mean((0, 1))
    place = torch.arange(28.0)
    for weight in (mean.sum(0), mean.sum(1)):
        assert ((weight * place).sum() / weight.sum() - 13.5).abs() < 1


def test_pixels_help_but_do_not_suffice(splits):
    """Nearest neighbour on pixels: well above the 20 % of chance, well below a trained network."""
    tasks = episodes(splits[1], ways=5, shots=1, queries=5, seed=0)(300)
    distance = torch.cdist(tasks.query.x.flatten(2), tasks.support.x.flatten(2))
    accuracy = (distance.argmin(2) == tasks.query.y).float().mean().item()
    assert 0.40 < accuracy < 0.75


def test_a_second_call_reads_what_the_first_made(splits, monkeypatch):
    def never(fonts):
        raise AssertionError("drawn again")

    monkeypatch.setattr(module(), "_make", never)
    again = glyphs("evaluation")
    assert torch.equal(again.x, splits[1].x)
    assert again.names == splits[1].names
    files = list((cache_folder() / "glyphs").glob(f"glyphs-v{module().VERSION}-*.npz"))
    assert files


def few(monkeypatch):
    """Two small alphabets, so that drawing takes no time."""
    monkeypatch.setattr(module(), "BACKGROUND", {"Latin": "0041-0046"})
    monkeypatch.setattr(module(), "EVALUATION", {"Hebrew": "05D0-05D4"})


def test_drawing_is_reproducible(monkeypatch, tmp_path):
    few(monkeypatch)
    torch.manual_seed(1)
    first = glyphs(root=tmp_path / "a")
    torch.manual_seed(2)
    with torch.device("meta"):  # nor does a default device matter
        second = glyphs(root=tmp_path / "b")
    assert torch.equal(first.x, second.x)
    assert first.names == second.names
    assert len(first.names) == 6
    assert alphabets(glyphs("evaluation", root=tmp_path / "a")) == {"Hebrew"}


def test_other_fonts_are_other_files(monkeypatch, tmp_path):
    few(monkeypatch)
    glyphs(root=tmp_path)
    fewer = module().font_files()[:2]
    monkeypatch.setattr(module(), "font_files", lambda: fewer)
    glyphs(root=tmp_path)
    assert len(list((tmp_path / "glyphs").glob("*.npz"))) == 2


def test_a_damaged_file_is_drawn_anew(monkeypatch, tmp_path):
    few(monkeypatch)
    whole = glyphs(root=tmp_path)
    (path,) = (tmp_path / "glyphs").iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="damaged"):
        assert torch.equal(glyphs(root=tmp_path).x, whole.x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        glyphs(root=tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("METANOTES_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(import_module("metanotes.data.images.glyphs"), "_make", None)  # undrawn
    with pytest.raises(PermissionError, match="METANOTES_CACHE"):
        glyphs()


def test_missing_fonts_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"DejaVuSans\.ttf.*reinstall matplotlib"):
        glyphs(root=tmp_path)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split='train' is unknown; use 'background'"):
        glyphs("train")


def test_images_show_their_size_not_their_pixels():
    images = Images(torch.zeros(6, 1, 2, 2), torch.arange(6) // 3, ("a/1", "a/2"))
    assert repr(images) == "Images(6 images [1, 2, 2] of 2 classes)"


def test_importing_the_data_loads_no_drawing_library():
    code = (
        "import sys, metanotes.data\n"
        "heavy = {'torchvision', 'matplotlib', 'PIL', 'ipywidgets', 'scipy', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_drawing_is_its_image_moved_a_little():
    """A drawing keeps the mass of its image near the middle, and takes the image's form."""
    image = np.zeros((64, 64), np.uint8)
    image[10:54, 28:36] = 255  # an upright bar
    bars = module().draw(
        torch.from_numpy(image).expand(200, 64, 64), torch.Generator().manual_seed(0)
    )
    assert bars.shape == (200, 28, 28)
    spread = bars.float().mean(0)
    tall, wide = (spread.sum(axis) / spread.sum() for axis in (1, 0))
    deviation = [
        ((p * (torch.arange(28.0) - 13.5).square()).sum()).sqrt().item() for p in (tall, wide)
    ]
    assert deviation[0] > 1.5 * deviation[1]  # still upright
    assert abs((wide * torch.arange(28.0)).sum().item() - 13.5) < 1
