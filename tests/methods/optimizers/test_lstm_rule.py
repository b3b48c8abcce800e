"""The LSTM rule against torch's own LSTM cells."""

import math

import pytest
import torch
from torch import nn

from metanotes import InnerLoopLearner, LSTMRule, cross_entropy, mse
from metanotes.methods.optimizers import fused_lstm, log_and_sign
from metanotes.nets import conv4, mlp
from tests.plainly import image_tasks, meta_gradient, relative_error, shaken, vector_tasks


def cells_of(rule: LSTMRule) -> tuple[list[nn.LSTMCell], nn.Linear]:
    """The same LSTM in torch's cells, whose rows are i, f, g, o."""
    cells = []
    for weight, bias in zip(rule.weights, rule.biases, strict=True):
        hidden = rule.hidden
        cell = nn.LSTMCell(weight.shape[1] - hidden, hidden).to(weight.dtype)
        i, f, o, g = weight.detach().chunk(4)
        rows = torch.cat((i, f, g, o))
        bi, bf, bo, bg = bias.detach().chunk(4)
        cell.weight_ih.data, cell.weight_hh.data = rows.split(
            [weight.shape[1] - hidden, hidden], dim=1
        )
        cell.bias_ih.data = torch.cat((bi, bf, bg, bo))
        cell.bias_hh.data.zero_()
        cells.append(cell)
    out = nn.Linear(rule.hidden, 1).to(rule.out_weight.dtype)
    out.weight.data, out.bias.data = rule.out_weight.detach()[None], rule.out_bias.detach()[None]
    return cells, out


def phi_of(rule: LSTMRule) -> list[torch.Tensor]:
    return [*rule.weights, *rule.biases, rule.out_weight, rule.out_bias]


def grads_of(seed: int) -> dict[str, torch.Tensor]:
    """Gradients of every size, in tensors of several shapes of 3 tasks; some exactly 0."""
    g = torch.Generator().manual_seed(seed)
    grads = {}
    for name, shape in {"a": (3, 4, 5), "b": (3, 5), "c": (3,)}.items():
        size = 10 ** (-8 * torch.rand(shape, generator=g, dtype=torch.float64))
        grads[name] = size * torch.randn(shape, generator=g, dtype=torch.float64)
    grads["a"][0, 0] = 0.0
    return {name: t.requires_grad_() for name, t in grads.items()}


@pytest.mark.parametrize("columns", [8192, 7])
@pytest.mark.parametrize("preprocess", [None, 10.0, 3.0])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_updates_states_and_gradients_are_those_of_lstm_cells(
    layers, preprocess, columns, monkeypatch
):
    monkeypatch.setattr(fused_lstm, "COLUMNS", columns)
    rule = LSTMRule(hidden=6, layers=layers, preprocess=preprocess, scale=0.3, seed=4).double()
    cells, out = cells_of(rule)
    trajectory = [grads_of(seed) for seed in range(4)]
    state = rule.init(trajectory[0])
    zeros = torch.zeros(78, 6, dtype=torch.float64)
    theirs = [(zeros, zeros)] * layers
    ours_total, their_total = 0.0, 0.0
    for t, grads in enumerate(trajectory):
        updates, state = rule(grads, state)
        flat = torch.cat([g.flatten() for g in grads.values()])
        x = flat[:, None] if preprocess is None else log_and_sign(flat, preprocess).T
        for n, cell in enumerate(cells):
            theirs[n] = cell(x, theirs[n])
            x = theirs[n][0]
        u = 0.3 * out(x)[:, 0]
        mine = torch.cat([updates[name].flatten() for name in grads])
        torch.testing.assert_close(mine, u, rtol=0, atol=1e-14)
        pull = torch.arange(78).cos() * (t + 1)
        ours_total = ours_total + (pull * mine).sum() + (mine**2).sum()
        their_total = their_total + (pull * u).sum() + (u**2).sum()
    for n in range(layers):
        torch.testing.assert_close(state[0][f"h{n}"].T, theirs[n][0], rtol=0, atol=1e-14)
        torch.testing.assert_close(state[0][f"c{n}"].T, theirs[n][1], rtol=0, atol=1e-14)

    inputs = [g for grads in trajectory for g in grads.values()]
    ours = torch.autograd.grad(ours_total, [*phi_of(rule), *inputs])
    phi = [p for cell in cells for p in (cell.weight_ih, cell.weight_hh, cell.bias_ih)]
    phi += [out.weight, out.bias]
    expected = torch.autograd.grad(their_total, [*phi, *inputs])
    split = len(phi_of(rule))
    order = torch.cat([torch.arange(12), torch.arange(18, 24), torch.arange(12, 18)])
    wanted = []
    for n in range(layers):
        wanted.append(torch.cat(expected[3 * n : 3 * n + 2], dim=1)[order])
    wanted += [expected[3 * n + 2][order] for n in range(layers)]
    wanted += [expected[3 * layers][0], expected[3 * layers + 1][0]]
    assert relative_error(ours[:split], wanted) < 1e-10
    # Of the gradients one by one: they are of very different sizes.
    for mine, theirs_ in zip(ours[split:], expected[len(phi) :], strict=True):
        torch.testing.assert_close(mine, theirs_, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("preprocess", [None, 10.0])
def test_the_plain_form_agrees(preprocess):
    results = []
    for fused in (True, False):
        rule = LSTMRule(hidden=5, preprocess=preprocess, fused=fused).double()
        state, total = rule.init(grads_of(0)), 0.0
        for seed in range(3):
            updates, state = rule({n: g.detach() for n, g in grads_of(seed).items()}, state)
            total = total + sum((u - 0.01).square().sum() for u in updates.values())
        results.append(torch.autograd.grad(total, list(rule.parameters())))
    assert relative_error(results[0], results[1]) < 1e-12


@pytest.mark.parametrize(("hidden", "count"), [(1, 1), (3, 17), (20, 9000)])
def test_single_precision_agrees_and_gives_the_same_bits_again(hidden, count):
    """It goes by other products than double precision does."""
    results = []
    for dtype, fused in ((torch.float64, False), (torch.float32, True), (torch.float32, True)):
        rule = LSTMRule(hidden=hidden, fused=fused).to(dtype)
        generator = torch.Generator().manual_seed(0)
        state, total = rule.init({"w": torch.zeros(1, count)}), 0.0
        for _ in range(3):
            g = torch.randn(1, count, generator=generator).to(dtype)
            updates, state = rule({"w": g}, state)
            total = total + (updates["w"] - 0.01).square().sum()
        results.append(torch.autograd.grad(total, list(rule.parameters())))
    assert relative_error([t.double() for t in results[1]], results[0]) < 1e-5
    assert all(map(torch.equal, results[1], results[2]))


def test_derivatives_by_differences():
    rule = LSTMRule(hidden=3, layers=2, scale=0.7).double()
    g = torch.tensor([1e-6, -0.3, 2.0], dtype=torch.float64, requires_grad=True)  # both branches
    states = [torch.randn(3, 3, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    phi = phi_of(rule)

    def step(g, *tensors):
        return fused_lstm.FusedStep.apply(0.7, log_and_sign(g), *tensors)

    assert torch.autograd.gradcheck(step, (g, *states, *phi), eps=1e-8, atol=1e-5)


def test_log_and_sign_is_continuous_and_of_moderate_size():
    p = 10.0
    edge = torch.tensor([math.exp(-p)], dtype=torch.float64)
    for sign in (-1, 1):
        below, above = (log_and_sign(sign * f * edge, p) for f in (1 - 1e-9, 1 + 1e-9))
        torch.testing.assert_close(below, above, rtol=0, atol=1e-8)
        torch.testing.assert_close(above[:, 0], torch.tensor([-1.0, sign], dtype=torch.float64))
    g = torch.tensor([-1e4, -1.0, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 1.0, 1e4], dtype=torch.float64)
    out = log_and_sign(g, p)
    assert out.shape == (2, 9)
    assert out.abs().max() <= 1.0
    torch.testing.assert_close(log_and_sign(-g, p), out * torch.tensor([[1.0], [-1.0]]))
    torch.testing.assert_close(out[0, 2], torch.tensor(math.log(1e-3) / 10, dtype=torch.float64))
    torch.testing.assert_close(out[1, 5], torch.tensor(1e-9 * math.exp(10), dtype=torch.float64))


def test_its_derivative_is_finite_everywhere():
    g = torch.tensor([0.0, 1e-30, 1.0], requires_grad=True)
    log_and_sign(g).sum().backward()
    assert torch.isfinite(g.grad).all()


def test_permuted_coordinates_have_permuted_updates():
    rule, n = LSTMRule(), 12
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    grads = torch.randn(4, 2, n, generator=torch.Generator().manual_seed(1))  # 4 steps, 2 tasks
    state, permuted = (rule.init({"w": grads[0]}) for _ in range(2))
    for g in grads:
        updates, state = rule({"w": g}, state)
        others, permuted = rule({"w": g[:, order]}, permuted)
        torch.testing.assert_close(others["w"], updates["w"][:, order])


def test_a_task_is_not_changed_by_the_others():
    rule = LSTMRule().double()
    grads = {name: g.detach() for name, g in grads_of(0).items()}
    together, state = rule(grads, rule.init(grads))
    together, _ = rule(grads, state)
    for n in range(3):
        one = {name: g[n : n + 1] for name, g in grads.items()}
        alone, state = rule(one, rule.init(one))
        alone, _ = rule(one, state)
        for name in grads:
            torch.testing.assert_close(alone[name][0], together[name][n], rtol=0, atol=1e-15)


def plain_inner_loop(model, rule, tasks, steps, loss, first_order):
    """Task by task, everything in one graph, with the plain form of the rule."""
    start = dict(model.named_parameters())
    total = 0.0
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        theta = {n: p[None] for n, p in start.items()}
        state = rule.init(theta)
        for _ in range(steps):
            value = loss(
                torch.func.functional_call(model, {n: t[0] for n, t in theta.items()}, x), y
            )
            grads = torch.autograd.grad(value, list(theta.values()), create_graph=True)
            grads = [g.detach() for g in grads] if first_order else grads
            updates, state = rule(dict(zip(theta, grads, strict=True)), state)
            theta = {n: t + updates[n] for n, t in theta.items()}
        end = {n: t[0] for n, t in theta.items()}
        total = total + loss(torch.func.functional_call(model, end, xq), yq) / len(tasks.support.x)
    return torch.autograd.grad(total, [*start.values(), *rule.parameters()])


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", ["perceptron", "conv4"])
def test_it_is_a_rule_of_the_inner_loop(kind, first_order):
    if kind == "conv4":
        model, tasks, loss = shaken(conv4(5, channels=4)), image_tasks(), cross_entropy
    else:
        model, tasks, loss = shaken(mlp(2, 4, 1)), vector_tasks(), mse
    rule = LSTMRule(hidden=4, seed=1).double()
    plain = LSTMRule(hidden=4, seed=1, fused=False).double()
    expected = plain_inner_loop(model, plain, tasks, 3, loss, first_order)
    for options in ({}, {"checkpoint": True}):
        learner = InnerLoopLearner(model, rule, 3, loss=loss, first_order=first_order, **options)
        for _ in range(3):  # from the second on it may be a recording that is played
            assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10
    learner = InnerLoopLearner(model, plain, 3, loss=loss, first_order=first_order, keep_graph=True)
    assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": 0}, "hidden=0 must be a whole number of at least 1"),
        ({"layers": 0}, "layers=0 must be a whole number of at least 1"),
        ({"scale": 0.0}, "scale=0.0 must be a finite number above 0"),
        ({"preprocess": -1.0}, "preprocess=-1.0 must be a finite number above 0"),
        ({"preprocess": 200.0}, "preprocess=200.0 must be at most 80"),
        ({"hidden": 2.5}, "hidden=2.5 must be a whole number"),
        ({"layers": True}, "layers=True must be a whole number"),
        (
            {"scale": torch.nn.Parameter(torch.tensor(0.1))},
            "scale=Parameter[^>]* must be a number above 0",
        ),
        ({"seed": 1.5}, "seed=1.5 must be a whole number"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LSTMRule(**arguments)


def test_the_state_of_another_theta_is_refused():
    rule = LSTMRule()
    with pytest.raises(ValueError, match="state is of 3 coordinates and the gradients have 4"):
        rule({"w": torch.zeros(1, 4)}, rule.init({"w": torch.zeros(1, 3)}))


def test_seeds_differ_and_leave_the_global_random_state_alone():
    before = torch.get_rng_state()
    a, b, c = LSTMRule(seed=0), LSTMRule(seed=0), LSTMRule(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.weights[0], b.weights[0])
    assert not torch.equal(a.weights[0], c.weights[0])


def test_gradients_of_another_dtype_are_taken():
    rule = LSTMRule()
    grads = {"w": torch.randn(1, 5, dtype=torch.float64)}
    updates, _ = rule(grads, rule.init(grads))
    assert updates["w"].dtype == torch.float64


def test_little_is_kept_for_the_backward_pass():
    """The states of every step, and no gates."""
    rule, steps, count = LSTMRule(), 5, 1000
    theta = {"w": torch.zeros(1, count)}
    seen: dict[int, int] = {}

    def pack(t):
        seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    grads = [torch.randn(1, count) for _ in range(steps)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        state = rule.init(theta)
        for g in grads:
            updates, state = rule({"w": g}, state)
            kept.append((updates, state))
    states = steps * 4 * rule.hidden * count * 4
    assert sum(seen.values()) < 1.2 * states


def test_settings_go_by_their_names():
    with pytest.raises(TypeError, match="positional"):
        LSTMRule(20)


@pytest.mark.parametrize("p", [0.0, -1.0, 200.0, math.nan])
def test_a_p_that_leaves_the_numbers_is_refused(p):
    with pytest.raises(ValueError, match="p="):
        log_and_sign(torch.ones(3), p)


def test_a_scale_that_is_learned_gets_its_gradient():
    gradients = []
    for fused in (True, False):
        rule = LSTMRule(hidden=3, fused=fused).double()
        rule.scale = torch.nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
        grads = grads_of(0)
        updates, _ = rule(grads, rule.init(grads))
        (gradient,) = torch.autograd.grad(sum(u.sum() for u in updates.values()), rule.scale)
        gradients.append(gradient)
        torch.testing.assert_close(gradient * 0.1, sum(u.sum() for u in updates.values()))
    assert torch.equal(*gradients)


def test_no_coordinate_is_no_update():
    rule = LSTMRule(hidden=3)
    theta = {"w": torch.zeros(2, 0, requires_grad=True)}
    updates, _ = rule(theta, rule.init(theta))
    updates["w"].sum().backward()
    assert updates["w"].shape == (2, 0)
    assert (rule.weights[0].grad == 0).all()
