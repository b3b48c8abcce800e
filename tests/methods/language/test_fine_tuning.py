"""Fine-tuning: what moves, what is kept, and that it learns a language."""

import pytest
import torch

from metanotes import Batch
from metanotes.data import Words, generated_pairs, language, part_pairs, token_pairs
from metanotes.methods.language import dev_loss, fine_tune, token_loss
from metanotes.nets import Translator

PAIRS = generated_pairs(language("mine", seed=1), 120, seed=0)
THEIRS, OURS = Words(PAIRS.source), Words(PAIRS.english)
TRAIN, DEV = (
    token_pairs(part, THEIRS, OURS, positions=16).batch() for part in part_pairs(PAIRS, [90])
)


def small(dropout: float = 0.1) -> Translator:
    sizes = {"width": 32, "heads": 4, "layers": 1, "positions": 16, "dropout": dropout}
    return Translator(len(THEIRS), len(OURS), **sizes)


def test_the_dev_loss_is_the_mean_over_all_tokens() -> None:
    model = small().eval()
    expected = token_loss(model(**DEV.x), DEV.y).item()
    for size in (4, 7, 100):
        assert dev_loss(model.train(), DEV, size) == pytest.approx(expected, abs=1e-5)
    assert model.training


def test_what_is_frozen_stays_and_the_mode_too() -> None:
    model = small().eval()
    model.encoder.embedding.weight.requires_grad_(False)
    before = {n: p.clone() for n, p in model.named_parameters()}
    fine_tune(model, TRAIN, DEV, epochs=1)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert "encoder.embedding.weight" not in moved
    assert not model.training
    with pytest.raises(ValueError, match="is frozen"):
        fine_tune(model.requires_grad_(False), TRAIN, DEV, epochs=1)


def test_sets_without_a_sentence_are_refused() -> None:
    for sets, name in (((TRAIN, empty()), "dev"), ((empty(), DEV), "train")):
        with pytest.raises(ValueError, match=f"{name} has 0 sentences"):
            fine_tune(small(), *sets, epochs=1)


def empty() -> Batch:
    return Batch({name: t[:0] for name, t in DEV.x.items()}, DEV.y[:0])


def test_only_the_encoder_moves_unless_all_is_asked_for() -> None:
    for adapts, parts in (("encoder", {"encoder"}), (None, {"encoder", "decoder", "embedding"})):
        model = small()
        before = {n: p.clone() for n, p in model.named_parameters()}
        fine_tune(model, TRAIN, DEV, epochs=1, adapts=adapts)
        moved = {
            n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])
        }
        assert moved == parts
        assert all(p.grad is None for p in model.parameters())


def test_the_best_on_the_dev_set_is_kept() -> None:
    model = small()
    went = fine_tune(model, TRAIN, DEV, epochs=4, lr=0.5, adapts=None)  # far too fast
    assert len(went.losses) == 5
    assert went.losses[went.best] == min(went.losses)
    assert dev_loss(model, DEV) == pytest.approx(went.losses[went.best], abs=1e-5)


def test_it_learns_and_stops_when_nothing_gets_better() -> None:
    went = fine_tune(small(), TRAIN, DEV, epochs=8, lr=5e-3, size=16, adapts=None)
    assert went.losses[-1] < 0.9 * went.losses[0]
    stopped = fine_tune(small(), TRAIN, DEV, epochs=9, lr=0.5, adapts=None, patience=2)
    assert len(stopped.losses) - 1 == min(9, stopped.best + 2)


def test_the_seed_decides_all_of_it() -> None:
    first = torch.rand(1)
    torch.manual_seed(7)
    first = torch.rand(1)
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(7)
        runs.append(fine_tune(small(), TRAIN, DEV, epochs=2, seed=seed).losses)
        assert torch.equal(torch.rand(1), first)  # and it leaves no trace
    assert runs[0] == runs[1] != runs[2]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="epochs=0"):
        fine_tune(small(), TRAIN, DEV, epochs=0)
    with pytest.raises(ValueError, match="lr=-1"):
        fine_tune(small(), TRAIN, DEV, epochs=1, lr=-1)
    with pytest.raises(ValueError, match="reader"):
        fine_tune(small(), TRAIN, DEV, epochs=1, adapts="reader")


def test_sentences_without_a_token_that_counts_do_not_count() -> None:
    model = small()
    x = {"source": torch.tensor([[7, 8], [7, 9]]), "target": torch.tensor([[1, 5], [1, 5]])}
    both = Batch(x, torch.tensor([[5, 2], [-100, -100]]))
    one = Batch({name: t[:1] for name, t in x.items()}, both.y[:1])
    assert dev_loss(model, both, size=1) == pytest.approx(dev_loss(model, one))


def test_sentences_that_are_filled_up_in_front_are_refused() -> None:
    x = {"source": torch.tensor([[0, 7]]), "target": torch.tensor([[1, 5]])}
    pair = Batch(x, torch.tensor([[5, 2]]))
    with pytest.raises(ValueError, match=r"of dev.x\['source'\] has 0 in front of a token"):
        dev_loss(small(), pair)
    with pytest.raises(ValueError, match=r"of train.x\['source'\] has 0 in front of a token"):
        fine_tune(small(), pair, pair, epochs=1)


def test_every_part_of_the_model_is_left_in_its_mode() -> None:
    model = small().train()
    model.encoder.eval()
    pair = Batch(
        {"source": torch.tensor([[7, 8]]), "target": torch.tensor([[1, 5]])}, torch.tensor([[5, 2]])
    )
    dev_loss(model, pair)
    fine_tune(model, pair, pair, epochs=1)
    assert model.training
    assert not model.encoder.training
