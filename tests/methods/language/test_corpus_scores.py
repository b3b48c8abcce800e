"""BLEU and chrF of a test set: sacrebleu's own figures, and intervals that hold the truth."""

import pytest
import sacrebleu
import torch

from metanotes.data import english, meanings
from metanotes.methods.language import bleu, chrf, paired_difference

RIGHT = [english(m) for m in meanings(60, seed=0)]


def spoiled(sentences: list[str], share: float, seed: int) -> list[str]:
    """Some words left out, and a sentence of nothing."""
    g = torch.Generator().manual_seed(seed)
    return [
        " ".join(w for w in s.split() if float(torch.rand((), generator=g)) > share)
        for s in sentences[:-1]
    ] + [""]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
def test_they_are_the_figures_of_sacrebleu(share: float) -> None:
    said = spoiled(RIGHT, share, seed=1)
    assert bleu(said, RIGHT).mean == pytest.approx(sacrebleu.corpus_bleu(said, [RIGHT]).score)
    assert chrf(said, RIGHT).mean == pytest.approx(sacrebleu.corpus_chrf(said, [RIGHT]).score)


def test_short_sentences_and_other_letters_are_sacrebleus_too() -> None:
    said, right = (
        ["ein Haus", "a", "", "中文", "so!"],
        ["ein haus", "ab", "x", "中 文 字", "so long ."],
    )
    assert bleu(said, right).mean == pytest.approx(sacrebleu.corpus_bleu(said, [right]).score)
    assert chrf(said, right).mean == pytest.approx(sacrebleu.corpus_chrf(said, [right]).score)


@pytest.mark.parametrize("metric", [bleu, chrf])
def test_a_score_of_whole_corpora_drawn_anew(metric) -> None:
    said = spoiled(RIGHT, 0.3, seed=2)
    score = metric(said, RIGHT)
    drawn = score.resampled(resamples=3, seed=5)
    rows = [torch.randint(60, (60,), generator=g5) for g5 in [torch.Generator().manual_seed(5)] * 3]
    for value, chosen in zip(drawn.tolist(), rows, strict=True):
        again = metric([said[n] for n in chosen], [RIGHT[n] for n in chosen])
        assert value == pytest.approx(again.mean)
    assert 0 < score.ci95 < 15
    assert str(score).endswith("(60 sentences)")


@pytest.mark.parametrize("metric", [bleu, chrf])
def test_a_difference_is_paired(metric) -> None:
    better, worse = (metric(spoiled(RIGHT, share, seed=3), RIGHT) for share in (0.2, 0.3))
    gain = paired_difference(better, worse)
    assert gain.mean == pytest.approx(better.mean - worse.mean)
    assert gain.low < gain.mean < gain.high
    none = paired_difference(better, better)
    assert none.mean == none.low == none.high == 0


def test_what_is_no_pair_is_refused() -> None:
    said = spoiled(RIGHT, 0.3, seed=2)
    with pytest.raises(ValueError, match="no pair"):
        paired_difference(bleu(said, RIGHT), chrf(said, RIGHT))
    with pytest.raises(ValueError, match="no pair"):
        paired_difference(bleu(said, RIGHT), bleu(said[1:], RIGHT[1:]))
    with pytest.raises(ValueError, match="59 translations for 60 references"):
        bleu(said[1:], RIGHT)
    with pytest.raises(ValueError, match="a reference is empty"):
        chrf(["a"], [" "])


def test_without_a_sequence_of_four_they_are_sacrebleus_too() -> None:
    ours, right = (
        ["the cat is on a mat", "he sees dogs"],
        ["the cat was on the mat", "he saw a dog"],
    )
    theirs = sacrebleu.metrics.BLEU().corpus_score(ours, [right]).score
    assert bleu(ours, right).mean == pytest.approx(theirs)
    assert theirs > 1


def test_a_reference_of_few_letters_is_sacrebleus_too() -> None:
    ours, right = ["yes indeed", "the cat sat down here"], ["yes", "the cat sat down there"]
    theirs = sacrebleu.metrics.CHRF().corpus_score(ours, [right]).score
    assert chrf(ours, right).mean == pytest.approx(theirs)
