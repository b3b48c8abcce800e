"""Processes that are killed, ranks that die, two processes on one checkpoint: nothing is lost."""

import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager

import pytest
import torch

from metanotes import CheckpointError
from metanotes._ground.files import locked, unlocked
from tests.ranks import CONTEXT, SECONDS, Group, join
from tests.sines import Wrapped, parameters, sine_learner, train

pytestmark = pytest.mark.skipif(os.name == "nt", reason="has no SIGKILL")


def trained(iterations, path=None, before_batch=lambda drawn: None):
    """A training that draws random numbers of every kind, saved at every third iteration."""
    torch.manual_seed(0)
    learner = sine_learner(dropout=True)
    train(learner, iterations, sampler=Wrapped(before_batch), checkpoint=path, checkpoint_every=3)
    return parameters(learner)


def slowly(folder, number, rank, size, iterations):
    """A rank of that, which can be killed at any moment, and what it ends with."""
    join(folder / f"rendezvous {number}", rank, size)
    phi = trained(iterations, folder / "run.pt", lambda drawn: time.sleep(0.005))
    torch.save(phi, folder / f"phi of {rank}")


@contextmanager
def ranks(folder, number, size, iterations):
    """All ranks, at work."""
    processes = [
        CONTEXT.Process(target=slowly, args=(folder, number, rank, size, iterations))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    yield processes
    for process in processes:
        process.join(SECONDS)


def saved_at(path):
    return path.stat().st_mtime_ns if path.exists() else None


def killed(folder, size, kills, seed):
    """phi of a run that was killed so often, at random moments, and went on."""
    chance, path, iterations = random.Random(seed), folder / "run.pt", 40 * kills
    for number in range(kills):
        before, start = saved_at(path), time.monotonic()
        with ranks(folder, number, size, iterations) as processes:
            while saved_at(path) == before:  # it is at work
                assert time.monotonic() < start + SECONDS
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.15))
            victim = chance.choice(processes)
            os.kill(victim.pid, signal.SIGKILL)
        assert victim.exitcode == -signal.SIGKILL
        assert all(process.exitcode for process in processes)  # the others end by themselves
    with ranks(folder, kills, size, iterations) as processes:
        pass
    assert [process.exitcode for process in processes] == [0] * size
    left = sorted(p.name for p in folder.glob("*run.pt*") if not p.name.endswith(".part"))
    assert left == ["run.pt"]  # no lock; a half-written file goes after an hour
    return [torch.load(folder / f"phi of {rank}") for rank in range(size)]


@pytest.mark.parametrize("kills", [4, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("size", [1, 2])
def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit_as_one_that_was_not(
    tmp_path, size, kills
):
    if size == 1:
        whole = trained(40 * kills)
    else:
        group = Group(tmp_path / "rendezvous of the whole", size)
        whole = group(trained, 40 * kills)[0]
        group.close()
    for phi in killed(tmp_path, size, kills, seed=kills):
        assert torch.equal(phi, whole)


# --------------------------------------------------------------------------------- a rank that ends

SCRIPT = """
import os, signal, sys
import torch
from metanotes import evaluate
from metanotes.data import sinusoid
from tests.sines import Wrapped, parameters, sine_learner, train

folder = sys.argv[1]
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()

def before_batch(drawn):
    if drawn == 5 and rank == 1 and not os.path.exists(f"{folder}/died"):
        open(f"{folder}/died", "w").close()
        FAIL

learner = sine_learner()
train(learner, 8, sampler=Wrapped(before_batch), checkpoint=f"{folder}/run.pt", checkpoint_every=2)
score = evaluate(learner, sinusoid(seed=1), tasks=50)
if rank == 0:
    torch.save((parameters(learner), score.values), f"{folder}/done.pt")
torch.distributed.destroy_process_group()
"""


def torchrun(tmp_path, fail, *options):
    """Two ranks of the script, one of which fails: torchrun's exit status, and what it wrote."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.replace("FAIL", fail)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *options]
    command += ["--nproc-per-node", "2", str(script), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # as book/many_machines.md says
    agent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        told = agent.communicate(timeout=SECONDS)[1]
        return agent.returncode, told
    finally:
        agent.terminate()  # and its ranks with it, if they hang
        agent.wait()


def losses_in(path):
    return len(torch.load(path)["outcome"]["history"]["losses"])


def test_a_rank_that_raises_ends_the_run_with_its_name_and_the_checkpoint_is_whole(tmp_path):
    status, told = torchrun(tmp_path, "raise ArithmeticError('no luck')")
    assert status != 0
    assert re.search(r"ArithmeticError: no luck\n.*on rank 1 of 2", told), told
    assert losses_in(tmp_path / "run.pt") == 4
    learner, whole = sine_learner(), sine_learner()
    train(learner, 8, checkpoint=tmp_path / "run.pt")
    train(whole, 8)
    torch.testing.assert_close(parameters(learner), parameters(whole))


@pytest.mark.slow
def test_torchrun_starts_again_what_was_killed_and_the_run_goes_on(tmp_path):
    fail = "os.kill(os.getpid(), signal.SIGKILL)"
    status, told = torchrun(tmp_path, fail, "--max-restarts", "1")
    assert status == 0, told
    assert (tmp_path / "died").exists()
    phi, values = torch.load(tmp_path / "done.pt")
    whole = sine_learner()
    train(whole, 8)
    torch.testing.assert_close(phi, parameters(whole))
    assert len(values) == 50


# ---------------------------------------------------------------------- two processes, one file


def hold(path, ready, go_on):
    def before_batch(drawn):
        if drawn == 4:
            ready.set()
            go_on.wait(SECONDS)

    trained(6, path, before_batch)


def test_a_second_process_on_a_checkpoint_is_refused_and_the_first_goes_on(tmp_path):
    path, ready, go_on = tmp_path / "run.pt", CONTEXT.Event(), CONTEXT.Event()
    (tmp_path / "link.pt").symlink_to(path)
    first = CONTEXT.Process(target=hold, args=(path, ready, go_on))
    first.start()
    assert ready.wait(SECONDS)
    learner = sine_learner(dropout=True)
    before = parameters(learner)
    for name in ("run.pt", "link.pt"):
        with pytest.raises(CheckpointError, match=r"is in use by another process.*another file"):
            train(learner, 6, checkpoint=tmp_path / name)
    assert torch.equal(parameters(learner), before)
    go_on.set()
    first.join(SECONDS)
    assert first.exitcode == 0
    assert sorted(os.listdir(tmp_path)) == ["link.pt", "run.pt"]
    assert torch.equal(trained(6, path), trained(6))


def test_a_lock_is_given_back_and_that_of_the_dead_is_none(tmp_path):
    path = tmp_path / "run.pt"
    (tmp_path / ".run.pt.lock").touch()  # of a process that was killed
    handle = locked(path)
    with pytest.raises(OSError, match="is in use"):
        locked(path)
    unlocked(path, handle)
    unlocked(path, locked(path))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_to_has_no_lock(tmp_path):
    (tmp_path / "file").touch()
    assert locked(tmp_path / "file" / "run.pt") is None
