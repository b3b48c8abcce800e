"""Meta-training: what a step is, what looks on and judges, what stops it, and what is refused."""

import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import (
    ConstantLR,
    LinearLR,
    ReduceLROnPlateau,
)

from metanotes import (
    MAML,
    Batch,
    History,
    Learner,
    NonFiniteLossError,
    Pretrained,
    Task,
    evaluate,
    meta_train,
    mse,
)
from metanotes.data import sinusoid
from metanotes.nets import mlp
from tests.sines import parameters, sine_learner, train


def test_it_learns_to_learn():
    learner = MAML(mlp(1, 40, 40, 1), inner_lr=0.01, loss=mse)
    before = evaluate(learner, sinusoid(seed=1), tasks=100)
    history = meta_train(learner, sinusoid(seed=0), 300, tasks=25, progress=False)
    after = evaluate(learner, sinusoid(seed=1), tasks=100)
    assert len(history.losses) == 300
    assert after.mean + after.ci95 < before.mean - before.ci95


def test_an_iteration_is_a_plain_step():
    ours, plain = sine_learner(), sine_learner()
    history = train(ours, 4, clip=0.5, meta_lr=0.01)
    sampler, adam = sinusoid(seed=0), torch.optim.Adam(plain.parameters(), lr=0.01)
    losses = []
    for _ in range(4):
        loss = plain(sampler(5)).mean()
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        adam.step()
        losses.append(loss.item())
    assert history == History(losses)
    assert torch.equal(parameters(ours), parameters(plain))


@pytest.mark.parametrize("part", [slice(0, 2), slice(2, 4)])
def test_an_optimizer_of_some_parameters_moves_those_alone(part):
    learner = sine_learner()
    before = [p.clone() for p in learner.parameters()]
    moving = list(learner.parameters())[part]
    train(learner, 2, optimizer=torch.optim.SGD(moving, lr=0.1))
    for old, p in zip(before, learner.parameters(), strict=True):
        assert torch.equal(old, p) != any(p is q for q in moving)
        assert any(p is q for q in moving) or p.grad is None


def test_any_module_that_maps_what_is_sampled_to_losses_is_trained():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.guess = nn.Parameter(torch.zeros(()))

        def forward(self, drawn):
            return (drawn["numbers"][0] - self.guess).square()

    generator = torch.Generator().manual_seed(0)
    sampler = lambda n: {"numbers": [3 + torch.randn(n, generator=generator)], "kind": "normal"}  # noqa: E731
    module = Mean()
    meta_train(module, sampler, np.int64(200), np.int32(50), meta_lr=0.1, progress=False)
    assert abs(module.guess.item() - 3) < 0.1


# -------------------------------------------------------------------------- NaN and infinite losses


class Exploding:
    """Sine waves whose 6th batch has a target too large to be squared, or a NaN input."""

    def __init__(self, value: float) -> None:
        self.inner, self.calls, self.value = sinusoid(seed=0), 0, value
        self.state_dict, self.load_state_dict = self.inner.state_dict, self.inner.load_state_dict

    def __call__(self, tasks: int) -> Task:
        self.calls += 1
        drawn = self.inner(tasks)
        if self.calls == 6:
            drawn.query.y[3] = self.value
        return drawn


def test_an_infinite_loss_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    path, learner, good = tmp_path / "run.pt", sine_learner(), sine_learner()
    message = r"loss of iteration 6 is inf \(tasks \[3\].*last good checkpoint is '.*run.pt'"
    with pytest.raises(NonFiniteLossError, match=message):
        meta_train(
            learner, Exploding(1e30), 10, tasks=5, checkpoint=path, checkpoint_every=3,
            progress=False,
        )  # fmt: skip
    train(good, 5)
    assert torch.equal(parameters(learner), parameters(good))  # as after the 5th iteration
    assert len(torch.load(path)["outcome"]["history"]["losses"]) == 3


def test_nan_targets_are_refused():
    with pytest.raises(ValueError, match=r"query\.y has NaN or infinite values"):
        meta_train(sine_learner(), Exploding(float("nan")), 10, tasks=5, progress=False)


def test_an_infinite_gradient_stops_the_run():
    class Root(nn.Module):  # finite at 0, with an infinite slope
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return self.w.abs().sqrt() + 0 * x

    learner = Pretrained(Root(), inner_lr=0.1, loss=mse)
    with pytest.raises(NonFiniteLossError, match="gradient of iteration 1"):
        train(learner, 3)


# ------------------------------------------------------------------------ callback and validation


def test_the_callback_looks_on_at_every_iteration():
    watched, plain, seen = sine_learner(), sine_learner(), []

    def watch(iteration, loss, learner):
        assert learner is watched
        learner.eval()  # and forgets to put it back
        seen.append((iteration, loss))

    history = train(watched, 5, callback=watch)
    train(plain, 5)
    assert seen == list(enumerate(history.losses, 1))
    assert torch.equal(parameters(watched), parameters(plain))


@pytest.mark.parametrize("stops", [(60,), (250,), (60, 250)])
def test_a_run_in_parts_is_recorded_where_a_whole_one_is(tmp_path, stops):
    """And so its numbers are the same to the bit: recorded operations are rounded in other ways."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(3, 10, 4, generator=g), torch.arange(10).remainder(3).expand(3, 10)
    tasks = Task(Batch(x, y), Batch(x.flip(1), y.flip(1)))

    def trained(*until, path=None):
        for iterations in until:
            learner = MAML(mlp(4, 8, 3, seed=0), inner_lr=0.1)
            meta_train(learner, lambda _: tasks, iterations, checkpoint=path, progress=False)
        return parameters(learner)

    assert torch.equal(trained(*stops, 300, path=tmp_path / "run.pt"), trained(300))


def test_the_callback_of_a_resumed_run_goes_on_counting(tmp_path):
    seen = []
    for iterations in (2, 5):
        train(sine_learner(), iterations, checkpoint=tmp_path / "run.pt",
              callback=lambda iteration, *_: seen.append(iteration))  # fmt: skip
    assert seen == [1, 2, 3, 4, 5]


def test_a_validation_that_gives_nothing_keeps_nothing():
    logged, plain, seen = sine_learner(), sine_learner(), []
    history = train(logged, 6, validate=lambda _: seen.append(1), validate_every=2, patience=1)
    train(plain, 6)
    assert len(seen) == 3
    assert history.validation == []
    assert not history.stopped_early
    assert torch.equal(parameters(logged), parameters(plain))


def test_a_score_that_is_nan_is_worse_than_any():
    learner, scores, seen = sine_learner(), iter([math.nan, 0.2, math.nan, 0.1]), []

    def validate(current):
        seen.append(parameters(current))
        return next(scores)

    history = train(learner, 8, validate=validate, validate_every=1, patience=2)
    assert len(history.losses) == 4
    assert torch.equal(parameters(learner), seen[1])


def test_a_score_that_is_no_number_is_refused():
    def validate(learner):
        return evaluate(learner, sinusoid(seed=1), tasks=4)

    with pytest.raises(ValueError, match=r"validate= gave Score\(.*evaluate\(\.\.\.\)\.mean"):
        train(sine_learner(), 1, validate=validate, validate_every=1)


def test_a_plateau_of_the_scores_lowers_the_rate():
    learner, scores = sine_learner(), iter([0.1, 0.5, 0.4, 0.3, 0.6, 0.7])
    sgd = torch.optim.SGD(learner.parameters(), lr=0.1)
    plateau = ReduceLROnPlateau(sgd, "max", factor=0.5, patience=1)
    rates = []
    train(learner, 12, optimizer=sgd, scheduler=plateau, validate=lambda _: next(scores),
          validate_every=2,
          callback=lambda *_: rates.append(sgd.param_groups[0]["lr"]))  # fmt: skip
    assert rates == [0.1] * 8 + [0.05] * 4


def test_the_outer_rate_follows_its_schedule():
    learner, constant, rates = sine_learner(), sine_learner(), []
    sgd = torch.optim.SGD(learner.parameters(), lr=0.1)
    schedule = LinearLR(sgd, 1.0, 0.0, total_iters=4)
    train(learner, 4, optimizer=sgd, scheduler=schedule,
          callback=lambda *_: rates.append(sgd.param_groups[0]["lr"]))  # fmt: skip
    assert rates == pytest.approx([0.075, 0.05, 0.025, 0.0])
    train(constant, 4, optimizer=torch.optim.SGD(constant.parameters(), lr=0.1))
    assert not torch.equal(parameters(learner), parameters(constant))


def test_validation_keeps_the_best_phi_and_patience_stops():
    learner, scores, seen = sine_learner(), iter([0.1, 0.5, 0.4, 0.3, 0.9]), []

    def validate(current):
        seen.append(parameters(current))
        return next(scores)

    history = train(learner, 100, validate=validate, validate_every=2, patience=2)
    assert history.validation == [(2, 0.1), (4, 0.5), (6, 0.4), (8, 0.3)]
    assert history.stopped_early
    assert len(history.losses) == 8
    assert torch.equal(parameters(learner), seen[1])


def test_frozen_running_statistics_stay_frozen():
    layer = nn.BatchNorm1d(4).eval()
    learner = MAML(nn.Sequential(nn.Linear(1, 4), layer, nn.Linear(4, 1)), 0.01, loss=mse)
    train(learner, 3)
    evaluate(learner, sinusoid(seed=1), tasks=4)
    train(learner, 3)
    assert torch.equal(layer.running_mean, torch.zeros(4))
    assert layer.num_batches_tracked == 0
    assert learner.model[0].training


def test_clipping_bounds_the_step():
    plain, clipped = sine_learner(), sine_learner()
    start = parameters(plain)
    for learner, clip in ((plain, None), (clipped, 1e-3)):
        train(learner, 1, clip=clip, optimizer=torch.optim.SGD(learner.parameters(), lr=1.0))
    assert (parameters(clipped) - start).norm() == pytest.approx(1e-3, rel=1e-3)
    assert (parameters(plain) - start).norm() > 1e-2


def test_meta_lr_is_the_rate_of_adam():
    a, b = sine_learner(), sine_learner()
    train(a, 3, meta_lr=0.02)
    train(b, 3, optimizer=torch.optim.Adam(b.parameters(), lr=0.02))
    assert torch.equal(parameters(a), parameters(b))


# ----------------------------------------------------------------------------- what is refused


def with_schedule(make):
    def options(learner):
        sgd = torch.optim.SGD(learner.parameters(), lr=0.1)
        return {"optimizer": sgd, "scheduler": make(sgd)}

    return options


def frozen_only(learner):
    learner.model[0].requires_grad_(False)
    return {"optimizer": torch.optim.SGD(learner.model[0].parameters(), lr=0.1)}


def shared(learner):
    return {"optimizer": {n: torch.optim.SGD(learner.parameters(), lr=0.1) for n in "ab"}}


def plateau(mode, **options):
    return lambda learner: with_schedule(lambda o: ReduceLROnPlateau(o, mode))(learner) | options


SGD = torch.optim.SGD


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations=0 must be a whole number of at least 1"),
        ({"iterations": 2.5}, "iterations=2.5 must be a whole number of at least 1"),
        ({"iterations": True}, "iterations=True"),
        ({"tasks": 0}, "tasks=0"),
        ({"validate_every": 0}, "validate_every=0"),
        ({"checkpoint_every": "2"}, "checkpoint_every='2'"),
        ({"meta_lr": 0.0}, "meta_lr=0.0 must be a finite number above 0"),
        ({"patience": 3}, "patience=3 needs validate="),
        ({"patience": 0, "validate": float}, "patience=0"),
        ({"clip": -1.0}, "clip=-1.0 must be a finite number above 0"),
        ({"clip": {"alpha": 1.0}}, r"clip= is for \['alpha'\], but the levels .* are \['phi'\]"),
        ({"device": "cuda:99"}, "device='cuda:99' cannot be used here .* choose 'cpu'"),
        ({"device": "gpu"}, "device='gpu' cannot be used here"),
        ({"sample_tasks": 3}, r"sample_tasks must be a function .* not a int; .*lambda _: tasks"),
        ({"optimizer": torch.optim.Adam}, r"optimizer=<class .*must be an optimizer of"),
        ({"optimizer": {}}, "optimizer={} has no level"),
        (lambda _: {"optimizer": SGD([torch.ones(3)], lr=0.1)}, r"optimizer has .* shape \[3\]"),
        (lambda m: {"optimizer": torch.optim.LBFGS(m.parameters())}, r"=LBFGS\(\.\.\.\) works"),
        (frozen_only, "optimizer has no parameter to train: all of them are frozen"),
        (shared, r"optimizer\['b'\] has a parameter of the shape .* optimizer\['a'\] has too"),
        (lambda m: {"scheduler": ConstantLR(SGD(m.parameters(), lr=0.1))}, "scheduler= must be of"),
        (plateau("max"), r"ReduceLROnPlateau\(\.\.\.\) waits for scores: give validate="),
        (plateau("min", validate=float), r"mode='min'\) .* make it with mode='max'"),
        ({"learner": 3}, "learner=3 must be an nn.Module"),
    ],
)  # fmt: skip
def test_bad_settings_are_named_before_any_work(options, message):
    learner = sine_learner()

    def never(tasks):
        raise AssertionError("work was done")

    options = options if isinstance(options, dict) else options(learner)
    settings = {"learner": learner, "sample_tasks": never, "iterations": 1, "progress": False}
    before = parameters(learner)
    with pytest.raises(ValueError, match=message):
        meta_train(**(settings | options))
    assert torch.equal(parameters(learner), before)


def test_a_learner_without_parameters_has_nothing_to_train():
    with pytest.raises(ValueError, match="Learner has no parameter to train"):
        train(Learner(), 3)


def test_a_module_that_gives_no_losses_is_refused():
    class Pair(nn.Linear):
        def forward(self, tasks):
            return self.weight.sum(), self.bias.sum()

    with pytest.raises(ValueError, match=r"Pair gave a tuple, not a tensor of losses \[T\]"):
        train(Pair(1, 1), 1)


# ----------------------------------------------------------------------------- history, and torch


def test_the_history_can_be_drawn():
    history = train(sine_learner(), 20)
    ax = history.plot(smooth=5)
    assert ax.lines[0].get_xdata().tolist() == [5, 10, 15, 20]
    expected = torch.tensor(history.losses).double().reshape(4, 5).mean(1)
    torch.testing.assert_close(torch.as_tensor(ax.lines[0].get_ydata()), expected)
    history.validation = [(10, 0.5), (20, 0.7)]
    right = history.plot(smooth=5).figure.axes[1]  # scores are not losses: an axis of their own
    assert right.lines[0].get_ydata().tolist() == [0.5, 0.7]


def gradient_of(module, learner, tasks):
    learner.zero_grad()
    module(tasks).mean().backward()
    return torch.cat([p.grad.flatten() for p in learner.parameters()])


def test_a_learner_is_an_ordinary_module():
    tasks = sinusoid(seed=0, dtype=torch.float64)(5)
    a, b = sine_learner().double(), sine_learner().double()
    nn.init.ones_(b.model[0].weight)
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(tasks), b(tasks))


class Turning(nn.Linear):
    def __init__(self):
        super().__init__(1, 1)

    def turns(self, tasks):
        raise AssertionError("a turn was taken")


def test_distributed_data_parallel_gives_the_same_gradient(tmp_path):
    learner, tasks = sine_learner(), sinusoid(seed=0)(5)
    expected = gradient_of(learner, learner, tasks)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        parallel = DistributedDataParallel(learner)
        torch.testing.assert_close(gradient_of(parallel, learner, tasks), expected)
        meta_train(parallel, sinusoid(seed=0), 2, tasks=5, progress=False)
        with pytest.raises(ValueError, match="Turning has turns: give the Turning itself"):
            train(DistributedDataParallel(Turning()), 1)
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_with_half_the_tasks_each_give_the_gradient_of_all(tmp_path):
    script = textwrap.dedent(
        """
        import sys
        import torch
        from metanotes import MAML, Batch, Task, mse
        from metanotes.data import sinusoid
        from metanotes.nets import mlp
        folder, rank = sys.argv[1], int(sys.argv[2])
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
        )
        tasks = sinusoid(seed=0)(6)
        mine = Task(*(Batch(*(t[3 * rank : 3 * rank + 3] for t in batch)) for batch in tasks))
        learner = MAML(mlp(1, 20, 1), inner_lr=0.01, steps=2, loss=mse)
        parallel = torch.nn.parallel.DistributedDataParallel(learner)
        parallel(mine).mean().backward()
        torch.save([p.grad for p in learner.parameters()], f"{folder}/{rank}.pt")
        torch.distributed.destroy_process_group()
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)]) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    learner = MAML(mlp(1, 20, 1), inner_lr=0.01, steps=2, loss=mse)
    learner(sinusoid(seed=0)(6)).mean().backward()
    for rank in (0, 1):
        for grad, p in zip(torch.load(tmp_path / f"{rank}.pt"), learner.parameters(), strict=True):
            torch.testing.assert_close(grad, p.grad)


@pytest.mark.filterwarnings("default")  # of torch.compile's own making
def test_torch_compile_gives_the_same_gradient():
    learner, tasks = sine_learner(), sinusoid(seed=0)(5)
    expected = gradient_of(learner, learner, tasks)
    compiled = torch.compile(learner, backend="aot_eager")
    torch.testing.assert_close(gradient_of(compiled, learner, tasks), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore")  # CUDA's libraries have their own
def test_training_and_evaluation_on_cuda():
    on_cpu, on_cuda = sine_learner(), sine_learner()
    for learner, device in ((on_cpu, "cpu"), (on_cuda, "cuda")):
        train(learner, 3, device=device)
    torch.testing.assert_close(parameters(on_cuda).cpu(), parameters(on_cpu), rtol=1e-3, atol=1e-5)
    assert evaluate(on_cuda, sinusoid(seed=1), tasks=10).values.shape == (10,)


def test_a_reader_may_sample_tasks_with_any_function():
    def sample(tasks):
        x = torch.randn(tasks, 4, 1)
        return Task(Batch(x, x), Batch(x, x))

    assert len(meta_train(sine_learner(), sample, 2, progress=False).losses) == 2
