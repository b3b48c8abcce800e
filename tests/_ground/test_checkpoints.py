"""Checkpoints: a run goes on bit for bit, or the file is refused and nothing is changed."""

import copy
import errno
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import torch
from torch import nn

from metanotes import MAML, CheckpointError, Pretrained, evaluate, meta_train, mse
from metanotes._ground import files
from metanotes._ground.checkpoints import Checkpoint, seal
from metanotes.data import sinusoid
from metanotes.nets import mlp


def sine_learner(inner_lr: float = 0.01, dropout: bool = False, hidden: int = 20) -> MAML:
    model = mlp(1, hidden, 1)
    if dropout:
        model.insert(2, nn.Dropout(0.2))
    return MAML(model, inner_lr=inner_lr, loss=mse)


def train(learner, iterations, *, sampler=None, **options):
    options = {"tasks": 5, "progress": False} | options
    return meta_train(learner, sampler or sinusoid(seed=0), iterations, **options)


def parameters(learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


class Wrapped:
    """A stream of sine waves; before a batch is drawn, something else is done."""

    def __init__(self, before_batch):
        self.inner, self.drawn, self.before_batch = sinusoid(seed=0), 0, before_batch
        self.state_dict, self.load_state_dict = self.inner.state_dict, self.inner.load_state_dict

    def __call__(self, tasks):
        self.drawn += 1
        self.before_batch(self.drawn)
        return self.inner(tasks)


# ----------------------------------------------------------------------------------- going on


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


# ------------------------------------------------------------------------------------- Ctrl+C


def interrupted(tmp_path, how):
    """A run of 12 iterations that is interrupted, and the number of those that were saved."""
    path = tmp_path / "run.pt"
    learner = sine_learner(dropout=True)
    options = how(learner)
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        train(learner, 12, checkpoint=path, **options)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return path, len(torch.load(path, weights_only=True)["outcome"]["history"]["losses"])


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def while_phi_moves(learner):
    class Pressed(torch.optim.SGD):
        steps = 0

        def step(self, closure=None):
            self.steps += 1
            super().step(closure)
            if self.steps == 7:
                press()

    return {"optimizer": Pressed(learner.parameters(), lr=0.01)}


def while_tasks_are_drawn(learner):
    sampler = Wrapped(lambda drawn: press() if drawn == 7 else None)
    return {"optimizer": torch.optim.SGD(learner.parameters(), lr=0.01), "sampler": sampler}


def by_the_sampler(learner):
    def stop(drawn):
        if drawn == 8:
            torch.rand(3)  # random numbers that the resumed run must not miss
            raise KeyboardInterrupt

    return {"optimizer": torch.optim.SGD(learner.parameters(), lr=0.01), "sampler": Wrapped(stop)}


def by_the_callback(learner):
    def stop(iteration, loss, learner):
        if iteration == 7:
            raise KeyboardInterrupt

    sgd = torch.optim.SGD(learner.parameters(), lr=0.01)
    return {"optimizer": sgd, "callback": stop}


@pytest.mark.parametrize(
    "how", [while_phi_moves, while_tasks_are_drawn, by_the_sampler, by_the_callback]
)
def test_ctrl_c_saves_the_last_whole_iteration(tmp_path, how):
    whole = sine_learner(dropout=True)
    torch.manual_seed(0)
    train(whole, 12, optimizer=torch.optim.SGD(whole.parameters(), lr=0.01))
    path, iterations = interrupted(tmp_path, how)
    assert iterations == 7
    resumed = sine_learner(dropout=True)
    options = how(resumed)
    options["optimizer"].steps = 100
    train(resumed, 12, checkpoint=path, optimizer=options["optimizer"])
    assert torch.equal(parameters(resumed), parameters(whole))


def test_a_second_ctrl_c_does_not_wait_and_leaves_the_last_checkpoint(tmp_path):
    def twice(learner):
        sampler = Wrapped(lambda drawn: (press(), press()) if drawn == 8 else None)
        return {"sampler": sampler, "checkpoint_every": 3, "callback": lambda *_: None}

    def in_forward(learner):
        def hook(module, args):
            module.calls = getattr(module, "calls", 0) + 1
            if module.calls == 8:
                press()
                press()

        learner.register_forward_pre_hook(hook)
        return {"checkpoint_every": 3}

    assert interrupted(tmp_path, twice)[1] == 7  # nothing was under way: phi had not moved
    os.remove(tmp_path / "run.pt")
    assert interrupted(tmp_path, in_forward)[1] == 6


def test_without_a_checkpoint_ctrl_c_does_not_wait():
    learner = sine_learner()
    before = parameters(learner)
    with pytest.raises(KeyboardInterrupt):
        train(learner, 3, sampler=Wrapped(lambda drawn: press()))
    assert torch.equal(parameters(learner), before)


def test_a_handler_of_the_host_program_is_left_alone(tmp_path):
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        sampler = Wrapped(lambda drawn: press() if drawn == 2 else None)
        train(sine_learner(), 4, sampler=sampler, checkpoint=tmp_path / "run.pt")
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [1]


def test_training_in_a_thread_takes_no_signals(tmp_path):
    learner = sine_learner()
    thread = threading.Thread(
        target=lambda: train(learner, 3, checkpoint=tmp_path / "run.pt"), daemon=True
    )
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert len(torch.load(tmp_path / "run.pt")["outcome"]["history"]["losses"]) == 3


# ----------------------------------------------------------------------------- another run's file


def frozen() -> MAML:
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


# --------------------------------------------------------------------------------- damaged files


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny checkpoint's bytes, and the phi that it brings."""
    path = tmp_path_factory.mktemp("tiny") / "run.pt"
    learner = sine_learner(hidden=2)
    train(learner, 2, checkpoint=path)
    return path.read_bytes(), parameters(learner)


def resumed(path, contents) -> torch.Tensor:
    """phi after loading a file with these contents."""
    path.write_bytes(contents)
    learner = sine_learner(hidden=2)
    train(learner, 2, checkpoint=path)
    return parameters(learner)


def test_every_truncation_is_found_out(tmp_path, tiny):
    contents, phi = tiny
    assert torch.equal(resumed(tmp_path / "run.pt", contents), phi)
    lengths = {*range(0, len(contents), 101), *range(len(contents) - 150, len(contents))}
    for length in sorted(lengths):
        with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
            resumed(tmp_path / "run.pt", contents[:length])


def test_every_flipped_bit_is_found_out(tmp_path, tiny):
    contents, _ = tiny
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(8 * len(contents), (500,), generator=generator).tolist()
    for bit in bits:
        flipped = bytearray(contents)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
            resumed(tmp_path / "run.pt", bytes(flipped))


def of_the_format_before() -> bytes:
    file = io.BytesIO()
    torch.save({"description": {"format": "2"}, "learner": {}}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "contents", [b"", b"not a checkpoint", of_the_format_before(), seal(b""), b"x" + seal(b"x")]
)
def test_what_is_no_checkpoint_is_refused_before_any_work(tmp_path, contents):
    learner = sine_learner(hidden=2)
    before = parameters(learner)
    (tmp_path / "run.pt").write_bytes(contents)
    with pytest.raises(CheckpointError, match="delete this one to start anew"):
        train(learner, 2, checkpoint=tmp_path / "run.pt")
    assert torch.equal(parameters(learner), before)


def test_a_file_from_a_stranger_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    file = io.BytesIO()
    torch.save({"description": {}, "learner": Trap()}, file)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        resumed(tmp_path / "run.pt", file.getvalue() + seal(file.getvalue()))
    assert not (tmp_path / "sprung").exists()


def test_torch_load_opens_it(tmp_path):
    learner = sine_learner()
    train(learner, 2, checkpoint=tmp_path / "run.pt")
    phi = torch.load(tmp_path / "run.pt", weights_only=True)["learner"]
    assert same(phi, dict(learner.state_dict()))


# ------------------------------------------------------------------------------------- writing


def test_a_state_that_could_not_be_read_again_is_found_out_before_any_work(tmp_path):
    class Numpy(Foreign):
        def state_dict(self):
            return {"place": np.arange(3)}

    class Open(Foreign):
        def state_dict(self):
            return {"place": lambda: 3}

    def never(*_):
        raise AssertionError("work was done")

    for sampler in (Numpy(), Open()):
        sampler.__class__.__call__ = never
        with pytest.raises(CheckpointError, match="cannot keep the state of the sampler"):
            train(sine_learner(), 2, sampler=sampler, checkpoint=tmp_path / "run.pt")
        assert not (tmp_path / "run.pt").exists()


@pytest.mark.parametrize("where", ["file/run.pt", "."])
def test_a_place_that_cannot_be_written_to_is_found_out_before_any_work(tmp_path, where):
    (tmp_path / "file").write_text("")
    learner = sine_learner()
    before = parameters(learner)
    with pytest.raises(CheckpointError, match=r"cannot be (written|read)"):
        train(learner, 4, checkpoint=tmp_path / where)
    assert torch.equal(parameters(learner), before)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_found_out_before_any_work(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="cannot be written"):
            train(sine_learner(), 4, checkpoint=tmp_path / "run.pt")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("call", ["open", "os.fsync", "os.replace"])
def test_a_save_that_fails_leaves_the_file_before_it_whole(tmp_path, monkeypatch, call):
    path = tmp_path / "run.pt"
    train(sine_learner(), 3, checkpoint=path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        *module, name = call.split(".")
        patch.setattr(files.os if module else files, name, full, raising=False)
        with pytest.raises(CheckpointError, match=r"cannot be written: .*No space left"):
            train(sine_learner(), 6, checkpoint=path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.pt"]
    learner, whole = sine_learner(), sine_learner()
    train(learner, 6, checkpoint=path)
    train(whole, 6)
    assert torch.equal(parameters(learner), parameters(whole))


def test_a_symbolic_link_stays_and_permissions_are_those_of_any_file(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run.pt").symlink_to(tmp_path / "disk" / "real.pt")
    umask = os.umask(0o027)
    try:
        train(sine_learner(), 3, checkpoint=tmp_path / "run.pt")
    finally:
        os.umask(umask)
    assert (tmp_path / "run.pt").is_symlink()
    assert (tmp_path / "disk" / "real.pt").stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path)) == ["disk", "run.pt"]


def test_a_learner_whose_repr_has_addresses_goes_on_in_another_process(tmp_path):
    class Shown(MAML):
        def extra_repr(self):
            return f"{super().extra_repr()}, key={object()}"

    make = lambda: Shown(mlp(1, 4, 1), inner_lr=0.01, loss=mse)  # noqa: E731
    train(make(), 2, checkpoint=tmp_path / "run.pt")
    assert len(train(make(), 3, checkpoint=tmp_path / "run.pt").losses) == 3
