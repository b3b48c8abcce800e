"""A wrong answer: a line of the reference changed, and the checks that it fails."""

from __future__ import annotations

from typing import NamedTuple


class Mistake(NamedTuple):
    """A wrong answer.

    Args:
        what: in words, as the instructor's page has it.
        cell: the answer that is wrong, by its name.
        right, wrong: the part of the reference that is replaced, and by what.
        fails: the names of the checks whose points are lost; all others keep theirs.
    """

    what: str
    cell: str
    right: str
    wrong: str
    fails: tuple[str, ...]
