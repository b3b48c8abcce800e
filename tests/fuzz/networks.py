"""Random networks, made of torch's modules and of readers' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.fuzz.draw import Draw
from tests.fuzz.modules import (
    Branching,
    BranchingOnSize,
    ByKeyword,
    Cells,
    Counting,
    Detached,
    InPlace,
    Last,
    Listed,
    Modes,
    Remembering,
    Residual,
    Reversing,
    Rows,
    ScaledDot,
    Sorted,
    Swap,
    Twice,
    Unused,
    WithConstant,
)

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


def normalizes_groups(network: nn.Module) -> bool:
    """Whether torch's backward may end the process, for images with their channels last."""
    return any(isinstance(m, nn.GroupNorm) for m in network.modules())


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
            layers.append(
                nn.ConvTranspose2d(channels, out, kernel, stride, bias=bias, groups=groups)
            )
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
