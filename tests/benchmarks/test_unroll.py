"""The contenders of the unroll give one gradient."""

import pytest
import torch

from benchmarks import unroll
from benchmarks.measure import TOLERANCE, relative_error


@pytest.mark.parametrize("name", [n for n in unroll.CONTENDERS if n != unroll.REFERENCE])
def test_a_contender_gives_the_gradient_of_the_reference(name: str) -> None:
    work = unroll.unroll(hidden=3, steps=3).work(torch.float64, torch.device("cpu"))
    expected = [t.clone() for t in unroll.CONTENDERS[unroll.REFERENCE](work)()]
    assert all(t.abs().max() > 0 for t in expected)
    assert relative_error(unroll.CONTENDERS[name](work)(), expected) < TOLERANCE
