"""The state of a run in one file: whole and of that run, or refused.

It is a file of `torch.save` with one line at its end, the SHA-256 of all before that line. So
whatever happened to the file on its way, an altered bit or a missing end, is found out before
anything is read from it; and `torch.load(path, weights_only=True)` still opens it. It is never
unpickled but for tensors and plain values: a file from a stranger runs no code.
"""

from __future__ import annotations

import copy
import hashlib
import io
import os
import re
from collections.abc import Collection, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import torch

from metanotes._ground.files import InUseError, locked, replacing, unlocked

SEAL = b"\nmetanotes checkpoint 3, SHA-256 "  # then the digest in hexadecimal, and a line's end
DESCRIPTION = "description"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: of another run, damaged, or not to be written.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:     # an empty one
    ...     Checkpoint(file.name, {}, {}).load()
    Traceback (most recent call last):
    metanotes._ground.checkpoints.CheckpointError: checkpoint=... is damaged or no checkpoint ...
    """


class CheckpointInUseError(CheckpointError):
    """Another process trains with this checkpoint at present.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     first, second = (Checkpoint(f"{folder}/run.pt", {}, {}) for _ in range(2))
    ...     first.open()
    ...     second.open()
    Traceback (most recent call last):
    metanotes._ground.checkpoints.CheckpointInUseError: checkpoint=... is in use by another ...
    """


class Stateful(Protocol):
    """What can be put down and taken up again, as modules and optimizers of torch can."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


class Checkpoint:
    """The file of a run.

    Args:
        path: the file; its folder is made if it is missing. With None nothing is kept.
        description: what the run is, by name, in lines: a file with another is refused.
        parts: all that changes in the run, by name.

    >>> import tempfile
    >>> layer = torch.nn.Linear(2, 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Checkpoint(f"{folder}/run.pt", {"width": "2"}, {"layer": layer})
    ...     file.save()
    ...     weight = layer.weight.detach().clone()
    ...     _ = torch.nn.init.zeros_(layer.weight)
    ...     file.load()
    >>> torch.equal(layer.weight, weight)
    True
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        description: Mapping[str, str],
        parts: Mapping[str, Stateful],
    ) -> None:
        self.path = None if path is None else Path(path)
        self.where = f"checkpoint={str(path)!r}"
        self.description, self.parts = dict(description), dict(parts)
        self.readable = False  # whether what is written here was read back
        self.lock: int | None = None

    def states(self, names: Collection[str] | None = None) -> dict[str, Any]:
        """The present states of the parts of those names, where there are such; default: of all."""
        if self.path is None:
            return {}
        return {
            name: part.state_dict()
            for name, part in self.parts.items()
            if names is None or name in names
        }

    def save(self, instead: Mapping[str, Any] | None = None) -> None:
        """Write the file; the one before it stands until this one is whole.

        Args:
            instead: earlier states of some parts, in place of the present ones.

        Raises:
            CheckpointError: the file cannot be written, or could not be read again.
        """
        if self.path is None:
            return
        states = self.states() | dict(instead or {})
        contents = self._packed({DESCRIPTION: self.description, **states})
        try:
            with replacing(self.path) as file:
                file.write(contents)
                file.write(seal(contents))
        except OSError as error:
            raise CheckpointError(f"{self.where} cannot be written: {error}") from error

    def open(self) -> None:
        """`load`, and keep other processes from doing so until `close`, or the end of this one.

        Raises:
            CheckpointInUseError: another one has opened it.
        """
        if self.path is not None:
            try:
                self.lock = locked(self.path)
            except InUseError as error:
                raise CheckpointInUseError(
                    f"{self.where} is in use by another process, or another training of this one: "
                    "wait for its end, or choose another file"
                ) from error
        self.load()

    def close(self) -> None:
        """Let others have it."""
        if self.path is not None and self.lock is not None:
            unlocked(self.path, self.lock)
            self.lock = None

    def load(self) -> None:
        """Go on from the file, if it is there: all parts are as they were, or none is touched.

        Raises:
            CheckpointError: the file cannot be read, is damaged, or is of another run.
        """
        if self.path is None:
            return
        try:
            contents = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise CheckpointError(f"{self.where} cannot be read: {error}") from error
        states = self._unpacked(contents)
        self._compare(states.pop(DESCRIPTION))
        for name in sorted(states.keys() ^ self.parts.keys()):
            has, lacks = ("it", "this run") if name in states else ("this run", "it")
            raise self._of_another_run(name, f"{has} has a state of the {name}, {lacks} has none")
        before = {name: copy.deepcopy(state) for name, state in self.states().items()}
        name = ""
        try:
            for name, part in self.parts.items():
                part.load_state_dict(states[name])
        except BaseException as error:
            for touched, part in self.parts.items():
                part.load_state_dict(before[touched])
                if touched == name:
                    break
            if isinstance(error, Exception):
                raise self._of_another_run(name, str(error)) from error
            raise

    def _packed(self, contents: dict[str, Any]) -> bytes:
        """The bytes of `torch.save`; those of the first time are read back to see that they can."""
        try:
            packed = packed_by_torch(contents)
            if not self.readable:
                unpacked_by_torch(packed)
            self.readable = True
            return packed
        except Exception as error:
            raise CheckpointError(
                f"{self.where} cannot keep the state of the {unreadable(contents)}: its state_dict "
                "must hold nothing but tensors, numbers, strings, and lists, tuples and dicts of "
                f"them ({str(error).splitlines()[0]})"
            ) from error

    def _unpacked(self, contents: bytes) -> dict[str, Any]:
        """What is in the file, if every byte is as it was written."""
        size = len(seal(b""))
        contents, end = contents[:-size], contents[-size:]
        try:
            if end != seal(contents):
                raise ValueError("the checksum at its end is not that of its contents")
            states = unpacked_by_torch(contents)
            return {DESCRIPTION: dict(states[DESCRIPTION]), **states}
        except Exception as error:
            raise CheckpointError(
                f"{self.where} is damaged or no checkpoint of this version of metanotes; choose "
                "another file, or delete this one to start anew"
            ) from error

    def _compare(self, then: dict[str, str]) -> None:
        """Refuse a file that describes another run."""
        if differs := difference(self.description, then):
            name, new, old = differs
            raise self._of_another_run(name, f"{old} then, {new} now")

    def _of_another_run(self, name: str, how: str) -> CheckpointError:
        return CheckpointError(
            f"{self.where} is of another run ({name}): {how}. Choose another file, or delete this "
            "one to start anew"
        )


def difference(a: Mapping[str, str], b: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Where two descriptions differ: a name, and its first line that does in each.

    >>> difference({"optimizer": "SGD\\nlr=0.1"}, {"optimizer": "SGD\\nlr=0.2"})
    ('optimizer', 'lr=0.1', 'lr=0.2')
    """
    for name in [*a, *(b.keys() - a.keys())]:
        lines = zip_longest(
            a.get(name, "").splitlines(), b.get(name, "").splitlines(), fillvalue="(nothing)"
        )
        for of_a, of_b in lines:
            if of_a != of_b:
                return name, of_a.strip(), of_b.strip()
    return None


def seal(contents: bytes) -> bytes:
    """The last line of a file with these contents."""
    return SEAL + hashlib.sha256(contents).hexdigest().encode() + b"\n"


def packed_by_torch(contents: Mapping[str, Any]) -> bytes:
    """What `torch.save` writes."""
    file = io.BytesIO()
    torch.save(dict(contents), file)
    return file.getvalue()


def unpacked_by_torch(packed: bytes) -> Any:
    """Tensors, on the CPU, and plain values; anything else is an error."""
    return torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)


def unreadable(contents: Mapping[str, Any]) -> str:
    """The name of the first of some states that cannot be written and read."""
    for name, state in contents.items():
        try:
            unpacked_by_torch(packed_by_torch({name: state}))
        except Exception:
            return name
    return "run"


def described(thing: object) -> str:
    """Its repr, without the addresses of a process's memory, which the next has others of.

    >>> described([print, len])
    '[<built-in function print>, <built-in function len>]'
    >>> described(lambda: 1)
    '<function <lambda>>'
    """
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(thing))
