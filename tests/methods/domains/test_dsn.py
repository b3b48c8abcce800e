"""What does not make a domain separation network is named."""

import pytest
import torch
from torch import nn

from metanotes import Batch, Task, mse
from metanotes.methods.domains import DSN

TASKS = Task(
    Batch(torch.ones(2, 6, 4), torch.ones(2, 6, dtype=torch.long)),
    Batch(torch.zeros(2, 5, 4), torch.full((2, 5), -1)),
)


def nets(code: int = 3) -> dict[str, nn.Module]:
    return {
        "encoder": nn.Linear(4, 3),
        "classifier": nn.Linear(3, 2),
        "private_source": nn.Linear(4, code),
        "private_target": nn.Linear(4, 3),
        "decoder": nn.Linear(3, 4),
    }


@pytest.mark.parametrize("name", nets())
def test_a_part_that_is_no_module_is_named(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} is a function; it must be a module"):
        DSN(**{**nets(), name: lambda x: x})


def test_settings_go_by_their_names() -> None:
    with pytest.raises(TypeError, match="positional"):
        DSN(*nets().values(), None)
    with pytest.raises(TypeError, match="reconstruction='mse' must be a function"):
        DSN(*nets().values(), reconstruction="mse")
    with pytest.raises(ValueError, match="beta=-1"):
        DSN(*nets().values(), beta=-1.0)


def test_private_codes_of_another_length_are_refused() -> None:
    """Of length 1 they would be spread over the shared code, without a word."""
    for code in (1, 2):
        with pytest.raises(ValueError, match=rf"private_source gives codes \[6, {code}\]"):
            DSN(*nets(code).values())(TASKS)
    assert DSN(*nets().values())(TASKS).shape == (2,)


def test_what_is_rebuilt_has_the_images_shape() -> None:
    images = Batch(torch.randn(1, 5, 1, 4, 4), torch.randint(2, (1, 5)))
    parts = {
        name: nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        for name in ("encoder", "private_source", "private_target")
    }
    decoder = nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, (4, 4)))
    learner = DSN(**parts, classifier=nn.Linear(3, 2), decoder=decoder, reconstruction=mse)
    target = images._replace(y=torch.full((1, 5), -1))
    with pytest.raises(ValueError, match=r"gives \[10, 4, 4\] for images \[10, 1, 4, 4\]"):
        learner(Task(images, target))
