"""A network with an external memory (Santoro et al. 2016): what a class is called is written down.

The controller is an LSTM that also gets what was read the step before. Its output h_t becomes, for
each head, a key k_t to read by, a vector a_t to write, a gate alpha_t and a strength beta_t.

    w^lu_{t-1} = the least used slot, by w^u_{t-1}; it is set to zero                         (1)
    w^w_t = sigma(alpha_t) w^r_{t-1} + (1 - sigma(alpha_t)) w^lu_{t-1}                        (2)
    M_t(i) = M_{t-1}(i) + w^w_t(i) a_t                                                        (3)
    w^r_t(i) = softmax_i(beta_t cos(k_t, M_t(i))),    r_t = sum_i w^r_t(i) M_t(i)             (4)
    w^u_t = gamma w^u_{t-1} + w^r_t + w^w_t                                                   (5)
    y^_t = W (h_t, r_t) + b                                                                   (6)

So something new goes where nothing has been read or written for the longest time, or where the last
thing was read, to add to it (equations 2 to 8 of the paper). Which slots are the least used has no
derivative; the rest is differentiated through all steps.

Two things are not the paper's. It writes the key itself, a_t = k_t, so that what a key finds first
is that key. And it has no beta_t: a softmax of cosines alone gives one of 64 slots at most
e^2 / (e^2 + 63), 10.5 %, and what is read is blurred. Here a strength beta_t = 1 + 3 softplus(.) is
learned, as in the neural Turing machine (Graves et al. 2014).

Source: Santoro et al., "Meta-Learning with Memory-Augmented Neural Networks", ICML 2016, section 3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes._ground.checks import counts, fraction
from metanotes._ground.randomness import seeded
from metanotes.methods.memory.sequence_learner import SequenceLearner

EMPTY = 1e-6  # added to the square of a slot's length, of which an empty one has none


class State(NamedTuple):
    """The memory between two steps.

    Args:
        M: what the slots hold, `[T, slots, width]`.
        w_r: where each head has read, `[T, heads, slots]`.
        w_u: how much each slot has been used of late, `[T, slots]`.
    """

    M: Tensor
    w_r: Tensor
    w_u: Tensor


def write(state: State, a: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """(1) to (3): each head clears a slot of its own, and writes.

    Args:
        state: after the step before.
        a: what each head writes, `[T, heads, width]`.
        gate: sigma(alpha_t), `[T, heads, 1]`.

    Returns:
        M_t `[T, slots, width]` and w^w_t `[T, heads, slots]`.
    """
    with torch.no_grad():
        least = state.w_u.topk(a.shape[1], largest=False).indices  # [T, heads]
        w_lu = torch.zeros_like(state.w_r).scatter_(2, least[..., None], 1)
        kept = 1 - w_lu.sum(1)[..., None]  # [T, slots, 1]
    w_w = torch.lerp(w_lu, state.w_r, gate)
    return torch.baddbmm(state.M * kept, w_w.mT, a), w_w


def read(M: Tensor, k: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """(4): what the slots most like the keys hold.

    Args:
        M: `[T, slots, width]`.
        k: `[T, heads, width]`.
        strength: beta_t, `[T, heads, 1]`.

    Returns:
        r_t `[T, heads, width]` and w^r_t `[T, heads, slots]`.
    """
    length = ((M * M).sum(2) + EMPTY).rsqrt()  # [T, slots], of each slot, inverse
    k = strength * k * (k.square().sum(2, keepdim=True) + EMPTY).rsqrt()
    w_r = (torch.bmm(k, M.mT) * length[:, None]).softmax(2)
    return torch.bmm(w_r, M), w_r


class MemoryNet(nn.Module):
    """The network (1) to (6) on sequences, `[T, L, inputs]` to `[T, L, outputs]`.

    Args:
        inputs: numbers of a vector.
        outputs: numbers of an answer.
        hidden, slots, width, heads, decay: see `MANN`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int,
        slots: int,
        width: int,
        heads: int,
        decay: float,
    ) -> None:
        super().__init__()
        self.hidden, self.slots, self.width, self.heads = hidden, slots, width, heads
        self.decay = decay
        self.input = nn.Linear(inputs, 4 * hidden)
        self.recurrent = nn.Linear(hidden + heads * width, 4 * hidden, bias=False)
        self.head = nn.Linear(hidden, heads * (2 * width + 2))
        self.output = nn.Linear(hidden + heads * width, outputs)
        with torch.no_grad():
            self.input.bias[hidden : 2 * hidden] += 1  # forget gates open

    def forward(self, inputs: Tensor) -> Tensor:
        T, (H, W) = len(inputs), (self.heads, self.width)
        M = inputs.new_zeros(T, self.slots, W)
        w_r, w_u = inputs.new_zeros(T, H, self.slots), inputs.new_zeros(T, self.slots)
        c, found = inputs.new_zeros(T, self.hidden), inputs.new_zeros(T, self.hidden + H * W)
        outputs = []
        for x_t in self.input(inputs).unbind(1):  # all steps in one product
            gates = x_t + self.recurrent(found)
            i, f, o = gates[:, : 3 * self.hidden].sigmoid().chunk(3, 1)
            c = torch.addcmul(f * c, i, gates[:, 3 * self.hidden :].tanh())
            h = o * c.tanh()
            k_and_a, alpha, beta = self.head(h).view(T, H, -1).split((2 * W, 1, 1), 2)
            k, a = k_and_a.tanh().chunk(2, 2)
            M, w_w = write(State(M, w_r, w_u), a, alpha.sigmoid())
            r, w_r = read(M, k, 1 + 3 * F.softplus(beta))
            with torch.no_grad():
                w_u = torch.add((w_r + w_w).sum(1), w_u, alpha=self.decay)
            found = torch.cat([h, r.flatten(1)], 1)
            outputs.append(found)
        return self.output(torch.stack(outputs, 1))


class MANN(SequenceLearner):
    """A memory-augmented network, of which all is phi.

    On the map:
        phi: a controller of a memory
        adapts: what stands in the memory
        outer loss: of each answer along the sequence
        needs: first derivatives, back through the sequence

    Args:
        features: numbers of an x, F.
        ways: classes of a sequence.
        hidden: cells of the controller.
        slots: of the memory, at least as many as classes, and as heads.
        width: numbers that a slot holds.
        heads: each reads once and writes once a step.
        decay: gamma, how much of a slot's use counts a step later; in [0, 1).
        seed: of the initial weights (PyTorch's default initialisation; forget gates open).

    Raises:
        ValueError: a count below 1, a decay out of range, or a memory too small.

    Source: see the module's; the paper has 200 cells, 128 slots of 40 numbers and 4 heads.

    >>> from metanotes.data import glyphs, sequences
    >>> learner = MANN(features=784, ways=5)
    >>> drawn = sequences(glyphs("background"), ways=5, length=50)(16)
    >>> learner(drawn).shape, learner.answers(drawn).shape
    (torch.Size([16]), torch.Size([16, 50]))
    """

    def __init__(
        self,
        features: int,
        ways: int,
        hidden: int = 128,
        slots: int = 64,
        width: int = 40,
        heads: int = 1,
        *,
        decay: float = 0.95,
        seed: int = 0,
    ) -> None:
        counts(features=features, ways=ways, hidden=hidden, slots=slots, width=width, heads=heads)
        for name, least in (("ways", ways), ("heads", heads)):
            if slots < least:
                raise ValueError(
                    f"slots={slots} is a memory smaller than {name}={least}: use at least as many "
                    "slots as classes, since each has to be kept, and as heads, since each writes "
                    "to a slot of its own"
                )
        with seeded(seed):
            net = MemoryNet(
                features + ways, ways, hidden, slots, width, heads, fraction("decay", decay)
            )
        super().__init__(net, ways)
