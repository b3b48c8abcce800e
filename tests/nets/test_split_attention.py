"""Split attention: its equations in a loop over groups and versions, and the network around it."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanotes import MAML
from metanotes.nets import SplitAttention, feature_count, resnest
from metanotes.nets.split_attention import SplitAttentionBlock
from tests.plainly import image_tasks, meta_gradient, plain_loop, relative_error, shaken


def normalized(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Batch normalisation of one group of channels."""
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    return (x - mean) / (var + 1e-5).sqrt() * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)


def plain(module: SplitAttention, x: Tensor) -> Tensor:
    """Group by group, version by version, from the slices of the module's weights."""
    W, K, R = dict(module.named_parameters()), module.groups, module.radix
    n_out = len(W["G.0.weight"][0]) * K
    c, part = n_out // K, x.shape[1] // (K * R)
    hidden = len(W["G.0.weight"]) // K
    out = []
    for k in range(K):
        versions = []
        for r in range(R):
            g = k * R + r
            rows = slice(g * c, (g + 1) * c)
            u = F.conv2d(x[:, g * part : (g + 1) * part], W["versions.0.weight"][rows], padding=1)
            u = normalized(u, W["versions.1.weight"][rows], W["versions.1.bias"][rows])
            versions.append(torch.maximum(u, 0.1 * u))
        s = sum(versions).mean((2, 3))  # [N, c]
        rows = slice(k * hidden, (k + 1) * hidden)
        h = (s @ W["G.0.weight"][rows, :, 0, 0].T + W["G.0.bias"][rows]).clamp(min=0)
        rows = slice(k * R * c, (k + 1) * R * c)
        scores = h @ W["G.2.weight"][rows, :, 0, 0].T + W["G.2.bias"][rows]
        scores = [scores[:, r * c : (r + 1) * c] for r in range(R)]
        weights = [s.exp() / sum(t.exp() for t in scores) for s in scores]
        if R == 1:
            weights = [1 / (1 + (-scores[0]).exp())]
        out.append(sum(a[..., None, None] * u for a, u in zip(weights, versions, strict=True)))
    return torch.cat(out, 1)


@pytest.mark.parametrize("radix", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_it_is_its_equations_group_by_group_and_version_by_version(radix, groups):
    module = shaken(SplitAttention(12, 8, radix, groups))
    x = torch.randn(5, 12, 6, 7, generator=torch.Generator().manual_seed(0)).double()
    assert module(x).shape == (5, 8, 6, 7)
    torch.testing.assert_close(module(x), plain(module, x), rtol=1e-12, atol=1e-12)


def test_the_weights_of_the_versions_of_a_channel_sum_to_one():
    module, x = shaken(SplitAttention(4, 6)), torch.randn(3, 4, 5, 5).double()
    with torch.no_grad():  # of versions that are alike, any such mean is the version itself
        conv, norm, _ = module.versions
        x = x[:, :2].repeat(1, 2, 1, 1)
        conv.weight[6:], norm.weight[6:], norm.bias[6:] = (
            conv.weight[:6].clone(),
            norm.weight[:6].clone(),
            norm.bias[:6].clone(),
        )
    torch.testing.assert_close(module(x), module.versions(x)[:, :6], rtol=1e-12, atol=1e-12)


def test_a_block_adds_a_shortcut_and_halves_the_image():
    block = shaken(SplitAttentionBlock(3, 4, 2, 1, running_statistics=False))
    x = torch.randn(4, 3, 9, 9).double()
    h = block.branch(x) + block.shortcut(x)
    h = torch.maximum(h, 0.1 * h)[:, :, :8, :8].unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    torch.testing.assert_close(block(x), h, rtol=1e-12, atol=1e-12)


def test_without_ways_it_is_the_body_of_the_same_weights():
    body, model = resnest(None, (4, 6)), resnest(5, (4, 6))
    x = torch.randn(6, 1, 28, 28)
    assert torch.equal(body(x), model[:-1](x))
    assert model[-1].in_features == feature_count(body) == 6


def test_running_statistics_are_kept_on_request():
    model = resnest(5, (4, 6), running_statistics=True)
    x = torch.randn(6, 1, 28, 28)
    assert torch.equal(model(x), resnest(5, (4, 6))(x))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 6
    assert all(m.num_batches_tracked == 1 for m in norms)
    model.eval()
    assert torch.allclose(model(x[:1]), model(x)[:1], atol=1e-6)


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_differentiates_through_it_as_a_plain_loop_does(first_order):
    model, tasks = shaken(resnest(5, (4, 6), size=8)), image_tasks(size=8)
    learner = MAML(model, inner_lr=0.1, steps=2, first_order=first_order)
    expected = plain_loop(model, tasks, 0.1, 2, F.cross_entropy, first_order)
    assert relative_error(meta_gradient(learner, tasks), expected) < 1e-9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SplitAttention(6, 8, radix=4), "n_in=6 channels cannot be parted into 4"),
        (lambda: SplitAttention(8, 7, groups=2), "n_out=7 channels cannot be parted into 2"),
        (lambda: SplitAttention(8, 8, radix=0), "radix=0 must be"),
        (lambda: resnest(5, (4, 5)), "n_in=5 channels cannot be parted into 2"),
        (lambda: resnest(5, size=7), "size=7 is too small for the halvings of 3 blocks"),
        (lambda: resnest(5, ()), r"widths=\(\) needs"),
        (lambda: resnest(0), "ways=0 must be"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
