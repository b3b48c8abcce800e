"""Text: sentences and their translations, made up or read from files, and their tokens."""

from metanotes.data.text.grammar import Meaning, Phrase, english, meanings
from metanotes.data.text.languages import Language, generated_pairs, language
from metanotes.data.text.lexicon import LEXICON
from metanotes.data.text.masked_words import (
    masked_sentences,
    masked_words,
    token_rows,
)
from metanotes.data.text.sentence_pairs import (
    Pairs,
    check_pairs,
    check_unseen,
    english_keys,
    first_words,
    one_of_each,
    part_pairs,
    sentence_key,
    without,
)
from metanotes.data.text.translation import translation
from metanotes.data.text.translation_tasks import TokenPairs, token_pairs, translation_tasks
from metanotes.data.text.vocabulary import (
    END,
    MASK,
    PAD,
    SIGNS,
    START,
    UNKNOWN,
    Pieces,
    Vocabulary,
    Words,
)

__all__ = [
    "END",
    "LEXICON",
    "MASK",
    "PAD",
    "SIGNS",
    "START",
    "UNKNOWN",
    "Language",
    "Meaning",
    "Pairs",
    "Phrase",
    "Pieces",
    "TokenPairs",
    "Vocabulary",
    "Words",
    "check_pairs",
    "check_unseen",
    "english",
    "english_keys",
    "first_words",
    "generated_pairs",
    "language",
    "masked_sentences",
    "masked_words",
    "meanings",
    "one_of_each",
    "part_pairs",
    "sentence_key",
    "token_pairs",
    "token_rows",
    "translation",
    "translation_tasks",
    "without",
]
