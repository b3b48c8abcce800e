"""Backgrounds: the recipe of MNIST-M, clouds, and folders of photographs."""

import numpy as np
import pytest
import torch
from PIL import Image

from metanotes.data import DamagedDataError, Images, blend, clouded, photographs
from tests.data.damage import empty, overwrite, png_that_claims, truncate


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
    with pytest.raises(ValueError, match="largest=0 must be a whole number of at least 1"):
        photographs(tmp_path, largest=0)


@pytest.mark.parametrize("damage", [truncate, empty, overwrite])
def test_a_photograph_that_cannot_be_read_is_named(tmp_path, damage):
    picture(tmp_path / "a.png", 20, 30)
    picture(tmp_path / "b.png", 40, 30)
    damage(tmp_path / "b.png")
    with pytest.raises(DamagedDataError, match=r"b\.png cannot be read .*; delete it"):
        photographs(tmp_path)


@pytest.mark.parametrize("side", [11_000, 15_000, 60_000])
def test_a_photograph_that_claims_to_be_huge_is_named(tmp_path, side):
    picture(tmp_path / "a.png", 20, 30)
    (tmp_path / "b.png").write_bytes(png_that_claims(side, side))
    with pytest.raises(DamagedDataError, match=r"b\.png cannot be read .*; delete it"):
        photographs(tmp_path)


def test_a_link_to_nothing_is_named_and_one_to_a_picture_is_read(tmp_path):
    picture(tmp_path / "a.png", 20, 30)
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "c.png.part").write_bytes(b"half")
    assert len(photographs(tmp_path)) == 2
    (tmp_path / "c.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DamagedDataError, match=r"c\.png is a link to nothing; delete it"):
        photographs(tmp_path)


@pytest.mark.parametrize("seed", [1.5, True, None])
def test_a_seed_that_is_none_is_named(seed):
    with pytest.raises(ValueError, match="seed="):
        blend(grey(), colors((20, 20)), seed=seed)
    with pytest.raises(ValueError, match="seed="):
        clouded(grey(), seed=seed)
