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
    with pytest.raises(ValueError, match=r"source has inputs \(1, 8, 8\) and target \(3, 8, 8\)"):
        domain_pairs(grey, colour)


def test_a_domain_that_is_empty_and_a_size_of_0() -> None:
    none = Batch(torch.zeros(0, 1), torch.zeros(0).long())
    with pytest.raises(ValueError, match="example"):
        domain_pairs(numbered(5, 0), none)
    with pytest.raises(ValueError, match="size=0"):
        domain_pairs(numbered(5, 0), numbered(5, 0), size=0)


def scaled(x: torch.Tensor) -> Batch:
    return Batch(x, torch.zeros(len(x)).long())


BYTES = torch.randint(
    0, 256, (20, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def test_bytes_beside_real_numbers_on_their_scale() -> None:
    source, target = domain_pairs(scaled(BYTES), scaled(BYTES.float() / 255), size=8)(2)
    assert source.x.dtype == target.x.dtype == torch.float32
    assert target.x.max() <= 1


@pytest.mark.parametrize("x", [BYTES.float(), BYTES.float() / 127.5 - 1, BYTES.long()])
def test_bytes_beside_real_numbers_on_another_scale_are_refused(x: torch.Tensor) -> None:
    """Bytes come as 0..1, and the others as they are: a domain could be told by that alone."""
    with pytest.raises(ValueError, match=r"source.x is torch.uint8.*target.x is .*divide it by"):
        domain_pairs(scaled(BYTES), scaled(x))
    with pytest.raises(ValueError, match=r"target.x is torch.uint8.*source.x is .*divide it by"):
        domain_pairs(scaled(x), scaled(BYTES))


def test_domains_of_different_types_are_refused() -> None:
    single, double = BYTES.float() / 255, BYTES.double() / 255
    for source, target in ((single, double), (BYTES, double)):
        with pytest.raises(ValueError, match=r"source.x comes as torch.float32 and target.x as"):
            domain_pairs(scaled(source), scaled(target))
    domain_pairs(scaled(double), scaled(double))


def test_real_numbers_may_have_any_scale() -> None:
    domain_pairs(scaled(100 * BYTES.float()), scaled(BYTES.float() - 300))


def test_domains_of_texts() -> None:
    ids = torch.arange(20)[:, None].repeat(1, 3)
    texts = Batch({"input_ids": ids, "attention_mask": torch.ones(20, 3)}, torch.arange(20))
    support, query = domain_pairs(texts, texts, size=8)(2)
    assert torch.equal(support.x["input_ids"][..., 0], support.y)
    assert query.x["attention_mask"].shape == (2, 8, 3)
    other = Batch({"input_ids": ids[:, :2], "attention_mask": torch.ones(20, 3)}, texts.y)
    with pytest.raises(ValueError, match=r"source has inputs \{'input_ids': \(3,\)"):
        domain_pairs(texts, other)
