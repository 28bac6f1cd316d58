"""Labels of pixels: masks, depths, normals and boundaries, from arrays or from files.

They are kept as one array [n, H, W] (normals [n, H, W, 3]); a pixel without a label is -1, where
there are fractions NaN.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plait.data.errors import DataError
from plait.data.images import is_files
from plait.data.sources import Chunk
from plait.data.stores import Array
from plait.data.targets import Target, spelled
from plait.data.vectors import stack
from plait.kinds import KINDS, kind_of


def pixel_labels(
    target: Target, split: Array, there: Array, keep: Array | None
) -> tuple[Array, Array, tuple[str, ...]]:
    """The rows that have labels [n], the labels [n, H, W, ...] and the classes of a task on pixels.

    ``split`` and ``there`` say which rows are used and may have a label. Raises :class:`DataError`
    with the row for files that cannot be read and for labels that do not fit the kind.
    """
    kind = KINDS[kind_of(str(target.spec.kind)).name]
    pieces, rows, start = [], [], 0
    for chunk in target.table.chunks([target.column], keep):
        here = slice(start, start + len(chunk))
        used = (split[here] >= 0) & there[here] & ~_missing(chunk, target.column)
        rows.append(np.flatnonzero(used) + start)
        start += len(chunk)
        if used.any():
            pieces.append(_read(chunk, target.column, used))
    shapes = {piece.shape[1:] for piece in pieces}
    if len(shapes) > 1:
        raise _wrong(target, f"labels of differing sizes: {' and '.join(map(str, shapes))}")
    if not pieces:
        raise _wrong(target, "no row has a label")
    values, found = np.concatenate(pieces), np.concatenate(rows)
    if kind.name == "normals":
        return found, _normals(target, values), ()
    if values.ndim != 3:
        raise _wrong(target, f"one value a pixel is needed, [H, W]; got {values.shape[1:]}")
    hidden = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    hidden |= np.isin(values, [float(word) for word in target.spec.missing])
    if kind.name == "depth":
        with np.errstate(invalid="ignore"):
            return found, np.where(hidden | ~(values > 0), np.nan, values).astype(np.float32), ()
    if kind.named:
        return found, *_classes(target, values, hidden, split[found] == 0)
    return found, np.where(hidden, -1, values != 0).astype(np.int8), ()


def _wrong(target: Target, message: str) -> DataError:
    place = f"{target.table.place}: task {target.task!r}: {target.column!r}: {message}"
    return DataError(place, ("tasks", target.declared))


def _missing(chunk: Chunk, column: str) -> Array:
    values = chunk.column(column)
    if isinstance(values, pl.Series):
        return values.is_null().to_numpy()
    return np.zeros(len(values), dtype=bool)


def _read(chunk: Chunk, column: str, used: Array) -> Array:
    """The labels of some rows of a chunk, as they are."""
    values = chunk.column(column)
    if not is_files(values):
        some = replace(
            chunk,
            rows=chunk.rows[used],
            frame=chunk.frame.filter(pl.Series(used)),
            arrays={name: each[used] for name, each in chunk.arrays.items()},
        )
        return stack(some, column)
    opened: list[Array] = []
    for row, value, wanted in zip(chunk.rows.tolist(), chunk.frame[column], used, strict=True):
        if not wanted:
            continue
        try:
            opened.append(open_label(value, chunk.table.folder))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{chunk.table.where(row)}: {column!r}: no label: {error}") from error
        if opened[-1].shape != opened[0].shape:
            raise DataError(
                f"{chunk.table.where(row)}: {column!r}: the label is {opened[-1].shape}, "
                f"others are {opened[0].shape}; bring all to one size"
            )
    return np.stack(opened)


def open_label(value: Any, folder: Path | None) -> Array:
    """A file's numbers: those of an ``.npy``, or of an image as it stores them, palettes unread."""
    from PIL import Image as Pillow

    path = Path(str(value)).expanduser()
    path = folder / path if folder and not path.is_absolute() else path
    if path.suffix == ".npy":
        loaded: Array = np.load(path, allow_pickle=False)
        return loaded
    with Pillow.open(path) as image:
        return np.asarray(image)


def _normals(target: Target, values: Array) -> Array:
    """Unit vectors [n, H, W, 3]; bytes run from −1 to 1; the zero vector is no label."""
    if values.ndim != 4 or values.shape[3] != 3:
        raise _wrong(target, f"normals are [H, W, 3]; got {values.shape[1:]}")
    if values.dtype == np.uint8:
        values = np.where((values == 0).all(-1, keepdims=True), 0.0, values / 127.5 - 1)
    length = np.linalg.norm(values, axis=3, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(length > 1e-6, values / length, np.nan)
    return found.astype(np.float32)


def _classes(
    target: Target, values: Array, hidden: Array, train: Array
) -> tuple[Array, tuple[str, ...]]:
    """Class numbers [n, H, W]: as declared, counted from 0, or all numbers that training has."""
    if values.dtype.kind == "f" and not (values[~hidden] == np.floor(values[~hidden])).all():
        raise _wrong(target, "classes are whole numbers")
    if target.spec.classes is not None:
        names = tuple(map(spelled, target.spec.classes))
        numbers = np.arange(len(names))
    else:
        numbers = np.unique(values[train][~hidden[train]])
        names = tuple(str(int(number)) for number in numbers)
    if len(names) < 2:
        raise _wrong(target, f"every pixel is of class {', '.join(names) or 'none'}")
    at = np.minimum(np.searchsorted(numbers, values), len(numbers) - 1)
    strange = ~hidden & (numbers[at] != values)
    if strange.any():
        number = values[strange][0]
        known = "its classes" if target.spec.classes is not None else "those of training rows"
        raise _wrong(target, f"{number} is not among {known}; or declare missing: [{number}]")
    return np.where(hidden, -1, at).astype(np.int16), names
