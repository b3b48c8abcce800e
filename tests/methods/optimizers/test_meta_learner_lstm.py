"""The meta-learner LSTM against gradient descent, and against a loop that spells its gates out."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from metanotes import MAML, Batch, GatedRule, MetaLearnerLSTM, Task, evaluate, meta_train, mse
from metanotes.data import sinusoid
from metanotes.nets import conv4, mlp
from tests.plainly import image_tasks, meta_gradient, relative_error


def plain_meta_learner(model, rule, tasks, steps, loss, first_order) -> list[Tensor]:
    """The gradient of the mean query loss: of the start, then of the rule's four parameters."""
    H = rule.hidden
    start = {n: p for n, p in model.named_parameters() if p.requires_grad}
    W, b, V, a = rule.weight, rule.bias, rule.gate_weight, rule.gate_bias
    total = torch.zeros((), dtype=torch.float64)

    def seen(v):
        small = v.abs() < math.exp(-10)
        log = torch.where(small, torch.ones_like(v), v.abs()).log() / 10
        return torch.where(small, -1.0, log), torch.where(small, math.exp(10) * v, v.sign())

    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        theta = dict(start)
        h = {n: [torch.zeros_like(t) for _ in range(H)] for n, t in theta.items()}
        c = {n: [torch.zeros_like(t) for _ in range(H)] for n, t in theta.items()}
        i = {n: torch.zeros_like(t) for n, t in theta.items()}
        f = {n: torch.ones_like(t) for n, t in theta.items()}
        for _ in range(steps):
            value = loss(functional_call(model, theta, (x,)), y)
            grads = torch.autograd.grad(value, list(theta.values()), create_graph=True)
            if first_order:
                grads, value = [g.detach() for g in grads], value.detach()
            for (n, t), g in zip(list(theta.items()), grads, strict=True):
                inputs = [*seen(g), *(u.expand_as(g) for u in seen(value)), *h[n]]
                rows = [sum(W[r, k] * u for k, u in enumerate(inputs)) + b[r] for r in range(4 * H)]
                for r in range(H):
                    gate = [torch.sigmoid(rows[q * H + r]) for q in range(3)]
                    c[n][r] = gate[1] * c[n][r] + gate[0] * torch.tanh(rows[3 * H + r])
                h[n] = [torch.sigmoid(rows[2 * H + r]) * torch.tanh(c[n][r]) for r in range(H)]
                hv = [sum(V[q, r] * h[n][r] for r in range(H)) for q in (0, 1)]
                i[n] = torch.sigmoid(hv[0] + V[0, H] * t + V[0, H + 1] * i[n] + a[0])
                f[n] = torch.sigmoid(hv[1] + V[1, H] * t + V[1, H + 1] * f[n] + a[1])
                theta[n] = f[n] * t - i[n] * g
        total = total + loss(functional_call(model, theta, (xq,)), yq) / len(tasks.support.x)
    return list(torch.autograd.grad(total, [*start.values(), W, b, V, a]))


def scattered(learner: MetaLearnerLSTM) -> MetaLearnerLSTM:
    """Weights large enough for every path to count."""
    g = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for p in learner.rule.parameters():
            p += 0.4 * torch.randn(p.shape, generator=g, dtype=p.dtype)
    return learner


def as_descent(learner: MetaLearnerLSTM, alpha: float) -> MetaLearnerLSTM:
    """f = 1 and i = alpha, whatever the gates see."""
    with torch.no_grad():
        learner.rule.gate_weight.zero_()
        bias = [math.log(alpha / (1 - alpha)), 50.0]
        learner.rule.gate_bias.copy_(torch.tensor(bias, dtype=torch.float64))
    return learner


def test_with_f_1_and_i_alpha_it_is_gradient_descent():
    tasks = sinusoid(shots=10, queries=7, seed=0, dtype=torch.float64)(3)
    model = mlp(1, 8, 9, 1).double()
    learner = as_descent(MetaLearnerLSTM(model, steps=5, loss=mse, first_order=False), 0.03)
    maml = MAML(model, inner_lr=0.03, steps=5, loss=mse)
    ours, theirs = learner.adapt(tasks.support), maml.adapt(tasks.support)
    for name, t in theirs.items():
        torch.testing.assert_close(ours[name], t, rtol=1e-12, atol=1e-12)
    learner(tasks).mean().backward()
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    maml(tasks).mean().backward()
    assert relative_error(ours, [p.grad for p in model.parameters()]) < 1e-12


@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("keep_graph", [True, False])
def test_the_meta_gradient_is_that_of_a_plain_loop(first_order, keep_graph):
    tasks = sinusoid(shots=6, queries=7, seed=1, dtype=torch.float64)(3)
    model = mlp(1, 4, 1).double()
    learner = scattered(
        MetaLearnerLSTM(
            model, 3, loss=mse, first_order=first_order, hidden=5, keep_graph=keep_graph
        )
    )
    learner(tasks).mean().backward()
    ours = [p.grad for p in [*model.parameters(), *learner.rule.parameters()]]
    plain = plain_meta_learner(model, learner.rule, tasks, 3, mse, first_order)
    assert relative_error(ours, plain) < 1e-10


def test_it_starts_near_gradient_descent():
    rule = GatedRule()
    theta = {"w": torch.randn(2, 300), "l(theta)": torch.zeros(2)}
    grads = {"w": torch.zeros(2, 300), "l(theta)": torch.ones(2)}
    kept, _ = rule(grads, rule.init(theta))
    assert (kept["w"].abs() <= 0.03 * theta["w"].abs()).all()  # f in [0.97, 1]
    pushed, _ = rule({**grads, "w": torch.ones(2, 300)}, rule.init(theta))
    assert ((kept["w"] - pushed["w"] > 0.005) & (kept["w"] - pushed["w"] < 0.03)).all()


def test_the_order_of_coordinates_does_not_matter():
    rule = scattered(MetaLearnerLSTM(mlp(1, 2, 1).double())).rule
    g = torch.Generator().manual_seed(0)
    order = torch.randperm(7, generator=g)
    theta = torch.randn(3, 7, generator=g, dtype=torch.float64)
    grads = torch.randn(3, 7, generator=g, dtype=torch.float64)
    loss = torch.rand(3, generator=g, dtype=torch.float64)
    zero = torch.zeros_like(loss)

    def two_steps(w, g):
        state, updates = rule.init({"w": w, "l(theta)": zero}), {}
        for _ in range(2):
            updates, state = rule({"w": g, "l(theta)": loss}, state)
        return updates["w"]

    assert torch.equal(
        two_steps(theta[:, order], grads[:, order]), two_steps(theta, grads)[:, order]
    )


def test_each_task_sees_its_own_loss():
    rule = scattered(MetaLearnerLSTM(mlp(1, 2, 1))).rule
    theta = {"w": torch.ones(2, 3), "l(theta)": torch.zeros(2)}
    grads = {"w": torch.ones(2, 3), "l(theta)": torch.tensor([0.1, 5.0])}
    updates, _ = rule(grads, rule.init(theta))
    assert not torch.allclose(updates["w"][0], updates["w"][1])
    assert torch.equal(updates["l(theta)"], torch.zeros(2))


def test_it_learns_few_shot_images_with_any_model():
    tasks = task_to_float(image_tasks(tasks=4))
    model = conv4(5, 4)
    learner = MetaLearnerLSTM(model, steps=2)
    history = meta_train(learner, lambda _: tasks, 30, meta_lr=0.01, progress=False)
    assert history.losses[-1] < 0.9 * history.losses[0]
    assert set(learner.adapt(tasks.support)) == {*dict(model.named_parameters()), "l(theta)"}
    assert len(evaluate(learner, lambda _: tasks, 2, steps=3).values) == 2


def task_to_float(tasks: Task) -> Task:
    return Task(*(Batch(x.float(), y) for x, y in tasks))


def test_a_recording_gives_the_same_gradient():
    tasks = sinusoid(shots=6, queries=7, seed=2, dtype=torch.float64)(2)
    learner = scattered(MetaLearnerLSTM(mlp(1, 5, 3, 1).double(), 2, loss=mse, hidden=3))
    gradients = [meta_gradient(learner, tasks) for _ in range(3)]  # the third one is played
    plain = plain_meta_learner(learner.model, learner.rule, tasks, 2, mse, True)
    for ours in gradients:
        assert relative_error(ours, plain) < 1e-10


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="hidden=0 must be a whole number of at least 1"):
        GatedRule(hidden=0)
    with pytest.raises(ValueError, match="come without the loss"):
        GatedRule()({"w": torch.ones(1, 2)}, GatedRule().init({"w": torch.ones(1, 2)}))
    with pytest.raises(ValueError, match="running statistics"):
        MetaLearnerLSTM(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    for message, settings in (
        ("hidden=2.5 must be a whole number", {"hidden": 2.5}),
        ("preprocess=None must be a number", {"preprocess": None}),
        ("preprocess=100.0 must be at most 80", {"preprocess": 100.0}),
        ("seed=None must be a whole number", {"seed": None}),
    ):
        with pytest.raises(ValueError, match=message):
            GatedRule(**settings)
    for call in (lambda: GatedRule(20), lambda: MetaLearnerLSTM(mlp(1, 2, 1), 5, mse)):
        with pytest.raises(TypeError, match="positional"):
            call()
    with pytest.raises(ValueError, match="has no tensor beside"):
        GatedRule().init({"l(theta)": torch.zeros(2)})
    rule, loss = GatedRule(), torch.ones(2)
    state = rule.init({"w": torch.ones(2, 3), "l(theta)": torch.zeros(2)})
    for grads in ({"w": torch.ones(2, 4)}, {}, {"w": torch.ones(2, 3), "b": torch.ones(2)}):
        with pytest.raises(ValueError, match=r"start with rule.init\(theta\)"):
            rule({**grads, "l(theta)": loss}, state)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_parameter("l(theta)", nn.Parameter(torch.ones(1)))

    with pytest.raises(ValueError, match=r"is called 'l\(theta\)': rename it"):
        MetaLearnerLSTM(Named(), loss=mse)


def test_a_rule_works_in_its_own_precision():
    """A model that is made double after the learner was."""
    tasks = sinusoid(shots=6, queries=7, seed=2, dtype=torch.float64)(2)
    whole = MetaLearnerLSTM(mlp(1, 4, 1), 2, loss=mse).double()(tasks)
    learner = MetaLearnerLSTM(mlp(1, 4, 1), 2, loss=mse)
    learner.model.double()
    losses = learner(tasks)
    assert losses.dtype == torch.float64
    torch.testing.assert_close(losses, whole, rtol=1e-5, atol=0)
    losses.mean().backward()
    assert learner.rule.weight.grad.dtype == torch.float32
