"""Finished pieces of a replay on disk: what ran once under the same conditions runs no more.

A unit is a batch under a model (or a completion, where each runs alone). Its name is the hash of
all that can move one of its numbers; that is also written inside and must fit. What is damaged,
of another shape or not finite is as good as absent, and is written anew.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

_FORMAT = 4
_SUFFIX = ".safetensors"
_PACKAGES = ("torch", "transformers", "peft")

#: Name of a tensor -> its shape and type.
Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


@dataclass(kw_only=True)
class Shelf:
    """A folder of units that only its user can read.

    Attributes:
        folder: Where they lie; None keeps nothing.
        limit: Bytes that they may take; None is any number. The oldest go first, none of this
            scan's; what does not fit then is not kept.
        reused: Passes of an earlier scan that were found here and not run.
    """

    folder: Path | None = None
    limit: int | None = None
    reused: int = 0
    _sizes: dict[str, int] = field(default_factory=dict)  # the least lately used first
    _before: frozenset[str] = frozenset()
    _used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.folder is None:
            return
        found = [
            (entry.stat(follow_symlinks=False), entry.name)
            for entry in os.scandir(self.folder)
            if entry.name.endswith(_SUFFIX) and entry.is_file(follow_symlinks=False)
        ]
        self._sizes = {name: s.st_size for s, name in sorted(found, key=lambda f: f[0].st_mtime)}
        self._before = frozenset(self._sizes)

    def read(self, name: str) -> bytes | None:
        """The content of a unit; None if it is not there, or is a link."""
        if self.folder is None:
            return None
        try:
            file = os.open(self.folder / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            with open(file, "rb") as handle:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    return None
                content = handle.read()
                os.utime(self.folder / name)
        except OSError:
            return None
        self._used.add(name)
        return content

    def count(self, name: str, passes: int) -> None:
        """A unit was used in place of so many passes."""
        if name in self._before:
            self.reused += passes

    def write(self, name: str, content: bytes) -> None:
        """Put a unit in its place whole. A disk that is full costs the unit, not the scan."""
        if self.folder is None:
            return
        self._used.add(name)
        self._sizes.pop(name, None)
        if not self._make_room(self.folder, len(content)):
            return
        beside = self.folder / f".{name}.{os.getpid()}.part"
        try:
            file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(file, "wb") as handle:
                handle.write(content)
            os.replace(beside, self.folder / name)
        except OSError:
            beside.unlink(missing_ok=True)
            return
        self._sizes[name] = len(content)

    def _make_room(self, folder: Path, size: int) -> bool:
        """Delete the oldest until so many bytes fit; whether they do."""
        if self.limit is None:
            return True
        total = sum(self._sizes.values()) + size
        for old in [name for name in self._sizes if name not in self._used]:
            if total <= self.limit:
                break
            (folder / old).unlink(missing_ok=True)
            total -= self._sizes.pop(old)
        return total <= self.limit


@dataclass(frozen=True, kw_only=True)
class Units:
    """Units under the conditions of one scan.

    Attributes:
        shelf: Where they are kept.
        conditions: What moves numbers and is the same for all of them, by name.
        share: Which share of all units is run here, from 0, and of how many.
    """

    shelf: Shelf = field(default_factory=Shelf)
    conditions: Mapping[str, object] = field(default_factory=dict)
    share: tuple[int, int] = (0, 1)

    def mine(self, place: int) -> bool:
        """Whether the unit at this place of a fixed order is run here."""
        number, of = self.share
        return place % of == number

    def under(self, **conditions: object) -> "Units":
        """The same shelf under further conditions, or others."""
        return dataclasses.replace(self, conditions={**self.conditions, **conditions})

    def find(
        self, what: Mapping[str, object], layout: Layout, *, passes: int = 1
    ) -> dict[str, Tensor] | None:
        """The tensors of a unit, if it is there and sound.

        Args:
            what: What it is of, by name.
            layout: What its tensors must be.
            passes: So many need not be run, if it is there.
        """
        said, name = self._key(what)
        content = self.shelf.read(name)
        if content is None:
            return None
        try:
            if _written(content) != said:
                return None
            tensors = load(content)
        except (SafetensorError, ValueError, TypeError, KeyError, RecursionError):
            return None
        if {k: (tuple(t.shape), t.dtype) for k, t in tensors.items()} != dict(layout):
            return None
        if not all(torch.isfinite(t).all() for t in tensors.values()):
            return None
        self.shelf.count(name, passes)
        return tensors

    def keep(self, what: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
        """Keep a finished unit."""
        if self.shelf.folder is None:
            return
        said, name = self._key(what)
        plain = {k: t.detach().cpu().contiguous() for k, t in tensors.items()}
        self.shelf.write(name, save(plain, metadata={"unit": said}))

    def _key(self, what: Mapping[str, object]) -> tuple[str, str]:
        whole = {"format": _FORMAT, "versions": _versions(), **self.conditions, **what}
        said = json.dumps(whole, sort_keys=True)
        return said, hashlib.sha256(said.encode()).hexdigest() + _SUFFIX


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _written(content: bytes) -> object:
    """What a file says that it is of: in the JSON header, whose length comes first."""
    (size,) = struct.unpack("<Q", content[:8].ljust(8, b"\0"))
    header = json.loads(content[8 : 8 + min(size, len(content))])
    return header["__metadata__"]["unit"]


def open_shelf(folder: Path, limit: int | None = None) -> Shelf | None:
    """A shelf in a folder that is made for its user alone; None where that cannot be had."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        there = folder.lstat()
        mine = not hasattr(os, "getuid") or there.st_uid == os.getuid()
        if not stat.S_ISDIR(there.st_mode) or not mine:
            return None
        folder.chmod(0o700)
        if not os.access(folder, os.W_OK | os.X_OK):
            return None
        return Shelf(folder=folder, limit=limit)
    except OSError:
        return None


def hash_ids(*sequences: object) -> str:
    """One hash of sequences of numbers."""
    return hashlib.sha256(json.dumps(sequences).encode()).hexdigest()
