"""Positions as waves."""

import math

import pytest
import torch

from metanotes.nets import sinusoids


def test_they_are_the_sines_and_cosines_of_the_paper():
    waves = sinusoids(7, 6)
    for t in range(7):
        for i in range(3):
            angle = t / 10_000 ** (2 * i / 6)
            assert waves[t, 2 * i : 2 * i + 2].tolist() == pytest.approx(
                [math.sin(angle), math.cos(angle)], abs=1e-6
            )


def test_a_linear_map_leads_from_each_place_to_the_one_before():
    waves = sinusoids(50, 16).double()
    back = torch.linalg.lstsq(waves[1:], waves[:-1]).solution
    torch.testing.assert_close(waves[1:] @ back, waves[:-1], atol=1e-4, rtol=0)


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="width=5 must be even"):
        sinusoids(3, 5)
