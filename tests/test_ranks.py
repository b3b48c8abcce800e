"""Several processes that share the tasks: the same phi and scores as one, or an error on all."""

import math
import os
import re
import signal
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from metanotes import (
    ANIL,
    MAML,
    Batch,
    LSTMRule,
    MetaSGD,
    NonFiniteLossError,
    PrototypicalNetwork,
    Task,
    evaluate,
    meta_train,
)
from metanotes._ground.agreement import check_places, own_places
from metanotes._ground.ranks import Ranks, present_ranks
from metanotes.data import episodes, quadratics, sinusoid
from metanotes.methods.architecture import Controller
from metanotes.methods.optimizers import LearningToOptimize
from metanotes.nets import conv4
from tests._ground.test_levels import Search
from tests.ranks import Group
from tests.sines import Wrapped, parameters, sine_learner, train


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A function of this module, called on two ranks: its values."""
    group = Group(tmp_path_factory.mktemp("group") / "rendezvous")
    yield group
    group.close()


def rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


# ------------------------------------------------------------------------------- the same as one


def images():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(48, 1, 16, 16, generator=g, dtype=torch.float64)
    return episodes(Batch(x, torch.arange(48) // 6), ways=3, shots=1, queries=1, seed=0)


def network(ways: int | None = 3):
    return conv4(ways, channels=3, size=16, halvings=3).double()


LEARNERS = {
    "conv4": lambda: MAML(network(), inner_lr=0.1, steps=2),
    "ANIL": lambda: ANIL(network(), inner_lr=0.1),
    "Meta-SGD": lambda: MetaSGD(network(), inner_lr=0.1),
    "prototypes": lambda: PrototypicalNetwork(network(None), 3),
}


def trained(name: str, iterations: int, **options):
    """phi after some iterations of three tasks, which two ranks cannot share evenly."""
    learner = LEARNERS[name]()
    sgd = torch.optim.SGD(learner.parameters(), lr=0.05, momentum=0.5)
    history = meta_train(
        learner, images(), iterations, tasks=3, optimizer=sgd, progress=False, **options
    )
    return parameters(learner), history.losses


@pytest.mark.parametrize("name", LEARNERS)
def test_two_ranks_give_the_phi_of_one_process(both, name):
    start = parameters(LEARNERS[name]())
    phi, losses = trained(name, 50)
    (first, first_losses), (second, second_losses) = both(trained, name, 50)
    assert torch.equal(first, second)
    assert first_losses == second_losses
    assert far(first, phi) < 1e-12
    assert first_losses == pytest.approx(losses, rel=1e-12)
    assert far(start, phi) > 1e-3


def two_levels():
    learner = Search()
    optimizers = {
        "weights": torch.optim.SGD(learner.net.parameters(), lr=0.05),
        "alpha": torch.optim.SGD([learner.alpha], lr=0.5),
    }
    sampler = sinusoid(seed=0, dtype=torch.float64)
    history = meta_train(
        learner, sampler, 20, tasks=3, optimizer=optimizers, clip=1.0, progress=False
    )
    return parameters(learner), history


def windows():
    learner = LearningToOptimize(LSTMRule(preprocess=None), steps=6, unroll=3).double()
    sgd = torch.optim.SGD(learner.parameters(), lr=1e-3)
    sampler = quadratics(dim=3, seed=0, dtype=torch.float64)
    history = meta_train(learner, sampler, 5, tasks=3, optimizer=sgd, progress=False)
    return parameters(learner), history


def frozen_and_unused():
    learner = sine_learner().double()
    learner.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    learner.model[0].weight.requires_grad_(False)
    adam = torch.optim.AdamW(learner.parameters(), lr=0.01)  # would shrink what had a gradient of 0
    sampler = sinusoid(seed=0, dtype=torch.float64)
    history = train(learner, 5, sampler=sampler, optimizer=adam)
    return parameters(learner), history


@pytest.mark.parametrize("work", [two_levels, windows, frozen_and_unused])
def test_turns_batches_and_unused_parameters_are_shared_too(both, work):
    phi, history = work()
    (first, ours), (second, _) = both(work)
    assert torch.equal(first, second)
    assert far(first, phi) < 1e-12
    assert ours.losses == pytest.approx(history.losses, rel=1e-12)
    assert ours.levels.keys() == history.levels.keys()


def drawn_globally():
    """A sampler that draws from the global generator, which each rank has seeded as it likes."""
    torch.manual_seed(5 + rank())

    def sample(tasks):
        x = torch.randn(tasks, 6, 1, dtype=torch.float64)
        return Task(Batch(x, x.sin()), Batch(x, x.sin()))

    learner = sine_learner().double()
    nn.init.constant_(learner.model[0].bias, rank())  # and so with phi: it is rank 0's that counts
    sgd = torch.optim.SGD(learner.parameters(), lr=0.1)
    meta_train(learner, sample, 5, tasks=4, optimizer=sgd, progress=False)
    return parameters(learner)


def test_phi_and_the_tasks_begin_as_they_do_on_rank_0(both):
    for phi in both(drawn_globally):
        assert far(phi, drawn_globally()) < 1e-12


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_every_task_has_one_rank(ranks):
    tasks = {"x": torch.arange(10).view(5, 2), "kind": "words", "one for all": torch.tensor(3)}
    shares = [Ranks(n, ranks).share(tasks) for n in range(ranks)]
    assert torch.equal(torch.cat([own["x"] for own, _ in shares]), tasks["x"])
    assert sum(share for _, share in shares) == pytest.approx(1)
    assert all(5 * share == pytest.approx(len(own["x"])) for own, share in shares)
    assert {own["kind"] for own, _ in shares} == {"words"}


# ----------------------------------------------------------------------------- scores, and judges


def score_of_tasks(transductive):
    sampler = sinusoid(seed=1, queries=8)
    return evaluate(sine_learner(), sampler, tasks=110, steps=2, transductive=transductive)


def score_of_examples():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(1300, 4, generator=g), torch.randint(3, (1300,), generator=g)
    linear = nn.Linear(4, 3)
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    return evaluate(linear, Batch(x, y))


def score_of_few():
    return evaluate(sine_learner(), sinusoid(seed=1), tasks=3)


@pytest.mark.parametrize(
    "work",
    [
        partial(score_of_tasks, False),
        partial(score_of_tasks, True),
        score_of_examples,
        score_of_few,
    ],
)
def test_a_score_is_that_of_one_process_task_by_task(both, work):
    right = work()
    for score in both(work):
        assert torch.equal(score.values, right.values)
        assert str(score) == str(right)


def watched(path):
    """Rank 0 calls back, every rank validates, and rank 0's score counts."""
    called, judged = [], []

    def watch(iteration, loss, learner):
        score = evaluate(learner, sinusoid(seed=1), tasks=50)  # by itself: the others are not here
        called.append((iteration, score.mean))
        torch.rand(3)

    def validate(learner):
        judged.append(evaluate(learner, sinusoid(seed=1), tasks=50).mean)
        return -judged[-1] + rank()

    learner = sine_learner(dropout=True)
    history = train(learner, 6, validate=validate, validate_every=3, callback=watch,
                    checkpoint=path / f"rank {rank()}" / "run.pt")  # fmt: skip
    return parameters(learner), history, called, judged


def test_rank_0_calls_back_and_saves_and_all_judge(both, tmp_path):
    (first, history, called, judged), (second, other, never, judged_too) = both(watched, tmp_path)
    assert torch.equal(first, second)
    assert history == other
    assert [iteration for iteration, _ in called] == [1, 2, 3, 4, 5, 6]
    assert never == []
    assert judged == judged_too == [called[2][1], called[5][1]]
    assert [score for _, score in history.validation] == [-value for value in judged]
    assert [path.name for path in tmp_path.rglob("*")] == ["rank 0", "run.pt"]


def masks():
    """The first thing that dropout has let through, on this rank."""
    seen = []

    class Seen(nn.Dropout):
        def forward(self, x):
            seen.append((super().forward(torch.ones(20)) != 0).tolist())
            return super().forward(x)

    learner = sine_learner()
    learner.model.insert(2, Seen(0.5))
    train(learner, 4, tasks=2)
    return seen[-1], torch.rand(3)


def test_ranks_drop_different_units_and_go_on_alike(both):
    (first, next_of_first), (second, next_of_second) = both(masks)
    assert first != second
    assert torch.equal(next_of_first, next_of_second)


# ------------------------------------------------------------------------------ going on, stopping


def continued(path, iterations, name):
    return trained(name, iterations, checkpoint=path, checkpoint_every=4)[0]


def test_any_number_of_ranks_goes_on_from_a_checkpoint(both, tmp_path):
    path = tmp_path / "run.pt"
    both(continued, path, 6, "Meta-SGD")
    continued(path, 13, "Meta-SGD")
    for phi in both(continued, path, 20, "Meta-SGD"):
        assert far(phi, trained("Meta-SGD", 20)[0]) < 1e-12


def by_parts(path, parts):
    """A run with dropout and a sampler from the global generator's stream, in parts."""
    torch.manual_seed(3)

    def sample(tasks):
        x = torch.randn(tasks, 6, 1)
        return Task(Batch(x, x.sin()), Batch(x, x.sin()))

    for iterations in parts:
        learner = sine_learner(dropout=True)
        train(learner, iterations, sampler=sample, checkpoint=path)
        torch.manual_seed(iterations + rank())  # as another process
    return parameters(learner)


def test_as_many_ranks_go_on_bit_for_bit(both, tmp_path):
    whole = both(by_parts, tmp_path / "whole.pt", [12])
    parts = both(by_parts, tmp_path / "parts.pt", [5, 12])
    for phi in (*whole, *parts):
        assert torch.equal(phi, whole[0])


def pressed(path, on_rank):
    """Ctrl+C on one rank; torchrun sends it a second time."""
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def press(drawn):
        if drawn == 7 and rank() == on_rank:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    learner = sine_learner()
    try:
        train(learner, 12, sampler=Wrapped(press), checkpoint=path)
    except KeyboardInterrupt:
        return "interrupted"


@pytest.mark.parametrize("on_rank", [0, 1])
def test_ctrl_c_on_one_rank_saves_and_ends_all(both, tmp_path, on_rank):
    path = tmp_path / "run.pt"
    assert both(pressed, path, on_rank) == ["interrupted"] * 2
    assert len(torch.load(path)["outcome"]["history"]["losses"]) == 7
    assert os.listdir(tmp_path) == ["run.pt"]


# ------------------------------------------------------------------------------- what is refused


def refused(settings, path=None):
    """A training of which the ranks may have different notions: the error of this rank."""
    learner = sine_learner(**settings.get("learner", {}))
    before = parameters(learner)
    sampler = settings.get("sampler") or sinusoid(seed=settings.get("seed", 0))
    try:
        train(learner, settings.get("iterations", 3), sampler=sampler, checkpoint=path,
              tasks=settings.get("tasks", 4), validate=settings.get("validate"))  # fmt: skip
    except Exception as error:
        assert torch.equal(parameters(learner), before)
        return f"{type(error).__name__}: {error}", getattr(error, "__notes__", [])
    return "nothing was refused", []


def on_each(ranks, path=None):
    return refused(ranks[rank()], path)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"seed": 1}, "the sampler is another than rank 0's: .* seed was 0 and is 1"),
        ({"learner": {"hidden": 5}}, r"do not agree \(learner\): .* on rank 0, .* on rank 1"),
        ({"learner": {"inner_lr": 0.2}}, r"do not agree \(learner\)"),
        ({"iterations": 4}, r"do not agree \(call\): .*iterations=3.* on rank 0, .*iterations=4"),
        ({"tasks": 5}, r"do not agree \(tasks\): 4 on rank 0, 5 on rank 1"),
        ({"validate": abs}, r"do not agree \(call\)"),
    ],
)
def test_ranks_that_disagree_are_refused_on_all_of_them(both, second, message):
    for told, notes in both(on_each, [{}, second]):
        assert told.startswith("ValueError")
        assert re.search(message, told), told
        assert len(notes) <= 1


def of_their_own():
    """Tasks that a rank draws from a generator that nobody else knows of."""
    generator = torch.Generator().manual_seed(rank())

    def sample(tasks):
        x = torch.randn(tasks, 6, 1, generator=generator)
        return Task(Batch(x, x), Batch(x, x))

    return refused({"sampler": sample})


def too_few():
    return refused({"tasks": 1})


def no_task_axis():
    def sample(tasks):
        x = torch.zeros(tasks, 6, 1)
        return {"tasks": Task(Batch(x, x), Batch(x, x)), "weights": torch.ones(7)}

    return refused({"sampler": sample})


def one_trains_and_one_judges():
    if rank() == 0:
        return refused({})
    try:
        return str(score_of_few()), []
    except ValueError as error:
        return f"ValueError: {error}", []


def wrapped():
    learner = sine_learner()
    try:
        train(DistributedDataParallel(learner), 2)
    except ValueError as error:
        return f"ValueError: {error}", []


def other_phi_judged():
    learner = sine_learner()
    nn.init.constant_(learner.model[0].bias, rank())
    try:
        return str(evaluate(learner, sinusoid(seed=1), tasks=50)), []
    except ValueError as error:
        return f"ValueError: {error}", []


def others_judged():
    try:
        return str(evaluate(sine_learner(), sinusoid(seed=rank()), tasks=50)), []
    except ValueError as error:
        return f"ValueError: {error}", []


def with_a_baseline():
    """A learner whose losses hang together: a mean over the tasks that a rank has."""
    controller = Controller([3, 3], hidden=4)

    def rewarded(n):
        cells = controller.sample(n)
        return cells, cells[:, 0].double()

    try:
        meta_train(controller, rewarded, 5, tasks=5, progress=False)
    except ValueError as error:
        return f"ValueError: {error}", []


def with_noise():
    """An optimizer that draws from what a rank draws from."""

    class Langevin(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            for p in self.param_groups[0]["params"]:
                p.data += 0.01 * torch.randn_like(p)

    learner = sine_learner()
    try:
        train(learner, 3, optimizer=Langevin(learner.parameters(), lr=0.1))
    except ValueError as error:
        return f"ValueError: {error}", []


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (of_their_own, r"do not agree \(tasks\): \[4, 6, 1\], sum .* on rank 0"),
        (too_few, "1 tasks cannot be shared by 2 ranks: draw more"),
        (no_task_axis, r"as long in all of them; here it is \[4, 7\]"),
        (one_trains_and_one_judges, r"\(call\): meta_train.* on rank 0, evaluate.* on rank 1"),
        (wrapped, "DistributedDataParallel would do once more: give the MAML itself"),
        (other_phi_judged, r"model\.0\.bias of the MAML are not what they are on rank 0"),
        (others_judged, r"do not agree \(tasks\)"),
        (with_a_baseline, "baseline of the Controller are not what they are on rank 0"),
        (with_noise, "an optimizer's noise"),
    ],
)
def test_what_several_ranks_would_get_wrong_is_refused_on_all_of_them(both, work, message):
    for told, _ in both(work):
        assert told.startswith("ValueError")
        assert re.search(message, told), told


# ------------------------------------------------------------------------------------- devices

CPU, FIRST, SECOND = "cpu", "cuda:0", "cuda:1"


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([("a", FIRST), ("a", FIRST)], "ranks 0 and 1 both work on cuda:0 of a"),
        ([("a", FIRST), ("a", SECOND), ("b", SECOND), ("b", SECOND)], "ranks 2 and 3 .* of b"),
        ([("a", FIRST), ("a", CPU)], "all on GPUs, not rank 0 on cuda:0, rank 1 on cpu"),
    ],
)
def test_two_ranks_on_one_gpu_are_named(places, message):
    with pytest.raises(ValueError, match=message):
        check_places(places)


def test_each_rank_may_have_a_gpu_or_share_the_processor():
    check_places([("a", FIRST), ("a", SECOND), ("b", FIRST)])
    check_places([("a", CPU), ("a", CPU)])


def test_a_gpu_that_is_not_the_ranks_is_refused(monkeypatch):
    """As on a machine with two GPUs, where both ranks put the learner on the first."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda: "cpu:gloo,cuda:nccl")
    with pytest.raises(ValueError, match=r"on cuda:0, and this rank's GPU is cuda:1: torch\.cuda"):
        own_places(Ranks(1, 2, torch.device("cuda:0")), nn.Linear(1, 1))


def where_the_group_cannot_go():
    try:
        own_places(Ranks(rank(), 2, torch.device("meta")), nn.Linear(1, 1))
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def test_a_device_that_the_group_does_not_carry_is_refused(both):
    for told in both(where_the_group_cannot_go):
        assert re.search("Linear is on meta, and the process group .* carries cpu", told), told


def exploding(path):
    class Exploding(Wrapped):
        def __call__(self, tasks):
            drawn = super().__call__(tasks)
            if self.drawn == 3:
                drawn.query.y[3] = 1e30
            return drawn

    learner = sine_learner()
    try:
        train(learner, 5, sampler=Exploding(lambda _: None), checkpoint=path, checkpoint_every=1)
    except NonFiniteLossError as error:
        return str(error), parameters(learner)


def test_an_infinite_loss_on_one_rank_stops_all_and_names_the_task(both, tmp_path):
    plain = sine_learner()
    train(plain, 2)
    for told, phi in both(exploding, tmp_path / "run.pt"):
        assert "the loss of iteration 3 is inf (tasks [3] of the batch)" in told
        torch.testing.assert_close(phi, parameters(plain))
    assert len(torch.load(tmp_path / "run.pt")["outcome"]["history"]["losses"]) == 2


def damaged(path):
    return refused({}, path)


def test_a_checkpoint_that_rank_0_cannot_use_stops_all(both, tmp_path):
    (tmp_path / "run.pt").write_bytes(b"no checkpoint")
    for told, notes in both(damaged, tmp_path / "run.pt"):
        assert told.startswith("CheckpointError: checkpoint=")
        assert notes == ["on rank 0 of 2"]


def score_that_fails():
    def metric(outputs, y):
        if rank() == 1:
            raise ArithmeticError("no score today")
        return (outputs - y).square().mean()

    try:
        evaluate(sine_learner(), sinusoid(seed=1), tasks=50, metric=metric)
    except ArithmeticError as error:
        return str(error), error.__notes__


def test_an_error_of_one_rank_in_judging_is_that_of_all(both):
    assert both(score_that_fails) == [("no score today", ["on rank 1 of 2"])] * 2


def test_without_a_group_there_is_one_rank():
    assert present_ranks(torch.device("cpu")) == Ranks(0, 1, torch.device("cpu"))
    assert math.isfinite(score_of_few().mean)
