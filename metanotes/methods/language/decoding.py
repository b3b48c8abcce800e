"""Writing a translation, token by token: greedily, or with a beam.

    greedy:  t_{i+1} = argmax_v p(v | t_1 .. t_i, source)
    beam:    keep the B beginnings of the highest sum of log p; at the end divide by length^a

A beam of one is greedy. Of the translations, finished or cut off where they may not be longer, the
one with the best mean log p per token is taken (a = 1), since sums favour short ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metanotes._ground.checks import count
from metanotes._ground.modes import in_mode
from metanotes.nets import Translator

PAD, START, END = 0, 1, 2  # the signs, as in `metanotes.data`
FORBIDDEN = (0, 1, 3, 4)  # <pad>, <s>, <unk>, <mask> are never written


@torch.no_grad()
def translate(
    model: Translator,
    source: Tensor,
    *,
    beams: int = 1,
    longest: int | None = None,
    size: int = 128,
) -> Tensor:
    """The translations of some sentences.

    Args:
        model: judged in evaluation mode, and left as it was.
        source: `[n, S]`, filled up with 0.
        beams: beginnings that are kept, at least 1.
        longest: tokens that a translation may have; default: as many as the model has positions.
        size: sentences that are worked on at once.

    Returns:
        Tokens `[n, L]` without the start sign; what follows the first 2, the end sign, is 0.

    Raises:
        ValueError: no sentence, an empty one or one that is filled up in front, counts below 1,
            more tokens than positions.

    >>> from metanotes.nets import Translator
    >>> model = Translator(50, 30, width=32, heads=4, layers=1, positions=12)
    >>> translate(model, torch.tensor([[7, 8, 9], [7, 0, 0]]), beams=3, longest=5).shape
    torch.Size([2, 5])
    """
    count("beams", beams)
    longest = model.positions if longest is None else count("longest", longest)
    if longest > model.positions:
        raise ValueError(
            f"longest={longest} is more than the {model.positions} positions there are"
        )
    if source.ndim != 2 or 0 in source.shape:
        raise ValueError(f"source has the shape {list(source.shape)}; it must have [n, S], n >= 1")
    empty = (source == PAD).all(1)
    if empty.any():
        raise ValueError(f"sentence {int(empty.nonzero()[0])} is empty: there is nothing to read")
    refuse_padding_in_front("source", source)
    order = (source != PAD).sum(1).argsort()  # sentences of one length together: less padding
    written = source.new_zeros(len(source), longest)
    with in_mode(model, training=False):
        for rows in order.split(count("size", size)):
            part = source[rows]
            part = part[:, : int((part != PAD).sum(1).max())]
            tokens = _search(model, part, beams, longest)
            written[rows, : tokens.shape[1]] = tokens
    return written


def refuse_padding_in_front(name: str, tokens: Tensor) -> None:
    """Sentences are filled up behind; elsewhere their end would be cut away.

    Raises:
        ValueError: a 0 stands before a token.

    >>> refuse_padding_in_front("source", torch.tensor([[0, 7]]))
    Traceback (most recent call last):
    ValueError: sentence 0 of source has 0 in front of a token: ...
    """
    gaps = ((tokens[:, 1:] != PAD) & (tokens[:, :-1] == PAD)).any(1)
    if gaps.any():
        raise ValueError(
            f"sentence {int(gaps.nonzero()[0])} of {name} has 0 in front of a token: 0 fills up "
            "behind the last one, and is none itself"
        )


def _search(model: Translator, source: Tensor, beams: int, longest: int) -> Tensor:
    """The best translation of each sentence, `[N, L]`."""
    sentences = len(source)
    memory = model.memory(source).repeat_interleave(beams, 0)  # [N B, S, width]
    mask = (source != PAD).repeat_interleave(beams, 0)
    tokens = source.new_full((sentences * beams, 1), START)
    totals = memory.new_zeros(sentences, beams)
    totals[:, 1:] = -torch.inf  # all beams begin alike: one of them counts
    done = torch.zeros(sentences, beams, dtype=torch.bool, device=source.device)
    for _ in range(longest):
        scores = model.scores(model.hidden(tokens[:, :longest], memory, mask)[:, -1])
        scores[:, FORBIDDEN] = -torch.inf
        log_p = scores.log_softmax(-1).view(sentences, beams, -1)
        # A finished translation goes on by padding, which costs nothing.
        log_p = log_p.masked_fill(done[..., None], -torch.inf)
        log_p[..., PAD].masked_fill_(done, 0.0)
        totals, best = (totals[..., None] + log_p).flatten(1).topk(beams)  # [N, B]
        parent, token = best // log_p.shape[-1], best % log_p.shape[-1]
        rows = (torch.arange(sentences, device=source.device)[:, None] * beams + parent).flatten()
        tokens = torch.cat([tokens[rows], token.view(-1, 1)], 1)
        done = done.gather(1, parent) | (token == END)
        if done.all():
            break
    lengths = (tokens[:, 1:] != PAD).sum(1).view(sentences, beams)
    best = (totals / lengths).argmax(1)
    return tokens.view(sentences, beams, -1)[torch.arange(sentences), best, 1:]
