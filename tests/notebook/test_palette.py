"""One colour a method: none twice in a family, and lines of one panel that can be told apart."""

import re

import pytest

from metanotes.notebook import color_of, looks_of
from metanotes.notebook.palette import COLORS, COMPARISONS, FAMILIES, READERS, STARTS


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: next(iter(family)))
def test_no_two_methods_of_a_family_share_a_color(family: dict[str, str]) -> None:
    assert len(set(family.values())) == len(family)
    assert all(re.fullmatch("#[0-9A-F]{6}", color) for color in family.values())


@pytest.mark.parametrize("family", [COMPARISONS, READERS])
def test_what_is_compared_with_maml_has_another_color(family: dict[str, str]) -> None:
    assert STARTS["MAML"] not in family.values()


def test_a_method_is_in_one_family() -> None:
    assert len(COLORS) == sum(map(len, FAMILIES))


@pytest.mark.parametrize(
    ("label", "method"),
    [
        ("MAML, 5 steps", "MAML"),
        ("MAML 20-way 1-shot", "MAML"),
        ("MAML without convolutions 5-way", "MAML without convolutions"),
        ("AdamW", "AdamW"),
        ("Adam, linear, rate 0.1", "Adam"),
        ("DSN + DANN, five seeds", "DSN + DANN"),
    ],
)
def test_a_label_has_the_color_of_the_method_that_it_begins_with(label: str, method: str) -> None:
    assert color_of(label) == COLORS[method]


@pytest.mark.parametrize("label", ["MAMLs", "the MAML", "spring 1", ""])
def test_no_method_has_no_color(label: str) -> None:
    with pytest.raises(ValueError, match="has no colour of its own; these have: random start"):
        color_of(label)


def test_the_lines_of_a_panel_can_be_told_apart() -> None:
    labels = ["teacher", "ANIL", "classifier", "ANIL, 5 steps", "spring", "pupil", "MAML"]
    looks = looks_of(labels)
    assert list(looks) == labels
    assert len(set(looks.values())) == len(labels)
    assert looks["ANIL"][0] == looks["ANIL, 5 steps"][0] == color_of("ANIL")
    own = {color_of("ANIL"), color_of("MAML")}
    assert not own & {looks[name][0] for name in ("teacher", "spring", "pupil")}
