"""The judge is judged: by differences of losses, and by what is refused of a package that errs."""

import copy

import pytest
import torch
from torch import nn

from metanotes import MAML, Batch, Task, mse
from tests.fuzz import __main__ as command
from tests.fuzz.cases import case
from tests.fuzz.draw import Draw
from tests.fuzz.judge import Verdict, Wrong, check_unchanged, compare, is_ours, judge, state
from tests.fuzz.networks import SMOOTH
from tests.fuzz.plain import Plain, Rule
from tests.fuzz.sides import Case, Change


def small_task() -> Task:
    draw = Draw(5)
    x, xq = draw.normal(2, 4, 3), draw.normal(2, 5, 3)
    return Task(Batch(x, draw.normal(2, 4, 2)), Batch(xq, draw.normal(2, 5, 2)))


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))


KINDS = [
    Rule("SGD", lr=0.2),
    Rule("Momentum", lr=0.2, momentum=0.7),
    Rule("Momentum", lr=0.2, momentum=0.7, nesterov=True),
    Rule("RMSprop", lr=0.1, decay=0.6, eps=0.1),
    Rule("Adam", lr=0.1, betas=(0.5, 0.8), eps=0.1),
]


@pytest.mark.parametrize("rule", KINDS, ids=lambda rule: f"{rule.kind} {rule.nesterov}")
@pytest.mark.parametrize("adapts", [None, ["4.weight", "4.bias"]])
def test_the_plain_gradient_is_the_limit_of_differences_of_the_losses(rule, adapts):
    side = Plain(small_network().double(), copy.copy(rule), 3, mse, adapts=adapts)
    tasks, draw, step = small_task(), Draw(1), 1e-6
    gradients = side.gradients(side.losses(tasks).mean())
    along = {name: draw.normal(*g.shape) for name, g in gradients.items()}
    ends = []
    for sign in (1, -1):
        moved = copy.deepcopy(side)
        with torch.no_grad():
            for name, p in moved.phi().items():
                p += sign * step * along[name]
        ends.append(float(moved.losses(tasks).mean().detach()))
    slope = sum(float((g * along[name]).sum()) for name, g in gradients.items())
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-6)


def test_a_case_is_the_same_whenever_it_is_drawn():
    first, second = case(3), case(3)
    assert str(first) == str(second)
    assert torch.equal(first.tasks.support.x, second.tasks.support.x)
    pairs = zip(first.network.parameters(), second.network.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    assert "seed 3" in str(first)


def test_the_cases_are_of_every_kind():
    cases = [case(seed) for seed in range(200)]
    text = "\n".join(map(str, cases))
    layers = "Conv1d Conv2d BatchNorm2d InstanceNorm LayerNorm GroupNorm Embedding PReLU Twice"
    layers += " TransformerEncoderLayer MultiheadAttention Pool2d padding_idx Branching Residual"
    methods = "MAML ANIL MetaSGD Reptile Pretrained HyperRepresentation Prototypes Adam Momentum"
    others = "first_order keep_graph checkpoint frozen float32 eval"
    assert [word for word in f"{layers} {methods} {others}".split() if word not in text] == []
    assert {c.tasks.support.y.shape[0] for c in cases} >= {1, 2, 3}
    assert {c.tasks.support.y.shape[1] for c in cases} >= {1, 2, 3}
    assert {c.steps for c in cases} >= {0, 1, 2, 3, 4}
    odd = "padding in later tasks only, whole numbers, outputs by name, dict input, label outside"
    assert [words for words in odd.split(", ") if words not in text] == []


def test_a_run_says_how_many_were_right_and_which_were_wrong(monkeypatch, capsys):
    assert command.main(["--first", "3", "--cases", "2"]) == 0
    assert capsys.readouterr().out == "2 cases from seed 3: 1 right, 1 refused, 0 wrong\n"
    monkeypatch.setattr(command, "judge", lambda case: Verdict("wrong", "off", str(case)))
    assert command.main(["--first", "3", "--cases", "2"]) == 1
    said = capsys.readouterr().out
    assert "seed 4: " in said
    assert "wrong: seeds 3, 4; one again: --first 3 --cases 1" in said


def test_small_errors_are_seen():
    right = {"a": torch.ones(3).double(), "b": 1e-3 * torch.ones(2).double()}
    compare("x", right, right, None)
    with pytest.raises(Wrong, match="x b: off by"):
        compare("x", {**right, "b": right["b"] * (1 + 1e-7)}, right, None)
    with pytest.raises(Wrong, match="x a"):
        compare("x", {**right, "a": right["a"] * float("nan")}, right, None)
    with pytest.raises(Wrong, match="of \\['a'\\]"):
        compare("x", {"a": right["a"]}, right, None)


def test_a_changed_model_is_seen():
    model = small_network()
    before = state(model)
    check_unchanged(before, model, "now")
    model[1].eval()
    with pytest.raises(Wrong, match="1 \\(module\\)"):
        check_unchanged(before, model, "now")
    model[1].train()
    with torch.no_grad():
        model[0].weight += 1e-6
    with pytest.raises(Wrong, match=r"0\.weight"):
        check_unchanged(before, model, "now")


def test_a_learner_that_errs_is_found_out():
    tasks = small_task()
    network = nn.Sequential(*(m for m in small_network()), SMOOTH[0]()).double()

    class Erring(Case):
        def learner(self):
            return MAML(copy.deepcopy(self.network), 0.1 + self.error, self.steps, loss=mse)

    usual = {"network": network, "loss": mse, "tasks": tasks, "change": Change("nothing")}
    right = Erring(0, **usual)
    right.error = 0.0
    assert judge(right).outcome == "right"
    wrong = Erring(0, **usual)
    wrong.error = 1e-5
    verdict = judge(wrong)
    assert verdict.outcome == "wrong"
    assert "off by" in verdict.message


def test_an_error_is_ours_if_a_line_of_the_package_raises_it():
    with pytest.raises(ValueError, match="steps") as caught:
        MAML(small_network(), 0.1, -1)
    assert is_ours(caught.value)
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2) @ torch.ones(3)
    assert not is_ours(caught.value)
