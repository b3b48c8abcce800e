"""N-way K-shot episodes."""

from collections import Counter

import pytest
import torch

from metanotes.data import Images, episodes
from metanotes.data.labelled import rotate
from metanotes.task import Batch

SIZES = [7, 12, 5, 9, 30, 6]  # examples of the six classes: unequal on purpose


def marked(sizes=SIZES, ids=None):
    """Images whose pixels say which example of which class they are, in a shuffled order."""
    classes = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    rows = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    x = torch.zeros(len(classes), 2, 3, 3)
    x[:, 0] = torch.arange(len(classes)).view(-1, 1, 1)
    x[:, 1] = classes.view(-1, 1, 1)
    y = classes if ids is None else torch.tensor(ids)[classes]
    return Batch(x[rows], y[rows])


def example(x):
    return x[..., 0, 0, 0].long()


def klass(x):
    return x[..., 1, 0, 0].long()


def test_shapes_and_labels():
    tasks = episodes(marked(), ways=4, shots=2, queries=3)(11)
    assert tasks.support.x.shape == (11, 8, 2, 3, 3)
    assert tasks.query.x.shape == (11, 12, 2, 3, 3)
    assert tasks.support.y.dtype == tasks.query.y.dtype == torch.int64
    assert tasks.support.x.is_contiguous()
    assert tasks.query.x.is_contiguous()
    in_order = torch.arange(4).repeat_interleave(3)
    assert torch.equal(tasks.support.y, torch.arange(4).repeat_interleave(2).expand(11, -1))
    assert torch.equal(tasks.query.y.sort(1).values, in_order.expand(11, -1))


def test_no_place_among_the_queries_tells_the_label():
    """A predictor of places, which sees neither images nor labels, is right once in N."""
    tasks = episodes(marked(), ways=4, shots=2, queries=3, seed=1)(6000)
    table = torch.stack([(tasks.query.y == label).float().mean(0) for label in range(4)])
    assert (table - 1 / 4).abs().max() < 0.025  # [N, N*Q]: each label is as often at each place
    neighbours = (tasks.query.y[:, 1:] == tasks.query.y[:, :-1]).float().mean(0)
    assert (neighbours - 2 / 11).abs().max() < 0.025  # nor does the query before


def test_the_order_of_the_queries_moves_nothing_else():
    """Batch after batch, the examples are those of a generator that draws no order at all."""
    sampler = episodes(marked(), ways=4, shots=2, queries=3, seed=7)
    generator = torch.Generator().manual_seed(7)
    for _ in range(3):
        rows, _ = sampler.examples.draw(5, 4, 5, generator)  # [T, N, K+Q]
        tasks, drawn = sampler(5), example(marked().x)[rows]
        assert torch.equal(example(tasks.support.x), drawn[..., :2].flatten(1))
        by_label = example(tasks.query.x).gather(1, tasks.query.y.argsort(dim=1, stable=True))
        mine = by_label.unflatten(1, (4, 3)).sort(2).values
        assert torch.equal(mine, drawn[..., 2:].sort(2).values)


def test_each_label_is_one_class_in_support_and_query_alike():
    tasks = episodes(marked(), ways=4, shots=2, queries=3)(50)
    x = torch.cat([tasks.support.x, tasks.query.x], 1)
    y = torch.cat([tasks.support.y, tasks.query.y], 1)
    for task in range(50):
        pairs = Counter(zip(y[task].tolist(), klass(x[task]).tolist(), strict=True))
        assert set(pairs.values()) == {5}  # K + Q examples of each
        assert len({k for _, k in pairs}) == len(pairs) == 4


def test_no_example_comes_twice_in_a_task():
    """Also where a task takes all there is of the smallest class, the others having more."""
    tasks = episodes(marked(), ways=6, shots=2, queries=3)(200)
    drawn = example(torch.cat([tasks.support.x, tasks.query.x], 1))
    assert all(len(set(row)) == 30 for row in drawn.tolist())


def test_labels_are_reshuffled_in_every_task():
    tasks = episodes(marked(), ways=6, shots=1, queries=1)(6000)
    table = torch.zeros(6, 6)
    for label in range(6):
        table[label] = torch.bincount(klass(tasks.support.x[:, label]), minlength=6) / 6000
    assert (table - 1 / 6).abs().max() < 0.025  # every class has every label equally often


def test_classes_and_examples_are_drawn_uniformly():
    tasks = episodes(marked(), ways=3, shots=1, queries=2)(6000)
    for batch in (tasks.support, tasks.query):
        classes, examples = klass(batch.x).flatten(), example(batch.x).flatten()
        share = torch.bincount(classes) / len(classes)
        assert (share - 1 / 6).abs().max() < 0.01
        seen = torch.bincount(examples).float()
        start = 0
        for size in SIZES:
            within = seen[start : start + size]
            assert (within - within.mean()).abs().max() < 4 * within.mean().sqrt()
            start += size
        assert start == len(seen)


def test_class_ids_may_be_any_integers():
    tasks = episodes(marked(ids=[100, -3, 7, 8, 9, 4]), ways=6, shots=1, queries=1)(5)
    plain = episodes(marked(ids=[5, 0, 2, 3, 4, 1]), ways=6, shots=1, queries=1)(5)
    assert torch.equal(tasks.support.x, plain.support.x)


def test_bytes_become_fractions_and_real_numbers_stay():
    x = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8)
    x[0, 0, 0, 0] = 255
    y = torch.arange(40) // 10
    settings = {"ways": 4, "shots": 5, "queries": 5}
    bytes_ = episodes(Batch(x, y), **settings)(3).support.x
    double = episodes(Batch(x.double() / 255, y), **settings)(3).support.x
    assert bytes_.dtype == torch.float32
    assert double.dtype == torch.float64
    torch.testing.assert_close(bytes_.double(), double, rtol=0, atol=1e-7)


def test_vectors_are_data_too():
    tasks = episodes(Batch(torch.randn(20, 3), torch.arange(20) % 4), 4, 2, 3)(5)
    assert tasks.query.x.shape == (5, 12, 3)


def upright(size=5, classes=3, each=6):
    """Images [n, 1, H, H] of which no two are turns of each other."""
    x = torch.rand(classes * each, 1, size, size, generator=torch.Generator().manual_seed(0))
    return Batch(x, torch.arange(classes * each) // each)


def turns_of(image, data):
    """Which example `image` is, and its number of quarter turns."""
    for quarter in range(4):
        same = (torch.rot90(data.x, quarter, (2, 3)) == image).flatten(1).all(1)
        if same.any():
            return int(same.nonzero()[0, 0]), quarter
    raise AssertionError("the image is no turn of any example")


def test_rotations_as_classes_make_four_of_each():
    data = upright()
    sampler = episodes(data, ways=12, shots=1, queries=2, rotations="classes")
    assert sampler.classes == 12
    tasks = sampler(20)
    for task in range(20):
        support = [turns_of(image, data) for image in tasks.support.x[task]]
        # All 12 classes: each of 3 characters in each of 4 turns, once.
        assert sorted((int(data.y[i]), turn) for i, turn in support) == [
            (c, turn) for c in range(3) for turn in range(4)
        ]
        for position, image in enumerate(tasks.query.x[task]):
            i, turn = turns_of(image, data)
            j, expected = support[tasks.query.y[task, position]]
            assert (data.y[i], turn) == (data.y[j], expected)
            assert i != j


def test_rotations_by_task_turn_a_class_as_one_and_anew_each_time():
    data = upright()
    tasks = episodes(data, ways=3, shots=1, queries=2, rotations="tasks")(200)
    seen = Counter()
    for task in range(200):
        support = [turns_of(image, data) for image in tasks.support.x[task]]
        assert {int(data.y[i]) for i, _ in support} == {0, 1, 2}  # never two turns of one class
        for position, image in enumerate(tasks.query.x[task]):
            assert turns_of(image, data)[1] == support[tasks.query.y[task, position]][1]
        seen.update((int(data.y[i]), turn) for i, turn in support)
    assert len(seen) == 12
    assert min(seen.values()) > 25  # 50 expected


def test_a_quarter_turn_is_torch_rot90():
    x = torch.rand(9, 2, 5, 5)
    turns = torch.arange(9) % 4
    expected = torch.stack([torch.rot90(x[i], i % 4, (1, 2)) for i in range(9)])
    assert torch.equal(rotate(x.clone(), turns), expected)


def test_turning_leaves_the_data_as_it_was():
    data = upright()
    before = data.x.clone()
    episodes(data, ways=3, shots=3, queries=3, rotations="tasks")(20)
    assert torch.equal(data.x, before)


def test_rotations_none_turns_nothing():
    data = upright()
    tasks = episodes(data, ways=3, shots=1, queries=2)(20)
    assert {turns_of(image, data)[1] for image in tasks.query.x.flatten(0, 1)} == {0}


@pytest.mark.parametrize("rotations", [None, "classes", "tasks"])
def test_the_seed_decides_the_tasks_and_a_restart_repeats_them(rotations):
    sampler = episodes(upright(), 3, 1, 2, seed=7, rotations=rotations)
    first, second = sampler(3).query.x, sampler(3).query.x
    assert not torch.equal(first, second)
    fresh = sampler.restarted()
    assert torch.equal(fresh(3).query.x, first)
    assert torch.equal(fresh(3).query.x, second)
    other = episodes(upright(), 3, 1, 2, seed=8, rotations=rotations)
    assert not torch.equal(other(3).query.x, first)


def test_a_resumed_stream_is_the_uninterrupted_one(tmp_path):
    settings = {"ways": 4, "shots": 1, "queries": 2, "seed": 7}
    sampler = episodes(marked(), **settings)
    sampler(3)
    torch.save(sampler.state_dict(), tmp_path / "state.pt")
    expected = sampler(3).query.x
    resumed = episodes(marked(), **settings)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(resumed(3).query.x, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ways": 3}, "ways was 4 and is 3"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"rotations": "tasks"}, "rotations was None and is 'tasks'"),
        ({"data": marked([9, 9, 9, 9])}, "classes was 6 and is 4, examples was 69 and is 36"),
    ],
)
def test_a_state_of_another_sampler_is_refused(change, message):
    settings = {"data": marked(), "ways": 4, "shots": 1, "queries": 2}
    state = episodes(**settings).state_dict()
    with pytest.raises(ValueError, match=message):
        episodes(**(settings | change)).load_state_dict(state)


def test_the_default_device_and_dtype_do_not_matter():
    """Under other defaults of torch's the same tasks are drawn, where they were asked for."""
    settings = {"ways": 3, "shots": 1, "queries": 2, "rotations": "tasks"}
    data = upright()
    expected = episodes(data, **settings)(5)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            drawn = episodes(data, **settings)(5)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(drawn.query.x, expected.query.x)
    assert torch.equal(drawn.query.y, expected.query.y)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rotations", [None, "classes", "tasks"])
def test_every_device_sees_the_same_tasks(rotations):
    settings = {"ways": 3, "shots": 1, "queries": 2, "rotations": rotations}
    cpu = episodes(upright(), **settings)(5)
    cuda = episodes(upright(), device="cuda", **settings)(5)
    assert cuda.query.x.is_cuda
    assert cuda.query.y.is_cuda
    assert torch.equal(cpu.query.x, cuda.query.x.cpu())
    assert torch.equal(cpu.query.y, cuda.query.y.cpu())


def named(sizes):
    batch = marked(sizes)
    return Images(batch.x, batch.y, tuple(f"Greek/letter {i}" for i in range(len(sizes))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ways": 30}, "ways=30 asks for more classes than the 6 in this split"),
        ({"ways": 25, "rotations": "classes"}, "ways=25 asks for more classes than the 24"),
        ({"ways": 0}, "ways=0 must be a whole number of at least 1"),
        ({"shots": -1}, "shots=-1 must be a whole number of at least 1"),
        ({"queries": 0}, "queries=0 must be a whole number of at least 1"),
        (
            {"shots": 3, "queries": 3},
            "shots=3 and queries=3 ask for 6 examples of a class, and class 'Greek/letter 2' has 5",
        ),
        ({"rotations": "random"}, "rotations='random' is unknown"),
        ({"device": "cuda:99"}, "device='cuda:99' cannot be used here"),
        ({"data": Batch(torch.zeros(9, 1, 3, 3), torch.zeros(8).long())}, r"x is \[9, 1, 3, 3\]"),
        ({"data": Batch(torch.zeros(9, 1, 3, 3), torch.zeros(9))}, "one integer class id"),
        ({"data": Batch(torch.zeros(0, 1, 3, 3), torch.zeros(0).long())}, "no examples"),
    ],
)
def test_bad_settings_are_refused(change, message):
    settings = {"data": named(SIZES), "ways": 4, "shots": 1, "queries": 2}
    with pytest.raises(ValueError, match=message):
        episodes(**(settings | change))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_inputs_that_are_no_numbers_are_refused(bad):
    x, y = marked()
    x[3, 0, 1, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        episodes(Batch(x, y), 4, 1, 2)


@pytest.mark.parametrize("rotations", ["classes", "tasks"])
def test_oblong_images_are_not_turned(rotations):
    data = Batch(torch.zeros(20, 1, 3, 4), torch.arange(20) % 4)
    with pytest.raises(ValueError, match="asks for square images"):
        episodes(data, 4, 1, 2, rotations=rotations)
    episodes(data, 4, 1, 2)


def test_a_class_without_a_name_is_named_by_its_id():
    with pytest.raises(ValueError, match="class 40 has 5"):
        episodes(marked(ids=[10, 20, 40, 30, 50, 60]), 4, 3, 3)


def test_a_sampler_shows_its_settings():
    assert repr(episodes(marked(), 4, 1, 2, seed=3)) == (
        "episodes(ways=4, shots=1, queries=2, rotations=None, classes=6, examples=69, "
        "shape=(2, 3, 3), seed=3)"
    )


def test_numbers_may_be_ranges_and_are_drawn_anew_for_every_batch():
    sampler = episodes(marked(), ways=(2, 4), shots=(1, 3), queries=(1, 2), seed=5)
    seen = set()
    for _ in range(300):
        tasks = sampler(3)
        ways = tasks.support.y.unique().numel()
        assert torch.equal(tasks.query.y.unique(), torch.arange(ways))
        shots, queries = (batch.y.shape[1] // ways for batch in tasks)
        for batch, each in ((tasks.support, shots), (tasks.query, queries)):
            assert batch.x.shape[:2] == batch.y.shape == (3, ways * each)
            expected = torch.arange(ways).repeat_interleave(each)
            assert torch.equal(batch.y.sort(1).values, expected.expand(3, -1))
        drawn = example(torch.cat([tasks.support.x, tasks.query.x], 1))
        assert all(len(set(row)) == ways * (shots + queries) for row in drawn.tolist())
        seen.add((ways, shots, queries))
    assert len(seen) == 3 * 3 * 2


def test_a_range_of_one_number_is_that_number():
    plain = episodes(marked(), 4, 1, 2, seed=5)
    ranges = episodes(marked(), (4, 4), (1, 1), (2, 2), seed=5)
    assert torch.equal(ranges(3).query.x, plain(3).query.x)
    assert ranges.config() == plain.config()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ways": (2, 7)}, "ways=7 asks for more classes than the 6"),
        (
            {"shots": (1, 4)},
            r"shots=\(1, 4\) and queries=2 ask for up to 6 examples of a class, and class 2 has 5",
        ),
        ({"shots": (3, 1)}, r"shots=\(3, 1\) must be a range \(low, high\)"),
        ({"queries": (0, 2)}, r"queries=\(0, 2\) must be a range"),
    ],
)
def test_bad_ranges_are_refused(change, message):
    settings = {"data": marked(), "ways": 4, "shots": 1, "queries": 2}
    with pytest.raises(ValueError, match=message):
        episodes(**(settings | change))


def test_a_state_of_other_ranges_is_refused():
    state = episodes(marked(), 4, (1, 3), 2).state_dict()
    with pytest.raises(ValueError, match=r"shots was \(1, 3\) and is \(1, 2\)"):
        episodes(marked(), 4, (1, 2), 2).load_state_dict(state)


def tokens():
    """Texts of seven tokens, which say which example of which class they are."""
    x, y = marked()
    text = torch.stack([example(x), klass(x)], 1).repeat(1, 4)[:, :7]
    return Batch({"input_ids": text, "attention_mask": (text % 3 > 0).long()}, y)


def test_inputs_may_be_a_dict_of_tensors_which_stay_together():
    tasks = episodes(tokens(), ways=4, shots=2, queries=3, seed=1)(11)
    plain = episodes(marked(), ways=4, shots=2, queries=3, seed=1)(11)
    for batch, same, rows in zip(tasks, plain, (8, 12), strict=True):
        assert list(batch.x) == ["input_ids", "attention_mask"]
        text = batch.x["input_ids"]
        assert text.shape == (11, rows, 7)
        assert text.dtype == torch.int64
        assert torch.equal(text[..., 0], example(same.x))
        assert torch.equal(batch.x["attention_mask"], (text % 3 > 0).long())
        assert torch.equal(batch.y, same.y)


def test_the_tensors_of_a_dict_come_as_they_are():
    x = {"mask": torch.ones(20, 3, dtype=torch.uint8), "length": torch.arange(20)}
    tasks = episodes(Batch(x, torch.arange(20) % 4), 4, 1, 2)(5)
    assert tasks.query.x["mask"].dtype == torch.uint8
    assert tasks.query.x["mask"].max() == 1
    assert tasks.query.x["length"].shape == (5, 8)


def test_a_dict_in_the_configuration_is_resumed(tmp_path):
    sampler = episodes(tokens(), 4, 1, 2)
    sampler(2)
    torch.save(sampler.state_dict(), tmp_path / "state.pt")
    expected = sampler(2).query.x["input_ids"]
    resumed = episodes(tokens(), 4, 1, 2)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(resumed(2).query.x["input_ids"], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_mask": torch.ones(68, 7)}, r"x\['attention_mask'\] is \[68, 7\] and y is"),
        ({"input_ids": torch.full((69, 7), torch.nan)}, r"x\['input_ids'\] has NaN or infinite"),
        ({"input_ids": [[1]] * 69}, r"x\['input_ids'\] is a list and not a tensor"),
    ],
)
def test_bad_tensors_of_a_dict_are_named(change, message):
    x, y = tokens()
    with pytest.raises(ValueError, match=message):
        episodes(Batch(x | change, y), 4, 1, 2)


def test_a_dict_is_not_turned_and_arrays_are_no_tensors():
    with pytest.raises(ValueError, match=r"asks for square images .*; x is a dict"):
        episodes(tokens(), 4, 1, 2, rotations="tasks")
    x, y = marked()
    with pytest.raises(ValueError, match=r"x is a ndarray and not a tensor: give torch.as_tensor"):
        episodes(Batch(x.numpy(), y), 4, 1, 2)
    with pytest.raises(ValueError, match="y is a list and not a tensor"):
        episodes(Batch(x, y.tolist()), 4, 1, 2)
    with pytest.raises(ValueError, match="x is a dict and not a tensor"):
        episodes(Batch({}, y), 4, 1, 2)


def test_data_without_names_for_inputs_and_classes_are_refused():
    data = torch.zeros(6, 2), torch.arange(6).remainder(3)
    with pytest.raises(ValueError, match=r"data is a tuple; it must have \.x and \.y, as .*Batch"):
        episodes(data, 2, 1, 1)
