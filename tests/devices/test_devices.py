"""Every learner on a second device: on one that is pretended, and on a GPU where there is one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import metanotes
from metanotes import MAML, SGD, Adam, NearestNeighbor, evaluate, meta_train
from metanotes._ground.nested import moved
from metanotes.data import episodes, glyphs, sinusoid
from metanotes.nets import conv4
from tests.devices.elsewhere import ELSEWHERE, Elsewhere, Pretended, sent_there
from tests.devices.every_learner import CASES, NO_CASES, Case, losses_and_gradients
from tests.plainly import image_tasks, recorded_at_once, recordings, relative_error
from tests.sines import parameters, sine_learner

each = pytest.mark.parametrize("name", CASES)


def on_gpu(test: Any) -> Any:
    missing = not torch.cuda.is_available()
    test = pytest.mark.skipif(missing, reason="needs a CUDA device")(test)
    # CUDA's libraries and the compiler have their own.
    test = pytest.mark.filterwarnings("ignore")(test)
    return pytest.mark.gpu(test)


class DrawnOnTheProcessor(TorchDispatchMode):
    """Random numbers of a GPU come from the processor's generator, so that both draw the same."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        devices = [t.device for t in tensors] + [kwargs.get("device")]
        device = next(
            (d for d in devices if d is not None and torch.device(d).type == "cuda"), None
        )
        if device is None or torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        here = tree_map(lambda t: t.cpu() if isinstance(t, Tensor) else t, (args, kwargs))
        if "device" in kwargs:
            here[1]["device"] = torch.device("cpu")
        result = func(*here[0], **here[1])
        if func._schema.is_mutable:
            return args[0].copy_(result)
        return tree_map(lambda t: t.to(device) if isinstance(t, Tensor) else t, result)


def numbers_on(name: str, device: torch.device) -> list[Tensor]:
    """Losses and gradients of a case that is moved to a device first."""
    torch.manual_seed(1)
    learner, drawn = CASES[name]()
    learner = sent_there(learner) if device == ELSEWHERE else learner.to(device)
    torch.manual_seed(0)
    return [t.cpu() for t in losses_and_gradients(Case(learner, moved(drawn, device)))]


def expected(name: str) -> list[Tensor]:
    return numbers_on(name, torch.device("cpu"))


def test_every_learner_of_the_package_is_among_them() -> None:
    things = (getattr(metanotes, name) for name in metanotes.__all__)
    modules = {t.__name__ for t in things if isinstance(t, type) and issubclass(t, nn.Module)}
    assert modules == {name.split(",")[0] for name in CASES} | NO_CASES
    assert all(losses_and_gradients(CASES[name]())[0].dtype == torch.float64 for name in CASES)


@each
def test_losses_and_gradients_are_the_same_elsewhere(name: str) -> None:
    with Pretended():
        assert relative_error(numbers_on(name, ELSEWHERE), expected(name)) < 1e-9


@on_gpu
@each
def test_losses_and_gradients_are_the_same_on_a_gpu(name: str) -> None:
    with DrawnOnTheProcessor():
        assert relative_error(numbers_on(name, torch.device("cuda")), expected(name)) < 1e-9


def test_tensors_of_two_devices_do_not_mix() -> None:
    with Pretended() as pretended:
        there = torch.ones(3, device=ELSEWHERE)
        for wrong in (
            lambda: there + torch.ones(3),
            lambda: torch.cat([there, torch.ones(3)]),
            lambda: torch.rand(3, device=ELSEWHERE, generator=torch.Generator()),
        ):
            with pytest.raises(RuntimeError, match=r"two devices|generator"):
                wrong()
        assert isinstance(there[torch.tensor([0, 2])], Elsewhere)  # indices may be anywhere
        assert pretended.waits == 0
        assert there.sum().item() == 3
        assert pretended.waits == 1


def test_training_and_evaluation_elsewhere() -> None:
    here, there = sine_learner(), sine_learner()
    meta_train(here, sinusoid(seed=0), 3, 4, progress=False)
    score = evaluate(here, sinusoid(seed=1), 10)
    with Pretended():
        there.to(ELSEWHERE)
        meta_train(there, sinusoid(seed=0), 3, 4, progress=False)
        far = evaluate(there, sinusoid(seed=1), 10)
        torch.testing.assert_close(parameters(there).cpu(), parameters(here))
    torch.testing.assert_close(far.values, score.values)


def test_how_often_a_gpu_is_waited_for() -> None:
    """A wait keeps it idle: what an iteration asks for is counted, and does not grow."""
    learner, sample = sine_learner(), sinusoid(seed=0)
    with Pretended() as pretended:
        learner.to(ELSEWHERE)
        meta_train(learner, sample, 1, 4, progress=False)
        first = pretended.waits
        meta_train(learner, sample, 11, 4, progress=False)
        assert (pretended.waits - first) / 10 <= 6


@on_gpu
@pytest.mark.parametrize("compile", [False, True])
def test_what_is_recorded_is_right_on_a_gpu(compile: bool) -> None:
    learner = MAML(conv4(5, channels=8).double(), 0.1, 2, record=True, compile=compile)
    plain = copy.deepcopy(MAML(learner.model, 0.1, 2))
    tasks = image_tasks()
    right = torch.autograd.grad(plain(tasks).mean(), list(plain.parameters()))
    learner.cuda()
    there = moved(tasks, torch.device("cuda"))
    phi = list(learner.parameters())
    kept = []
    with recorded_at_once():
        for _ in range(4):
            losses = learner(there)
            kept.append((losses, torch.autograd.grad(losses.mean(), phi, retain_graph=True)))
        assert len(recordings(learner)) == 1
    for losses, gradient in kept:  # and stays right when the next is played
        torch.testing.assert_close(losses.cpu(), plain(tasks), rtol=1e-9, atol=0)
        assert relative_error([g.cpu() for g in gradient], right) < 1e-9


@on_gpu
def test_a_faster_way_is_found_in_float32_on_a_gpu() -> None:
    """Although its convolutions round to ten bits, which the trial must not mind."""
    learner = MAML(conv4(5), 0.4).cuda()
    tasks = moved(episodes(glyphs("background"), 5, 1, 15, seed=0)(8), torch.device("cuda"))
    learner(tasks).mean().backward()
    (plan,) = learner.workshop.plans.values()
    assert plan.how.at_once


@on_gpu
def test_evaluation_on_a_gpu_is_that_on_the_processor() -> None:
    learner, sample = MAML(conv4(5, channels=8).double(), 0.4), images_in_float64
    for transductive in (False, True):
        here = evaluate(learner.cpu(), sample, 20, transductive=transductive).values
        there = evaluate(learner.cuda(), sample, 20, transductive=transductive).values
        torch.testing.assert_close(there, here)
    nearest = NearestNeighbor(nn.Flatten(), 5)
    assert evaluate(nearest, sample, 20).mean > 0.2


def images_in_float64(tasks: int) -> metanotes.Task:
    return image_tasks(tasks)


@on_gpu
def test_a_run_goes_on_from_its_checkpoint_on_a_gpu(tmp_path: Any) -> None:
    whole, broken = (MAML(conv4(5, channels=4), 0.1).cuda() for _ in range(2))
    sample = lambda: episodes(glyphs("background"), 5, 1, 5, seed=0, device="cuda")  # noqa: E731
    with torch.backends.cudnn.flags(enabled=True, deterministic=True):
        meta_train(whole, sample(), 6, 3, progress=False)
        for n in (3, 6):
            meta_train(broken, sample(), n, 3, progress=False, checkpoint=tmp_path / "a.pt")
    torch.testing.assert_close(parameters(broken), parameters(whole), rtol=1e-4, atol=1e-6)


@on_gpu
@pytest.mark.parametrize("rule", [SGD(0.1), Adam(0.01)], ids=["SGD", "Adam"])
def test_inner_steps_worked_out_twice_are_the_same_on_a_gpu(rule: metanotes.UpdateRule) -> None:
    """In float32, where sums on a GPU may be taken in another order the second time."""
    learner = metanotes.InnerLoopLearner(conv4(5), rule, 3, checkpoint=True).cuda()
    tasks = moved(episodes(glyphs("background"), 5, 1, 15, seed=0)(4), torch.device("cuda"))
    learner(tasks).mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in learner.parameters() if p.grad is not None)
