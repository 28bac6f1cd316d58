"""Faults on purpose: a NaN loss, a killed process, a full disk, a torn file.

>>> import tempfile, pathlib
>>> path = pathlib.Path(tempfile.mkdtemp()) / "model.bin"
>>> _ = path.write_bytes(bytes(100))
>>> tear(path, keep=0.25)
>>> path.stat().st_size
25
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn


@dataclass
class Count:
    """Counts its calls and runs ``action`` at the given one (the first call is 0)."""

    at: int
    action: Callable[[], None]
    calls: int = field(default=0, init=False)

    def __call__(self, *_: Any, **__: Any) -> None:
        if self.calls == self.at:
            self.action()
        self.calls += 1


def terminate_at(step: int) -> Count:
    """An observer that sends this process SIGTERM at a step, as a cluster does."""
    return Count(step, lambda: os.kill(os.getpid(), signal.SIGTERM))


def kill_at(step: int) -> Count:
    """An observer that kills this process at a step: nothing is flushed, nothing is cleaned up."""
    return Count(step, lambda: os.kill(os.getpid(), signal.SIGKILL))


class NanAt(nn.Module):
    """Wraps a module so that one output tensor of the given calls is NaN.

    ``key`` picks the entry where the module returns a mapping, by name; otherwise the tensor
    itself is spoilt.
    """

    def __init__(self, module: nn.Module, calls: set[int], key: str | None = None) -> None:
        super().__init__()
        self.module = module
        self.at = calls
        self.key = key
        self.calls = 0

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """The module's output, spoilt where it was asked for."""
        found = self.module(*arguments, **named)
        hit = self.calls in self.at
        self.calls += 1
        if not hit:
            return found
        if isinstance(found, Mapping):
            return {
                name: spoil(value) if name == self.key else value for name, value in found.items()
            }
        return spoil(found)


def spoil(tensor: Tensor) -> Tensor:
    """The tensor as NaN, with its graph: what a diverged layer gives."""
    return tensor * torch.nan


class Disk:
    """A disk that runs full, told of everything that is written below a folder.

    ``after`` is how many bytes fit. ``at`` is the number of the write (from 0) that fails: opening
    a file for writing, each write to it, flushing it, making or renaming a file or a folder, each
    call of a library that writes by itself. ``once``: there is room again after that.
    """

    def __init__(
        self, folder: Path, *, after: int | None = None, at: int | None = None, once: bool = False
    ) -> None:
        self.inside = str(folder.resolve()) + os.sep
        self.after = after
        self.at = at
        self.once = once
        self.writes = 0

    def holds(self, path: Any) -> bool:
        """Whether a path lies below the folder."""
        if isinstance(path, int):
            return False
        return str(Path(os.path.abspath(os.fspath(path)))).startswith(self.inside)  # noqa: PTH100

    def take(self, size: int = 0) -> None:
        """A write of so many bytes: raises ``OSError`` (ENOSPC) where there is no room."""
        number, self.writes = self.writes, self.writes + 1
        full = self.at is not None and (number == self.at if self.once else number >= self.at)
        if self.after is not None:
            full = full or size > self.after
            self.after -= 0 if full else size
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def full_disk(folder: Path, after: int = 0) -> Iterator[Disk]:
    """Within the block, writing more than ``after`` bytes below ``folder`` raises ENOSPC.

    Covers files that Python opens for writing; ``os.write`` on their descriptors is not counted.
    """
    disk = Disk(folder, after=after)
    real = builtins.open
    opened = _opening(real, disk, counted=False)
    with _replaced((builtins, "open", opened), (io, "open", opened)):
        yield disk


@contextmanager
def failing_write(folder: Path, at: int | None, *, once: bool = False) -> Iterator[Disk]:
    """Within the block, write number ``at`` below ``folder``, and all later ones, raise ENOSPC.

    ``once``: only that one. None counts the writes and fails none. polars, safetensors and SQLite
    write by themselves: each of their calls is one write.
    """
    import sqlite3

    import polars as pl
    import safetensors.torch

    disk = Disk(folder, at=at, once=once)
    tensors: Any = safetensors.torch
    opened = _opening(builtins.open, disk, counted=True)

    def on_path(call: Callable[..., Any], position: int = 0) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            if disk.holds(arguments[position]):
                disk.take()
            return call(*arguments, **named)

        return called

    def made(path: Any, *arguments: Any, **named: Any) -> None:
        if disk.holds(path) and not Path(path).exists():
            disk.take()
        os_mkdir(path, *arguments, **named)

    def flushed(handle: int) -> None:
        disk.take()
        os_fsync(handle)

    os_mkdir, os_fsync = os.mkdir, os.fsync
    with _replaced(
        (builtins, "open", opened),
        (io, "open", opened),
        (os, "mkdir", made),
        (os, "rename", on_path(os.rename, 1)),
        (os, "replace", on_path(os.replace, 1)),
        (os, "fsync", flushed),
        (sqlite3, "connect", on_path(sqlite3.connect)),
        (pl.DataFrame, "write_parquet", on_path(pl.DataFrame.write_parquet, 1)),
        (tensors, "serialize_file", on_path(tensors.serialize_file, 1)),
    ):
        yield disk


@contextmanager
def _replaced(*what: tuple[Any, str, Any]) -> Iterator[None]:
    """Attributes of modules and classes, other than they are within the block."""
    before = [(home, name, getattr(home, name)) for home, name, _ in what]
    for home, name, value in what:
        setattr(home, name, value)
    try:
        yield
    finally:
        for home, name, value in before:
            setattr(home, name, value)


def _opening(real: Callable[..., Any], disk: Disk, *, counted: bool) -> Callable[..., Any]:
    """``open`` whose files write to a disk that runs full; ``counted``: opening is a write too."""

    def opened(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if not set(mode) & set("wax+") or not disk.holds(file):
            return real(file, mode, *arguments, **named)
        if counted:
            disk.take()
        return _Short(real(file, mode, *arguments, **named), disk)

    return opened


class _Short:
    """A file on a disk that runs full: the write that fails is done by half."""

    def __init__(self, handle: Any, disk: Disk) -> None:
        self._handle, self._disk = handle, disk

    def write(self, data: Any) -> int:
        try:
            self._disk.take(len(data))
        except OSError:
            self._handle.write(data[: len(data) // 2])
            raise
        return int(self._handle.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def __enter__(self) -> Self:
        self._handle.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:
        return self._handle.__exit__(*error)

    def __iter__(self) -> Any:
        return iter(self._handle)


def tear(path: Path, keep: float = 0.5) -> None:
    """Cut a file short, as a crash in the middle of a write leaves it."""
    size = path.stat().st_size
    with path.open("r+b") as handle:
        handle.truncate(int(size * keep))


def flip(path: Path, position: int = -1) -> None:
    """Change one byte of a file, as a failing disk does; negative positions count from the end."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(bytes(data))


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until the condition holds; ``TimeoutError`` when it does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing happened within {seconds:g} s")
        time.sleep(0.01)
