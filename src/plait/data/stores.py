"""Where encoded inputs are written: dense or ragged arrays, in memory or in files, rows hashed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from plait.data.tensors import Store

Array = np.ndarray[Any, Any]


def spans(start: Array, length: Array) -> Array:
    """The numbers start, start+1, … of every span, one span after another."""
    ends = np.cumsum(length)
    total = int(ends[-1]) if len(ends) else 0
    found: Array = np.repeat(start - (ends - length), length) + np.arange(total)
    return found


def mix(x: Array) -> Array:
    """Scatter 64-bit numbers evenly (splitmix64's finaliser), the same on every machine."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = x ^ (x >> np.uint64(31))
    return mixed


def _words(array: Array) -> Array:
    """The bytes of each row as 64-bit words [n, words], the last one filled up with zeros."""
    flat: Array = np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)
    words: Array = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 8))).view(np.uint64)
    return words


def _hash_dense(array: Array) -> Array:
    words = _words(array)
    place = mix(np.arange(words.shape[1], dtype=np.uint64)) | np.uint64(1)
    found: Array = mix(words) @ place
    return found


def _hash_ragged(lengths: Array, values: Array) -> Array:
    place = spans(np.zeros_like(lengths), lengths).astype(np.uint64)
    words = mix(values.astype(np.uint64) + (place << np.uint64(32)))
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(words)])
    ends = np.cumsum(lengths)
    found: Array = total[ends] - total[ends - lengths]
    return found


class Writer:
    """Takes the encoded rows of one input chunk by chunk and gives them back as a store.

    Rows go to memory, or to files in ``folder`` which are then mapped: the memory used does not
    grow with the rows. ``hashes`` has a 64-bit number for each row; equal rows have equal numbers.
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        self.folder = folder
        self.name = name
        self.pieces: list[Array] = []
        self.lengths: list[Array] = []
        self.hashes: list[Array] = []
        self.dtype: Any = None
        self.shape: tuple[int, ...] = ()
        self.count = 0  # rows
        self.size = 0  # what is stored for them: rows, or the values of ragged rows

    def add(self, rows: Array | tuple[Array, Array], *, keep: bool = True) -> None:
        """Append a chunk: an array [n, ...], or lengths [n] and the values one after another.

        Where it is not to be kept, only its rows are counted and hashed.
        """
        if isinstance(rows, tuple):
            lengths, rows = rows
            self.count += len(lengths)
            self.lengths.extend([lengths] if keep else [])
            self.hashes.append(_hash_ragged(lengths, rows))
        else:
            self.count += len(rows)
            self.hashes.append(_hash_dense(rows))
        self.dtype, self.shape = rows.dtype, rows.shape[1:]
        if not keep:
            return
        self.size += len(rows)
        if self.folder is None:
            self.pieces.append(rows)
        else:
            with self._path.open("ab") as file:
                np.ascontiguousarray(rows).tofile(file)

    @property
    def _path(self) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.name}.bin"

    def store(self, finish: Callable[[Tensor], Tensor] | None = None) -> Store:
        """What was added, ready to be gathered from."""
        import torch

        from plait.data.tensors import Dense, Ragged

        values = self._values()
        if self.lengths:
            indptr = np.concatenate([[0], np.cumsum(np.concatenate(self.lengths))])
            return Ragged(indptr.astype(np.int64), values)
        return Dense(torch.from_numpy(values), finish)

    def _values(self) -> Array:
        if self.folder is None:
            return np.concatenate(self.pieces) if len(self.pieces) > 1 else self.pieces[0]
        shape = (self.size, *self.shape)
        if self.size == 0:
            return np.zeros(shape, self.dtype)
        # Copy on write: torch wants a writable array, and the file stays as it is.
        return np.memmap(self._path, dtype=self.dtype, mode="c", shape=shape)


def combine(hashes: Sequence[Array]) -> Array:
    """One number for each row from those of its inputs."""
    found = np.zeros_like(hashes[0])
    for place, each in enumerate(hashes):
        found += mix(each + np.uint64(place))
    return found
