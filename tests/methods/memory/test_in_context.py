"""The in-context learner: what each place may see, and what does not matter."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metanotes import Batch, InContextLearner, Task, cross_entropy, evaluate, meta_train
from metanotes.data import sinusoid
from tests.methods.memory.sets import (
    assert_same_losses_and_gradient,
    labelled_tasks,
    shuffled,
    vector_tasks,
)


def learner_64(**settings) -> InContextLearner:
    defaults = {"inputs": 2, "outputs": 3, "width": 8, "heads": 2, "layers": 2}
    return InContextLearner(**{**defaults, **settings}).double()


def layer_by_hand(layer, x, seen):
    """A layer on the places x `[L, width]`: place i looks at the places in seen[i]."""
    z = layer.norm(x)
    attention, d = layer.attention, x.shape[1] // layer.attention.heads
    q, (k, v) = attention.query(z), attention.key_value(z).chunk(2, 1)
    taken = []
    for i, places in enumerate(seen):
        of_heads = []
        for head in range(attention.heads):
            part = slice(head * d, (head + 1) * d)
            scores = torch.stack([q[i, part] @ k[j, part] / math.sqrt(d) for j in places])
            weights = scores.exp() / scores.exp().sum()
            of_heads.append(sum(w * v[j, part] for w, j in zip(weights, places, strict=True)))
        taken.append(torch.cat(of_heads))
    x = x + attention.out(torch.stack(taken))
    return x + layer.mlp(x)


def answers_by_hand(learner, x, y, xq):
    """The answers of one task: each query read alone with the support set."""
    answers = []
    for query in xq:
        tokens = [torch.cat([a, b, a.new_ones(1)]) for a, b in zip(x, y, strict=True)]
        tokens.append(torch.cat([query, query.new_zeros(learner.outputs + 1)]))
        places = learner.embedding(torch.stack(tokens))
        support = list(range(len(x)))
        for layer in learner.transformer.layers:
            places = layer_by_hand(layer, places, [support] * len(x) + [[*support, len(x)]])
        answers.append(learner.head(learner.transformer.norm(places)[-1]))
    return torch.stack(answers)


def test_losses_and_gradient_are_those_of_a_loop_over_tasks_queries_and_places():
    learner, tasks = learner_64(), vector_tasks()
    losses = [
        (answers_by_hand(learner, x, y, xq) - yq).square().mean()
        for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True)
    ]
    assert_same_losses_and_gradient(learner, tasks, losses)


def test_labels_and_a_body():
    body = nn.Sequential(nn.Linear(2, 4), nn.Tanh())
    learner, tasks = learner_64(inputs=4, body=body, loss=cross_entropy), labelled_tasks()
    losses = [
        F.cross_entropy(answers_by_hand(learner, body(x), F.one_hot(y, 3).double(), body(xq)), yq)
        for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True)
    ]
    assert_same_losses_and_gradient(learner, tasks, losses)


def test_an_answer_depends_on_no_other_query():
    learner, (support, query) = learner_64(), vector_tasks()
    adapted = learner.adapt(support)
    x = query.x.clone().requires_grad_()
    outputs = learner.predict(adapted, x).sum((0, 2))
    for m in range(3):
        (g,) = torch.autograd.grad(outputs[m], x, retain_graph=True)
        others = [i for i in range(3) if i != m]
        assert (g[:, others] == 0).all()
        assert (g[:, m] != 0).all()


def test_the_order_of_the_examples_does_not_matter():
    learner, (support, query) = learner_64(), vector_tasks()
    ours, theirs = (
        learner.predict(learner.adapt(s), query.x) for s in (support, shuffled(support))
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("transductive", [False, True])
def test_evaluation_is_the_same_with_queries_together_or_alone(transductive):
    learner, tasks = learner_64(), vector_tasks()
    values = evaluate(learner, lambda n: tasks, 4, transductive=transductive).values
    expected = [
        (answers_by_hand(learner, x, y, xq) - yq).square().mean()
        for x, y, xq, yq in zip(*tasks.support, *tasks.query, strict=True)
    ]
    torch.testing.assert_close(values, torch.stack(expected).detach())


def test_it_learns_in_context_from_sets_of_any_size():
    learner, test = InContextLearner(1, width=32), sinusoid(10, 20, seed=9)
    before = evaluate(learner, test, 100).mean
    train = sinusoid((5, 10), 10, seed=0)
    meta_train(learner, train, 200, 32, meta_lr=3e-3, clip=10, progress=False)
    assert evaluate(learner, test, 100).mean < 0.6 * before


def test_bad_settings_are_named():
    tasks = vector_tasks()
    with pytest.raises(ValueError, match="outputs=0 must be a whole number of at least 1"):
        InContextLearner(2, outputs=0)
    with pytest.raises(ValueError, match="width=10 must be a multiple of heads=4"):
        InContextLearner(2, width=10)
    with pytest.raises(
        ValueError, match=r"an input has the shape \[2\]; this learner is for \[5\]"
    ):
        learner_64(inputs=5)(tasks)
    with pytest.raises(
        ValueError, match=r"a target has the shape \[3\]; this learner is for \[1\]"
    ):
        learner_64(outputs=1)(tasks)
    labels = labelled_tasks()
    with pytest.raises(ValueError, match=r"labels run from 0 to 2, .* 2 classes"):
        learner_64(outputs=2, loss=cross_entropy)(labels)
    x, y = labels.support.x[:, :, None], labels.support.y
    with pytest.raises(ValueError, match=r"an input has the shape \[1, 2\]"):
        learner_64()(Task(Batch(x, y), Batch(x, y)))
