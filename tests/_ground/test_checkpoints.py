"""Checkpoints: a run goes on bit for bit; another run's file is refused and changes nothing."""

import copy
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from metanotes import CheckpointError, Pretrained, evaluate, mse
from metanotes._ground.checkpoints import Checkpoint
from metanotes.data import sinusoid
from metanotes.nets import mlp
from tests.sines import Wrapped, parameters, sine_learner, train


class Stop(Exception):
    pass


@pytest.mark.parametrize("dropout", [False, True])
def test_an_interrupted_run_ends_bit_for_bit_as_one_that_was_not(tmp_path, dropout):
    def score(learner):
        return -evaluate(learner, sinusoid(seed=1), tasks=4).mean

    def die(drawn):  # as a machine may
        if drawn == 8:
            raise Stop

    options = {"validate": score, "validate_every": 4, "clip": 1.0}
    torch.manual_seed(0)
    whole = sine_learner(dropout=dropout)
    expected = train(whole, 12, **options)

    torch.manual_seed(0)
    path = tmp_path / "runs" / "run.pt"
    options |= {"checkpoint": path, "checkpoint_every": 5}
    with pytest.raises(Stop):
        train(sine_learner(dropout=dropout), 12, sampler=Wrapped(die), **options)
    torch.manual_seed(12345)  # another process has another random state
    resumed = sine_learner(dropout=dropout)
    nn.init.zeros_(resumed.model[0].weight)  # and perhaps other initial values
    history = train(resumed, 12, **options)
    assert torch.equal(parameters(resumed), parameters(whole))
    assert history == expected
    assert os.listdir(path.parent) == ["run.pt"]  # no temporary file is left

    written = path.stat().st_mtime_ns
    loaded = sine_learner(dropout=dropout)
    train(loaded, 12, **options)  # finished: only loaded
    assert torch.equal(parameters(loaded), parameters(whole))
    assert path.stat().st_mtime_ns == written


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


SCHEDULERS = {
    "Lambda": lambda sgd: torch.optim.lr_scheduler.LambdaLR(sgd, lambda n: 0.9**n),
    "MultiStep": lambda sgd: torch.optim.lr_scheduler.MultiStepLR(sgd, [2, 4]),
    "OneCycle": lambda sgd: torch.optim.lr_scheduler.OneCycleLR(sgd, 0.1, 8),
    "Cyclic": lambda sgd: torch.optim.lr_scheduler.CyclicLR(sgd, 0.01, 0.1, 2),
    "Plateau": lambda sgd: torch.optim.lr_scheduler.ReduceLROnPlateau(sgd, "max", patience=0),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_every_kind_of_schedule_goes_on_with_the_same_objects_and_with_new_ones(tmp_path, kind):
    def trained(iterations, **options):
        learner = sine_learner()
        sgd = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9)
        options |= {"optimizer": sgd, "scheduler": SCHEDULERS[kind](sgd)}
        options |= {"validate": lambda learner: 0.0, "validate_every": 1}
        for until in iterations:
            train(learner, until, **options)
        return sgd, [p.clone() for p in learner.state_dict().values()]

    _, expected = trained([6])
    trained([2, 4], checkpoint=tmp_path / "run.pt")
    sgd, parts = trained([6], checkpoint=tmp_path / "run.pt")
    if kind == "Plateau":
        assert sgd.param_groups[0]["lr"] < 0.1
    else:
        assert all(map(torch.equal, expected, parts))  # the score of all is 0: the first is best


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


def test_a_sampler_without_a_state_can_be_kept_too(tmp_path):
    tasks = sinusoid(seed=0)(5)
    whole, parts = sine_learner(), sine_learner()
    train(whole, 6, sampler=lambda _: tasks)
    train(parts, 3, sampler=lambda _: tasks, checkpoint=tmp_path / "run.pt")
    train(parts, 6, sampler=lambda _: tasks, checkpoint=tmp_path / "run.pt")
    assert torch.equal(parameters(parts), parameters(whole))


# ----------------------------------------------------------------------------- another run's file


def frozen():
    learner = sine_learner()
    learner.model[0].bias.requires_grad_(False)
    return learner


def with_sgd(scheduler=None, **settings):
    """SGD, and perhaps a schedule, as arguments of `meta_train` for a learner."""

    def options(learner):
        sgd = torch.optim.SGD(learner.parameters(), **{"lr": 0.1, **settings})
        return {"optimizer": sgd} | ({"scheduler": scheduler(sgd)} if scheduler else {})

    return options


def by_groups(first, rest):
    def options(learner):
        parameters = list(learner.parameters())
        groups = [{"params": parameters[:1], "lr": first}, {"params": parameters[1:], "lr": rest}]
        return {"optimizer": torch.optim.SGD(groups)}

    return options


def step_lr(gamma):
    return lambda sgd: torch.optim.lr_scheduler.StepLR(sgd, 2, gamma)


class Stateless:
    def __call__(self, tasks):
        return sinusoid(seed=0)(tasks)


class Foreign(Stateless):
    def state_dict(self):
        return {"place": 3}

    def load_state_dict(self, state):
        self.place = state["place"]


ADAM = lambda learner: {}  # noqa: E731


@pytest.mark.parametrize(
    ("make", "options", "then", "message"),
    [
        (lambda: sine_learner(0.5), ADAM, ADAM, r"\(learner\): .*SGD\(lr=0.01\) then, .*0.5"),
        (lambda: Pretrained(mlp(1, 20, 1), 0.01, loss=mse), ADAM, ADAM, r"\(learner\): MAML\("),
        (lambda: sine_learner(hidden=21), ADAM, ADAM, r"\(learner\): .*=20.* then, .*=21"),
        (lambda: sine_learner().double(), ADAM, ADAM, r"\(dtype\): .*float32 then, .*float64 now"),
        (frozen, ADAM, ADAM, r"\(frozen\): model\.0\.bias learned then, model\.0\.bias frozen now"),
        (sine_learner, lambda _: {"tasks": 6}, ADAM, r"\(tasks\): 5 then, 6 now"),
        (sine_learner, lambda _: {"clip": 1.0}, ADAM, r"\(clip\): None then, 1.0 now"),
        (sine_learner, lambda _: {"meta_lr": 0.1}, ADAM, r"\(optimizer\): lr=0.001 then, lr=0.1"),
        (sine_learner, with_sgd(), ADAM, r"\(optimizer\): Adam then, SGD now"),
        (sine_learner, with_sgd(momentum=0.9), with_sgd(), r"momentum=0 then, momentum=0.9 now"),
        (sine_learner, by_groups(0.1, 0.2), by_groups(0.1, 0.3), r"lr=0.3 then, lr=0.2 now"),
        (sine_learner, by_groups(0.1, 0.1), with_sgd(), r"\(optimizer\): of model\.0\.weight, "),
        (sine_learner, with_sgd(step_lr(0.5)), with_sgd(), r"\(scheduler\): None then, StepLR"),
        (sine_learner, with_sgd(step_lr(0.5)), with_sgd(step_lr(0.4)), r"'gamma': 0.4.* then, "),
        (sine_learner, lambda _: {"sampler": sinusoid(seed=1)}, ADAM, r"\(sampler\).*seed was 0"),
        (sine_learner, lambda _: {"sampler": Foreign()}, ADAM, r"\(sampler\): 'place'"),
        (sine_learner, lambda _: {"sampler": Stateless()}, ADAM, "this run has none"),
        (sine_learner, ADAM, lambda _: {"sampler": Stateless()}, "it has none"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_run_is_refused_by_name_and_nothing_is_changed(
    tmp_path, make, options, then, message
):
    path = tmp_path / "run.pt"
    first = sine_learner()
    train(first, 3, checkpoint=path, **then(first))
    file, learner = path.read_bytes(), make()
    settings = options(learner)
    sampler = settings.setdefault("sampler", sinusoid(seed=0))
    changing = [learner, *(settings[n] for n in ("optimizer", "scheduler") if n in settings)]
    changing += [sampler] if type(sampler) is not Stateless else []
    before = [copy.deepcopy(thing.state_dict()) for thing in changing]
    random = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=message):
        train(learner, 4, checkpoint=path, **settings)
    assert same(before, [thing.state_dict() for thing in changing])
    assert torch.equal(torch.get_rng_state(), random)
    assert path.read_bytes() == file


def same(a, b) -> bool:
    """Whether two nested states are equal."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_part_that_cannot_be_loaded_takes_back_those_before_it(tmp_path):
    class Fussy:
        taken, fails = 0, False

        def state_dict(self):
            return {"taken": self.taken}

        def load_state_dict(self, state):
            self.taken = state["taken"]
            if self.fails and state["taken"] == 1:
                raise RuntimeError("not this one")

    layer, fussy, last = nn.Linear(2, 2), Fussy(), nn.Linear(2, 2)
    file = Checkpoint(tmp_path / "run.pt", {}, {"layer": layer, "fussy": fussy, "last": last})
    fussy.taken = 1
    file.save()
    fussy.taken, fussy.fails = 2, True
    nn.init.zeros_(layer.weight)
    with pytest.raises(CheckpointError, match=r"another run \(fussy\): not this one"):
        file.load()
    assert fussy.taken == 2
    assert not layer.weight.any()
