"""A stable 64-bit number for each text, the same on every machine and in every version."""

from __future__ import annotations

import numpy as np
import polars as pl

from plait.data.stores import Array, mix

PIECE = 65_536


def numbers_of(texts: pl.Series) -> Array:
    """A number for each text; equal texts have equal numbers. [n]

    The UTF-8 bytes of a text are taken eight at a time, each word mixed into what came before.
    """
    found = [_piece(texts[start : start + PIECE]) for start in range(0, len(texts), PIECE)]
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def _piece(texts: pl.Series) -> Array:
    texts = texts.fill_null("")
    size = texts.str.len_bytes().to_numpy().astype(np.int64)
    joined = texts.str.join("").item().encode() + bytes(8)
    start = np.concatenate([[0], np.cumsum(size)[:-1]])
    # The eight bytes from any byte on, little end first.
    words: Array = np.ndarray((len(joined) - 7,), "<u8", joined, strides=(1,))
    number = mix(size.astype(np.uint64))
    for word in range(-(-int(size.max(initial=0)) // 8)):
        rest = size - 8 * word
        some = rest > 0
        if not some.any():
            break
        found = words[start[some] + 8 * word]
        short = np.minimum(rest[some], 8).astype(np.uint64)
        # Bytes of the next text are cut off.
        cut = np.where(short < 8, (np.uint64(1) << (short % np.uint64(8) * np.uint64(8))), 0)
        found = np.where(short < 8, found & (cut - np.uint64(1)), found)
        number[some] = mix(number[some] ^ found)
    return number
