"""The translator: what it may see, its tied output, and what is refused."""

import pytest
import torch
from torch import nn

from metanotes.nets import Translator
from tests.plainly import shaken

SOURCE = torch.tensor([[7, 8, 9, 5], [6, 5, 0, 0]])
TARGET = torch.tensor([[1, 5, 6], [1, 7, 0]])


def small(**how) -> Translator:
    sizes = {"width": 12, "heads": 3, "layers": 2, "positions": 6, "feedforward": 10} | how
    return Translator(source_vocabulary=11, vocabulary=9, **sizes)


@pytest.fixture
def model() -> nn.Module:
    return shaken(small())


def test_the_scores_of_every_token(model) -> None:
    assert model(SOURCE, TARGET).shape == (2, 3, 9)
    assert model.positions == 6


def test_padding_changes_nothing(model) -> None:
    whole = model(SOURCE, TARGET)
    alone = model(SOURCE[1:, :2], TARGET[1:, :2])
    torch.testing.assert_close(whole[1:, :2], alone)
    wider = nn.functional.pad(SOURCE, (0, 2))
    torch.testing.assert_close(model(wider, TARGET)[:, :2], whole[:, :2])


def test_a_place_sees_the_target_so_far_and_all_of_the_source(model) -> None:
    whole = model(SOURCE, TARGET)
    other = TARGET.clone()
    other[0, 2] = 8
    changed = model(SOURCE, other)
    torch.testing.assert_close(changed[0, :2], whole[0, :2])
    assert not torch.allclose(changed[0, 2], whole[0, 2])
    source = SOURCE.clone()
    source[0, 3] = 10
    assert not torch.isclose(model(source, TARGET)[0, 0], whole[0, 0]).any()
    torch.testing.assert_close(model(source, TARGET)[1], whole[1])


def test_the_output_is_tied_to_the_embedding(model) -> None:
    assert len([n for n, p in model.named_parameters() if 9 in p.shape]) == 1
    memory = model.memory(SOURCE)
    hidden = model.hidden(TARGET, memory, SOURCE != 0)
    torch.testing.assert_close(model(SOURCE, TARGET), hidden @ model.embedding.weight.T)


def test_the_encoder_is_a_part_of_its_own(model) -> None:
    own = {n.split(".")[0] for n, _ in model.named_parameters()}
    assert own == {"encoder", "embedding", "decoder"}


def test_the_seed_decides_the_weights() -> None:
    one, same, other = (small(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(map(torch.equal, one.values(), same.values()))
    assert not torch.equal(one["embedding.weight"], other["embedding.weight"])


def test_tokens_of_another_vocabulary_are_refused(model) -> None:
    with pytest.raises(ValueError, match="another vocabulary"):
        model(SOURCE.clamp(max=8).where(SOURCE != 9, 11), TARGET)
    with pytest.raises(ValueError, match="target has tokens from 0 to 9, but the translator"):
        model(SOURCE, TARGET.clamp(max=6).where(TARGET != 7, 9))
    made = small(vocabularies=("aaa", "bbb"))
    made.check_vocabularies("aaa", "bbb")
    small().check_vocabularies("ccc", "bbb")
    with pytest.raises(ValueError, match=r"made for \('aaa', 'bbb'\)"):
        made.check_vocabularies("ccc", "bbb")


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (torch.ones(2, 7).long(), TARGET, "source has 7 places, more than positions=6"),
        (SOURCE, torch.ones(2, 7).long(), "target has 7 places, more than positions=6"),
        (SOURCE.float(), TARGET, "source has the shape .*float32"),
        (SOURCE[0], TARGET, "must be tokens"),
    ],
)
def test_what_is_no_sentence_is_refused(model, source, target, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(source, target)
