"""Images: from arrays, files or bytes to [n, channels, height, width]."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plait.data.errors import DataError
from plait.data.sources import Chunk
from plait.data.stores import Array
from plait.data.vectors import stack

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")


def stack_images(chunk: Chunk, column: str) -> Array:
    """The images of a column as they are, [n, channels, height, width].

    Raises :class:`DataError` with the row for a missing, unreadable or differently sized image.
    """
    values = chunk.column(column)
    array = stack(chunk, column) if not is_files(values) else _opened(chunk, column)
    return channels_first(array, f"{chunk.table.place}: column {column!r}")


def is_files(values: pl.Series | Array) -> bool:
    """Whether a column holds paths, bytes, or the structs of both that ``datasets`` makes."""
    return isinstance(values, pl.Series) and (
        values.dtype in (pl.String, pl.Binary) or isinstance(values.dtype, pl.Struct)
    )


def channels_first(array: Array, place: str) -> Array:
    """[n, H, W], [n, H, W, C] or [n, C, H, W] as [n, C, H, W]."""
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[1] in (1, 3, 4):
        return array
    if array.ndim == 4 and array.shape[3] in (1, 3, 4):
        return np.ascontiguousarray(np.moveaxis(array, 3, 1))
    raise DataError(
        f"{place}: images must be [H, W], [H, W, C] or [C, H, W], got {array.shape[1:]}"
    )


def _opened(chunk: Chunk, column: str) -> Array:
    opened: list[Array] = []
    for row, value in zip(chunk.rows.tolist(), chunk.frame[column], strict=True):
        try:
            opened.append(_open(value, chunk.table.folder))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{chunk.table.where(row)}: {column!r}: no image: {error}") from error
        if opened[-1].shape != opened[0].shape:
            raise DataError(
                f"{chunk.table.where(row)}: {column!r}: the image is {_size(opened[-1])}, others "
                f"are {_size(opened[0])}; bring all to one size and one number of channels"
            )
    return np.stack(opened)


def _size(image: Array) -> str:
    return " × ".join(str(length) for length in image.shape)


def _open(value: Any, folder: Path | None) -> Array:
    from PIL import Image as Pillow

    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if value is None:
        raise ValueError("the value is missing")
    if isinstance(value, str):
        path = Path(value).expanduser()
        value = folder / path if folder and not path.is_absolute() else path
    with Pillow.open(io.BytesIO(value) if isinstance(value, bytes) else value) as image:
        if image.mode in ("1", "P", "LA", "PA", "CMYK", "RGBA"):
            return np.asarray(image.convert("L" if image.mode in ("1", "LA") else "RGB"))
        return np.asarray(image)
