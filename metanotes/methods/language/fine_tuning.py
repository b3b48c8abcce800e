"""Fine-tuning a translator on one language: hundreds of steps, stopped by sentences held back.

    theta_0 = phi,    theta <- theta - Adam(grad l(theta; next minibatch)),    keep the best on dev

It is what a meta-learned start is for, and longer than the few steps inside of meta-training: an
ordinary loop, with dropout, the smoothed loss, a falling rate and a bound on the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metanotes._ground.checks import count, positive
from metanotes._ground.modes import in_mode
from metanotes._ground.randomness import seeded
from metanotes.methods.language.decoding import refuse_padding_in_front
from metanotes.methods.language.token_loss import token_loss
from metanotes.nets import Translator
from metanotes.task import IGNORED, Batch
from metanotes.theta import trainable
from metanotes.theta.parameters import Part, parts_of


class FineTuned(NamedTuple):
    """How a fine-tuning went.

    Args:
        losses: on the dev set before the first epoch and after each: the mean of its tokens.
        best: after which epoch the model was best, and is now; 0 is before the first.

    >>> FineTuned([4.0, 3.5, 3.6], best=1).losses[1]
    3.5
    """

    losses: list[float]
    best: int


def dev_loss(model: Translator, dev: Batch, size: int = 256) -> float:
    """The mean loss of the tokens of some sentences, without dropout and smoothing.

    Args:
        model: left as it was.
        dev: x `{"source": [n, S], "target": [n, L]}`, y `[n, L]`, -100 where nothing counts.
        size: sentences at once.

    Raises:
        ValueError: no token counts, or sentences are filled up in front.

    >>> from metanotes.nets import Translator
    >>> model = Translator(50, 30, width=32, heads=4, layers=1, positions=12)
    >>> x = {"source": torch.tensor([[7, 8, 9]]), "target": torch.tensor([[1, 5]])}
    >>> dev_loss(model, Batch(x, torch.tensor([[5, 2]]))) > 0
    True
    """
    check_sentences("dev", dev)
    total = tokens = 0.0
    with torch.no_grad(), in_mode(model, training=False):
        for rows in torch.arange(len(dev.y)).split(size):
            x, y = cropped(dev, rows)
            n = int((y != IGNORED).sum())
            if n:
                total += n * float(token_loss(model(**x), y))
                tokens += n
    return total / tokens


def check_sentences(name: str, batch: Batch) -> None:
    """Refuse sentences of which nothing counts, or that are filled up in front.

    Raises:
        ValueError: names the set.
    """
    if not (batch.y != IGNORED).any():
        raise ValueError(f"{name} has {len(batch.y)} sentences and no token that counts")
    for part, tokens in batch.x.items():
        refuse_padding_in_front(f"{name}.x[{part!r}]", tokens)


def cropped(batch: Batch, rows: Tensor) -> Batch:
    """Some sentences, as short as the longest of them allows.

    >>> x = {"source": torch.tensor([[7, 0], [7, 8]]), "target": torch.tensor([[1, 0], [1, 5]])}
    >>> cropped(Batch(x, torch.tensor([[2, -100], [5, 2]])), torch.tensor([0])).x["source"]
    tensor([[7]])
    """
    x = {name: t[rows] for name, t in batch.x.items()}
    x = {name: t[:, : int((t != 0).sum(1).max())] for name, t in x.items()}
    return Batch(x, batch.y[rows, : x["target"].shape[1]])


def fine_tune(
    model: Translator,
    train: Batch,
    dev: Batch,
    *,
    epochs: int,
    size: int = 32,
    lr: float = 1e-3,
    adapts: Part | Sequence[Part] | None = "encoder",
    smoothing: float = 0.1,
    clip: float = 1.0,
    patience: int | None = None,
    seed: int = 0,
) -> FineTuned:
    """Fine-tune a translator in place; it ends as it was best on the dev set, in its old mode.

    On the map:
        phi: nothing: the start was learned elsewhere
        adapts: the encoder, or another part, hundreds of steps
        outer loss: none
        needs: some sentences, and others to choose the epoch by

    Args:
        model: the start, which is changed.
        train: x `{"source": [n, S], "target": [n, L]}`, y `[n, L]`, -100 where nothing counts.
        dev: sentences held back, alike.
        epochs: times through the sentences, at least 1.
        size: sentences of a minibatch.
        lr: the rate of Adam, which falls to 0 along a line.
        adapts: which part moves, see `InnerLoopLearner`; default: the encoder with the embedding
            of the words that are read. The rest stands still, as does what requires no gradient.
        smoothing: of the labels.
        clip: bound on the norm of the gradient.
        patience: stop when so many epochs in a row were no better; default: never.
        seed: of the order of the sentences and of dropout.

    Raises:
        ValueError: counts below 1, a part that is not there or that is frozen, sets without a
            token that counts or filled up in front, tokens of another vocabulary.

    >>> from metanotes.nets import Translator
    >>> model = Translator(50, 30, width=32, heads=4, layers=1, positions=12)
    >>> x = {"source": torch.tensor([[7, 8, 9]]), "target": torch.tensor([[1, 5]])}
    >>> pair = Batch(x, torch.tensor([[5, 2]]))
    >>> went = fine_tune(model, pair, pair, epochs=3)
    >>> went.losses[-1] < went.losses[0]
    True
    """
    count("epochs", epochs)
    for name, batch in (("train", train), ("dev", dev)):
        check_sentences(name, batch)
    phi = trainable(model)
    names = phi.keys() if adapts is None else parts_of(model, adapts)
    moving = [p for name, p in phi.items() if name in names]
    if not moving:
        raise ValueError(f"adapts={adapts!r} is frozen: no parameter of it requires a gradient")
    optimizer = torch.optim.Adam(moving, positive("lr", lr), betas=(0.9, 0.98))
    steps = epochs * -(-len(train.y) // count("size", size))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: max(0.0, 1 - n / steps))
    losses = [dev_loss(model, dev)]
    kept, best = _copy(model), 0
    with seeded(seed), in_mode(model, training=True):
        for epoch in range(1, epochs + 1):
            for rows in _in_batches(train, size):
                x, y = cropped(train, rows)
                loss = token_loss(model(**x), y, smoothing)
                gradients = torch.autograd.grad(loss, moving)
                for p, gradient in zip(moving, gradients, strict=True):
                    p.grad = gradient
                nn.utils.clip_grad_norm_(moving, clip)
                optimizer.step()
                scheduler.step()
            losses.append(dev_loss(model, dev))
            if losses[-1] < losses[best]:
                kept, best = _copy(model), epoch
            if patience is not None and epoch - best >= patience:
                break
    for p in moving:
        p.grad = None
    model.load_state_dict(kept)
    return FineTuned(losses, best)


def _in_batches(train: Batch, size: int) -> list[Tensor]:
    """The sentences once, those of like length together, in a random order of minibatches."""
    lengths = (train.y != IGNORED).sum(1) + torch.rand(len(train.y))
    batches = lengths.argsort().split(size)
    return [batches[n] for n in torch.randperm(len(batches)).tolist()]


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}
