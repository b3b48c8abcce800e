"""Learners that descend on sentences: dicts of tokens and masks, beside a plain loop in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metanotes import ANIL, MAML, Adam, Batch, InnerLoopLearner, Task, evaluate
from metanotes.nets import MaskedWordModel, TokenBody
from metanotes.task import in_parts, minibatches
from tests.plainly import meta_gradient, relative_error, shaken

PAD, MASK, VOCABULARY, LENGTH = 0, 4, 20, 7


class Named(nn.Module):
    """A classifier of sentences, whose padding is told by a mask and by nothing else."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = TokenBody(VOCABULARY, 8, 2, 2, LENGTH, pool=MASK, padding=None)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        z: Tensor = self.head(self.body(input_ids, attention_mask))
        return z


def sentences(tasks: int, number: int, g: torch.Generator) -> dict[str, Tensor]:
    """Sentences of 3 to 7 tokens with one mask, padding that looks like words, and its mask."""
    ids = torch.randint(5, VOCABULARY, (tasks, number, LENGTH), generator=g)
    ids[..., 1] = MASK
    lengths = torch.randint(3, LENGTH + 1, (tasks, number, 1), generator=g)
    return {"input_ids": ids, "attention_mask": torch.arange(LENGTH) < lengths}


def word_tasks(tasks: int = 3, shots: int = 6, queries: int = 4) -> Task:
    g = torch.Generator().manual_seed(0)
    return Task(
        *(
            Batch(sentences(tasks, n, g), torch.randint(3, (tasks, n), generator=g))
            for n in (shots, queries)
        )
    )


def translation_tasks() -> Task:
    """At some places of each sentence a word is to be named; some places are left out."""
    g = torch.Generator().manual_seed(1)
    batches = []
    for n in (5, 4):
        x = sentences(2, n, g)
        x["places"] = torch.stack([torch.randperm(3, generator=g) for _ in range(2 * n)]).view(
            2, n, 3
        )
        y = torch.randint(5, VOCABULARY, (2, n, 3), generator=g)
        y[torch.rand(y.shape, generator=g) < 0.3] = -100
        batches.append(Batch(x, y))
    return Task(*batches)


def token_loss(outputs: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), y.flatten(), ignore_index=-100)


def one_task(tasks: Task, n: int) -> Any:
    return [({name: t[n] for name, t in x.items()}, y[n]) for x, y in tasks]


def plainly(
    model: nn.Module,
    tasks: Task,
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    first_order: bool,
    moves: Callable[[str], bool] = lambda name: True,
    batch: int | None = None,
) -> list[Tensor]:
    """The meta-gradient, task by task and step by step, with SGD of rate 0.1."""
    phi = dict(model.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    for n in range(len(tasks.support.y)):
        (x, y), (xq, yq) = one_task(tasks, n)
        theta = dict(phi)
        for step in range(steps):
            part = slice(None) if batch is None else slice(step * batch, (step + 1) * batch)
            seen = {name: t[part] for name, t in x.items()}
            value = loss(functional_call(model, theta, (), seen), y[part])
            names = [name for name in theta if moves(name)]
            grads = torch.autograd.grad(
                value, [theta[name] for name in names], create_graph=not first_order
            )
            theta |= {name: theta[name] - 0.1 * g for name, g in zip(names, grads, strict=True)}
        total = total + loss(functional_call(model, theta, (), xq), yq) / len(tasks.support.y)
    return list(torch.autograd.grad(total, list(phi.values())))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("mode", [True, False])
def test_maml_on_sentences_with_masks(first_order: bool, mode: bool) -> None:
    model, tasks = shaken(Named()), word_tasks()
    learner = MAML(model, inner_lr=0.1, steps=3, first_order=first_order).train(mode)
    right = plainly(model, tasks, F.cross_entropy, 3, first_order)
    assert relative_error(meta_gradient(learner, tasks), right) < 1e-10
    other = plainly(model, tasks, F.cross_entropy, 3, not first_order)
    assert relative_error(other, right) > 1e-4


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("part", ["head", "body.body.layers.1"])
def test_a_part_adapts_on_sentences_with_masks(first_order: bool, part: str) -> None:
    model, tasks = shaken(Named()), word_tasks()
    learner = MAML(model, 0.1, 2, first_order=first_order, adapts=part)
    right = plainly(
        model, tasks, F.cross_entropy, 2, first_order, moves=lambda name: name.startswith(part)
    )
    assert relative_error(meta_gradient(learner, tasks), right) < 1e-10


@pytest.mark.parametrize("first_order", [False, True])
def test_each_step_sees_a_fresh_minibatch_of_sentences(first_order: bool) -> None:
    model, tasks = shaken(Named()), word_tasks(shots=8)
    learner = MAML(model, 0.1, 3, first_order=first_order, batch=2)
    torch.manual_seed(7)
    ours = meta_gradient(learner, tasks)
    torch.manual_seed(7)
    drawn = Task(minibatches(tasks.support, 2, 3), tasks.query)
    assert [len(part.y[0]) for part in in_parts(drawn.support, 2)] == [2, 2, 2]
    right = plainly(model, drawn, F.cross_entropy, 3, first_order, batch=2)
    assert relative_error(ours, right) < 1e-10


@pytest.mark.parametrize("first_order", [False, True])
def test_tokens_that_are_left_out_have_no_part(first_order: bool) -> None:
    torch.manual_seed(0)
    body = TokenBody(VOCABULARY, 8, 2, 2, LENGTH, padding=None)
    model, tasks = shaken(MaskedWordModel(body)), translation_tasks()
    learner = MAML(model, 0.1, 2, loss=token_loss, first_order=first_order)
    ours = meta_gradient(learner, tasks)
    assert relative_error(ours, plainly(model, tasks, token_loss, 2, first_order)) < 1e-10
    garbled = translation_tasks()
    for x, _ in garbled:
        x["input_ids"][~x["attention_mask"]] = 9  # what stands at padding
    assert relative_error(meta_gradient(learner, garbled), ours) < 1e-10


def test_padding_in_place_of_a_mask_is_the_same() -> None:
    g = torch.Generator().manual_seed(3)
    named = shaken(Named())
    plain = nn.Sequential(
        TokenBody(VOCABULARY, 8, 2, 2, LENGTH, pool=MASK), nn.Linear(8, 3)
    ).double()
    plain[0].load_state_dict(named.body.state_dict())
    plain[1].load_state_dict(named.head.state_dict())
    sets = [(sentences(3, n, g), torch.randint(3, (3, n), generator=g)) for n in (6, 4)]
    masked = Task(*(Batch(x, y) for x, y in sets))
    filled = Task(
        *(Batch(x["input_ids"].where(x["attention_mask"], torch.tensor(PAD)), y) for x, y in sets)
    )
    ours, theirs = (MAML(model, 0.1, 2) for model in (named, plain))
    assert relative_error(meta_gradient(theirs, filled), meta_gradient(ours, masked)) < 1e-10
    head, body = ANIL(plain, 0.1, 2), plainly_frozen(plain, filled)
    assert relative_error(meta_gradient(head, filled), body) < 1e-10


def plainly_frozen(model: nn.Sequential, tasks: Task) -> list[Tensor]:
    """ANIL's gradient, two steps of the head, written out."""
    total = torch.zeros((), dtype=torch.float64)
    for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True):
        W, b = model[1].weight, model[1].bias
        for _ in range(2):
            value = F.cross_entropy(F.linear(model[0](x), W, b), y)
            g = torch.autograd.grad(value, (W, b), create_graph=True)
            W, b = W - 0.1 * g[0], b - 0.1 * g[1]
        total = total + F.cross_entropy(F.linear(model[0](xq), W, b), yq) / len(tasks.support.y)
    return list(torch.autograd.grad(total, list(model.parameters())))


class Torchs(nn.Module):
    """A reader's model, of torch's own layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        z = self.encoder(self.embedding(input_ids), src_key_padding_mask=~attention_mask)
        out: Tensor = self.head(z[:, 1])
        return out


@pytest.mark.parametrize("first_order", [False, True])
def test_torchs_transformer_trains_and_is_judged(first_order: bool) -> None:
    model, tasks = shaken(Torchs()), word_tasks()
    learner = MAML(model, inner_lr=0.1, steps=2, first_order=first_order)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        right = plainly(model, tasks, F.cross_entropy, 2, first_order)
    assert relative_error(meta_gradient(learner, tasks), right) < 1e-10
    score = evaluate(learner, lambda number: word_tasks(number), tasks=4)
    assert not score.transductive
    assert torch.backends.mha.get_fastpath_enabled()


def test_adam_inside_on_sentences() -> None:
    model, tasks = shaken(Named()), word_tasks()
    learner = InnerLoopLearner(model, Adam(lr=0.01), steps=2, first_order=True)
    ours, total = meta_gradient(learner, tasks), [torch.zeros_like(p) for p in model.parameters()]
    phi = {name: p.detach().clone() for name, p in model.named_parameters()}
    for n in range(3):
        (x, y), (xq, yq) = one_task(tasks, n)
        model.load_state_dict(phi)
        adam = torch.optim.Adam(model.parameters(), lr=0.01)
        for inputs, targets in ((x, y), (x, y), (xq, yq)):
            adam.zero_grad()
            F.cross_entropy(model(**inputs), targets).backward()
            if inputs is x:
                adam.step()
        for sum_, p in zip(total, model.parameters(), strict=True):
            sum_ += p.grad / 3
    assert relative_error(ours, total) < 1e-7  # torch adds its epsilon elsewhere


def test_bad_sentences_are_named() -> None:
    learner = MAML(Named(), inner_lr=0.1)
    tasks = word_tasks()
    tasks.support.x["input_ids"][0, 0, 0] = VOCABULARY
    with pytest.raises(ValueError, match=r"outside 0..19: .* encoded with another vocabulary"):
        learner(tasks)
    longer = Task(
        *(Batch({k: t.repeat(1, 1, 2) for k, t in x.items()}, y) for x, y in word_tasks())
    )
    with pytest.raises(ValueError, match="x has 14 places, more than positions=7"):
        learner(longer)
