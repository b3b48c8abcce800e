"""Masked words: sentences in which a word is hidden, to be said again from what stands around it.

    pre-training    some words of every sentence are hidden, and each is to be named      (Devlin)
    a task          five words, a few sentences of each with it hidden: which of the five is it?

Both come from text alone, nobody labels anything (Bansal et al. 2020). What is a target of the
tasks that a learner is judged by has to be kept from being a target of pre-training: `never`.

Sources: Devlin et al., "BERT", NAACL 2019; Bansal, Jha, Munkhdalai and McCallum, "Self-Supervised
Meta-Learning for Few-Shot Natural Language Classification Tasks", EMNLP 2020.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from metanotes._ground import checks
from metanotes.data.sampler import Sampler, draw_uniform
from metanotes.data.text.vocabulary import MASK, PAD, SIGNS, Vocabulary
from metanotes.task import IGNORED, Batch, Task


def token_rows(vocabulary: Vocabulary, sentences: Iterable[str], length: int) -> Tensor:
    """Sentences as rows of tokens, filled up with padding.

    Args:
        vocabulary: of words or of pieces.
        sentences: n of them.
        length: of a row, L.

    Returns:
        int64 `[n, L]`.

    Raises:
        ValueError: there is no sentence, one of them is empty or has more than `length` tokens.

    >>> from metanotes.data.text import Words
    >>> words = Words(["the dog barks", "the cat sleeps"])
    >>> token_rows(words, ["the dog sleeps", "the cat"], length=4).shape
    torch.Size([2, 4])
    """
    checks.count("length", length)
    rows = []
    for number, sentence in enumerate(sentences):
        if not sentence.strip():
            raise ValueError(f"sentence {number} is empty: leave it out")
        row = vocabulary.encode(sentence)
        rows.append(row + [PAD] * (length - len(row)))
        if len(row) > length:
            raise ValueError(
                f"sentence {number} has {len(row)} tokens, more than length={length}: leave it "
                "out, or give a length (and the model positions) for it"
            )
    if not rows:
        raise ValueError("there are no sentences")
    return torch.tensor(rows, device="cpu")


def masked_words(
    tokens: Tensor, targets: Sequence[int], *, most: int | None = None, seed: int = 0
) -> Batch:
    """One word of a sentence hidden: examples whose class is the word.

    A sentence is used once, so that no two examples show the same one. Where it has several of the
    targets, one of them is drawn. A word that stands in it twice is not hidden, since its other
    place would tell.

    Args:
        tokens: sentences, `[n, L]`, see `token_rows`.
        targets: the tokens that are classes, each once.
        most: examples of a class, at most, drawn at random; None for all there are.
        seed: of the draws.

    Returns:
        Examples for `episodes` and `batches`: x `[m, L]`, with `MASK` where the word stood, and y
        `[m]`, the number of the word in `targets`, in the order of the sentences.

    Raises:
        ValueError: tokens that are no rows of whole numbers; targets that are missing, stand there
            twice, or are no words; a target that is in no sentence.

    >>> from metanotes.data.text import Words
    >>> words = Words(["the dog barks", "the cat sleeps"])
    >>> rows = token_rows(words, ["the dog barks", "the cat sleeps"], length=3)
    >>> x, y = masked_words(rows, [words.token(word) for word in ("cat", "dog")])
    >>> [words.words[token] for token in x[0]], y
    (['the', '<mask>', 'barks'], tensor([1, 0]))
    """
    tokens, classes = _rows(tokens), _targets(targets)
    if most is not None:
        checks.count("most", most)
    g = torch.Generator("cpu").manual_seed(checks.seed(seed))
    size = max(int(tokens.max()), int(classes.max())) + 1
    number = torch.full((size,), -1, device="cpu")
    number[classes] = torch.arange(len(classes), device="cpu")
    found = number[tokens]  # [n, L], the class of each place, or -1
    twice = (tokens[:, :, None] == tokens[:, None, :]).sum(2) > 1
    found = found.masked_fill(twice, -1)
    keys = draw_uniform(g, *found.shape).masked_fill(found < 0, -1)
    place = keys.argmax(1)
    rows = (found >= 0).any(1).nonzero().squeeze(1)
    y = found[rows, place[rows]]
    if most is not None:
        order = draw_uniform(g, len(y)).argsort()
        order = order[y[order].argsort(stable=True)]  # class by class, each in random order
        start = torch.searchsorted(y[order], y[order])
        kept = order[torch.arange(len(y), device="cpu") - start < most].sort().values
        rows, y = rows[kept], y[kept]
    missing = (y.bincount(minlength=len(classes)) == 0).nonzero()
    if len(missing):
        token = int(classes[missing[0, 0]])
        raise ValueError(f"the target {token} can be hidden in none of the sentences")
    x = tokens[rows]
    x[torch.arange(len(rows), device="cpu"), place[rows]] = MASK
    return Batch(x, y)


class MaskedSentences(Sampler[Task]):
    """The stream of minibatches that `masked_sentences` returns."""

    def __init__(
        self,
        tokens: Tensor,
        size: int,
        places: int,
        never: Sequence[int],
        seed: int,
        device: torch.device | str,
    ) -> None:
        super().__init__(seed, device)
        self.size, self.places = checks.count("size", size), checks.count("places", places)
        self.never = sorted({checks.count("a token of never", token, least=0) for token in never})
        tokens = _rows(tokens)
        if places > tokens.shape[1]:
            raise ValueError(f"places={places} are more than the {tokens.shape[1]} of a sentence")
        kept_from = torch.tensor([*range(len(SIGNS)), *self.never], device="cpu")
        allowed = ~torch.isin(tokens, kept_from)
        some = allowed.any(1)
        if not some.any():
            raise ValueError("no sentence has a word that may be hidden: see never=")
        self.tokens, self.allowed = tokens[some], allowed[some]

    def config(self) -> dict[str, Any]:
        return {
            "kind": "masked_sentences",
            "size": self.size,
            "places": self.places,
            "never": len(self.never),
            "sentences": len(self.tokens),
            "sum": int(self.tokens.sum()),
            "length": self.tokens.shape[1],
            "seed": self.seed,
        }

    def _draw(self, tasks: int) -> Task:
        n = tasks * self.size
        rows = torch.randint(len(self.tokens), (n,), generator=self.generator, device="cpu")
        tokens, allowed = self.tokens[rows], self.allowed[rows]
        keys = draw_uniform(self.generator, *tokens.shape).masked_fill(~allowed, -1)
        places = keys.topk(self.places).indices  # [n, places]
        hidden = allowed.gather(1, places)  # a short sentence may have fewer
        words = tokens.gather(1, places)
        masked = tokens.scatter(1, places, words.masked_fill(hidden, MASK))
        y = words.masked_fill(~hidden, IGNORED)
        x = {"input_ids": masked, "places": places}
        shape = (tasks, self.size)
        batch = Batch(
            {name: t.unflatten(0, shape).to(self.device) for name, t in x.items()},
            y.unflatten(0, shape).to(self.device),
        )
        return Task(batch, batch)


def masked_sentences(
    tokens: Tensor,
    size: int,
    *,
    places: int = 2,
    never: Sequence[int] = (),
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> MaskedSentences:
    """Minibatches for masked-word pre-training: sentences, and which words were hidden in them.

    The places are drawn anew each time, among the words of a sentence. Unlike in BERT, a word that
    is drawn is always replaced by `MASK`, never by itself or by another: the tasks that follow have
    the `MASK`, too.

    Args:
        tokens: sentences, `[n, L]`, see `token_rows`.
        size: sentences of a minibatch, drawn with replacement.
        places: words that are hidden in each; in a sentence with fewer, all that may be.
        never: tokens that are never hidden, though they may stand around what is.
        seed: where the stream starts.
        device: where the minibatches are put.

    Returns:
        A sampler: `sampler(T)` is a `Task` of T minibatches, whose support and query sets are the
        same: x has `input_ids` `[T, size, L]` and `places` `[T, size, places]`, and y
        `[T, size, places]` has the words that stood there, or -100, which cross entropy leaves out.

    Raises:
        ValueError: counts below 1, tokens that are no rows of whole numbers, more places than a row
            has, or no word that may be hidden.

    Source: see the module's.

    >>> from metanotes.data.text import Words
    >>> words = Words(["the dog barks", "the cat sleeps"])
    >>> rows = token_rows(words, ["the dog barks", "the cat sleeps"], length=3)
    >>> x, y = masked_sentences(rows, size=4, never=words.encode("dog cat"))(1).query
    >>> x["input_ids"].shape, y.shape
    (torch.Size([1, 4, 3]), torch.Size([1, 4, 2]))
    >>> sorted({words.words[token] for token in y.flatten().tolist()})
    ['barks', 'sleeps', 'the']
    """
    return MaskedSentences(tokens, size, places, never, seed, device)


def _rows(tokens: Tensor) -> Tensor:
    """Tokens as they have to be, in memory of their own, on the CPU."""
    if tokens.ndim != 2 or tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ValueError(
            f"tokens has the shape {list(tokens.shape)} and is of {tokens.dtype}; it must be whole "
            "numbers, a row a sentence, [n, L]"
        )
    if tokens.numel() == 0:
        raise ValueError(f"tokens has the shape {list(tokens.shape)}: there are no sentences")
    if int(tokens.min()) < 0:
        raise ValueError(f"tokens has {int(tokens.min())}: a token is a number from 0 on")
    empty = (tokens == PAD).all(1).nonzero()
    if len(empty):
        raise ValueError(f"sentence {int(empty[0, 0])} is empty: leave it out")
    return tokens.detach().long().cpu().clone()


def _targets(targets: Sequence[int]) -> Tensor:
    """The classes' tokens `[C]`."""
    tokens = [checks.count("a target", token, least=0) for token in targets]
    if not tokens:
        raise ValueError("targets is empty: a task is about some words")
    if len(set(tokens)) < len(tokens):
        raise ValueError("targets has a token twice: each is a class of its own")
    if min(tokens) < len(SIGNS):
        raise ValueError(f"targets has {min(tokens)}, which stands for no word: see Words")
    return torch.tensor(tokens, device="cpu")
