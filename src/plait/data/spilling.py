"""Columns that were parsed once, set aside in a temporary file to be read again without parsing."""

from __future__ import annotations

import io
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence

import polars as pl

MEMORY = 1 << 22  # bytes that are kept without a file
ROOM = 2.0  # times the bytes of a CSV that must be free


def has_room(size: int) -> bool:
    """Whether the columns of a CSV of so many bytes can be set aside."""
    try:
        return shutil.disk_usage(tempfile.gettempdir()).free > ROOM * size
    except OSError:
        return False


class Spill:
    """Frames in the order they came. Any number of readers may read them at once.

    The file has no name, and is gone with the object or the process.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=MEMORY)  # noqa: SIM115
        self._ends = [0]
        self._lock = threading.Lock()
        weakref.finalize(self, self._file.close)

    def add(self, frame: pl.DataFrame) -> None:
        """Set a frame aside. Raises ``OSError`` where there is no room."""
        frame.write_ipc_stream(self._file, compat_level=pl.CompatLevel.newest())
        self._ends.append(self._file.tell())

    def frames(self, names: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Some columns of every frame."""
        for start, end in zip(self._ends, self._ends[1:], strict=False):
            with self._lock:
                self._file.seek(start)
                data = self._file.read(end - start)
            yield pl.read_ipc_stream(io.BytesIO(data), columns=list(names)).select(names)
