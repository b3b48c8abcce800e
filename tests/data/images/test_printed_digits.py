"""Printed digits: what is drawn, that the seed decides it, and how far it is from hands."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metanotes.data import digits, episodes, printed_digits


def module():
    return sys.modules["metanotes.data.images.printed_digits"]


@pytest.fixture(scope="module")
def printed():
    return printed_digits(3000)


def test_every_digit_comes_in_turn(printed):
    assert printed.x.shape == (3000, 1, 16, 16)
    assert printed.x.dtype == torch.uint8
    assert printed.y.dtype == torch.int64
    assert torch.equal(printed.y, torch.arange(3000) % 10)
    assert printed.names == tuple("0123456789")


@pytest.mark.parametrize(("n", "size"), [(1, 8), (7, 28), (2001, 16)])
def test_any_number_and_size_is_drawn(n, size):
    images = printed_digits(n, size=size)
    assert images.x.shape == (n, 1, size, size)
    assert images.y.tolist() == [k % 10 for k in range(n)]
    assert images.x.float().flatten(1).std(1).min() > 5  # none is empty


def test_the_drawings_depend_on_the_seed_alone():
    first = printed_digits(50, seed=3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with torch.device("meta"):
        again = printed_digits(50, seed=3)
    assert torch.equal(first.x, again.x)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first.x, printed_digits(50, seed=4).x)


def test_without_a_ground_white_ink_is_on_black():
    clean = printed_digits(200, ground=False)
    x = clean.x.float() / 255
    assert (x.flatten(1) == 0).float().mean() > 0.5  # paper
    assert (x.flatten(1).amax(1) > 0.9).float().mean() > 0.95
    assert len(clean.x.flatten(1).unique(dim=0)) == 200


def test_no_two_drawings_are_equal(printed):
    assert len(printed.x.flatten(1).unique(dim=0)) == len(printed.x)


def test_the_references_are_every_digit_once_from_every_font():
    references = module()._references()
    assert references.shape[1:] == (10, 64, 64)
    assert len(references.flatten(0, 1).flatten(1).unique(dim=0)) == references[:, :, 0, 0].numel()
    holes = [_holes(image) for image in references[0].numpy()]
    assert [holes[k] for k in (0, 1, 2, 3, 5, 7, 8)] == [1, 0, 0, 0, 0, 0, 2]


def _holes(image):
    """How many separate grounds the ink encloses."""
    ground = {(int(r), int(c)) for r, c in np.argwhere(image < 128)}
    regions = 0
    while ground:
        regions += 1
        edge = [ground.pop()]
        while edge:
            r, c = edge.pop()
            for place in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
                if place in ground:
                    ground.remove(place)
                    edge.append(place)
    return regions - 1


def test_the_ground_is_busy_and_the_hand_writes_on_clean_paper(printed):
    """The corners of most printed digits vary, and those of handwritten ones are empty."""
    pytest.importorskip("sklearn")

    def corners(images):
        x = images.x[:, 0].float()
        return torch.stack([x[:, :3, :2], x[:, -3:, :2], x[:, :3, -2:], x[:, -3:, -2:]]).std(
            (0, 2, 3)
        )

    hand = digits("sklearn", size=16)
    assert corners(printed).quantile(0.1) > corners(hand).median()


def test_a_classifier_of_print_reads_hands_but_not_well(printed):
    """Least squares on 48 random filters, whose parts the chapter's networks would learn."""
    pytest.importorskip("sklearn")
    filters = torch.randn(48, 1, 5, 5, generator=torch.Generator().manual_seed(0)) / 5

    def features(images):
        x = F.conv2d(images.x.float() / 127.5 - 1, filters, padding=2).relu()
        return F.max_pool2d(x, 4).flatten(1).double()

    def accuracy(train, test):
        x, ones = features(train), F.one_hot(train.y, 10).double()
        weights = torch.linalg.solve(x.T @ x + 30 * torch.eye(x.shape[1]).double(), x.T @ ones)
        return ((features(test) @ weights).argmax(1) == test.y).double().mean().item()

    hands = [digits("sklearn", split, size=16) for split in ("train", "test")]
    assert accuracy(printed, printed_digits(1000, seed=1)) > 0.9
    assert 0.5 < accuracy(printed, hands[1]) < 0.75
    assert accuracy(*hands) > 0.95


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n=0 must be a whole number of at least 1"),
        ({"n": 10.0}, r"n=10\.0 must be a whole number of at least 1"),
        ({"size": 0}, "size=0 must be a whole number of at least 1"),
        ({"seed": 1.5}, "seed=1.5 must be a whole number"),
        ({"seed": True}, "seed=True must be a whole number"),
        ({"size": 7}, "size=7 is too small to read a digit; use 8 or more"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        printed_digits(**settings)


def test_missing_fonts_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"DejaVuSans\.ttf.*reinstall matplotlib"):
        printed_digits(10)


def test_episodes_are_drawn_of_them(printed):
    assert episodes(printed, ways=5, shots=1, queries=2)(3).query.x.shape == (3, 10, 1, 16, 16)
