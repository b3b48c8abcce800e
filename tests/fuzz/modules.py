"""Modules that readers write: of every kind that a learner must bear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """x + f(x), or with a gate that is one learned number."""

    def __init__(self, inside: nn.Module, gate: bool = False) -> None:
        super().__init__()
        self.inside = inside
        self.gate = nn.Parameter(torch.ones(())) if gate else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.inside(x)
        return x + (y if self.gate is None else self.gate * y)


class Branching(nn.Module):
    """A forward that looks at its data."""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh() if float(x.detach().mean()) > 0 else x.sin()


class BranchingOnSize(nn.Module):
    """A forward that does something else with a single example."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin() if len(x) == 1 else x - x.mean(0).tanh()


class Counting(nn.Module):
    """Keeps a number, and does nothing with it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


class Remembering(nn.Module):
    """Keeps what it saw last, for a plot."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = x
        return x


class ByKeyword(nn.Module):
    """A convolution, called by the names of its arguments."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, size, size))
        self.bias = nn.Parameter(torch.empty(channels))
        self.padding = size // 2

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(input=x, weight=self.weight, bias=self.bias, padding=self.padding)
        return y[..., : x.shape[-2], : x.shape[-1]]


class InPlace(nn.Module):
    """Adds to what it has just made."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        y = x.tanh()
        y += self.shift
        y *= 0.9
        return y


class WithConstant(nn.Module):
    """Reads a buffer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 1.5, width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Unused(nn.Module):
    """Has a parameter that its forward does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.empty(3))

    def forward(self, x: Tensor) -> Tensor:
        return x


class Modes(nn.Module):
    """Does one thing in training and another in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(2))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale[0].exp() if self.training else x.tanh() + self.scale[1]


class Detached(nn.Module):
    """Holds a part of what it does constant."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            middle = x.mean(-1, keepdim=True)
        return (x - middle) * x.detach().abs().mean(-1, keepdim=True).sqrt()


class _Reverse(torch.autograd.Function):
    """A function of a reader's, without a rule for vmap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -0.5 * g


class Reversing(nn.Module):
    """The identity, with another gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return _Reverse.apply(x)


class Sorted(nn.Module):
    """Sorts, gathers, adds up."""

    def forward(self, x: Tensor) -> Tensor:
        values, order = x.sort(-1)
        return values.cumsum(-1) / x.shape[-1] + x.gather(-1, order.flip(-1))


class Twice(nn.Module):
    """Uses one layer at two places, under two names."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first = layer
        self.second = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


class Listed(nn.Module):
    """Parameters in a list and in a dictionary."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scales = nn.ParameterList(torch.empty(width) for _ in range(2))
        self.named = nn.ParameterDict({"shift": torch.empty(width)})

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scales[0].sin() + self.named["shift"] * self.scales[1]


class Rows(nn.Module):
    """Attention from `[N, L, E]` to the same."""

    def __init__(self, width: int, heads: int, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=self.need_weights)[0]


class ScaledDot(nn.Module):
    """Attention by torch's function, causal."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Last(nn.Module):
    """A recurrent layer's outputs, `[N, L, H]`."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Cells(nn.Module):
    """A GRU cell along a sequence `[N, L, E]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = x[:, 0]
        states = []
        for row in x.unbind(1):
            h = self.cell(row, h)
            states.append(h)
        return torch.stack(states, 1)


class Mean(nn.Module):
    """The mean over positions: `[N, L, E]` to `[N, E]`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Swap(nn.Module):
    """`[N, L, E]` to `[N, E, L]`, and back."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mT


class Scalar(nn.Module):
    """`[N, 1]` to `[N]`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(-1)


class ByName(nn.Module):
    """Takes its input, and a second one, by keyword."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, features: Tensor, weight: Tensor) -> Tensor:
        y = self.inside(features)
        return y * weight.view(-1, *[1] * (y.ndim - 1))


class Named(nn.Module):
    """Gives its outputs by name, as language models do."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.inside(x)}


class Pair(nn.Module):
    """Gives two outputs."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.inside(x), x
