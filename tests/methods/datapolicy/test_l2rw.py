"""L2RW against inner products of gradients, one example at a time."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metanotes import L2RW, Batch, MetaWeightNet, Task, cross_entropy, evaluate, meta_train, mse
from metanotes.methods.language import token_loss
from tests.methods.datapolicy.minibatches import losses_of_each, minibatches, net


def gradient(model, x, y, loss=cross_entropy):
    grads = torch.autograd.grad(loss(model(x), y), list(model.parameters()))
    return torch.cat([g.flatten() for g in grads])


def expected_weights(model, tasks, loss=cross_entropy):
    rows = []
    for x, y, x_val, y_val in zip(*tasks.support, *tasks.query, strict=True):
        clean = gradient(model, x_val, y_val, loss)
        alone = [gradient(model, x[i : i + 1], y[i : i + 1], loss) @ clean for i in range(len(x))]
        w = torch.stack(alone).clamp(min=0)
        rows.append(w / w.sum())
    return torch.stack(rows)


def model_for(tasks):
    model = net()
    model(tasks.support.x[0])
    return model


def test_weights_are_the_clamped_inner_products_of_gradients():
    tasks = minibatches()
    model = model_for(tasks)
    w = L2RW(model).weights(tasks)
    right = expected_weights(model, tasks)
    assert (right == 0).any()  # the clamp is seen
    assert (right > 0).any()
    torch.testing.assert_close(w, right, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(w.sum(1), torch.ones(2).double())
    assert not w.requires_grad


def test_weights_are_those_of_the_step_ahead():
    """Equation (1) as the paper has it, by central differences in eps."""
    tasks = minibatches(T=1)
    model = model_for(tasks)
    (x, y), (x_val, y_val) = (Batch(*(t[0] for t in part)) for part in tasks)
    names, theta = zip(*model.named_parameters(), strict=True)

    def ahead(eps):
        losses = F.cross_entropy(model(x), y, reduction="none")
        g = torch.autograd.grad(eps @ losses, theta)
        moved = {n: p - 0.3 * d for n, p, d in zip(names, theta, g, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, moved, (x_val,)), y_val)

    h, eye = 1e-5, torch.eye(len(y)).double()
    slopes = torch.stack([(ahead(h * e) - ahead(-h * e)) / (2 * h) for e in eye])
    w = (-slopes).clamp(min=0)
    torch.testing.assert_close(
        L2RW(model).weights(tasks)[0], w / w.sum(), rtol=1e-6, atol=1e-8, check_dtype=False
    )


def test_real_targets_are_weighted_too():
    (x, _), (x_val, _) = minibatches()
    tasks = Task(Batch(x, x[..., :3].sin()), Batch(x_val, x_val[..., :3].sin()))
    model = model_for(tasks)
    torch.testing.assert_close(
        L2RW(model, loss=mse).weights(tasks), expected_weights(model, tasks, mse)
    )


def test_its_loss_is_weighted_and_its_gradient_takes_the_weights_as_constant():
    tasks = minibatches()
    model = model_for(tasks)
    w = expected_weights(model, tasks)
    each = losses_of_each(model, tasks.support)
    losses = L2RW(model)(tasks)
    torch.testing.assert_close(losses, (w * each).sum(1))
    theta = list(model.parameters())
    right = torch.autograd.grad((w * each).sum(), theta)
    for ours, g in zip(torch.autograd.grad(losses.sum(), theta), right, strict=True):
        torch.testing.assert_close(ours, g)


def test_where_no_example_helps_all_weights_are_zero_and_the_minibatch_is_passed_over():
    x = torch.randn(1, 1, 5)  # one image, 0 in training and 1 in truth: opposite gradients
    same = Task(Batch(x, torch.zeros(1, 1).long()), Batch(x, torch.ones(1, 1).long()))
    model = nn.Linear(5, 2)
    learner = L2RW(model)
    assert learner.weights(same).tolist() == [[0.0]]
    before = [p.clone() for p in model.parameters()]
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    history = meta_train(learner, lambda T: same, 2, tasks=1, optimizer=sgd, progress=False)
    assert history.losses == [0.0, 0.0]
    assert all(map(torch.equal, before, model.parameters()))


def test_an_unused_parameter_and_a_shared_one_are_no_hindrance():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(5, 5)
            self.again = self.first
            self.head, self.idle = nn.Linear(5, 3), nn.Linear(2, 2)

        def forward(self, x):
            return self.head(self.again(self.first(x).tanh()))

    tasks, model = minibatches(), Odd().double()
    used = nn.ModuleList([model.first, model.head])
    clean = [torch.autograd.grad(cross_entropy(model(x), y), list(used.parameters()))
             for x, y in zip(*tasks.query, strict=True)]  # fmt: skip
    right = torch.zeros(2, 7).double()
    for n, (x, y) in enumerate(zip(*tasks.support, strict=True)):
        for i in range(7):
            own = torch.autograd.grad(
                cross_entropy(model(x[i : i + 1]), y[i : i + 1]), list(used.parameters())
            )
            right[n, i] = sum((a * b).sum() for a, b in zip(own, clean[n], strict=True))
    right = right.clamp(min=0)
    torch.testing.assert_close(L2RW(model).weights(tasks), right / right.sum(1, keepdim=True))


def test_running_statistics_see_the_step_and_not_the_trial():
    tasks = minibatches(T=1)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    learner = L2RW(model)
    learner.weights(tasks)
    assert model[1].num_batches_tracked == 0
    learner(tasks)
    assert model[1].num_batches_tracked == 1


def test_it_finds_flipped_labels_and_trains_through_them():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 5, generator=g)
    true = (x[:, 0] > 0).long()
    bad = torch.rand(300, generator=g) < 0.4
    clean = Batch(x[None, :40], true[None, :40])

    def sample(T):
        rows = 40 + torch.randint(200, (T, 50), generator=g)
        return Task(Batch(x[rows], (true ^ bad.long())[rows]), clean)

    learner = L2RW(nn.Linear(5, 2))
    meta_train(learner, sample, 60, tasks=1, meta_lr=0.05, progress=False)
    tasks = Task(Batch(x[None, 40:], (true ^ bad.long())[None, 40:]), clean)
    w = learner.weights(tasks)[0]
    assert w[bad[40:]].mean() < 0.5 * w[~bad[40:]].mean()
    assert evaluate(learner, Batch(x[240:], true[240:]), progress=False).mean > 0.9


def test_an_empty_validation_set_is_refused():
    (x, y), (x_val, y_val) = minibatches()
    with pytest.raises(ValueError, match=r"query.y is \[2, 0\], an empty validation set"):
        L2RW(nn.Linear(5, 3).double()).weights(Task(Batch(x, y), Batch(x_val[:, :0], y_val[:, :0])))


def test_a_validation_set_of_another_kind_is_refused():
    (x, y), (x_val, y_val) = minibatches()
    learner = L2RW(nn.Linear(5, 3).double())
    with pytest.raises(ValueError, match=r"\[5\] in the support set and \[4\] in the query set"):
        learner(Task(Batch(x, y), Batch(x_val[..., :4], y_val)))
    with pytest.raises(ValueError, match="targets of the same kind"):
        learner(Task(Batch(x, y), Batch(x_val, x_val[..., :3])))
    with pytest.raises(ValueError, match="labels run from 7 to 7"):
        learner(Task(Batch(x, y), Batch(x_val, torch.full_like(y_val, 7))))
    with pytest.raises(ValueError, match="labels run from 9 to 9"):
        learner(Task(Batch(x, torch.full_like(y, 9)), Batch(x_val, y_val)))


class Hidden(nn.Module):
    """Reaches its weight through a list, where another cannot stand for it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 5))
        self.kept = [self.weight]

    def forward(self, x):
        return x @ self.kept[0].T + 0 * self.weight.sum()


@pytest.mark.parametrize("make", [L2RW, lambda model: MetaWeightNet(model, 0.1)])
def test_a_model_that_does_not_see_what_stands_for_its_weights_is_refused(make):
    x, y = torch.randn(1, 8, 5), torch.arange(8)[None] % 3
    with pytest.raises(ValueError, match="sees its own weights"):
        make(Hidden())(Task(Batch(x, y), Batch(x, y)))
    learner = make(nn.Linear(5, 3))
    learner(Task(Batch(x, y), Batch(x, y)))
    learner.model = Hidden()
    with pytest.raises(ValueError, match="sees its own weights"):
        learner(Task(Batch(x, y), Batch(x, y)))


@pytest.mark.parametrize("make", [L2RW, lambda model, **how: MetaWeightNet(model, 0.1, **how)])
def test_a_row_that_is_padding_throughout_is_refused(make):
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))
    x = torch.randint(7, (2, 3, 5))
    y = x.roll(1, 2)
    y[:, :, 3:] = -100
    learner = make(model, loss=token_loss)
    tasks = Task(Batch(x, y), Batch(x, y))
    assert learner(tasks).isfinite().all()
    y = y.clone()
    y[1, 2] = -100
    with pytest.raises(ValueError, match="example 2 of task 1 has no target but -100"):
        learner(tasks._replace(support=Batch(x, y)))
    assert learner(tasks._replace(query=Batch(x, y))).isfinite().all()


def test_a_model_without_anything_to_train_is_refused():
    with pytest.raises(TypeError, match="model is a builtin"):
        L2RW(torch.tanh)
    with pytest.raises(ValueError, match="no parameter to train"):
        L2RW(nn.Linear(5, 3).requires_grad_(False))


def test_a_loss_that_is_no_number_for_an_example_is_refused():
    with pytest.raises(ValueError, match="not a scalar"):
        L2RW(nn.Linear(5, 3).double(), loss=lambda o, y: o.sum(0)).weights(minibatches())


WEIGHT = torch.tensor([1.0, 2.0, 5.0]).double()


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(WEIGHT), partial(nn.functional.cross_entropy, weight=WEIGHT)],
)
def test_weights_of_classes_that_would_cancel_are_refused(loss):
    for learner in (
        L2RW(nn.Linear(5, 3).double(), loss=loss),
        MetaWeightNet(nn.Linear(5, 3).double(), 0.1, loss=loss),
    ):
        with pytest.raises(ValueError, match=r"cancel in the mean over one example"):
            learner(minibatches())
    L2RW(nn.Linear(5, 3).double(), loss=nn.CrossEntropyLoss(WEIGHT, reduction="sum"))(minibatches())


@pytest.mark.parametrize("kind", [L2RW, lambda model: MetaWeightNet(model, 0.1)])
def test_a_transformer_and_inputs_by_name(kind):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.layer, self.head = layer, nn.Linear(8, 3)

        def forward(self, tokens):
            return self.head(self.layer(tokens).mean(1))

    x, y = {"tokens": torch.randn(1, 9, 4, 8)}, torch.arange(9)[None] % 3
    learner = kind(Named())
    learner(Task(Batch(x, y), Batch(x, y))).mean().backward()
    assert learner.predict(None, x).shape == (1, 9, 3)
