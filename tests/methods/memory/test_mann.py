"""The external memory, against the paper's equations written out number by number."""

import math

import pytest
import torch

from metanotes import MANN
from metanotes.methods.memory import mann
from tests.methods.memory.remembered import sampler


def sigmoid(a):
    return 1 / (1 + math.exp(-a))


def cosine(k, m):
    lengths = [math.sqrt(sum(v * v for v in vector) + mann.EMPTY) for vector in (k, m)]
    return sum(a * b for a, b in zip(k, m, strict=True)) / (lengths[0] * lengths[1])


def test_the_write_is_that_of_a_loop_over_slots_and_numbers():
    g = torch.Generator().manual_seed(0)
    T, slots, width, heads = 3, 6, 4, 2
    M, a = (torch.randn(T, n, width, generator=g).double() for n in (slots, heads))
    w_r = torch.rand(T, heads, slots, generator=g).double().softmax(2)
    w_u = torch.rand(T, slots, generator=g).double()
    gate = torch.rand(T, heads, 1, generator=g).double()
    after, w_w = mann.write(mann.State(M, w_r, w_u), a, gate)
    for n in range(T):
        least = sorted(range(slots), key=lambda i: float(w_u[n, i]))[:heads]
        for i in range(slots):
            weights = [
                float(gate[n, h] * w_r[n, h, i]) + (least[h] == i) * (1 - float(gate[n, h]))
                for h in range(heads)
            ]
            assert w_w[n, :, i].tolist() == pytest.approx(weights)
            for j in range(width):
                before = 0.0 if i in least else float(M[n, i, j])
                added = sum(w * float(a[n, h, j]) for h, w in enumerate(weights))
                assert float(after[n, i, j]) == pytest.approx(before + added)


def plain(net, inputs):
    """The whole network for one sequence, a list of lists of numbers: equations (1) to (6)."""
    W = {name: p.tolist() for name, p in net.named_parameters()}

    def linear(name, vector):
        bias = W.get(f"{name}.bias", [0.0] * len(W[f"{name}.weight"]))
        return [
            sum(w * v for w, v in zip(row, vector, strict=True)) + b
            for row, b in zip(W[f"{name}.weight"], bias, strict=True)
        ]

    D, S, N, H = net.hidden, net.slots, net.width, net.heads
    M, w_r, w_u = [[0.0] * N for _ in range(S)], [[0.0] * S for _ in range(H)], [0.0] * S
    h, c, r = [0.0] * D, [0.0] * D, [0.0] * (H * N)
    outputs = []
    for x in inputs:
        pairs = zip(linear("input", x), linear("recurrent", h + r), strict=True)
        z = [a + b for a, b in pairs]
        c = [sigmoid(z[D + d]) * c[d] + sigmoid(z[d]) * math.tanh(z[3 * D + d]) for d in range(D)]
        h = [sigmoid(z[2 * D + d]) * math.tanh(c[d]) for d in range(D)]
        numbers = linear("head", h)
        heads = [numbers[n * (2 * N + 2) : (n + 1) * (2 * N + 2)] for n in range(H)]
        least = sorted(range(S), key=lambda i: w_u[i])[:H]
        w_w = [
            [
                sigmoid(head[2 * N]) * w_r[n][i] + (1 - sigmoid(head[2 * N])) * (least[n] == i)
                for i in range(S)
            ]
            for n, head in enumerate(heads)
        ]
        M = [
            [
                (i not in least) * M[i][j]
                + sum(w_w[n][i] * math.tanh(head[N + j]) for n, head in enumerate(heads))
                for j in range(N)
            ]
            for i in range(S)
        ]
        r = []
        for n, head in enumerate(heads):
            key = [math.tanh(v) for v in head[:N]]
            strength = 1 + 3 * math.log1p(math.exp(head[2 * N + 1]))
            powers = [math.exp(strength * cosine(key, m)) for m in M]
            w_r[n] = [p / sum(powers) for p in powers]
            r += [sum(w_r[n][i] * M[i][j] for i in range(S)) for j in range(N)]
        w_u = [net.decay * w_u[i] + sum(w_r[n][i] + w_w[n][i] for n in range(H)) for i in range(S)]
        outputs.append(linear("output", h + r))
    return outputs


def small(**settings):
    sizes = {"hidden": 5, "slots": 4, "width": 3, "heads": 2} | settings
    learner = MANN(4, 3, **sizes).double()
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in learner.parameters():
            p += 0.7 * torch.randn(p.shape, generator=g, dtype=p.dtype)
    return learner


@pytest.mark.parametrize("heads", [1, 2])
def test_its_logits_are_those_of_plain_arithmetic(heads):
    learner, drawn = small(heads=heads), sampler(length=9)(3)
    inputs = torch.cat([drawn.x, drawn.previous], 2)
    expected = [plain(learner.net, sequence) for sequence in inputs.tolist()]
    torch.testing.assert_close(learner.logits(drawn), torch.tensor(expected).double())


@pytest.mark.parametrize("heads", [1, 2])
def test_its_gradient_is_that_of_finite_differences(heads):
    learner, drawn = small(heads=heads), sampler(length=7)(2)
    names = [name for name, _ in learner.named_parameters()]

    def losses(*values):
        return torch.func.functional_call(learner, dict(zip(names, values, strict=True)), (drawn,))

    phi = tuple(p.detach().requires_grad_() for p in learner.parameters())
    assert torch.autograd.gradcheck(losses, phi)


def test_what_was_written_and_cleared_moves_nothing():
    """An empty slot is like no key, and gives no infinite gradient."""
    M = torch.zeros(1, 4, 3, dtype=torch.float64, requires_grad=True)
    k = torch.ones(1, 1, 3, dtype=torch.float64, requires_grad=True)
    r, w_r = mann.read(M, k, torch.tensor([[[5.0]]]).double())
    torch.testing.assert_close(w_r, torch.full((1, 1, 4), 0.25).double())
    (r.sum() + w_r[..., 0].sum()).backward()
    assert torch.isfinite(M.grad).all()
    assert (k.grad == 0).all()


def test_a_memory_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="slots=4 is a memory smaller than ways=5"):
        MANN(8, 5, slots=4)
    with pytest.raises(ValueError, match="slots=6 is a memory smaller than heads=7"):
        MANN(8, 5, slots=6, heads=7)
    with pytest.raises(ValueError, match=r"decay=1.0 must be in \[0, 1\)"):
        MANN(8, 5, decay=1.0)
    with pytest.raises(ValueError, match="width=0"):
        MANN(8, 5, width=0)
