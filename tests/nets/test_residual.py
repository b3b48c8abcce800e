"""The residual network: against functions of torch's, under vmap, and twice differentiated."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from metanotes import MAML
from metanotes.methods.comparison import Classifier
from metanotes.nets import ResidualBlock, feature_count, resnet
from tests.plainly import image_tasks, meta_gradient, plain_loop, relative_error, shaken


def small(**options) -> nn.Sequential:
    return shaken(resnet(5, (3, 4), size=8, convolutions=2, **options))


def test_a_block_is_its_equation():
    block, x = shaken(ResidualBlock(2, 3)), torch.randn(4, 2, 9, 9).double()
    W = dict(block.named_parameters())

    def normalized(h, where, padding):
        convolution, norm = where
        h = F.conv2d(h, W[f"{convolution}.weight"], padding=padding)
        return F.batch_norm(h, None, None, W[f"{norm}.weight"], W[f"{norm}.bias"], training=True)

    h = normalized(x, ("branch.0", "branch.1"), 1)
    h = normalized(torch.maximum(h, 0.1 * h), ("branch.3", "branch.4"), 1)
    h = normalized(torch.maximum(h, 0.1 * h), ("branch.6", "branch.7"), 1)
    h = h + normalized(x, ("shortcut.0", "shortcut.1"), 0)
    h = torch.maximum(h, 0.1 * h)[:, :, :8, :8].unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    assert torch.allclose(block(x), h, atol=1e-12)


def test_resnet_12_has_twelve_layers_and_the_weights_of_the_paper():
    model = resnet(64, in_channels=3, size=84)
    long_way = [m for name, m in model.named_modules() if "shortcut" not in name]
    assert sum(isinstance(m, nn.Conv2d) for m in long_way) == 12
    expected, n_in = 0, 3
    for n in (64, 160, 320, 640):
        expected += 9 * n_in * n + 2 * 9 * n * n + n_in * n + 4 * 2 * n
        n_in = n
    assert expected == 12_424_320
    assert sum(p.numel() for p in model.parameters()) == expected + 64 * 640 + 64
    assert not any(b.numel() for b in model.buffers())


def test_the_small_network_is_as_small_as_it_says():
    model = resnet(5, (16, 32, 64), convolutions=2)
    expected, n_in = 64 * 5 + 5, 1
    for n in (16, 32, 64):
        expected += 9 * n_in * n + 9 * n * n + n_in * n + 3 * 2 * n
        n_in = n
    assert sum(p.numel() for p in model.parameters()) == expected == 75_141
    assert feature_count(model[:-1]) == 64


def test_without_ways_it_is_the_body_of_the_same_weights():
    body, model = resnet(None, (3, 4)), resnet(5, (3, 4))
    x = torch.randn(6, 1, 28, 28)
    assert len(body) == len(model) - 1
    assert torch.equal(body(x), model[:-1](x))
    assert model[-1].in_features == feature_count(body) == 4
    assert body(x[:, :, :11, :13]).shape == (6, 4)  # other sizes do as well


def test_running_statistics_are_kept_on_request():
    model, x = resnet(5, (3, 4), running_statistics=True), torch.randn(6, 1, 28, 28)
    plain = resnet(5, (3, 4))
    assert torch.equal(model(x), plain(x))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 8
    assert all(m.num_batches_tracked == 1 for m in norms)
    model.eval()
    assert torch.allclose(model(x[:1]), model(x)[:1], atol=1e-6)
    Classifier(model)
    with pytest.raises(ValueError, match=r"running statistics.*model\.eval\(\)"):
        MAML(model.train(), inner_lr=0.1)


@pytest.mark.parametrize("mode", [True, False])
def test_tasks_with_weights_of_their_own_are_batched(mode):
    model, tasks = small().train(mode), image_tasks(size=8)
    theta = {
        name: torch.stack([p + 0.1 * torch.randn_like(p) for _ in range(3)]).detach()
        for name, p in model.named_parameters()
    }

    def loss(theta, x, y):
        return F.cross_entropy(functional_call(model, theta, (x,)), y)

    gradients = vmap(grad(loss))(theta, *tasks.support)
    for n, (x, y) in enumerate(zip(*tasks.support, strict=True)):
        alone = grad(loss)({name: t[n] for name, t in theta.items()}, x, y)
        assert all(torch.allclose(gradients[name][n], alone[name], atol=1e-10) for name in theta)


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_differentiates_through_it_as_a_plain_loop_does(first_order):
    model, tasks = small(), image_tasks(size=8)
    learner = MAML(model, inner_lr=0.1, steps=2, first_order=first_order)
    expected = plain_loop(model, tasks, 0.1, 2, F.cross_entropy, first_order)
    assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: resnet(5, size=15), "size=15 is too small for the halvings of 4 blocks: at least"),
        (lambda: resnet(5, ()), r"widths=\(\) needs"),
        (lambda: resnet(5, (3, 0)), r"widths\[1\]=0 must be"),
        (lambda: resnet(0), "ways=0 must be"),
        (lambda: resnet(5, convolutions=0), "convolutions=0 must be"),
        (lambda: resnet(5, in_channels=1.5), "in_channels=1.5 must be"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
