"""Features of all examples, made once: for learners that stand on a frozen body."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from metanotes._ground import checks
from metanotes._ground.modes import in_mode
from metanotes.data.labelled import Examples, Labelled
from metanotes.task import Batch


@torch.no_grad()
def embedded(
    data: Labelled, body: nn.Module, rotations: Literal["classes"] | None = None, batch: int = 500
) -> Batch:
    """What a body makes of every example, as data for `sequences`, `episodes` or `batches`.

    Args:
        data: examples as `episodes` takes them: inputs `.x` `[n, ...]` and class ids `.y` `[n]`.
        body: from `[n, ...]` to features `[n, F]`. It is used in evaluation mode, and left as it
            was; with batch normalisation it needs running statistics, else what it says of an
            example would depend on the others.
        rotations: `"classes"` makes each class of square images four, turned by 0, 90, 180 and 270
            degrees: class c, turned k times, is 4 c + k. The features of an image cannot be turned.
        batch: examples at once, 1 or more.

    Returns:
        Features `[n, F]`, or `[4 n, F]`, where the body is; and class ids.

    Raises:
        ValueError: data that `episodes` would not take; features of an example that depend on the
            others.

    >>> from metanotes.data import glyphs, sequences
    >>> from metanotes.nets import conv4
    >>> features = embedded(glyphs("evaluation"), conv4(ways=None, running_statistics=True))
    >>> sequences(features, ways=5, length=50)(16).x.shape
    torch.Size([16, 50, 256])
    """
    checks.count("batch", batch)
    if rotations == "tasks":
        raise ValueError(
            "rotations='tasks' turns classes anew for each task, which features made once cannot "
            "follow; use 'classes', or None"
        )
    device = next((p.device for p in body.parameters()), torch.device("cpu"))
    examples = Examples(data, device, rotations)
    turns = torch.arange(4 if rotations else 1).repeat(len(examples))  # [4 n]
    rows = torch.arange(len(turns)) // (4 if rotations else 1)
    with in_mode(body, training=False):
        parts: list[Tensor] = []
        for part in torch.arange(len(rows)).split(batch):
            x = examples.inputs(rows[part], turns[part])
            parts.append(body(x))
            if len(parts) == 1 and len(part) > 2:
                _refuse_mixing(body, x, parts[0])
    y = examples.labels(rows)
    return Batch(torch.cat(parts), 4 * y + turns.to(y) if rotations else y)


def _refuse_mixing(body: nn.Module, x: Tensor, features: Tensor) -> None:
    alone = body(x[:2])
    scale = max(float(features[:2].abs().max()), 1e-6)
    if float((alone - features[:2]).abs().max()) > 1e-3 * scale:
        raise ValueError(
            "the body's features of an example depend on the others in its batch (batch "
            "normalization without running statistics, perhaps): build it with running_statistics="
            "True, and train it, before its features are kept"
        )
