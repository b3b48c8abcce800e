"""A choice between operations, made continuous: the weighted mean of all of them.

    o(x) = sum_o p_o o(x),    p = softmax(alpha)                                              (1)

alpha is an ordinary parameter, so that a gradient says which operation should have more weight.
Once it is learned, the operation with the largest alpha is kept and the others are thrown away.

Source: Liu, Simonyan and Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, equation 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Choice = tuple[str, ...]


class MixedOperation(nn.Module):
    """An edge of a cell on which several operations work at once (1).

    Args:
        operations: by name, two or more, each a module from x to a tensor of one and the same
            shape.
        alpha: the parameter `[operations]` of another edge, if both are to make the same choice, as
            the same edge of every cell of a network; default: a new one, all zero.

    Raises:
        ValueError: fewer than two operations, or an alpha of another shape.

    >>> edge = MixedOperation({"none": nn.Threshold(9.0, 0.0), "skip": nn.Identity()})
    >>> edge(torch.ones(2)).detach()                          # half of nothing, half of x
    tensor([0.5000, 0.5000])
    >>> with torch.no_grad():
    ...     edge.alpha[1] = 2.0
    >>> edge.best
    'skip'
    """

    def __init__(
        self, operations: Mapping[str, nn.Module], alpha: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        if len(operations) < 2:
            raise ValueError(
                f"operations={list(operations)} leave nothing to choose: give two or more"
            )
        if alpha is not None and alpha.shape != (len(operations),):
            raise ValueError(
                f"alpha has the shape {list(alpha.shape)}; for the operations {list(operations)} "
                f"it must be [{len(operations)}]"
            )
        self.names = tuple(operations)  # in the order of alpha
        self.operations = nn.ModuleList(operations.values())
        self.alpha = nn.Parameter(torch.zeros(len(operations))) if alpha is None else alpha
        self.only: str | None = None  # of a path; see `only_path`

    @property
    def best(self) -> str:
        """The operation with the largest alpha."""
        return self.names[int(self.alpha.argmax())]

    def forward(self, x: Tensor) -> Tensor:
        if self.only is not None:
            result: Tensor = self.operations[self.names.index(self.only)](x)
            return result
        weights = self.alpha.softmax(0)
        terms = [p * o(x) for p, o in zip(weights, self.operations, strict=True)]
        return torch.stack(terms).sum(0)


def edges(net: nn.Module) -> dict[nn.Parameter, list[MixedOperation]]:
    """The mixed operations of a network, gathered by their alpha, in the order of the network.

    Raises:
        ValueError: there is none.

    >>> edge = MixedOperation({"skip": nn.Identity(), "tanh": nn.Tanh()})
    >>> again = MixedOperation({"skip": nn.Identity(), "tanh": nn.Tanh()}, edge.alpha)
    >>> [len(together) for together in edges(nn.Sequential(edge, again)).values()]
    [2]
    """
    by_alpha: dict[nn.Parameter, list[MixedOperation]] = {}
    for module in net.modules():
        if isinstance(module, MixedOperation):
            by_alpha.setdefault(module.alpha, []).append(module)
    if not by_alpha:
        raise ValueError(
            f"{type(net).__name__} has no MixedOperation: there is nothing to choose in it"
        )
    return by_alpha


def best_choice(net: nn.Module) -> Choice:
    """The operation with the largest alpha on every edge.

    >>> net = nn.Sequential(MixedOperation({"skip": nn.Identity(), "tanh": nn.Tanh()}))
    >>> best_choice(net)                                      # of equal ones the first
    ('skip',)
    """
    return tuple(together[0].best for together in edges(net).values())


@contextmanager
def only_path(net: nn.Module, choice: Sequence[str]) -> Iterator[None]:
    """The network with one operation an edge, on the weights that all choices share.

    Args:
        net: a network with mixed operations.
        choice: an operation for every alpha, by name.

    Raises:
        ValueError: another number of names than of edges, or a name that an edge does not have.

    >>> net = nn.Sequential(MixedOperation({"skip": nn.Identity(), "tanh": nn.Tanh()}))
    >>> with only_path(net, ["skip"]):
    ...     net(torch.tensor([3.0]))
    tensor([3.])
    """
    of_each = list(edges(net).values())
    if len(choice) != len(of_each):
        raise ValueError(f"choice={list(choice)} must name {len(of_each)} operations, one an edge")
    for name, together in zip(choice, of_each, strict=True):
        if name not in together[0].names:
            raise ValueError(
                f"choice={list(choice)}: {name!r} is none of the operations {together[0].names}"
            )
    before = [(edge, edge.only) for together in of_each for edge in together]
    try:
        for name, together in zip(choice, of_each, strict=True):
            for edge in together:
                edge.only = name
        yield
    finally:
        for edge, only in before:
            edge.only = only
