"""A learner that is changed after some calls is the changed learner."""

import copy
import io
import pickle
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from metanotes import Batch, Task
from metanotes.engine import recordings as engine_recordings
from tests.fuzz.changes import layers, settings, tensors  # noqa: F401 - each enters its scenarios
from tests.fuzz.changes.begin import SCENARIOS, Scenario, begin
from tests.fuzz.judge import (
    Stage,
    check_unchanged,
    evaluation,
    is_ours,
    plain_results,
    score,
    state,
    weights,
)
from tests.fuzz.sides import Case
from tests.plainly import recorded_at_once, recordings

BEFORE, AFTER = ["backward", "grad", "weighted"], ["backward", "weighted"]


def by_the_package(scenario: Scenario, case: Case, recorded: bool = False) -> list[Stage]:
    learner = case.learner()
    stages = [Stage(case, learner, case.tasks, BEFORE)]
    with recorded_now() if recorded else nullcontext():
        stages[0].run()
    if recorded:  # at its second sight; since then it has been played
        assert [entry.plays > 1 for entry in recordings(learner)] == [True]
    for tasks in scenario.change(learner):
        stages.append(Stage(case, learner, case.tasks if tasks is None else tasks, AFTER))
        before = state(learner.model)
        stages[-1].run()
        check_unchanged(before, learner.model, f"stage {len(stages)}")
    return stages


def check_all(scenario: Scenario, stages: list[Stage]) -> None:
    case = scenario.case()
    case.steps = stages[0].case.steps  # fewer after a recording, see `asked_for`
    side = case.plain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stages[0].check(plain_results(case, side, case.tasks))
        for number, tasks in enumerate(scenario.change(side), 1):
            results = plain_results(case, side, case.tasks if tasks is None else tasks)
            stages[number].check(results, part=scenario.part)
        assert number == len(stages) - 1


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_changed_learner_is_as_the_changed_plain_loop(name):
    scenario = SCENARIOS[name]
    try:
        stages = by_the_package(scenario, scenario.case())
    except Exception as error:
        if scenario.refusable and is_ours(error):
            return
        raise
    check_all(scenario, stages)


# ------------------------------------------------------------------------------ after a recording

# Convolutions on a CPU, steps worked out again, and what keeps tensors of its own are never played.
LOOSE = [
    "a tensor that is no buffer",
    "a tensor of a loss that is no module",
    "an array of a loss that is no module",
]
PLAYED = [
    name
    for name, scenario in SCENARIOS.items()
    if scenario.network not in ("images", "readers")
    and not scenario.case().options.get("checkpoint")
    and name not in LOOSE
]
# Who records has promised not to do these, and no look at the learner shows them.
UNSEEN = ["a patched class", "a patched function of torch", "a number that the loss looks up"]


@contextmanager
def recorded_now() -> Iterator[None]:
    """What may be recorded is recorded at its second sight, but not what comes after."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_recordings, "SIGHTS", 1)
        yield


# Without a memory a rule does all that it does in one step, which takes half as long to record.
OF_STEPS = [name for name in PLAYED if "steps" in name] + ["another rule"]


def asked_for(name: str) -> Case:
    case = SCENARIOS[name].case()
    case.options = {**case.options, "record": True}
    if case.rule.kind in ("SGD", "LearnedRates") and name not in OF_STEPS:
        case.steps = 1
    return case


@pytest.mark.parametrize("name", [name for name in PLAYED if name not in UNSEEN])
def test_a_learner_changed_after_a_recording_is_as_the_changed_plain_loop(name):
    scenario = SCENARIOS[name]
    case = asked_for(name)
    stages = by_the_package(scenario, case, recorded=True)
    check_all(scenario, stages)
    alike = all(stage.tasks is case.tasks for stage in stages)
    if scenario.tensors and alike and name != "data in another order in memory":
        (entry,) = recordings(stages[0].learner)
        assert entry.plays == len(BEFORE) - 1 + len(AFTER) * (len(stages) - 1)


@pytest.mark.parametrize("name", LOOSE)
def test_what_keeps_tensors_of_its_own_is_not_recorded(name):
    scenario = SCENARIOS[name]
    with recorded_now():
        stages = by_the_package(scenario, asked_for(name))
    check_all(scenario, stages)
    assert not recordings(stages[0].learner)


@pytest.mark.parametrize("name", UNSEEN)
def test_what_no_key_shows_is_an_error_at_the_next_check(name):
    scenario = SCENARIOS[name]
    error = pytest.raises(RuntimeError, match="recorded operations give other losses")
    with recorded_at_once(), error:
        by_the_package(scenario, asked_for(name))


def test_there_are_sixty_scenarios_after_a_recording():
    assert len(PLAYED) - len(UNSEEN) >= 60


# ------------------------------------------------------------- between losses and their gradient

CHANGED_BETWEEN = {
    "steps": lambda learner: setattr(learner, "steps", 5),
    "rate": lambda learner: setattr(learner.rule, "lr", 0.9),
    "loss": lambda learner: setattr(learner, "loss", nn.functional.l1_loss),
    "activation": lambda learner: learner.model.__setitem__(1, nn.ReLU()),
    "mode": lambda learner: learner.eval(),
    "first order": lambda learner: setattr(learner, "first_order", True),
    "frozen": lambda learner: learner.model[0].requires_grad_(False),
}


def went_back(total: torch.Tensor) -> bool:
    """Pull back; False where the package, or autograd, says that it cannot any more."""
    try:
        total.backward()
    except RuntimeError as error:
        if is_ours(error) or "modified by an inplace operation" in str(error):
            return False
        raise
    return True


@pytest.mark.parametrize("name", CHANGED_BETWEEN)
def test_a_gradient_is_that_of_the_losses_as_they_were_worked_out(name):
    case = begin("layered" if name == "mode" else "vectors")
    if name == "mode":  # dropout, of all or of nothing
        case.network[3].p = 1.0
    right = plain_results(case, case.plain(), case.tasks)
    learner = case.learner()
    for _ in range(3):
        losses = learner(case.tasks)
    CHANGED_BETWEEN[name](learner)
    if not went_back((weights(losses) * losses).sum()):
        return
    for parameter, p in learner.model.named_parameters():
        if not p.requires_grad:  # autograd leaves it without a gradient, as in a plain loop
            continue
        torch.testing.assert_close(p.grad, right.weighted[parameter], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_tasks_refilled_before_the_gradient_change_nothing_or_are_refused(weighted):
    case = begin()
    right = plain_results(case, case.plain(), case.tasks)
    learner = case.learner()
    tasks = Task(*(Batch(*(t.clone() for t in batch)) for batch in case.tasks))
    losses = learner(tasks)
    for batch in tasks:
        for t in batch:
            t.zero_()
    total = (weights(losses) * losses).sum() if weighted else losses.mean()
    if not went_back(total):
        return
    expected = right.weighted if weighted else right.mean
    for name, p in learner.model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-9, atol=1e-12)


def test_a_gradient_is_in_the_precision_of_its_losses():
    case = begin("vectors", dtype=torch.float32)
    case.tasks = case.own_tasks(dtype=torch.float32)
    learner = case.learner()
    with torch.autocast("cpu", torch.bfloat16):
        losses = learner(case.tasks)
        inside = torch.autograd.grad((weights(losses) * losses).sum(), list(learner.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        losses = learner(case.tasks)
    outside = torch.autograd.grad((weights(losses) * losses).sum(), list(learner.parameters()))
    assert all(map(torch.equal, inside, outside))


def test_gradients_add_up_over_calls():
    case = begin()
    right = plain_results(case, case.plain(), case.tasks)
    learner = case.learner()
    for _ in range(3):
        learner(case.tasks).mean().backward()
    for name, p in learner.model.named_parameters():
        torch.testing.assert_close(p.grad, 3 * right.mean[name], rtol=1e-9, atol=1e-12)


def test_two_losses_are_pulled_back_in_the_other_order():
    case = begin()
    right = plain_results(case, case.plain(), case.tasks)
    learner = case.learner()
    parameters = list(learner.model.parameters())
    first, second = learner(case.tasks), learner(case.tasks)
    gradients = [
        torch.autograd.grad((weights(losses) * losses).sum(), parameters)
        for losses in (second, first)
    ]
    for gradient in gradients:
        for g, name in zip(gradient, right.weighted, strict=True):
            torch.testing.assert_close(g, right.weighted[name], rtol=1e-9, atol=1e-12)


# --------------------------------------------------------------------------- copies, and neighbors


def copied(learner):
    return copy.deepcopy(learner)


def pickled(learner):
    return pickle.loads(pickle.dumps(learner))


def saved(learner):
    file = io.BytesIO()
    torch.save(learner, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("way", [copied, pickled, saved])
@pytest.mark.parametrize("begun", ["vectors", "images", "rows", "readers"])
def test_a_copy_of_a_learner_goes_its_own_way(way, begun):
    case = begin(begun)
    learner, sides = case.learner(), (case.plain(), case.plain())
    for _ in range(3):
        learner(case.tasks).mean().backward()
    twin = way(learner)
    for changed in (twin, sides[1]):
        changed.rule.lr = 0.05
        with torch.no_grad():
            for p in changed.model.parameters():
                p.mul_(0.7)
    for one, side in zip((learner, twin), sides, strict=True):
        stage = Stage(case, one, case.tasks, BEFORE)
        stage.run()
        stage.check(plain_results(case, side, case.tasks))


def test_the_state_of_a_learner_goes_to_another():
    case, other = begin("vectors", "MetaSGD"), begin("vectors", "MetaSGD")
    learner, side = case.learner(), case.plain()
    with torch.no_grad():
        for p in (*learner.parameters(), *side.phi().values()):
            p.mul_(0.6)
    learner(case.tasks)
    heir = other.learner()
    heir(case.tasks)
    heir.load_state_dict(learner.state_dict())
    stage = Stage(case, heir, case.tasks, BEFORE)
    stage.run()
    stage.check(plain_results(case, side, case.tasks))


def test_learners_of_one_model_do_not_meet():
    cases = [begin(), begin("vectors", "Reptile", first_order=True), begin("vectors", "Pretrained")]
    learners = [case.learner() for case in cases]
    for learner in learners[1:]:
        learner.model = learners[0].model
    for _ in range(3):
        for case, learner in zip(cases, learners, strict=True):
            stage = Stage(case, learner, case.tasks, AFTER)
            stage.run()
            stage.check(plain_results(case, case.plain(), case.tasks))


def test_learners_in_several_threads_do_not_meet():
    threads = torch.get_num_threads()
    cases = [begin(), begin("images"), begin("rows"), begin("words")] * 2
    stages = [Stage(case, case.learner(), case.tasks, BEFORE) for case in cases]
    errors: list[BaseException] = []

    def work(stage: Stage) -> None:
        try:
            for _ in range(3):
                stage.calls.clear()
                stage.run()
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(stage,)) for stage in stages]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []
    for case, stage in zip(cases, stages, strict=True):
        stage.check(plain_results(case, case.plain(), case.tasks))
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_calls_without_gradients_between(mode):
    case = begin()
    learner, right = case.learner(), plain_results(case, case.plain(), case.tasks)
    for _ in range(2):
        try:
            with mode():
                losses = learner(case.tasks).clone()
                learner.predict(learner.adapt(case.tasks.support), case.tasks.query.x)
            torch.testing.assert_close(losses, right.losses, rtol=1e-9, atol=0)
        except RuntimeError as error:
            if not (is_ours(error) and mode is torch.inference_mode):
                raise
        stage = Stage(case, learner, case.tasks, BEFORE)
        stage.run()
        stage.check(right)


@pytest.mark.parametrize("method", ["MAML", "InnerLoopLearner", "Pretrained", "Reptile"])
@pytest.mark.parametrize("steps", [0, 2])
def test_an_evaluation_with_fewer_examples_than_a_minibatch(method, steps):
    case = begin("vectors", method, first_order=method == "Reptile", batch=4)
    case.evaluation_steps = steps
    learner, side = case.learner(), case.plain()
    learner(case.tasks)
    x, y = (t[:, :3] for t in case.tasks.support)
    fewer = Task(Batch(x, y), case.tasks.query)
    if steps and method != "Reptile":  # whose adapt takes the whole set in every step
        with pytest.raises(ValueError, match="batch=4 asks for more examples than the 3 of a task"):
            evaluation(case, learner, fewer, transductive=True)
        return
    side.batch = None
    side.train(False)
    right = [score(outputs, None) for outputs in side.predict(side.adapt(fewer, steps), fewer)]
    ours = evaluation(case, learner, fewer, transductive=True)
    torch.testing.assert_close(ours, torch.stack(right), rtol=1e-9, atol=0)


def test_steps_given_to_adapt_are_for_that_call():
    case = begin("images")
    learner, side = case.learner(), case.plain()
    right = plain_results(case, side, case.tasks)
    for steps in (4, np.int64(1), 0, 3):
        adapted = learner.adapt(case.tasks.support, steps)
        outputs = learner.predict(adapted, case.tasks.query.x)
        expected = side.predict(side.adapt(case.tasks, steps), case.tasks)
        torch.testing.assert_close(outputs.detach(), expected, rtol=1e-9, atol=1e-12)
    stage = Stage(case, learner, case.tasks, AFTER)
    stage.run()
    stage.check(right)


def test_noise_is_that_of_the_seed_recorded_or_not():
    case = begin("layered")
    case.network[3].p = 0.5
    learner = case.learner()
    values = []
    for _ in range(4):
        torch.manual_seed(3)
        values.append(learner(case.tasks).detach())
    assert all(torch.allclose(v, values[0], rtol=1e-12) for v in values)
    assert not torch.allclose(learner(case.tasks), values[0])
    learner.model[3].p = 0.0
    case.network[3].p = 0.0
    stage = Stage(case, learner, case.tasks, BEFORE)
    stage.run()
    stage.check(plain_results(case, case.plain(), case.tasks))
