"""Ctrl+C: the iteration ends, the run is saved, and it goes on bit for bit."""

import os
import signal
import threading

import pytest
import torch

from tests.sines import Wrapped, parameters, sine_learner, train


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
