import pytest
import torch

from metanotes import Batch
from metanotes.data import domain_pairs


def numbered(n: int, start: float, dtype: torch.dtype = torch.float32) -> Batch:
    x = (start + torch.arange(n))[:, None].to(dtype)
    return Batch(x, torch.arange(n) % 10)


def test_a_pair_is_of_both_domains_and_the_targets_labels_are_hidden() -> None:
    support, query = domain_pairs(numbered(50, 0), numbered(30, 1000), size=16)(3)
    assert support.x.shape == query.x.shape == (3, 16, 1)
    assert torch.equal(support.y, support.x[..., 0].long() % 10)
    assert (support.x < 50).all()
    assert (query.x >= 1000).all()
    assert (query.x < 1030).all()
    assert query.y.shape == (3, 16)
    assert (query.y == -1).all()


def test_every_example_is_drawn_alike_and_the_domains_apart() -> None:
    support, query = domain_pairs(numbered(10, 0), numbered(10, 0), size=1000)(10)
    for x in (support.x, query.x):
        counts = torch.bincount(x.long().flatten(), minlength=10)
        assert (counts - 1000).abs().max() < 150
    assert (support.x == query.x).double().mean() < 0.15


def test_bytes_become_numbers_in_0_to_1() -> None:
    images = numbered(256, 0, torch.uint8)
    support, query = domain_pairs(images, images, size=64)(1)
    assert support.x.dtype == torch.float32
    assert query.x.max() <= 1
    assert torch.equal((support.x[..., 0] * 255).round().long() % 10, support.y)


def test_the_seed_decides_and_the_stream_resumes() -> None:
    domains = numbered(50, 0), numbered(30, 1000)
    a, b, c = (domain_pairs(*domains, seed=s) for s in (0, 0, 1))
    first = a(2)
    assert torch.equal(first.query.x, b(2).query.x)
    assert not torch.equal(first.query.x, c(2).query.x)
    state = a.state_dict()
    after = a(1)
    b.load_state_dict(state)
    assert torch.equal(b(1).query.x, after.query.x)
    assert torch.equal(a.restarted()(2).support.x, first.support.x)


def test_domains_of_different_shapes() -> None:
    grey, colour = (Batch(torch.zeros(5, c, 8, 8), torch.zeros(5).long()) for c in (1, 3))
    with pytest.raises(ValueError, match=r"source has inputs \[1, 8, 8\] and target \[3, 8, 8\]"):
        domain_pairs(grey, colour)


def test_a_domain_that_is_empty_and_a_size_of_0() -> None:
    none = Batch(torch.zeros(0, 1), torch.zeros(0).long())
    with pytest.raises(ValueError, match="example"):
        domain_pairs(numbered(5, 0), none)
    with pytest.raises(ValueError, match="size=0"):
        domain_pairs(numbered(5, 0), numbered(5, 0), size=0)
