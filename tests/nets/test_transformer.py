"""Transformers: against torch's own, what places see, under vmap, and twice differentiated."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from metanotes import MAML, Batch, Task
from metanotes.nets import Mean, TransformerBody, token_transformer, transformer, vit
from tests.plainly import meta_gradient, plain_loop, relative_error, shaken


def body(width: int = 12, heads: int = 3, layers: int = 2, **options) -> TransformerBody:
    torch.manual_seed(0)
    return shaken(TransformerBody(width, heads, layers, **options))


def sequences(places: int = 5, width: int = 12, many: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(many, places, width, generator=torch.Generator().manual_seed(seed)).double()


# ----------------------------------------------------------------------- against torch's own


def same_attention(ours, theirs) -> None:
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())


@torch.no_grad()
def torchs(ours: TransformerBody, width: int, heads: int, feedforward: int) -> nn.Module:
    """torch's stack of layers with our weights."""
    options = {"activation": "gelu", "norm_first": True, "batch_first": True, "dropout": 0.0}
    kind = nn.TransformerDecoderLayer if ours.cross else nn.TransformerEncoderLayer
    layers = [kind(width, heads, feedforward, **options).double() for _ in ours.layers]
    for mine, layer in zip(ours.layers, layers, strict=True):
        same_attention(mine.attention, layer.self_attn)
        layer.norm1.load_state_dict(mine.norm.state_dict())
        norm, layer.linear1, _, layer.linear2, _ = mine.mlp
        (layer.norm3 if ours.cross else layer.norm2).load_state_dict(norm.state_dict())
        if ours.cross:
            same_attention(mine.cross_attention, layer.multihead_attn)
            layer.norm2.load_state_dict(mine.cross_norm.state_dict())
    return nn.ModuleList(layers)


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_torchs_encoder(causal):
    ours = body(causal=causal, feedforward=7)
    x, there = sequences(), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    z, later = x, ~torch.ones(5, 5, dtype=torch.bool).tril()
    for layer in torchs(ours, 12, 3, 7):
        z = layer(z, src_mask=later if causal else None, src_key_padding_mask=~there)
    assert torch.allclose(ours(x, there), ours.norm(z), atol=1e-12)


def test_with_cross_it_is_torchs_decoder():
    ours = body(causal=True, cross=True)
    x, source = sequences(), sequences(4, seed=1)
    there = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    z, later = x, ~torch.ones(5, 5, dtype=torch.bool).tril()
    for layer in torchs(ours, 12, 3, 48):
        z = layer(z, source, tgt_mask=later, memory_key_padding_mask=~there.bool())
    assert torch.allclose(ours(x, source=source, source_mask=there), ours.norm(z), atol=1e-12)


def test_positions_are_added():
    ours, x = body(positions=9), sequences()
    plain = body(positions=9)
    plain.positions = None
    assert torch.equal(ours(x), plain(x + ours.positions[:5]))


# ------------------------------------------------------------------------- what places see


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"positions": 5}])
def test_padding_changes_nothing_that_is_there(options):
    model, there = body(**options), torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]]).bool()
    x, other = sequences(), sequences(seed=1)
    z = model(x, there)
    changed = torch.where(there[..., None], x, 1e3 * other)
    assert torch.equal(model(changed, there)[there], z[there])
    assert not torch.allclose(model(x)[there], z[there])
    if not options.get("positions"):  # it is as if padding had been cut out
        alone = model(x[:1, there[0]])
        assert torch.allclose(alone[0], z[0, there[0]], atol=1e-12)


def test_causal_places_do_not_see_later_ones():
    model, x = body(causal=True), sequences().requires_grad_()
    for i in range(5):
        (gradient,) = torch.autograd.grad(model(x)[:, i].sum(), x)
        seen = gradient.abs().sum((0, 2)) > 0
        assert seen.tolist() == [j <= i for j in range(5)]
    assert torch.allclose(model(x)[:, :3], model(x[:, :3]), atol=1e-12)


def test_queries_see_the_support_set_and_themselves_only():
    shots, queries = 3, 4
    model, x = body(), sequences(shots + queries)
    visible = torch.eye(shots + queries, dtype=torch.bool)
    visible[:, :shots] = True
    together = model(x, visible=visible)
    for q in range(shots, shots + queries):
        alone = model(torch.cat([x[:, :shots], x[:, q : q + 1]], 1), visible=visible[:4, :4])
        assert torch.allclose(alone[:, -1], together[:, q], atol=1e-12)


def test_without_positions_it_knows_no_order():
    model, x, order = body(), sequences(), torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(model(x[:, order]), model(x)[:, order], atol=1e-12)
    model = body(positions=5)
    assert not torch.allclose(model(x[:, order]), model(x)[:, order], atol=1e-3)


def test_the_mean_is_of_the_places_that_are_there():
    x, at = sequences(), torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    assert torch.allclose(Mean(12)(x), x.sum(1) / 5)
    means = Mean(12)(x, at)
    assert torch.allclose(means[0], (x[0, 1] + x[0, 2]) / 2)
    assert torch.equal(means[1], torch.zeros(12).double())
    assert torch.equal(Mean(12)(x, at.bool()), means)


# -------------------------------------------------------------------- tasks, and derivatives


class Decoder(nn.Module):
    """Looks from the second half of a sequence at the first, whose last place is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.body = TransformerBody(4, 2, 2, causal=True, cross=True, positions=3)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        there = torch.tensor([1, 1, 0]).expand(len(x), 3)
        return self.head(self.body(x[:, 3:], source=x[:, :3], source_mask=there)[:, -1])


NETS = {
    "vectors": lambda: transformer(4, 3, 8, 2, 2, mean=True, feedforward=10),
    "causal": lambda: transformer(4, 3, 8, 2, 2, mean=True, causal=True, positions=6),
    "tokens": lambda: token_transformer(3, 9, 6, 8, 2, 2),
    "one token": lambda: token_transformer(3, 9, 6, 8, 2, 2, pool=1),
    "decoder": Decoder,
    "image": lambda: vit(3, 2, 2, 4, 8, 2, 2),
}


def tasks_for(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Support and query sets of 3 tasks."""
    g = torch.Generator().manual_seed(5)

    def inputs(many: int) -> Tensor:
        if "token" in name:
            x = torch.randint(1, 9, (3, many, 6), generator=g)
            x[..., 0] = 1
            x[:, 0, 4:] = 0  # padding
            return x
        shape = (2, 4, 4) if name == "image" else (6, 4)
        return torch.randn(3, many, *shape, generator=g).double()

    y, yq = (torch.randint(3, (3, many), generator=g) for many in (5, 2))
    return inputs(5), y, inputs(2), yq


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_tasks_with_weights_of_their_own_are_batched(name, mode, capfd):
    model, (x, _, _, _) = shaken(NETS[name]()).train(mode), tasks_for(name)
    theta = {
        key: torch.stack([p + 0.1 * torch.randn_like(p) for _ in range(3)]).detach()
        for key, p in model.named_parameters()
    }
    together = vmap(lambda theta, x: functional_call(model, theta, (x,)))(theta, x)
    for n in range(3):
        alone = functional_call(model, {key: t[n] for key, t in theta.items()}, (x[n],))
        assert torch.allclose(together[n], alone, atol=1e-12)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_the_gradient_through_inner_steps_is_that_of_a_plain_loop(name, mode, capfd):
    model, tasks = shaken(NETS[name]()).train(mode), tasks_for(name)
    phi = {key: p.detach() for key, p in model.named_parameters()}

    def loss(theta, x, y):
        return F.cross_entropy(functional_call(model, theta, (x,)), y)

    def after_learning(phi, x, y, xq, yq):
        theta = phi
        for _ in range(2):
            gradient = grad(loss)(theta, x, y)
            theta = {key: t - 0.3 * gradient[key] for key, t in theta.items()}
        return loss(theta, xq, yq)

    def mean_loss(phi):
        return vmap(after_learning, in_dims=(None, 0, 0, 0, 0))(phi, *tasks).mean()

    gradient = grad(mean_loss)(phi)

    total = torch.zeros(()).double()
    start = dict(model.named_parameters())
    for x, y, xq, yq in zip(*tasks, strict=True):
        theta = start
        for _ in range(2):
            steps = torch.autograd.grad(loss(theta, x, y), list(theta.values()), create_graph=True)
            theta = {
                key: t - 0.3 * step for (key, t), step in zip(theta.items(), steps, strict=True)
            }
        total = total + loss(theta, xq, yq) / 3
    expected = torch.autograd.grad(total, list(start.values()))
    assert relative_error(gradient.values(), expected) < 1e-10
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", ["tokens", "decoder", "image"])
def test_maml_differentiates_through_it_as_a_plain_loop_does(name, mode):
    x, y, xq, yq = tasks_for(name)
    model, tasks = shaken(NETS[name]()), Task(Batch(x, y), Batch(xq, yq))
    learner = MAML(model, inner_lr=0.1, steps=3).train(mode)
    expected = plain_loop(model, tasks, 0.1, 3, F.cross_entropy)
    assert relative_error(meta_gradient(learner, tasks), expected) < 1e-10


def test_padding_has_no_gradient_in_any_order():
    model, x = body(), sequences().requires_grad_()
    there = torch.tensor([[1, 1, 1, 0, 0]] * 2).bool()
    (first,) = torch.autograd.grad(model(x, there)[there].square().sum(), x, create_graph=True)
    assert torch.equal(first[~there], torch.zeros_like(first[~there]))
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert torch.equal(second[~there], torch.zeros_like(second[~there]))
    assert second[there].abs().min() > 0


def test_dropout_draws_in_training_only_and_for_each_task():
    model, x = transformer(4, 3, 8, 2, 2, dropout=0.5), torch.randn(2, 6, 4)
    assert not torch.equal(model(x), model(x))
    many = vmap(model, randomness="different")(torch.stack([x, x]))
    assert not torch.equal(many[0], many[1])
    model.eval()
    assert torch.equal(model(x), model(x))
    assert torch.equal(model(x), transformer(4, 3, 8, 2, 2)(x))  # nothing of it in the weights


# -------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        ({}, 0),
        ({"causal": True, "dropout": 0.1}, 0),
        ({"positions": 7}, 7 * 12),
        ({"feedforward": 5}, -2 * (48 - 5) * (12 + 12 + 1)),
        ({"cross": True}, 2 * (2 * 12 + 4 * 12 * 13)),
    ],
)
def test_the_number_of_weights(options, extra):
    layer = 2 * 2 * 12 + 4 * 12 * 13 + 12 * 48 + 48 + 48 * 12 + 12
    count = sum(p.numel() for p in TransformerBody(12, 3, 2, **options).parameters())
    assert count == 2 * layer + 2 * 12 + extra


def test_the_networks_have_as_many_weights_as_ever():
    recipe = transformer(3, 1, feedforward=128)  # of in-context learning
    nets = [recipe, transformer(3), vit(5), token_transformer(5, 6000, 16)]
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == [
        100_865,
        150_336,
        154_629,
        1_365_765,
    ]


def test_heads_are_left_out_on_request():
    x = torch.randn(2, 6, 4)
    model, alone = transformer(4, 3, 8, 2, 1), transformer(4, None, 8, 2, 1)
    assert model(x).shape == (2, 6, 3)
    assert torch.equal(model[:-1](x), alone(x))
    assert isinstance(model[-1], nn.Linear)
    assert transformer(4, 3, 8, 2, 1, mean=True)(x).shape == (2, 3)
    assert torch.equal(transformer(4, None, 8, 2, 1, mean=True)(x), alone(x).mean(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TransformerBody(10, 4, 2), "width=10 must be a multiple of heads=4"),
        (lambda: TransformerBody(8, 4, 0), "layers=0 must be"),
        (lambda: TransformerBody(8, 4, 1, dropout=1.0), r"dropout=1.0 must be in \[0, 1\)"),
        (lambda: TransformerBody(8, 4, 1, positions=0), "positions=0 must be"),
        (lambda: TransformerBody(8, 4, 1, feedforward=2.5), "feedforward=2.5 must be"),
        (lambda: transformer(0), "inputs=0 must be"),
        (lambda: transformer(3, 0), "outputs=0 must be"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "inputs", "message"),
    [
        ({}, {"x": torch.zeros(2, 3, 5)}, r"x has the shape \[2, 3, 5\]; .* \[N, places, 8\]"),
        ({}, {"x": torch.zeros(3, 8)}, r"x has the shape \[3, 8\]"),
        ({"positions": 2}, {"x": torch.zeros(2, 3, 8)}, "x has 3 places, more than positions=2"),
        ({"cross": True}, {"x": torch.zeros(2, 3, 8)}, "source=None: .* cross=True takes a second"),
        ({}, {"x": torch.zeros(2, 3, 8), "source": torch.zeros(2, 3, 8)}, "cross=False takes none"),
        (
            {"cross": True},
            {"x": torch.zeros(2, 3, 8), "source": torch.zeros(2, 3, 9)},
            r"source has the shape \[2, 3, 9\]",
        ),
        ({}, {"x": torch.zeros(2, 3, 8), "attention_mask": torch.ones(2, 3)}, "attention_mask is"),
    ],
)
def test_bad_inputs_are_named(options, inputs, message):
    with pytest.raises(ValueError, match=message):
        TransformerBody(8, 2, 1, **options)(**inputs)
