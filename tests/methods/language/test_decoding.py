"""Decoding: greedy against a plain loop, a wide beam against every translation there is."""

from itertools import product

import pytest
import torch

from metanotes.methods.language import translate
from metanotes.nets import Translator
from tests.plainly import shaken

SOURCE = torch.tensor([[7, 8, 9, 5], [6, 5, 0, 0], [9, 0, 0, 0]])
ALLOWED = (2, 5, 6)  # the end sign and the words of a vocabulary of seven


@pytest.fixture
def model() -> Translator:
    made = Translator(11, 7, width=12, heads=3, layers=1, positions=6, dropout=0.5)
    shaken(made)
    with torch.no_grad():
        made.embedding.weight *= 3
    return made


def log_p(model: Translator, source, tokens) -> float:
    """Of a translation, with its end sign where it has one."""
    target = torch.tensor([[1, *tokens]])
    scores = model(source[None, source > 0], target[:, :-1])[0]
    scores[:, [0, 1, 3, 4]] = -torch.inf
    return float(scores.log_softmax(-1)[range(len(tokens)), tokens].sum())


@torch.no_grad()
def test_greedy_is_the_best_token_at_each_place(model: Translator) -> None:
    written = translate(model, SOURCE)
    model.eval()
    for source, row in zip(SOURCE, written.tolist(), strict=True):
        tokens: list[int] = []
        while len(tokens) < 6 and (not tokens or tokens[-1] != 2):
            tokens.append(max(ALLOWED, key=lambda t: log_p(model, source, [*tokens, t])))
        assert row == tokens + [0] * (6 - len(tokens))


@torch.no_grad()
def test_a_beam_as_wide_as_there_are_translations_finds_the_best(model: Translator) -> None:
    longest = 3
    written = translate(model, SOURCE, beams=27, longest=longest)
    model.eval()
    every = [list(p) for p in product((5, 6), repeat=longest)]
    every += [[*p, 2] for n in range(longest) for p in product((5, 6), repeat=n)]
    for source, row in zip(SOURCE, written.tolist(), strict=True):
        best = max(every, key=lambda tokens: log_p(model, source, tokens) / len(tokens))
        assert [t for t in row if t] == best


def test_the_model_is_left_as_it_was_and_batches_change_nothing(model: Translator) -> None:
    model.train()
    whole = translate(model, SOURCE, beams=2)
    assert model.training
    assert torch.equal(whole, translate(model, SOURCE, beams=2, size=1))


@pytest.mark.parametrize(
    ("source", "how", "message"),
    [
        (torch.zeros(1, 3).long(), {}, "sentence 0 is empty"),
        (torch.tensor([[5, 6], [0, 0]]), {}, "sentence 1 is empty"),
        (torch.zeros(0, 3).long(), {}, "n >= 1"),
        (SOURCE, {"beams": 0}, "beams=0"),
        (SOURCE, {"longest": 7}, "longest=7 is more than the 6 positions"),
        (torch.full((1, 7), 5), {}, "more than positions=6"),
        (torch.full((1, 2), 11), {}, "another vocabulary"),
    ],
)
def test_what_cannot_be_translated_is_refused(model, source, how, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        translate(model, source, **how)


def test_sentences_that_are_filled_up_in_front_are_refused(model: Translator) -> None:
    with pytest.raises(ValueError, match="sentence 1 of source has 0 in front of a token"):
        translate(model, torch.tensor([[7, 8, 0], [0, 7, 8]]))


def test_every_part_of_the_model_is_left_in_its_mode(model: Translator) -> None:
    model.train()
    model.encoder.eval()
    translate(model, torch.tensor([[7, 8]]), longest=2)
    assert model.training
    assert not model.encoder.training
