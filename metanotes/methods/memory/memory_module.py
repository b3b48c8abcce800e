"""A memory of keys and values that is looked up by the nearest key (Kaiser et al. 2017).

A slot i holds a key K_i of length 1, a value V_i and an age A_i. A query q, an embedding of x of
length 1, is answered by the value of the nearest key, n = argmax_i q . K_i. Once the right value v
is told, every slot grows older by a step, and

    V_n = v:    K_n <- (q + K_n) / |q + K_n|,                     A_n <- 0                    (1)
    V_n != v:   K_o <- q,  V_o <- v,  o = argmax_i A_i,           A_o <- 0                    (2)

With p the nearest slot of the right value and b the nearest of a wrong one, the loss is

    l = max(0, q . K_b - q . K_p + alpha)                                                     (3)

which moves q alone: keys are embeddings of before, and hold no derivative. So phi is the body that
makes q, and the memory is what learns: nothing has to be unrolled, all q of a sequence are made at
once, and a memory that is never cleared goes on learning for as long as there are examples.

The paper looks for p and b among the 256 nearest slots, to be fast; here it is among all. A step
whose memory has no p or no b yet counts 0.

Source: Kaiser, Nachum, Roy and Bengio, "Learning to Remember Rare Events", ICLR 2017, section 2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes._ground.checks import count, nonnegative
from metanotes.methods.memory.sequence_learner import check_sequences
from metanotes.task import Sequences

NOTHING = -1  # the value of an empty slot, and the answer of an empty memory


class Slots(NamedTuple):
    """T memories.

    Args:
        keys: K, `[T, slots, F]`, each of length 1; of an empty slot 0.
        values: V, `[T, slots]`; of an empty slot -1.
        ages: A, steps since a slot was written or confirmed, `[T, slots]`.

    >>> Slots.empty(tasks=3, slots=100, features=64).keys.shape
    torch.Size([3, 100, 64])
    """

    keys: Tensor
    values: Tensor
    ages: Tensor

    @classmethod
    def empty(cls, tasks: int, slots: int, features: int, like: Tensor | None = None) -> Slots:
        """Memories that hold nothing, in the type and on the device of `like`."""
        keys = (torch.empty(0) if like is None else like).new_zeros(tasks, slots, features)
        ages = torch.zeros(tasks, slots, dtype=torch.long, device=keys.device)
        return cls(keys, torch.full_like(ages, NOTHING), ages)


class Recall(NamedTuple):
    """What a memory said in the course of T sequences, and what it holds at their end.

    Args:
        answers: V_n at each step, `[T, L]`; -1 while the memory is empty.
        q: the queries, `[T, L, F]`.
        right: K_p at each step, `[T, L, F]`.
        wrong: K_b, likewise.
        both: where there are both, `[T, L]`.
        memory: `Slots`, at the end.

    >>> y = torch.tensor([[0, 1, 0]])
    >>> previous = F.one_hot(torch.tensor([[0, 0, 1]]), 2) * torch.tensor([[0], [1], [1]])
    >>> drawn = Sequences(torch.eye(2)[y], y, previous, torch.tensor([[1, 1, 2]]))
    >>> MemoryModule(nn.Identity(), slots=10).recall(drawn).answers
    tensor([[-1,  0,  0]])
    """

    answers: Tensor
    q: Tensor
    right: Tensor
    wrong: Tensor
    both: Tensor
    memory: Slots


class MemoryModule(nn.Module):
    """Remembers examples in slots; phi is how it sees them.

    In training every sequence has a memory of its own, empty at first. `recall` goes on with
    whatever memory it is given.

    On the map:
        phi: a body
        adapts: keys and values in slots
        outer loss: a margin between the nearest right and the nearest wrong key
        needs: first derivatives; a slot for each class

    Args:
        body: from `[N, ...]` to features `[N, F]`. One with batch normalisation needs running
            statistics: in training all examples share a batch.
        slots: of a memory. To train it needs as many as there are classes; a smaller one forgets.
        margin: alpha of (3), at least 0; cosines differ by at most 2.

    Raises:
        ValueError: a count below 1, a negative margin.

    Source: see the module's.

    >>> from metanotes.data import glyphs, sequences
    >>> from metanotes.nets import conv4
    >>> learner = MemoryModule(conv4(ways=None, running_statistics=True), slots=50)
    >>> drawn = sequences(glyphs("background"), ways=5, length=30)(4)
    >>> learner(drawn).shape, learner.answers(drawn).shape
    (torch.Size([4]), torch.Size([4, 30]))
    """

    def __init__(self, body: nn.Module, slots: int, margin: float = 0.1) -> None:
        super().__init__()
        self.body = body
        self.slots, self.margin = count("slots", slots), nonnegative("margin", margin)

    def queries(self, x: Tensor) -> Tensor:
        """q of each example, of length 1: x `[T, L, ...]` to `[T, L, F]`."""
        q = self.body(x.flatten(0, 1)).flatten(1)
        return F.normalize(q, dim=1).unflatten(0, x.shape[:2])

    def recall(self, sequences: Sequences, memory: Slots | None = None) -> Recall:
        """Answer each example of T sequences in turn, and remember it.

        Args:
            sequences: their labels are any whole numbers of at least 0, below the ways.
            memory: what is remembered from before, of T memories; default: nothing. It is left as
                it is, and may have another number of slots than this learner's.

        Raises:
            TypeError, ValueError: sequences that `check_sequences` refuses, or a memory of another
                size.
        """
        check_sequences(sequences)
        q, y = self.queries(sequences.x), sequences.y
        T, L, features = q.shape
        if memory is None:
            memory = Slots.empty(T, self.slots, features, like=q)
        elif memory.keys.shape != (T, memory.values.shape[1], features):
            raise ValueError(
                f"memory has keys {list(memory.keys.shape)}; {T} sequences with features "
                f"{features} need [{T}, slots, {features}]"
            )
        memory = Slots(*(t.clone() for t in memory))
        with torch.no_grad():
            steps = [look_up_and_learn(memory, q[:, t], y[:, t]) for t in range(L)]
        answers, right, wrong, both = (torch.stack(part, 1) for part in zip(*steps, strict=True))
        return Recall(answers, q, right, wrong, both, memory)

    def forward(self, sequences: Sequences) -> Tensor:
        """(3) for each sequence, a mean over its steps: `[T]`."""
        check_sequences(sequences)
        ways = sequences.previous.shape[2]
        if self.slots < ways:
            raise ValueError(
                f"slots={self.slots} is a memory smaller than ways={ways}: a class would be "
                f"forgotten before it is shown again; use at least {ways} slots to train"
            )
        _, q, right, wrong, both, _ = self.recall(sequences)
        losses = ((q * (wrong - right)).sum(2) + self.margin).relu()
        return (losses * both).mean(1)

    def answers(self, sequences: Sequences) -> Tensor:
        """The class it names at each step, from an empty memory: `[T, L]`."""
        return self.recall(sequences).answers

    def extra_repr(self) -> str:
        return f"slots={self.slots}, margin={self.margin}"


def look_up_and_learn(memory: Slots, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step of T memories, which are changed in place by (1) and (2).

    Args:
        memory: T of them.
        q: a query of each, `[T, F]`, of length 1.
        v: its right value, `[T]`.

    Returns:
        V_n `[T]`, K_p and K_b `[T, F]` as they were before, and where there are both, `[T]`.
    """
    K, V, A = memory
    task = torch.arange(len(q), device=q.device)
    cosines = torch.bmm(K, q[..., None]).squeeze(2)  # [T, slots]
    is_right, is_empty = v[:, None] == V, V == NOTHING
    p_cosine, p = cosines.masked_fill(~is_right, -torch.inf).max(1)
    b_cosine, b = cosines.masked_fill(is_right | is_empty, -torch.inf).max(1)
    n = cosines.masked_fill(is_empty, -torch.inf).argmax(1)  # of equal keys the first: v is unknown
    hit = V[task, n] == v  # no value is NOTHING, which an empty memory answers
    answer, right, wrong = V[task, n], K[task, p], K[task, b]
    slot = torch.where(hit, n, A.argmax(1))
    K[task, slot] = F.normalize(q + hit[:, None] * K[task, slot], dim=1)
    V[task, slot] = v
    A += 1
    A[task, slot] = 0
    return answer, right, wrong, (p_cosine > -torch.inf) & (b_cosine > -torch.inf)
