"""Meta-training: it learns, it stops on bad numbers, and it goes on where it was."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from metanotes import (
    MAML,
    Batch,
    CheckpointError,
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


def sine_learner(dropout: bool = False, inner_lr: float = 0.01) -> MAML:
    model = mlp(1, 20, 1)
    if dropout:
        model.insert(2, nn.Dropout(0.2))
    return MAML(model, inner_lr=inner_lr, loss=mse)


def train(learner, iterations, *, seed=0, **options):
    return meta_train(learner, sinusoid(seed=seed), iterations, tasks=5, progress=False, **options)


def parameters(learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


def test_it_learns_to_learn():
    learner = MAML(mlp(1, 40, 40, 1), inner_lr=0.01, loss=mse)
    before = evaluate(learner, sinusoid(seed=1), tasks=100)
    history = meta_train(learner, sinusoid(seed=0), 300, tasks=25, progress=False)
    after = evaluate(learner, sinusoid(seed=1), tasks=100)
    assert len(history.losses) == 300
    assert after.mean + after.ci95 < before.mean - before.ci95


@pytest.mark.parametrize("dropout", [False, True])
def test_an_interrupted_run_ends_bit_for_bit_as_one_that_was_not(tmp_path, dropout):
    def score(learner):
        return -evaluate(learner, sinusoid(seed=1), tasks=4).mean

    options = {"validate": score, "validate_every": 4, "clip": 1.0}

    class Stop(Exception):
        pass

    class Dying:  # a sampler that fails at the 8th batch, as a machine may
        def __init__(self):
            self.inner, self.left = sinusoid(seed=0), 8
            self.state_dict, self.load_state_dict = (
                self.inner.state_dict,
                self.inner.load_state_dict,
            )

        def __call__(self, tasks):
            self.left -= 1
            if self.left == 0:
                raise Stop
            return self.inner(tasks)

    torch.manual_seed(0)
    whole = sine_learner(dropout)
    expected = train(whole, 12, **options)

    torch.manual_seed(0)
    path, dying = tmp_path / "runs" / "run.pt", Dying()
    with pytest.raises(Stop):
        meta_train(
            sine_learner(dropout), dying, 12, tasks=5, progress=False,
            checkpoint=path, checkpoint_every=5, **options,
        )  # fmt: skip
    torch.manual_seed(12345)  # another process has another random state
    resumed = sine_learner(dropout)
    nn.init.zeros_(resumed.model[0].weight)  # and perhaps other initial values
    history = train(resumed, 12, checkpoint=path, checkpoint_every=5, **options)
    assert torch.equal(parameters(resumed), parameters(whole))
    assert history == expected
    assert os.listdir(path.parent) == ["run.pt"]  # no temporary file is left

    loaded = sine_learner(dropout)
    train(loaded, 12, checkpoint=path, **options)  # finished: only loaded
    assert torch.equal(parameters(loaded), parameters(whole))


def test_the_outer_rate_follows_its_schedule_over_an_interruption(tmp_path):
    def falling(learner, iterations, **options):
        sgd = torch.optim.SGD(learner.parameters(), lr=0.1)
        linear = torch.optim.lr_scheduler.LinearLR(sgd, 1.0, 0.0, total_iters=8)
        train(learner, iterations, optimizer=sgd, scheduler=linear, **options)
        return sgd.param_groups[0]["lr"]

    whole, parts = sine_learner(), sine_learner()
    assert falling(whole, 8) == pytest.approx(0.0, abs=1e-12)
    assert falling(parts, 3, checkpoint=tmp_path / "run.pt") == pytest.approx(0.1 * 5 / 8)
    parts = sine_learner()
    assert falling(parts, 8, checkpoint=tmp_path / "run.pt") == pytest.approx(0.0, abs=1e-12)
    assert torch.equal(parameters(whole), parameters(parts))
    constant = sine_learner()
    train(constant, 8, optimizer=torch.optim.SGD(constant.parameters(), lr=0.1))
    assert not torch.equal(parameters(whole), parameters(constant))


def test_a_schedule_of_another_optimizer_is_refused():
    learner = sine_learner()
    other = torch.optim.lr_scheduler.ConstantLR(torch.optim.SGD(learner.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="scheduler="):
        train(learner, 1, scheduler=other)


def test_a_killed_process_goes_on_bit_for_bit(tmp_path):
    script = textwrap.dedent(
        """
        import os, signal, sys
        import torch
        from metanotes import MAML, meta_train, mse
        from metanotes.data import sinusoid
        from metanotes.nets import mlp
        path, kill = sys.argv[1], int(sys.argv[2])
        sampler = sinusoid(seed=0)
        calls = 0
        class Killer:
            state_dict, load_state_dict = sampler.state_dict, sampler.load_state_dict
            def __call__(self, tasks):
                global calls
                calls += 1
                if calls == kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                return sampler(tasks)
        learner = MAML(mlp(1, 20, 1), inner_lr=0.01, loss=mse)
        meta_train(
            learner, Killer(), 9, tasks=5, checkpoint=path, checkpoint_every=3, progress=False
        )
        torch.save(learner.state_dict(), path + ".phi")
        """
    )

    def run(path, kill):
        return subprocess.run([sys.executable, "-c", script, str(path), str(kill)]).returncode

    assert run(tmp_path / "whole", 0) == 0
    assert run(tmp_path / "killed", 8) == -9
    assert run(tmp_path / "killed", 0) == 0
    whole, killed = (torch.load(tmp_path / f"{name}.phi") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_a_run_can_be_made_longer(tmp_path):
    whole, grown = sine_learner(), sine_learner()
    train(whole, 9)
    train(grown, 4, checkpoint=tmp_path / "run.pt")
    train(grown, 9, checkpoint=tmp_path / "run.pt")
    assert torch.equal(parameters(grown), parameters(whole))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: train(sine_learner(inner_lr=0.5), 4, checkpoint=path), "another learner"),
        (
            lambda path: train(Pretrained(mlp(1, 20, 1), 0.01, loss=mse), 4, checkpoint=path),
            "another learner",
        ),
        (
            lambda path: train(
                learner := sine_learner(), 4, checkpoint=path,
                optimizer=torch.optim.SGD(learner.parameters(), lr=0.1),
            ),
            "another optimizer",
        ),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, message):
    path = tmp_path / "run.pt"
    train(sine_learner(), 3, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=message):
        change(path)
    assert path.read_bytes() == before


def test_a_checkpoint_of_other_tasks_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    train(sine_learner(), 3, checkpoint=path)
    with pytest.raises(ValueError, match="seed"):
        train(sine_learner(), 4, checkpoint=path, seed=1)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_truncated_checkpoint_is_refused_before_any_work(tmp_path, content):
    path, learner = tmp_path / "run.pt", sine_learner()
    train(sine_learner(), 3, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    before = parameters(learner)
    with pytest.raises(CheckpointError, match="truncated or no checkpoint"):
        train(learner, 4, checkpoint=path)
    assert torch.equal(parameters(learner), before)


def test_a_checkpoint_that_cannot_be_written_is_found_out_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    learner = sine_learner()
    before = parameters(learner)
    with pytest.raises(CheckpointError, match="cannot be written"):
        train(learner, 4, checkpoint=tmp_path / "file" / "run.pt")
    assert torch.equal(parameters(learner), before)


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
    with pytest.raises(NonFiniteLossError, match=r"loss of iteration 6 is inf \(tasks \[3\]"):
        meta_train(
            learner, Exploding(1e30), 10, tasks=5, checkpoint=path, checkpoint_every=3,
            progress=False,
        )  # fmt: skip
    train(good, 5)
    assert torch.equal(parameters(learner), parameters(good))  # as after the 5th iteration
    assert len(torch.load(path)["history"]["losses"]) == 3


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


def test_a_learner_without_parameters_has_nothing_to_train():
    with pytest.raises(ValueError, match="Learner has no parameter to train"):
        train(Learner(), 3)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations=0 must be at least 1"),
        ({"tasks": 0}, "tasks=0"),
        ({"validate_every": 0}, "validate_every=0"),
        ({"meta_lr": 0.0}, "meta_lr=0.0 must be a finite number above 0"),
        ({"patience": 3}, "patience=3 needs validate="),
        ({"clip": -1.0}, "clip=-1.0 must be above 0"),
        ({"device": "cuda:99"}, "device='cuda:99' does not exist here: choose 'cpu'"),
        ({"device": "gpu"}, "device='gpu' does not exist here"),
    ],
)
def test_bad_settings_are_named_before_any_work(options, message):
    def never(tasks):
        raise AssertionError("work was done")

    with pytest.raises(ValueError, match=message):
        meta_train(sine_learner(), never, **{"iterations": 1, "progress": False, **options})


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
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
