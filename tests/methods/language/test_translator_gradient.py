"""The meta-gradient of a translator, with padding, beside a plain loop in float64."""

from functools import partial

import pytest
import torch
from torch.func import functional_call

from metanotes import MAML, SGD, Adam, InnerLoopLearner, Reptile
from metanotes.data import Words, generated_pairs, language, token_pairs, translation_tasks
from metanotes.methods.language import token_loss
from metanotes.nets import Translator
from tests.plainly import shaken

PAIRS = {n: generated_pairs(language(n, f, seed=f), 30, seed=f) for f, n in enumerate("abc")}
THEIRS = Words(s for pairs in PAIRS.values() for s in pairs.source)
OURS = Words(s for pairs in PAIRS.values() for s in pairs.english)
DATA = {n: token_pairs(pairs, THEIRS, OURS, positions=16) for n, pairs in PAIRS.items()}
LOSS = partial(token_loss, smoothing=0.1)


def small() -> Translator:
    sizes = {"width": 8, "heads": 2, "layers": 1, "positions": 16, "feedforward": 6}
    model = Translator(len(THEIRS), len(OURS), **sizes)
    shaken(model)
    return model


def tasks(support: int = 4, queries: int = 3):
    drawn = translation_tasks(DATA, support, queries, seed=0)(2)
    assert (drawn.support.y == -100).any()
    assert (drawn.support.x["source"] == 0).any()
    return drawn


def sgd(theta, grads, state, lr=0.3):
    return {n: t - lr * g for (n, t), g in zip(theta.items(), grads, strict=True)}, state


def adam(theta, grads, state, lr=0.01, betas=(0.9, 0.999), eps=1e-8):
    """Kingma and Ba's algorithm 1."""
    step, m, v = state or (0, dict.fromkeys(theta, 0.0), dict.fromkeys(theta, 0.0))
    step += 1
    new = {}
    for (n, t), g in zip(theta.items(), grads, strict=True):
        m[n] = betas[0] * m[n] + (1 - betas[0]) * g
        v[n] = betas[1] * v[n] + (1 - betas[1]) * g * g
        scale = (v[n] / (1 - betas[1] ** step) + (1e-8 * eps) ** 2).sqrt() + eps
        new[n] = t - lr * m[n] / (1 - betas[0] ** step) / scale
    return new, (step, m, v)


def plain_losses(model, drawn, rule, steps, first_order, adapts, size):
    """Task by task, step by step, as one would write it first."""
    own = dict(model.named_parameters())
    losses = []
    for n in range(len(drawn.support.y)):
        x, y = {k: t[n] for k, t in drawn.support.x.items()}, drawn.support.y[n]
        theta = {k: p for k, p in own.items() if adapts is None or k.startswith(adapts)}
        state = None
        for step in range(steps):
            rows = slice(None) if size is None else slice(size * step, size * (step + 1))
            part = {k: t[rows] for k, t in x.items()}
            value = LOSS(functional_call(model, theta, (), part), y[rows])
            grads = torch.autograd.grad(value, list(theta.values()), create_graph=not first_order)
            theta, state = rule(theta, grads, state)
        xq = {k: t[n] for k, t in drawn.query.x.items()}
        losses.append(LOSS(functional_call(model, theta, (), xq), drawn.query.y[n]))
    return torch.stack(losses)


@pytest.mark.parametrize("adapts", [None, "encoder"])
@pytest.mark.parametrize("first_order", [False, True])
def test_the_gradient_of_maml(first_order: bool, adapts: str | None) -> None:
    model, drawn = small(), tasks()
    learner = MAML(model, 0.3, steps=2, loss=LOSS, first_order=first_order, adapts=adapts)
    losses = learner(drawn)
    losses.mean().backward()
    plain = plain_losses(model, drawn, sgd, 2, first_order, adapts, None)
    torch.testing.assert_close(losses, plain, rtol=1e-10, atol=1e-12)
    expected = torch.autograd.grad(plain.mean(), list(model.parameters()))
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("first_order", [False, True])
def test_the_gradient_with_adam_inside_on_fresh_minibatches(first_order: bool) -> None:
    model, drawn = small(), tasks()
    how = {"loss": LOSS, "first_order": first_order, "adapts": "encoder"}
    learner = InnerLoopLearner(model, Adam(lr=0.01), 2, batch=2, **how)
    torch.manual_seed(3)
    losses = learner(drawn)
    losses.mean().backward()
    torch.manual_seed(3)
    order = torch.rand(2, 4).argsort(1)  # the order that the learner drew
    task = torch.arange(2)[:, None]
    x = {k: t[task, order] for k, t in drawn.support.x.items()}
    drawn = drawn._replace(support=drawn.support._replace(x=x, y=drawn.support.y[task, order]))
    plain = plain_losses(model, drawn, adam, 2, first_order, "encoder", 2)
    torch.testing.assert_close(losses, plain, rtol=1e-9, atol=1e-10)
    expected = torch.autograd.grad(plain.mean(), list(model.parameters()))
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-10, atol=1e-10)


def test_the_direction_of_reptile() -> None:
    model, drawn = small(), tasks(3, 3)
    learner = Reptile(model, SGD(lr=0.3), steps=3, loss=LOSS)
    learner(drawn).mean().backward()
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    ends = []
    for n in range(2):
        x = {k: torch.cat([drawn.support.x[k][n], drawn.query.x[k][n]]) for k in drawn.query.x}
        y = torch.cat([drawn.support.y[n], drawn.query.y[n]])
        theta = {k: p.clone().requires_grad_() for k, p in start.items()}
        for _ in range(3):
            value = LOSS(functional_call(model, theta, (), x), y)
            theta, _ = sgd(theta, torch.autograd.grad(value, list(theta.values())), None)
        ends.append(theta)
    for name, p in model.named_parameters():
        direction = sum(start[name] - end[name] for end in ends) / 2
        torch.testing.assert_close(p.grad, direction.detach(), rtol=1e-10, atol=1e-12)


def test_what_fills_up_a_row_changes_no_gradient() -> None:
    model, drawn = small(), tasks()
    learner = MAML(model, 0.3, loss=LOSS)
    gradients = []
    for more in (0, 2):
        model.zero_grad()
        wide = [
            batch._replace(
                x={k: torch.nn.functional.pad(t, (0, more)) for k, t in batch.x.items()},
                y=torch.nn.functional.pad(batch.y, (0, more), value=-100),
            )
            for batch in drawn
        ]
        learner(drawn._replace(support=wide[0], query=wide[1])).mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one[: len(other)], other, rtol=1e-10, atol=1e-12)
