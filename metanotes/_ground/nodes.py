"""The nodes of a graph of autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def nodes_of(ends: Sequence[Tensor], until: Sequence[Tensor] = ()) -> list[Any]:
    """The nodes of the graph that leads to some tensors, each once; what `until` came from is left
    out.

    >>> import torch
    >>> x = torch.ones(3, requires_grad=True)
    >>> y = 2 * x
    >>> [node.name() for node in nodes_of([y.sin()], until=[y])]
    ['SinBackward0']
    """
    seen = {t.grad_fn for t in until}
    nodes: list[Any] = []
    waiting: list[Any] = [end.grad_fn for end in ends]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes.append(node)
            waiting += [parent for parent, _ in node.next_functions]
    return nodes
