from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from metanotes import Batch, NonFiniteLossError, Task, evaluate, meta_train, mse
from metanotes.data import Images, batches, domain_pairs
from metanotes.methods.domains import (
    DSN,
    DomainAdaptation,
    DomainAdversary,
    difference_loss,
    mmd,
    reversal_schedule,
    scale_invariant_mse,
)
from metanotes.nets import conv_decoder, conv_encoder, mlp


def blobs(n: int, spurious: float, seed: int) -> Images:
    """Two classes in the plane. The first coordinate tells them apart, with some noise, in every
    domain; the second tells more, but in some domains only."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    noise = torch.randn(n, 2, generator=generator) * torch.tensor([0.7, 0.3])
    x = (2.0 * y - 1)[:, None] * torch.tensor([1.0, spurious])
    return Images(x + noise, y, ("left", "right"))


def tiny(kind: type = DSN, **kwargs: object) -> DomainAdaptation:
    nets = [mlp(4, 5, 3, seed=s) for s in range(3)]
    classifier = nn.Linear(3, 2)
    if kind is DSN:
        return DSN(nets[0], classifier, nets[1], nets[2], mlp(3, 4, seed=4), **kwargs).double()
    return DomainAdaptation(nets[0], classifier, **kwargs).double()


def pair(source: int = 6, target: int = 5, tasks: int = 1) -> Task:
    generator = torch.Generator().manual_seed(0)
    x, z = (
        torch.randn(tasks, n, 4, generator=generator, dtype=torch.float64) for n in (source, target)
    )
    return Task(
        Batch(x, torch.arange(source).expand(tasks, -1) % 2),
        Batch(z, torch.full((tasks, target), -1)),
    )


def test_the_loss_of_a_dsn_is_the_weighted_sum_of_its_parts_by_definition() -> None:
    adversary = DomainAdversary(nn.Linear(3, 1))
    dsn = tiny(similarity=adversary, alpha=0.3, beta=0.2, gamma=0.7)
    tasks = pair()
    (x, y), (z, _) = (Batch(*(t[0] for t in batch)) for batch in tasks)
    shared = dsn.encoder(x), dsn.encoder(z)
    private = dsn.private_source(x), dsn.private_target(z)
    task = F.cross_entropy(dsn.classifier(shared[0]), y)
    rebuilt = [dsn.decoder(a + b) for a, b in zip(shared, private, strict=True)]
    recon = scale_invariant_mse(rebuilt[0], x) + scale_invariant_mse(rebuilt[1], z)
    difference = difference_loss(shared[0], private[0]) + difference_loss(shared[1], private[1])
    logits = adversary.net(torch.cat(shared)).squeeze(1)
    domain = torch.tensor([0.0] * 6 + [1.0] * 5, dtype=torch.float64)
    similarity = F.binary_cross_entropy_with_logits(logits, domain)
    expected = task + 0.3 * recon + 0.2 * difference + 0.7 * similarity
    assert torch.allclose(dsn(tasks), expected[None], rtol=1e-12)


def test_the_parts_are_those_of_each_task() -> None:
    dsn, tasks = tiny(similarity=mmd), pair(tasks=3)
    together = dsn(tasks)
    alone = [
        dsn(Task(*(Batch(*(t[n : n + 1] for t in batch)) for batch in tasks))) for n in range(3)
    ]
    assert together.shape == (3,)
    assert torch.allclose(together, torch.cat(alone), rtol=1e-12)


def test_source_only_does_not_look_at_the_target() -> None:
    learner, tasks = tiny(DomainAdaptation), pair()
    other = tasks._replace(query=tasks.query._replace(x=tasks.query.x + 100))
    assert torch.equal(learner(tasks), learner(other))
    y = tasks.support.y[0]
    outputs = learner.predict(None, tasks.support.x)[0]
    assert torch.allclose(learner(tasks)[0], F.cross_entropy(outputs, y), rtol=1e-12)


def test_gamma_rises_over_the_ramp_in_training_alone() -> None:
    learner = tiny(DomainAdaptation, similarity=mmd, gamma=2.0, ramp=10)
    tasks = pair()
    terms = learner.terms(tasks)
    for seen in (0, 1, 2):
        expected = terms["task"] + 2.0 * reversal_schedule(seen / 10) * terms["similarity"]
        learner.eval()
        assert torch.allclose(learner(tasks), expected, rtol=1e-12)
        learner.train()
        assert torch.allclose(learner(tasks), expected, rtol=1e-12)


@pytest.mark.parametrize("similarity", ["source only", "DANN", "DANN, flipped", "MMD"])
def test_adaptation_drops_what_holds_in_the_source_alone(similarity: str) -> None:
    source, target, test = blobs(400, 2.0, 0), blobs(400, -0.3, 1), blobs(400, -0.3, 2)
    net = mlp(4, 16, 1, seed=3)
    losses = {
        "DANN": DomainAdversary(net),
        "DANN, flipped": DomainAdversary(net, flipped=True),
        "MMD": mmd,
    }
    encoder = nn.Sequential(mlp(2, 16, 4, seed=0), nn.ReLU())
    learner = DomainAdaptation(
        encoder, mlp(4, 2, seed=1), losses.get(similarity), gamma=1.0, ramp=300
    )
    adam = torch.optim.Adam(learner.parameters(), lr=3e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 600)
    pairs = domain_pairs(source, target, 64)
    meta_train(learner, pairs, 600, 1, optimizer=adam, scheduler=falling, progress=False)
    score = evaluate(learner, batches(test, 100), tasks=10, transductive=True).mean
    assert score < 0.72 if similarity == "source only" else score > 0.8, score


def test_a_dsn_learns_through_meta_train_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    source, target = blobs(100, 2.0, 0), blobs(100, 0.0, 1)

    def fresh() -> DSN:
        nets = [mlp(2, 8, 4, seed=s) for s in range(3)]
        torch.manual_seed(0)
        adversary = DomainAdversary(nn.Linear(4, 1))
        return DSN(
            nets[0], nn.Linear(4, 2), *nets[1:], mlp(4, 2, seed=4), similarity=adversary, ramp=20
        )

    def run(learner: DSN, iterations: int, name: str) -> list[float]:
        pairs = domain_pairs(source, target, 16)
        return meta_train(
            learner, pairs, iterations, 1, checkpoint=tmp_path / name, progress=False
        ).losses

    whole, first, second = fresh(), fresh(), fresh()
    run(whole, 12, "whole")
    run(first, 5, "parts")
    losses = run(second, 12, "parts")
    assert len(losses) == 12
    assert int(second.seen) == 12
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_images_rebuilt_from_parts_of_the_code() -> None:
    nets = [conv_encoder(1, 8, widths=(2, 3), seed=s) for s in range(3)]
    dsn = DSN(nets[0], nn.Linear(12, 10), nets[1], nets[2], conv_decoder(1, 8, width=3))
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for domain, private in (("source", nets[1]), ("target", nets[2])):
        both, shared, alone = dsn.reconstruct(x, domain)
        assert torch.allclose(both, dsn.decoder(nets[0](x) + private(x)))
        assert torch.allclose(shared, dsn.decoder(nets[0](x)))
        assert torch.allclose(alone, dsn.decoder(private(x)))
        assert both.shape == x.shape
        assert not both.requires_grad
    with pytest.raises(ValueError, match=r"domain=.other."):
        dsn.reconstruct(x, "other")


def test_the_plain_reconstruction_of_the_ablation() -> None:
    dsn, tasks = tiny(reconstruction=mse), pair()
    shifted = tiny(reconstruction=mse)
    with torch.no_grad():
        shifted.decoder[-1].bias += 3.0  # off by a constant: nothing to the other loss
    parts = [learner.terms(tasks)["reconstruction"].item() for learner in (dsn, shifted)]
    assert parts[1] > parts[0] + 1
    free = [tiny(), tiny()]
    with torch.no_grad():
        free[1].decoder[-1].bias += 3.0
    parts = [learner.terms(tasks)["reconstruction"].item() for learner in free]
    assert parts[1] == pytest.approx(parts[0])


def test_labels_of_the_target_by_mistake() -> None:
    tasks = pair()
    leaked = tasks._replace(query=tasks.query._replace(y=torch.zeros_like(tasks.query.y)))
    with pytest.raises(ValueError, match=r"query\.y has labels of the target"):
        tiny()(leaked)


def test_domains_of_different_shapes() -> None:
    tasks = pair()
    other = tasks._replace(query=tasks.query._replace(x=tasks.query.x[..., :3]))
    with pytest.raises(ValueError, match=r"\[4\] and the target's \[3\]"):
        tiny()(other)


def test_an_empty_batch_and_values_that_are_none() -> None:
    with pytest.raises(ValueError, match="at least one"):
        tiny()(pair(target=0))
    tasks = pair()
    tasks.query.x[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"query\.x has NaN"):
        tiny()(tasks)


def test_a_source_without_labels() -> None:
    tasks = pair()
    bare = tasks._replace(support=tasks.support._replace(y=torch.full_like(tasks.support.y, -1)))
    with pytest.raises(ValueError, match="labels run from -1"):
        tiny()(bare)


@pytest.mark.parametrize("weight", [{"gamma": -1.0}, {"alpha": -0.1}, {"beta": float("nan")}])
def test_weights_that_are_none(weight: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(weight))}="):
        tiny(**weight)


def test_a_ramp_that_is_none() -> None:
    with pytest.raises(ValueError, match="ramp=-1"):
        tiny(ramp=-1)


def test_a_loss_that_diverges_is_told_and_leaves_phi() -> None:
    learner = DomainAdaptation(mlp(2, 8, 4), nn.Linear(4, 2), mmd, gamma=1.0)
    sgd = torch.optim.SGD(learner.parameters(), lr=1e6)
    pairs = domain_pairs(blobs(50, 2.0, 0), blobs(50, 0.0, 1), 16)
    with pytest.raises(NonFiniteLossError, match="phi is as it was"):
        meta_train(learner, pairs, 50, 1, optimizer=sgd, progress=False)
    assert all(torch.isfinite(p).all() for p in learner.parameters())


def test_a_learner_without_alignment_sees_nothing_of_the_target_in_its_statistics() -> None:
    norm = nn.BatchNorm1d(4, momentum=0.5)
    learner = DomainAdaptation(nn.Sequential(norm), nn.Linear(4, 2), None)
    source = Batch(torch.rand(1, 6, 4), torch.randint(2, (1, 6)))
    target = Batch(torch.rand(1, 6, 4) + 100, torch.full((1, 6), -1))
    learner(Task(source, target))
    torch.testing.assert_close(norm.running_mean, source.x[0].mean(0) / 2)
