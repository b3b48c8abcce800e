"""Settings of torch's that are changed for a while, and put back."""

from __future__ import annotations

import pytest
import torch

from metanotes._ground.precision import all_digits, in_full

GPU = torch.device("cuda")  # nothing is computed there


def settings() -> tuple[str, str]:
    return torch.backends.cudnn.conv.fp32_precision, torch.get_float32_matmul_precision()


@pytest.mark.parametrize("products", ["highest", "high"])
@pytest.mark.parametrize("fails", [False, True])
def test_what_was_set_is_put_back(products: str, fails: bool) -> None:
    torch.set_float32_matmul_precision(products)
    before = settings()
    try:
        with all_digits(GPU):
            assert settings() == ("ieee", "highest")
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    finally:
        after = settings()
        torch.set_float32_matmul_precision("highest")
    assert after == before
    assert before[0] == "tf32"


def test_so_is_torchs_newer_setting_of_products() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        with all_digits(GPU):
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_convolutions_and_what_else_asks_for_the_settings_work_meanwhile() -> None:
    """torch refuses some mixtures of its settings, where a layer looks at them."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 5, 5, generator=g, requires_grad=True)
    layer = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.LSTM(36, 2)
    )
    with all_digits(GPU):
        y = layer(x)[0] @ torch.ones(2, 1)
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        first.square().sum().backward()
        assert x.grad is not None


def test_on_a_processor_nothing_is_changed() -> None:
    before = settings()
    with all_digits(torch.device("cpu")):
        assert settings() == before


def test_automatic_casts_are_off_for_a_while() -> None:
    cpu = torch.device("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        with in_full(cpu):
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
