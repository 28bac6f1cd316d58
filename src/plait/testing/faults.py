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


@contextmanager
def full_disk(folder: Path, after: int = 0) -> Iterator[None]:
    """Within the block, writing more than ``after`` bytes below ``folder`` raises ENOSPC.

    Covers files that Python opens for writing; ``os.write`` on their descriptors is not counted.
    """
    left = [after]
    real_open = builtins.open
    inside = str(folder.resolve()) + os.sep

    def opened(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        handle = real_open(file, mode, *arguments, **named)
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return handle
        if not str(Path(os.fspath(file)).resolve()).startswith(inside):
            return handle
        return _short_of_space(handle, left)

    builtins.open, io.open = opened, opened
    try:
        yield
    finally:
        builtins.open, io.open = real_open, real_open


class _short_of_space:  # noqa: N801 - reads as the open() it stands in for
    def __init__(self, handle: Any, left: list[int]) -> None:
        self._handle, self._left = handle, left

    def write(self, data: Any) -> int:
        size = len(data)
        if size > self._left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._left[0] -= size
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
