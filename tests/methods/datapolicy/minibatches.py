"""Minibatches with clean examples beside them, and a central difference, for the tests here."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metanotes import Batch, Task


def minibatches(T: int = 2, N: int = 7, M: int = 4, classes: int = 3) -> Task:
    """Vectors `[T, N, 5]` to train on and `[T, M, 5]` that are clean, in float64."""
    g = torch.Generator().manual_seed(0)
    x, x_val = (torch.randn(T, n, 5, generator=g).double() for n in (N, M))
    y, y_val = (torch.randint(classes, (T, n), generator=g) for n in (N, M))
    return Task(Batch(x, y), Batch(x_val, y_val))


def image_minibatches(T: int = 2, N: int = 6, M: int = 4) -> Task:
    """Smooth images `[T, N, 1, 8, 9]`, in float64."""
    g = torch.Generator().manual_seed(1)
    x, x_val = (
        nn.functional.interpolate(torch.randn(T * n, 1, 3, 3, generator=g).double(), (8, 9))
        for n in (N, M)
    )
    y, y_val = (torch.randint(3, (T, n), generator=g) for n in (N, M))
    return Task(Batch(x.unflatten(0, (T, N)), y), Batch(x_val.unflatten(0, (T, M)), y_val))


def net(seed: int = 0) -> nn.Sequential:
    """Twice differentiable, so that differences converge."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(6), nn.Tanh(), nn.Linear(6, 3)).double()


def central_differences(f: Callable[[], Tensor], p: Tensor, h: float = 1e-5) -> Tensor:
    """df/dp, entry by entry; p is changed in place and put back."""
    gradient = torch.zeros_like(p)
    with torch.no_grad():
        flat, out = p.view(-1), gradient.view(-1)
        for k in range(len(flat)):
            before = flat[k].item()
            values = []
            for side in (h, -h):
                flat[k] = before + side
                with torch.enable_grad():
                    values.append(f().item())
            flat[k] = before
            out[k] = (values[0] - values[1]) / (2 * h)
    return gradient


def losses_of_each(model: nn.Module, examples: Batch) -> Tensor:
    """Cross entropy, `[T, N]`."""
    return torch.stack(
        [
            nn.functional.cross_entropy(model(x), y, reduction="none")
            for x, y in zip(*examples, strict=True)
        ]
    )
