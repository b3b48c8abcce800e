"""BLEU and chrF of a test set, as sacrebleu counts them, with intervals over its sentences.

    BLEU = min(1, e^(1 - r / c)) (p_1 p_2 p_3 p_4)^(1/4)

p_n is the share of the translations' sequences of n words that stand in the reference, over the
whole test set, c the words of the translations and r those of the references. It is no mean over
sentences: its interval comes from drawing sentences anew, with replacement, and counting again
(the bootstrap, Koehn 2004). For a difference of two systems both get the same sentences each time.

Sources: Papineni et al., "BLEU", ACL 2002; Popović, "chrF", WMT 2015; Koehn, "Statistical
Significance Tests for Machine Translation Evaluation", EMNLP 2004; Post, "A Call for Clarity in
Reporting BLEU Scores", WMT 2018 (sacrebleu).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metanotes.evaluation import Score

RESAMPLES = 1000


@dataclass(frozen=True)
class CorpusScore(Score):
    """A score of a whole test set, made of counts of its sentences.

    Args:
        values: the counts, `[sentences, counts]`.
        metric: "BLEU" or "chrF".
        transductive: always false.
        of: "sentences".

    >>> score = bleu(["the cat sat down here"] * 4, ["the cat sat down there"] * 4)
    >>> print(score)
    66.9 ± 0.0 BLEU (4 sentences)
    """

    @property
    def mean(self) -> float:
        """The score of all sentences together, 0 to 100."""
        return _score_of(self.metric, self.values.sum(0))

    @property
    def ci95(self) -> float:
        """Half the width of its 95 % interval, by the bootstrap."""
        low, high = interval(self.resampled())
        return (high - low) / 2

    def resampled(self, resamples: int = RESAMPLES, seed: int = 0) -> Tensor:
        """The score of so many test sets drawn from this one: `[resamples]`."""
        n = len(self.values)
        g = torch.Generator("cpu").manual_seed(seed)
        times = torch.stack(
            [torch.randint(n, (n,), generator=g).bincount(minlength=n) for _ in range(resamples)]
        )
        sums = times.to(self.values) @ self.values  # [resamples, counts]
        scores = [_score_of(self.metric, row) for row in sums]
        return torch.tensor(scores, dtype=torch.float64, device="cpu")

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.ci95:.1f} {self.metric} ({len(self.values)} {self.of})"


@dataclass(frozen=True)
class Difference:
    """One system minus another on the same sentences.

    Args:
        mean: of the scores of the whole test set.
        low, high: its 95 % interval, by the paired bootstrap.

    >>> print(Difference(1.25, -0.5, 3.0))
    1.2 [-0.5, 3.0]
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


def interval(scores: Tensor) -> tuple[float, float]:
    """The middle 95 % of some resampled scores.

    >>> interval(torch.arange(0.0, 101.0))
    (2.5, 97.5)
    """
    low, high = torch.quantile(scores, scores.new_tensor([0.025, 0.975])).tolist()
    return low, high


def paired_difference(first: CorpusScore, second: CorpusScore) -> Difference:
    """How much better the first is than the second, with its interval.

    Args:
        first, second: of the same metric, on the same sentences in the same order.

    Raises:
        ValueError: of two metrics, or of other numbers of sentences.

    >>> said, right = ["the cat sat down here"] * 9, ["the cat sat down there"] * 9
    >>> print(paired_difference(bleu(right, right), bleu(said, right)))
    33.1 [33.1, 33.1]
    """
    if first.metric != second.metric or len(first.values) != len(second.values):
        raise ValueError(
            f"{first.metric} of {len(first.values)} sentences and {second.metric} of "
            f"{len(second.values)} are no pair: score both systems on the same sentences"
        )
    low, high = interval(first.resampled() - second.resampled())
    return Difference(first.mean - second.mean, low, high)


def bleu(translations: Sequence[str], references: Sequence[str]) -> CorpusScore:
    """BLEU of a test set, by sacrebleu with its defaults.

    Args:
        translations: of each sentence; an empty one counts as such.
        references: as many, none empty.

    Raises:
        ImportError: sacrebleu is not there; says how to install it.
        ValueError: no sentence, other numbers of them, or an empty reference.

    >>> bleu(["it is a small test of a few words"], ["it is a small test of some words"]).mean > 40
    True
    """
    _check(translations, references)
    metric = _sacrebleu().BLEU(effective_order=True)
    rows = []
    for ours, theirs in zip(translations, references, strict=True):
        one = metric.sentence_score(ours, [theirs])
        rows.append([*one.counts, *one.totals, one.sys_len, one.ref_len])
    return _corpus(rows, "BLEU")


def chrf(translations: Sequence[str], references: Sequence[str]) -> CorpusScore:
    """chrF of a test set: sequences of letters in place of words, by sacrebleu's definition.

    Arguments and errors are those of `bleu`.

    >>> chrf(["the cats"], ["the cat"]).mean > chrf(["a dog"], ["the cat"]).mean
    True
    """
    _check(translations, references)
    metric = _sacrebleu().CHRF()
    rows = [
        _letter_counts(ours, theirs, metric.char_order)
        for ours, theirs in zip(translations, references, strict=True)
    ]
    return _corpus(rows, "chrF")


def _corpus(rows: list[list[int]], metric: str) -> CorpusScore:
    values = torch.tensor(rows, dtype=torch.float64, device="cpu")
    return CorpusScore(values, metric, transductive=False, of="sentences")


def _letter_counts(ours: str, theirs: str, order: int) -> list[int]:
    """For n = 1 .. order: sequences of n letters in ours, in theirs, and in both; no spaces."""
    from collections import Counter

    counts = []
    ours, theirs = ("".join(text.split()) for text in (ours, theirs))
    for n in range(1, order + 1):
        mine, right = (
            Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (ours, theirs)
        )
        # As sacrebleu: sequences longer than the reference count for nothing.
        counts += [mine.total() if right else 0, right.total(), (mine & right).total()]
    return counts


def _score_of(metric: str, sums: Tensor) -> float:
    """The score of the added counts."""
    numbers: list[float] = sums.tolist()
    if metric == "chrF":
        return _chrf_of(numbers)
    whole = [round(n) for n in numbers]
    score = _sacrebleu().BLEU.compute_bleu(
        whole[:4], whole[4:8], whole[8], whole[9], smooth_method="exp"
    )
    return float(score.score)


def _chrf_of(numbers: list[float], beta: float = 2.0) -> float:
    """F of mean precision and recall over the orders that both sides have, recall counting more."""
    precision = recall = 0.0
    orders = 0
    for mine, right, both in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
        if mine > 0 and right > 0:
            precision, recall, orders = precision + both / mine, recall + both / right, orders + 1
    if not precision + recall:
        return 0.0
    precision, recall = precision / orders, recall / orders
    return 100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def _check(translations: Sequence[str], references: Sequence[str]) -> None:
    if not references or len(translations) != len(references):
        raise ValueError(
            f"{len(translations)} translations for {len(references)} references: each sentence "
            "needs one of both"
        )
    if not all(reference.strip() for reference in references):
        raise ValueError("a reference is empty: leave such sentences out")


def _sacrebleu() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise ImportError(
            "BLEU and chrF need sacrebleu: pip install 'metanotes[language]'"
        ) from error
    return metrics
