"""Functions of torch's, replaced for a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch.overrides import TorchFunctionMode


class Instead(TorchFunctionMode):
    """While this lasts, `functions[f]` is called instead of f; where it gives None, f is.

    >>> import torch
    >>> class Doubled(Instead):
    ...     functions = {torch.sin: lambda x: 2 * torch.sin(x) if x.ndim else None}
    >>> x = torch.ones(1)
    >>> with Doubled():
    ...     torch.sin(x) / x.sin(), torch.sin(x[0]) / x[0].sin()
    (tensor([2.]), tensor(1.))
    """

    functions: ClassVar[Mapping[Any, Callable[..., Any]]] = {}

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        function = self.functions.get(func)
        result = None if function is None else function(*args, **kwargs)
        return func(*args, **kwargs) if result is None else result
