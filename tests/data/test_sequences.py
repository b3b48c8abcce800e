"""Sequences of examples, each with the label of the step before."""

import pytest
import torch

from metanotes.data import Images, Sequences, episodes, sequences
from metanotes.task import Batch

SIZES = [7, 12, 5, 9, 30, 6]  # examples of the six classes: unequal on purpose


def marked(sizes=SIZES, dtype=torch.float32):
    """Vectors that say which example of which class they are, in a shuffled order."""
    classes = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    rows = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    x = torch.stack([torch.arange(len(classes)), classes], 1).to(dtype)
    return Batch(x[rows], classes[rows])


def test_shapes():
    drawn = sequences(marked(), ways=4, length=13)(11)
    assert isinstance(drawn, Sequences)
    assert drawn.x.shape == (11, 13, 2)
    assert drawn.y.shape == drawn.presentation.shape == (11, 13)
    assert drawn.previous.shape == (11, 13, 4)
    assert drawn.y.dtype == drawn.presentation.dtype == torch.int64
    assert drawn.previous.dtype == torch.float32


def test_previous_presentation_and_labels_are_what_a_loop_says():
    drawn = sequences(marked(), ways=4, length=13)(40)
    for x, y, previous, presentation in zip(*drawn, strict=True):
        shown, label_of, before = {}, {}, None
        for t in range(13):
            example, klass, label = int(x[t, 0]), int(x[t, 1]), int(y[t])
            assert label_of.setdefault(klass, label) == label  # one label a class
            expected = torch.zeros(4)
            if before is not None:
                expected[before] = 1
            assert torch.equal(previous[t], expected)
            examples = shown.setdefault(klass, [])
            assert example not in examples
            examples.append(example)
            assert presentation[t] == len(examples)
            before = label
        assert sorted(label_of.values()) == [0, 1, 2, 3]  # and one class a label
        assert sorted(len(examples) for examples in shown.values()) == [3, 3, 3, 4]


@pytest.mark.parametrize(("ways", "length"), [(1, 1), (1, 5), (3, 3), (6, 30), (2, 9)])
def test_classes_are_shown_equally_often(ways, length):
    y = sequences(marked(), ways, length)(50).y
    counts = torch.stack([(y == label).sum(1) for label in range(ways)])
    assert counts.max() - counts.min() <= (length % ways > 0)
    assert (counts.sum(0) == length).all()


def test_labels_steps_and_what_is_left_over_are_drawn_uniformly():
    drawn = sequences(marked(), ways=3, length=7)(6000)
    classes = drawn.x[..., 1].long()
    for label in range(3):
        share = torch.bincount(classes[drawn.y == label], minlength=6).float()
        assert (share / share.sum() - 1 / 6).abs().max() < 0.02  # any class has any label
        assert ((drawn.y == label).float().mean(0) - 1 / 3).abs().max() < 0.03  # at any step
        thrice = (drawn.y == label).sum(1) == 3
        assert abs(thrice.float().mean() - 1 / 3) < 0.03  # 7 = 2 + 2 + 3
    # In no order: of the other six steps, E[c (c - 1)] / E[c] = 10/7 show the same class again.
    after = drawn.y[:, 1:][drawn.y[:, :-1] == 0]
    expected = torch.tensor([10, 16, 16]) / 42
    assert (torch.bincount(after).float() / len(after) - expected).abs().max() < 0.02


def test_examples_of_a_class_are_drawn_uniformly():
    drawn = sequences(marked(), ways=2, length=4)(6000)
    seen = torch.bincount(drawn.x[..., 0].long().flatten()).float()
    start = 0
    for size in SIZES:
        within = seen[start : start + size]
        assert (within - within.mean()).abs().max() < 4 * within.mean().sqrt()
        start += size


def test_the_guess_at_first_sight_has_the_value_that_counting_gives():
    """To name a class not yet shown is right with 1/5, 1/4, ... 1: 45.7 % for five ways."""
    drawn = sequences(marked([20] * 9), ways=5, length=50)(2000)
    right = []
    for y, presentation in zip(drawn.y.tolist(), drawn.presentation.tolist(), strict=True):
        unseen = list(range(5))
        for label, number in zip(y, presentation, strict=True):
            if number == 1:
                right.append(1 / len(unseen))
                unseen.remove(label)
    assert sum(right) / len(right) == pytest.approx(sum(1 / k for k in range(1, 6)) / 5)
    first = drawn.y[:, 0].bincount(minlength=5).float() / 2000
    assert (first - 1 / 5).abs().max() < 0.045


def test_real_numbers_keep_their_type_and_bytes_become_fractions():
    double = sequences(marked(dtype=torch.float64), 4, 9)(2)
    assert double.x.dtype == double.previous.dtype == torch.float64
    x = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8)
    data = Batch(x, torch.arange(40) // 10)
    drawn = sequences(data, 4, 9)(2)
    assert drawn.x.dtype == drawn.previous.dtype == torch.float32
    exact = sequences(Batch(x.double() / 255, data.y), 4, 9)(2)
    torch.testing.assert_close(drawn.x.double(), exact.x, rtol=0, atol=1e-7)
    assert torch.equal(drawn.y, exact.y)


def test_rotated_classes_are_turned_as_one():
    x = torch.rand(18, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    data = Batch(x, torch.arange(18) // 6)
    drawn = sequences(data, ways=12, length=24, rotations="classes")(5)
    for images, y in zip(drawn.x, drawn.y, strict=True):
        turned = set()
        for image, label in zip(images, y.tolist(), strict=True):
            (match,) = [
                (int(data.y[row]), quarter)
                for quarter in range(4)
                for row in (data.x.rot90(quarter, (2, 3)) == image).flatten(1).all(1).nonzero()
            ]
            turned.add((match, label))
        assert len(turned) == 12  # every character in every turn has one label


def test_inputs_may_be_a_dict():
    data = marked()
    both = Batch({"tokens": data.x.long(), "mask": torch.ones(69, 2, dtype=torch.bool)}, data.y)
    drawn = sequences(both, 4, 9, seed=1)(3)
    plain = sequences(data, 4, 9, seed=1)(3)
    assert torch.equal(drawn.x["tokens"], plain.x.long())
    assert drawn.x["mask"].shape == (3, 9, 2)
    assert torch.equal(drawn.previous, plain.previous)


def test_the_default_device_and_dtype_do_not_matter():
    expected = sequences(marked(), 4, 9)(5)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            drawn = sequences(marked_on_cpu, 4, 9)(5)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(drawn, expected, strict=True):
        assert torch.equal(a, b)


marked_on_cpu = marked()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_device_sees_the_same_sequences():
    cpu = sequences(marked(), 4, 9)(5)
    cuda = sequences(marked(), 4, 9, device="cuda")(5)
    for a, b in zip(cpu, cuda, strict=True):
        assert b.is_cuda
        assert torch.equal(a, b.cpu())


def named(sizes):
    batch = marked(sizes)
    return Images(batch.x, batch.y, tuple(f"Greek/letter {i}" for i in range(len(sizes))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ways": 7}, "ways=7 asks for more classes than the 6 in this split"),
        ({"ways": 0}, "ways=0 must be a whole number"),
        ({"length": 2.5}, "length=2.5 must be a whole number"),
        ({"length": 3}, "length=3 is too short to show ways=4 classes; use a length of at least 4"),
        (
            {"length": 21},
            "length=21 of ways=4 asks for 6 examples of a class, and class 'Greek/letter 2' has 5",
        ),
        ({"rotations": "random"}, "rotations='random' is unknown"),
        ({"device": "cuda:99"}, "device='cuda:99' cannot be used here"),
    ],
)
def test_bad_settings_are_refused(change, message):
    settings = {"data": named(SIZES), "ways": 4, "length": 12}
    with pytest.raises(ValueError, match=message):
        sequences(**(settings | change))


def test_the_longest_sequence_takes_all_that_the_smallest_class_has():
    drawn = sequences(named(SIZES), ways=6, length=30)(20)
    assert (drawn.presentation.amax(1) == 5).all()


def test_a_state_of_another_sampler_is_refused():
    state = sequences(marked(), 4, 12).state_dict()
    with pytest.raises(ValueError, match="length was 12 and is 13"):
        sequences(marked(), 4, 13).load_state_dict(state)
    with pytest.raises(ValueError, match="kind was 'sequences' and is 'episodes'"):
        episodes(marked(), 4, 1, 1).load_state_dict(state)
    assert repr(sequences(marked(), 4, 12)) == (
        "sequences(ways=4, length=12, rotations=None, classes=6, examples=69, shape=(2,), seed=0)"
    )
