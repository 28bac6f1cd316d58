"""Room on the disk: asked for before work begins, and told apart from a cell's own failure."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plait.comparing.memory import chain
from plait.weights.files import temporary_beside

EXIT_CODE = 75  # "temporary failure": the same command goes on when there is room
MARGIN = 1.2
LEAST = 16 * 2**20  # bytes without which nothing is begun
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_MARKS = ("no space left", "disk is full", "disk quota exceeded", "os error 28)", "os error 122)")


class NoSpaceError(OSError):
    """The disk is full. What was finished is kept, and the same command goes on from there."""

    exit_code = EXIT_CODE


def no_space(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that the disk or a quota is full.

    >>> no_space(OSError(28, "No space left on device")), no_space(ValueError("full"))
    (True, False)
    """
    for each in chain(error):
        if isinstance(each, NoSpaceError) or getattr(each, "errno", None) in _FULL:
            return True
        if any(mark in str(each).lower() for mark in _MARKS):
            return True
    return False


def full(folder: Path) -> NoSpaceError:
    """The error to leave with."""
    return NoSpaceError(
        f"{folder}: the disk is full; free some space and give the same command again: what is "
        "finished is kept"
    )


@contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """Within the block a full disk raises :class:`NoSpaceError`, whoever noticed it."""
    try:
        yield
    except Exception as error:
        if no_space(error) and not isinstance(error, NoSpaceError):
            raise full(folder) from error
        raise


def need(folder: Path, size: float) -> None:
    """Raise :class:`NoSpaceError` unless ``size`` bytes fit, with a margin."""
    wanted = max(LEAST, MARGIN * size)
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise NoSpaceError(
            f"{folder}: {_megabytes(free)} are free on the disk and about {_megabytes(wanted)} are "
            "needed; free some space, or give a folder on another disk with --out"
        )


def writable(folder: Path) -> None:
    """Raise ``OSError`` unless files can be made in a folder."""
    probe = temporary_beside(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.close(handle)
        probe.unlink()
    except OSError as error:
        if no_space(error):
            raise full(folder) from error
        raise OSError(
            f"{folder}: cannot be written ({error.strerror}); copy the run to a place that can be, "
            "or give another folder with --out"
        ) from error


def _megabytes(size: float) -> str:
    """A size in words.

    >>> _megabytes(3_400_000)
    '3.4 MB'
    """
    return f"{size / 1e6:,.1f} MB"
