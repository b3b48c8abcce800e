"""Minibatches of all classes."""

import pytest
import torch

from metanotes.data import batches, glyphs
from metanotes.task import Batch


def marked(n: int = 30, classes: int = 6, size: int = 3) -> Batch:
    """Images of which no two are turns of each other; the first pixel but one says which it is."""
    x = torch.rand(n, 2, size, size, generator=torch.Generator().manual_seed(0))
    return Batch(x, torch.arange(n) % classes)


def rows_of(x: torch.Tensor, data: Batch) -> torch.Tensor:
    """Which examples these are, `[n, ...]`, by the sum of their pixels: rotation keeps it."""
    distance = (x.sum((-1, -2))[:, None] - data.x.sum((-1, -2))[None]).abs().sum(-1)
    assert distance.min(1).values.max() < 1e-4
    return distance.argmin(1)


def test_shapes_and_labels_that_belong_to_the_images():
    data = marked()
    tasks = batches(data, size=7)(4)
    assert tasks.support.x.shape == (4, 7, 2, 3, 3)
    assert tasks.support.y.shape == (4, 7)
    assert tasks.support.y.dtype == torch.int64
    assert tasks.support is tasks.query
    x, y = tasks.query.x.flatten(0, 1), tasks.query.y.flatten()
    rows = rows_of(x, data)
    assert torch.equal(x, data.x[rows])
    assert torch.equal(y, data.y[rows])


def test_examples_are_drawn_uniformly_and_with_replacement():
    data = marked()
    tasks = batches(data, size=40)(300)  # more than there are
    seen = torch.bincount(rows_of(tasks.query.x.flatten(0, 1), data), minlength=30).float()
    assert (seen - 400).abs().max() < 4 * 20


def test_bytes_become_fractions_and_real_numbers_stay():
    x = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8)
    y = torch.arange(40) // 10
    bytes_ = batches(Batch(x, y), size=8)(3).query.x
    double = batches(Batch(x.double() / 255, y), size=8)(3).query.x
    assert bytes_.dtype == torch.float32
    assert double.dtype == torch.float64
    torch.testing.assert_close(bytes_.double(), double, rtol=0, atol=1e-7)


def test_vectors_are_data_too():
    assert batches(Batch(torch.randn(20, 3), torch.arange(20)), size=5)(2).query.x.shape == (
        2,
        5,
        3,
    )


@pytest.mark.parametrize("size", [4, 5])
def test_rotations_make_four_classes_of_each(size):
    data = marked(size=size)
    kept = data.x.clone()
    tasks = batches(data, size=50, rotations="classes")(20)
    x, y = tasks.query.x.flatten(0, 1), tasks.query.y.flatten()
    rows, turns = rows_of(x, data), y % 4
    assert torch.equal(y // 4, data.y[rows])
    for image, row, turn in zip(x, rows, turns, strict=True):
        quarter = data.x[row]
        for _ in range(int(turn)):  # counterclockwise: the last column becomes the first row
            quarter = quarter.transpose(1, 2).flip(1)
        assert torch.equal(image, quarter)
    share = torch.bincount(turns, minlength=4) / len(turns)
    assert (share - 0.25).abs().max() < 0.06
    assert torch.equal(data.x, kept)  # the reader's own images are not turned


def test_rotations_as_tasks_keep_the_class():
    data = marked()
    tasks = batches(data, size=50, rotations="tasks")(4)
    x, y = tasks.query.x.flatten(0, 1), tasks.query.y.flatten()
    rows = rows_of(x, data)
    assert torch.equal(y, data.y[rows])
    upright = (x == data.x[rows]).flatten(1).all(1).float().mean()
    assert 0.1 < upright < 0.4


@pytest.mark.parametrize("rotations", [None, "classes", "tasks"])
def test_the_stream_depends_on_the_seed_alone_and_can_be_resumed(rotations):
    def sampler(seed=3):
        return batches(marked(), size=6, rotations=rotations, seed=seed)

    def equal(a, b):
        return torch.equal(a.query.x, b.query.x) and torch.equal(a.query.y, b.query.y)

    a, b = sampler(), sampler()
    first = a(2)
    torch.manual_seed(0)
    assert equal(first, b(2))
    state = a.state_dict()
    second = a(2)
    assert not equal(first, second)
    assert not equal(first, sampler(seed=4)(2))
    resumed = sampler()
    resumed.load_state_dict(state)
    assert equal(resumed(2), second)
    assert equal(a.restarted()(2), first)


def test_the_state_of_another_stream_is_refused():
    state = batches(marked(), size=6).state_dict()
    for other, message in (
        (batches(marked(), size=7), "size was 6 and is 7"),
        (batches(marked(), size=6, rotations="classes"), "rotations was None and is 'classes'"),
        (batches(marked(), size=6, seed=1), "seed was 0 and is 1"),
        (batches(marked(n=31), size=6), "examples was 30 and is 31"),
    ):
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(state)


def test_glyphs_come_as_they_are():
    images = glyphs("background")
    tasks = batches(images, size=64, rotations="classes")(1)
    assert tasks.query.x.shape == (1, 64, 1, 28, 28)
    assert 0 <= tasks.query.x.min() < tasks.query.x.max() <= 1
    assert tasks.query.y.max() < 4 * len(images.names)


BAD = torch.zeros(3, 1, 4, 4)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (marked(), {"size": 0}, "size=0 must be a whole number of at least 1"),
        (marked(), {"size": 2.0}, "size=2.0 must be a whole number of at least 1"),
        (marked(), {"size": 2, "rotations": "all"}, "rotations='all' is unknown"),
        (marked(), {"size": 2, "device": "nowhere"}, "device='nowhere' cannot be used here"),
        (Batch(BAD, torch.arange(4)), {"size": 2}, r"x \[n, ...\] and y \[n\] differ"),
        (Batch(BAD, torch.zeros(3)), {"size": 2}, "y is one integer class id an example"),
        (Batch(BAD[:0], torch.arange(0)), {"size": 2}, "the data has no examples"),
        (Batch(BAD / 0, torch.arange(3)), {"size": 2}, "x has NaN or infinite values"),
        (
            Batch(BAD[..., :3], torch.arange(3)),
            {"size": 2, "rotations": "tasks"},
            "asks for square images",
        ),
    ],
)
def test_bad_arguments_are_named(data, options, message):
    with pytest.raises(ValueError, match=message):
        batches(data, **options)


def test_a_bad_number_of_minibatches_is_named():
    with pytest.raises(ValueError, match="tasks=0 must be a whole number of at least 1"):
        batches(marked(), size=2)(0)


def test_inputs_may_be_a_dict():
    data = marked()
    tasks = batches(Batch({"image": data.x, "number": torch.arange(30)}, data.y), size=7)(4)
    rows = tasks.query.x["number"]
    assert rows.shape == (4, 7)
    assert torch.equal(tasks.query.x["image"], data.x[rows])
    assert torch.equal(tasks.query.y, data.y[rows])


def test_labels_in_bytes_do_not_overflow_when_classes_are_turned():
    x, y = torch.rand(200, 1, 3, 3), torch.arange(200)
    settings = {"size": 100, "rotations": "classes", "seed": 1}
    small, large = (batches(Batch(x, t), **settings)(3).query.y for t in (y.to(torch.uint8), y))
    assert torch.equal(small, large)
    assert large.max() > 255
