"""Vocabularies: a sentence as tokens, whole numbers, and back.

`Words` takes every word as a token; `Pieces` cuts words into pieces that are frequent, so that none
is unknown as long as its letters are known (byte pair encoding, Sennrich, Haddow and Birch 2016,
as the library sentencepiece does it). In both, the first tokens are signs: `PAD` fills up a row,
`START` and `END` stand before and after a sentence, `UNKNOWN` in the place of what is not in it,
and `MASK` in the place of what is to be guessed.

Source: Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units",
ACL 2016; Kudo and Richardson, "SentencePiece", EMNLP 2018.
"""

from __future__ import annotations

import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from metanotes._ground import checks
from metanotes._ground.files import replacing

PAD, START, END, UNKNOWN, MASK = range(5)
SIGNS = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")


class Vocabulary(ABC):
    """What `Words` and `Pieces` have in common.

    >>> issubclass(Words, Vocabulary), issubclass(Pieces, Vocabulary)
    (True, True)
    """

    @abstractmethod
    def __len__(self) -> int:
        """How many tokens there are, the signs among them."""

    @abstractmethod
    def tokens(self, sentence: str) -> list[int]:
        """The tokens of a sentence that is not empty."""

    @abstractmethod
    def decode(self, tokens: Iterable[int]) -> str:
        """The sentence of some tokens, up to the first `END`; other signs are left out."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Twelve characters that tell vocabularies apart."""

    def encode(self, sentence: str) -> list[int]:
        """The tokens of a sentence, without `START` and `END`.

        Raises:
            ValueError: the sentence is empty.
        """
        if not sentence.strip():
            raise ValueError(f"the sentence {sentence!r} is empty: there is nothing to encode")
        return self.tokens(sentence)


class Words(Vocabulary):
    """Every word is a token, in the order of how often it occurs; words are what spaces separate.

    Args:
        sentences: that the words are taken from.
        size: tokens at most, the signs among them; default: all words.

    Raises:
        ValueError: no sentence, or a size that leaves no word.

    >>> words = Words(["the cat saw the dog", "the dog slept"])
    >>> words.encode("the bird slept")
    [5, 3, 9]
    >>> words.decode([5, 6, 9, 2, 0]), len(words)
    ('the dog slept', 10)
    """

    def __init__(self, sentences: Iterable[str], size: int | None = None) -> None:
        counts = Counter(word for sentence in sentences for word in sentence.split())
        if not counts:
            raise ValueError("there is no word in the sentences: a vocabulary needs some")
        if size is not None and checks.count("size", size) <= len(SIGNS):
            raise ValueError(f"size={size} leaves no word beside the {len(SIGNS)} signs")
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        room = None if size is None else size - len(SIGNS)
        self.words: tuple[str, ...] = (*SIGNS, *ranked[:room])
        self._numbers = {word: number for number, word in enumerate(self.words)}

    @classmethod
    def of(cls, words: Sequence[str]) -> Self:
        """The vocabulary of these words, which follow the signs in this order."""
        made = cls(words)
        made.words = (*SIGNS, *words)
        made._numbers = {word: number for number, word in enumerate(made.words)}
        return made

    def __len__(self) -> int:
        return len(self.words)

    def tokens(self, sentence: str) -> list[int]:
        """See `Vocabulary`."""
        return [self._numbers.get(word, UNKNOWN) for word in sentence.split()]

    def token(self, word: str) -> int:
        """The token of a word.

        Raises:
            ValueError: the word is not in it.
        """
        if word not in self._numbers:
            raise ValueError(f"{word!r} is no word of this vocabulary of {len(self)} tokens")
        return self._numbers[word]

    def decode(self, tokens: Iterable[int]) -> str:
        """See `Vocabulary`."""
        return " ".join(self.words[token] for token in _said(tokens))

    @property
    def digest(self) -> str:
        """See `Vocabulary`."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()[:12]

    def __repr__(self) -> str:
        return f"Words({len(self)} tokens)"


class Pieces(Vocabulary):
    """Frequent pieces of words, found by sentencepiece.

    Args:
        model: what sentencepiece has written, see `trained` and `read`.

    Raises:
        ImportError: sentencepiece is not there; says how to install it.
        ValueError: this is no such model, or its signs are other ones.

    >>> pieces = Pieces.trained(["the cat saw the dog", "the dog slept"] * 9, size=40)
    >>> pieces.decode(pieces.encode("the dog saw the cat"))
    'the dog saw the cat'
    """

    def __init__(self, model: bytes) -> None:
        library = _sentencepiece()
        self.model = model
        try:
            self._processor = library.SentencePieceProcessor(model_proto=model)
            signs = [self._processor.id_to_piece(n) for n in range(len(SIGNS))]
        except Exception as error:  # of several kinds, by its version
            raise ValueError(f"these bytes are no model of sentencepiece ({error})") from error
        if signs != list(SIGNS):
            raise ValueError(f"this model's first pieces are {signs}; they must be {list(SIGNS)}")

    @classmethod
    def trained(cls, sentences: Iterable[str], size: int) -> Self:
        """The pieces of some sentences, `size` tokens in all; the same sentences give the same.

        Raises:
            ValueError: sentencepiece cannot make as many, or there is no sentence.
        """
        checks.count("size", size)
        library, written = _sentencepiece(), io.BytesIO()
        try:
            library.SentencePieceTrainer.train(
                sentence_iterator=iter(list(sentences)),
                model_writer=written,
                model_type="bpe",
                vocab_size=size,
                character_coverage=1.0,
                num_threads=1,
                minloglevel=3,
                pad_id=PAD,
                bos_id=START,
                eos_id=END,
                unk_id=UNKNOWN,
                user_defined_symbols=[SIGNS[MASK]],
            )
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"size={size} pieces cannot be had of these ({reason})") from error
        return cls(written.getvalue())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """The pieces that `write` has kept."""
        return cls(Path(path).read_bytes())

    def write(self, path: str | os.PathLike[str]) -> None:
        """Keep them in a file, which is whole or not there."""
        with replacing(path) as file:
            file.write(self.model)

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())

    def tokens(self, sentence: str) -> list[int]:
        """See `Vocabulary`."""
        tokens: list[int] = self._processor.encode(sentence)
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """See `Vocabulary`."""
        text: str = self._processor.decode(_said(tokens))
        return text

    @property
    def digest(self) -> str:
        """See `Vocabulary`."""
        pieces = (self._processor.id_to_piece(n) for n in range(len(self)))
        return hashlib.sha256("\n".join(pieces).encode()).hexdigest()[:12]

    def __repr__(self) -> str:
        return f"Pieces({len(self)} tokens)"


def _said(tokens: Iterable[int]) -> list[int]:
    """The tokens before the first `END` that are no signs."""
    kept = []
    for token in map(int, tokens):
        if token == END:
            break
        if token >= len(SIGNS):
            kept.append(token)
    return kept


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError(
            "pieces of words need sentencepiece: pip install 'metanotes[language]'"
        ) from error
    return sentencepiece
