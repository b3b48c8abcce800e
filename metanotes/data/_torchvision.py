"""torchvision, also where a CUDA build of it stands beside a CPU build of torch.

There its compiled operators cannot be loaded, and `import torchvision` fails with "operator
torchvision::nms does not exist", though its data sets and transforms need none of them. Declaring
the two operators that the import asks for is enough; they stay without an implementation.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

_declared: torch.library.Library | None = None  # the declarations last as long as this does


def import_torchvision() -> ModuleType:
    """The torchvision module.

    Raises:
        ImportError: torchvision is not installed.
    """
    global _declared
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise ImportError("this needs torchvision: pip install torchvision") from error
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error) or _declared is not None:
            raise
    _declared = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        _declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")
