"""Modules that readers write, and random networks made of them and of torch's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind = TypeVar("Kind")


class Draw:
    """Random choices, all of them from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def integer(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def chance(self, p: float) -> bool:
        return float(torch.rand((), generator=self.generator)) < p

    def real(self, low: float, high: float) -> float:
        number = low + (high - low) * float(torch.rand((), generator=self.generator))
        return float(f"{number:.3g}")

    def choice(self, options: Sequence[Kind]) -> Kind:
        return options[self.integer(0, len(options) - 1)]

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def labels(self, classes: int, *shape: int) -> Tensor:
        return torch.randint(classes, shape, generator=self.generator)

    def order(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self.generator)


# ------------------------------------------------------------------------------ readers' modules


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


class Pair(nn.Module):
    """Gives two outputs."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.inside(x), x


# ------------------------------------------------------------------------------ random networks

SMOOTH: list[Callable[[], nn.Module]] = [
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.ELU,
    nn.Softplus,
    nn.SiLU,
    nn.Softsign,
    nn.LogSigmoid,
    nn.Mish,
    nn.CELU,
    nn.SELU,
    lambda: nn.GELU("tanh"),
]
KINKED: list[Callable[[], nn.Module]] = [
    nn.ReLU,
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    lambda: nn.ReLU(inplace=True),
    nn.Hardtanh,
    lambda: nn.Softshrink(0.1),
    nn.Hardswish,
]


def activation(draw: Draw) -> nn.Module:
    return draw.choice(SMOOTH if draw.chance(0.6) else KINKED)()


def odd_layer(draw: Draw, width: int, mixing: bool = True) -> nn.Module:
    """A reader's layer that keeps the shape `[..., width]`."""
    makers: list[Callable[[], nn.Module]] = [
        *([Branching, BranchingOnSize] if mixing else []),
        Counting,
        Remembering,
        lambda: InPlace(width),
        lambda: WithConstant(width),
        Unused,
        Modes,
        Detached,
        Reversing,
        Sorted,
        lambda: Listed(width),
        lambda: Twice(nn.Linear(width, width)),
        lambda: Twice(nn.PReLU()),
        lambda: Residual(nn.Linear(width, width), gate=True),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(width, width)),
        lambda: nn.Dropout(0.0),
    ]
    return draw.choice(makers)()


# `mixing`: whether a layer may look at other examples of its batch.


def vector_layers(draw: Draw, size: int, mixing: bool) -> tuple[list[nn.Module], int]:
    """Of `[N, size]`: the layers, and the width of what they give."""
    layers: list[nn.Module] = []
    shared = activation(draw) if draw.chance(0.2) else None
    for _ in range(draw.integer(0, 3)):
        width = draw.integer(2, 7)
        layers.append(nn.Linear(size, width, bias=draw.chance(0.8)))
        size = width
        match draw.integer(0, 7):
            case 0 if mixing:
                affine = draw.chance(0.6)
                layers.append(nn.BatchNorm1d(size, affine=affine, track_running_stats=False))
            case 1:
                layers.append(nn.LayerNorm(size, elementwise_affine=draw.chance(0.7)))
            case 2:
                layers.append(nn.GroupNorm(1, size, affine=draw.chance(0.7)))
            case 3:
                layers.append(nn.RMSNorm(size))
        layers.append(shared if shared is not None else activation(draw))
        if draw.chance(0.25):
            layers.append(odd_layer(draw, size, mixing))
    if not layers and draw.chance(0.3):
        layers.append(odd_layer(draw, size, mixing))
    return layers, size


def _image_norm(draw: Draw, channels: int, mixing: bool) -> list[nn.Module]:
    affine = draw.chance(0.6)
    match draw.integer(0, 5):
        case 0 | 1 if mixing:
            return [nn.BatchNorm2d(channels, affine=affine, track_running_stats=False)]
        case 2:
            groups = draw.choice([g for g in range(1, channels + 1) if channels % g == 0])
            return [nn.GroupNorm(groups, channels, affine=affine)]
        case 3:
            return [nn.InstanceNorm2d(channels, affine=affine)]
        case 4 if draw.chance(0.3):
            return [nn.LocalResponseNorm(2)]
    return []


def _resize(draw: Draw) -> list[nn.Module]:
    makers: list[Callable[[], nn.Module]] = [
        lambda: nn.MaxPool2d(2),
        lambda: nn.MaxPool2d(3, stride=2, padding=1),
        lambda: nn.MaxPool2d(2, stride=1, ceil_mode=True),
        lambda: nn.AvgPool2d(2),
        lambda: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
        lambda: nn.AdaptiveAvgPool2d(2),
        lambda: nn.AdaptiveMaxPool2d(2),
        lambda: nn.Upsample(scale_factor=2),
        lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
        lambda: nn.ZeroPad2d(1),
        lambda: nn.ReflectionPad2d(1),
    ]
    return [draw.choice(makers)()] if draw.chance(0.35) else []


def usual_block(draw: Draw, channels: int, out: int, mixing: bool) -> list[nn.Module]:
    """Of few-shot learning: convolution, normalization, ReLU, half the size."""
    norm = nn.BatchNorm2d(out, track_running_stats=False) if mixing else nn.GroupNorm(1, out)
    pool = draw.chance(0.4)
    conv = nn.Conv2d(channels, out, 3, stride=1 if pool else 2, padding=1)
    return [conv, norm, nn.ReLU(), *([nn.MaxPool2d(2)] if pool else [])]


def image_layers(draw: Draw, channels: int, mixing: bool) -> list[nn.Module]:
    """Of `[N, channels, H, W]`, up to the flattening."""
    layers: list[nn.Module] = []
    if draw.chance(0.25):
        for _ in range(draw.integer(1, 2)):
            out = draw.integer(2, 6)
            layers += usual_block(draw, channels, out, mixing)
            channels = out
        return layers
    shared = nn.PReLU() if draw.chance(0.15) else None
    for _ in range(draw.integer(1, 3)):
        out = draw.integer(2, 6)
        kernel, stride = draw.choice([1, 1, 2, 3, 3, (1, 3)]), draw.choice([1, 1, 1, 2])
        padding: Any = draw.integer(0, 1)
        if stride == 1 and kernel != 2:
            padding = draw.choice([0, 1, "same", "valid"])
        groups, dilation = 1, 1
        if draw.chance(0.25):
            groups = draw.choice([g for g in range(1, channels + 1) if channels % g == 0])
            out = groups * draw.integer(1, 3)
        if kernel == 3 and draw.chance(0.2):
            dilation = 2
        bias = draw.chance(0.7)
        if draw.chance(0.1):
            layers.append(nn.ConvTranspose2d(channels, out, kernel, stride, bias=bias, groups=groups))
        else:
            mode = draw.choice(["zeros", "zeros", "zeros", "reflect", "circular"])
            how = {"groups": groups, "dilation": dilation, "bias": bias, "padding_mode": mode}
            layers.append(nn.Conv2d(channels, out, kernel, stride, padding, **how))
        channels = out
        layers += _image_norm(draw, channels, mixing)
        layers.append(shared if shared is not None else activation(draw))
        layers += _resize(draw)
        match draw.integer(0, 11):
            case 0:
                layers.append(Residual(ByKeyword(channels, draw.choice([1, 3]))))
            case 1:
                layers.append(Twice(nn.Conv2d(channels, channels, 1)))
            case 2:
                layers.append(Residual(nn.Conv2d(channels, channels, 3, padding=1)))
            case 3:
                kinds = [Counting, Remembering, *([Branching, BranchingOnSize] if mixing else [])]
                layers.append(draw.choice(kinds)())
            case 4:
                layers.append(nn.Dropout2d(0.0))
    return layers


def signal_layers(draw: Draw, channels: int, mixing: bool) -> list[nn.Module]:
    """Of `[N, channels, L]`, up to the flattening."""
    layers: list[nn.Module] = []
    for _ in range(draw.integer(1, 2)):
        out, kernel = draw.integer(2, 5), draw.choice([1, 2, 3])
        layers.append(nn.Conv1d(channels, out, kernel, draw.choice([1, 1, 2]), kernel // 2))
        channels = out
        affine = draw.chance(0.6)
        match draw.integer(0, 4):
            case 0 if mixing:
                layers.append(nn.BatchNorm1d(out, affine=affine, track_running_stats=False))
            case 1:
                layers.append(nn.InstanceNorm1d(out, affine=affine))
            case 2:
                layers.append(nn.GroupNorm(1, out, affine=affine))
        layers.append(activation(draw))
        if draw.chance(0.3):
            layers.append(draw.choice([nn.MaxPool1d(2), nn.AvgPool1d(2)]))
    return layers


def sequence_layers(draw: Draw, width: int, mixing: bool) -> list[nn.Module]:
    """Of `[N, L, width]` to the same, width even."""
    layers: list[nn.Module] = []
    for _ in range(draw.integer(1, 2)):
        match draw.integer(0, 8):
            case 0 | 1:
                layers.append(
                    nn.TransformerEncoderLayer(
                        width,
                        draw.choice([1, 2]),
                        draw.integer(2, 5),
                        dropout=0.0,
                        activation=draw.choice(["relu", "gelu"]),
                        batch_first=True,
                        norm_first=draw.chance(0.5),
                    )
                )
            case 2:
                layers.append(Residual(Rows(width, 2, need_weights=draw.chance(0.5))))
            case 3:
                layers.append(Residual(ScaledDot(width)))
            case 4:
                layers += [nn.LayerNorm(width), nn.Linear(width, width), activation(draw)]
            case 5:
                layers.append(Cells(width))
            case 6:
                layers += [Swap(), nn.Conv1d(width, width, 3, padding=1), nn.Tanh(), Swap()]
            case 7:
                layers.append(Last(nn.LSTM(width, width, batch_first=True)))
            case 8:
                layers += [Residual(nn.Linear(width, width)), odd_layer(draw, width, mixing)]
    return layers


def shaken(draw: Draw, model: nn.Module) -> nn.Module:
    """In float64, with weights away from their symmetric initial values."""
    model.double()
    with torch.no_grad():
        for p in dict.fromkeys(model.parameters()):
            if p.ndim < 2:
                p.copy_(draw.normal(*p.shape) * 0.3 + (0.7 if draw.chance(0.5) else 0.0))
            else:
                p.copy_(draw.normal(*p.shape) / max(1, p[0].numel()) ** 0.5)
    return model
