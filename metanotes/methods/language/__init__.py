"""phi is where a model of language starts, such as a translator of many languages."""

from metanotes.methods.language.corpus_scores import (
    CorpusScore,
    Difference,
    bleu,
    chrf,
    paired_difference,
)
from metanotes.methods.language.decoding import translate
from metanotes.methods.language.fine_tuning import FineTuned, dev_loss, fine_tune
from metanotes.methods.language.token_loss import token_loss
from metanotes.methods.language.word_vectors import turned, word_vectors

__all__ = [
    "CorpusScore",
    "Difference",
    "FineTuned",
    "bleu",
    "chrf",
    "dev_loss",
    "fine_tune",
    "paired_difference",
    "token_loss",
    "translate",
    "turned",
    "word_vectors",
]
