"""Tasks of translation: a language each, sentences of like length together, padded.

    x = {source: s_1 .. s_S, target: START t_1 .. t_L},    y = t_1 .. t_L END

A decoder sees the target up to a word and says the next one. What fills up a row is `PAD` in x,
and -100 in y, which no loss counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metanotes._ground import checks
from metanotes.data.sampler import Sampler, draw_uniform
from metanotes.data.text.sentence_pairs import Pairs, check_pairs
from metanotes.data.text.vocabulary import END, PAD, START, Vocabulary
from metanotes.task import IGNORED, Batch, Task

WINDOWS = (
    8  # so many times the sentences are drawn, sorted by length, and one part of them is taken
)
STEP = 4  # lengths are rounded up to multiples of it, so that there are few shapes


class TokenPairs(NamedTuple):
    """Pairs as tokens.

    Args:
        source: `[n, S]`, filled up with `PAD`.
        target: `[n, L + 1]`, from `START` to `END`, filled up with `PAD`.
        vocabularies: the digests of both vocabularies.

    >>> TokenPairs(torch.tensor([[5, 6]]), torch.tensor([[1, 5, 2]]), ("a", "b")).batch().y
    tensor([[5, 2]])
    """

    source: Tensor
    target: Tensor
    vocabularies: tuple[str, str]

    def batch(self) -> Batch:
        """All of them as one batch, without a task axis: x `[n, S]` and `[n, L]`, y `[n, L]`."""
        y = self.target[:, 1:]
        x = {"source": self.source, "target": self.target[:, :-1]}
        return Batch(x, y.masked_fill(y == PAD, IGNORED))


def token_pairs(
    pairs: Pairs,
    source: Vocabulary,
    target: Vocabulary,
    positions: int,
    *,
    name: str = "pairs",
    drop_longer: bool = False,
) -> TokenPairs:
    """Pairs as tokens, every row as long as the longest.

    Args:
        pairs: of one language.
        source, target: the vocabularies of the language, and of English.
        positions: tokens that a sentence may have, with its `START` or `END`.
        name: of the language, for messages.
        drop_longer: leave longer sentences out, in place of an error.

    Raises:
        ValueError: no pairs, an empty sentence, or one longer than the positions.

    >>> from metanotes.data.text.vocabulary import Words
    >>> words = Words(["hello world"])
    >>> token_pairs(Pairs(("world",), ("hello world",)), words, words, positions=8).target
    tensor([[1, 5, 6, 2]])
    """
    checks.count("positions", positions)
    check_pairs(name, pairs)
    rows = [
        (source.encode(theirs), [START, *target.encode(ours), END])
        for theirs, ours in zip(*pairs, strict=True)
    ]
    longest = [max(len(theirs), len(ours) - 1) for theirs, ours in rows]
    if max(longest) > positions:
        if not drop_longer:
            raise ValueError(
                f"a sentence of {name!r} has {max(longest)} tokens, more than positions="
                f"{positions}: leave such pairs out (drop_longer=True), or build the translator "
                "with more positions"
            )
        rows = [row for row, size in zip(rows, longest, strict=True) if size <= positions]
        if not rows:
            raise ValueError(f"every sentence of {name!r} is longer than positions={positions}")
    sides = [padded([row[side] for row in rows]) for side in (0, 1)]
    return TokenPairs(sides[0], sides[1], (source.digest, target.digest))


def padded(rows: list[list[int]]) -> Tensor:
    """Rows of tokens `[n, longest]`, int64, filled up with `PAD`.

    >>> padded([[5], [6, 7]])
    tensor([[5, 0],
            [6, 7]])
    """
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows], device="cpu")


class TranslationSampler(Sampler[Task]):
    """The stream of tasks that `translation_tasks` returns."""

    def __init__(
        self,
        data: Mapping[str, TokenPairs],
        support: int,
        queries: int,
        *,
        power: float,
        mixed: bool,
        seed: int,
        device: torch.device | str,
    ) -> None:
        super().__init__(seed, device)
        self.support, self.queries = (
            checks.count("support", support),
            checks.count("queries", queries, least=0),
        )
        if not data:
            raise ValueError("there is no language: give pairs of at least one")
        if len({pairs.vocabularies for pairs in data.values()}) > 1:
            raise ValueError(
                f"the languages {list(data)} are of several vocabularies: encode all of them with "
                "the same two"
            )
        self.power, self.mixed = checks.nonnegative("power", power), mixed
        self.names, self.vocabularies = list(data), next(iter(data.values())).vocabularies
        self.counts = torch.tensor([len(pairs.source) for pairs in data.values()])
        need = self.support + self.queries
        if not mixed and (few := int(self.counts.min())) < need:
            name = self.names[int(self.counts.argmin())]
            raise ValueError(
                f"support={support} and queries={queries} ask for more than the {few} pairs of "
                f"{name!r}: ask for fewer, or leave the language out"
            )
        self.first = self.counts.cumsum(0) - self.counts
        self.source = _stacked([pairs.source for pairs in data.values()])
        self.target = _stacked([pairs.target for pairs in data.values()])
        size = [(side != PAD).sum(1) for side in (self.source, self.target)]
        self.length = 1000 * size[1] + size[0]  # what is sorted by: the target, then the source

    def config(self) -> dict[str, Any]:
        return {
            "kind": "translation_tasks",
            "languages": self.names,
            "pairs": self.counts.tolist(),
            "vocabularies": list(self.vocabularies),
            "support": self.support,
            "queries": self.queries,
            "power": self.power,
            "mixed": self.mixed,
            "seed": self.seed,
        }

    def _draw(self, tasks: int) -> Task:
        size = self.support + self.queries
        chosen = self.languages(tasks * size * WINDOWS if self.mixed else tasks)
        pick = float(draw_uniform(self.generator, 1))
        rows = torch.stack([self._rows(part, size, pick) for part in chosen.chunk(tasks)])
        source, target = self.source[rows].long(), self.target[rows].long()  # [T, N, ...]
        source = source[..., : _rounded(source)]
        target = target[..., : 1 + _rounded(target[..., 1:])]
        x = {"source": source, "target": target[..., :-1]}
        y = target[..., 1:].masked_fill(target[..., 1:] == PAD, IGNORED)
        halves = [slice(self.support), slice(self.support, size)]
        batches = (
            Batch({k: t[:, part].to(self.device) for k, t in x.items()}, y[:, part].to(self.device))
            for part in halves
        )
        return Task(*batches)

    def languages(self, count: int) -> Tensor:
        """Languages, drawn with probabilities like `pairs ** power`: their places `[count]`."""
        limits = (self.counts.double() ** self.power).cumsum(0)
        u = draw_uniform(self.generator, count).double() * limits[-1]
        return torch.searchsorted(limits, u, right=True).clamp(max=len(limits) - 1)

    def _rows(self, chosen: Tensor, size: int, pick: float) -> Tensor:
        """Pairs of about one length, of a language or of each one's: `[size]`."""
        if self.mixed:
            u = draw_uniform(self.generator, len(chosen))
            rows = self.first[chosen] + (u * self.counts[chosen]).long()
        else:
            language = int(chosen)
            of = int(self.counts[language])
            order = torch.randperm(of, generator=self.generator)
            rows = self.first[language] + order[: size * min(WINDOWS, of // size)]
        windows = len(rows) // size
        rows = rows[self.length[rows].argsort(stable=True)]
        start = int(pick * windows) * size
        return rows[start : start + size][torch.randperm(size, generator=self.generator)]


def _rounded(tokens: Tensor) -> int:
    """The length of the longest row, rounded up, at most what there is."""
    longest = int((tokens != PAD).sum(-1).max())
    return min(tokens.shape[-1], -(-longest // STEP) * STEP)


def _stacked(parts: list[Tensor]) -> Tensor:
    """Rows of several widths as one tensor, of int32."""
    width = max(part.shape[1] for part in parts)
    wide = [torch.nn.functional.pad(part, (0, width - part.shape[1]), value=PAD) for part in parts]
    return torch.cat(wide).int()


def translation_tasks(
    data: Mapping[str, TokenPairs],
    support: int,
    queries: int = 0,
    *,
    power: float = 0.5,
    mixed: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> TranslationSampler:
    """Tasks of translating a language into English, each with sentences of about one length.

    Args:
        data: pairs by language, of one vocabulary.
        support: sentences to learn from, at least 1.
        queries: sentences to be judged by, others than those; at least 0.
        power: a language of n pairs is drawn with a probability like n^power: 1 is as often as its
            pairs, 0 as often as any other.
        mixed: whether a task takes sentences of every language, as ordinary training does.
        seed: where the stream starts.
        device: where the tasks are put.

    Returns:
        A sampler: `sampler(T)` is a `Task` of x `{"source": [T, N, S], "target": [T, N, L]}` and y
        `[T, N, L]`, with S and L as short as the sentences allow (rounded up to multiples of 4).

    Raises:
        ValueError: no language, one with fewer pairs than a task takes, or several vocabularies.

    >>> from metanotes.data import Words, generated_pairs, language
    >>> pairs = {name: generated_pairs(language(name, seed=n), 200) for n, name in enumerate("ab")}
    >>> theirs = Words(s for p in pairs.values() for s in p.source)
    >>> ours = Words(s for p in pairs.values() for s in p.english)
    >>> data = {name: token_pairs(p, theirs, ours, positions=16) for name, p in pairs.items()}
    >>> tasks = translation_tasks(data, support=8, queries=4)(2)
    >>> tasks.support.y.shape[:2], tasks.query.x["source"].shape[:2]
    (torch.Size([2, 8]), torch.Size([2, 4]))
    """
    return TranslationSampler(
        data, support, queries, power=power, mixed=mixed, seed=seed, device=device
    )
