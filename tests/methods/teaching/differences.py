"""A central difference, and tasks of vectors in float64, for the tests here."""

from collections.abc import Callable

import torch
from torch import Tensor

from metanotes import Batch, Task


def central_differences(f: Callable[[], Tensor], p: Tensor, h: float = 1e-5) -> Tensor:
    """df/dp, entry by entry; p is changed in place and put back."""
    flat = p.detach().view(-1)  # the same numbers
    slopes = []
    for k, before in enumerate(flat.tolist()):
        sides = []
        for side in (h, -h):
            flat[k] = before + side
            sides.append(f().item())
        flat[k] = before
        slopes.append((sides[0] - sides[1]) / (2 * h))
    return torch.tensor(slopes, dtype=p.dtype).view_as(p)


def vectors(T: int = 2, N: int = 7, M: int = 4, features: int = 5, classes: int = 3) -> Task:
    """Minibatches `[T, N, features]`, and a quiz `[T, M, features]` beside each."""
    g = torch.Generator().manual_seed(0)
    x, x_quiz = (torch.randn(T, n, features, generator=g).double() for n in (N, M))
    y, y_quiz = (torch.randint(classes, (T, n), generator=g) for n in (N, M))
    return Task(Batch(x, y), Batch(x_quiz, y_quiz))
