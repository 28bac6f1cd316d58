"""The types that checkpoints store numbers in, and how each is read into sums and rounded back.

A type goes by its name in safetensors (``"F32"``, ``"BF16"``, ``"I64"``, …). Floating ones are
*widened* to float32 (float64 for ``"F64"``), worked with, and *narrowed* once at the end, to the
nearest value and to the even one of two as near. numpy has no bfloat16: its bits travel as uint16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

FLOATING = ("F16", "BF16", "F32", "F64")
SIZES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2,
    "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
STORED: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"), "U8": np.dtype("<u1"), "I8": np.dtype("<i1"),
    "U16": np.dtype("<u2"), "I16": np.dtype("<i2"), "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"), "U64": np.dtype("<u8"), "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}  # fmt: skip
WORDS: Mapping[str, str] = {
    **{kind: str(stored) for kind, stored in STORED.items()},
    "BF16": "bfloat16",
    "F8_E4M3": "float8 (e4m3)",
    "F8_E5M2": "float8 (e5m2)",
    "C64": "complex64",
}


def kind_of(array: Array) -> str:
    """The type of an array by its name in safetensors; ``TypeError`` for one that none has."""
    for kind, stored in STORED.items():
        if kind != "BF16" and array.dtype == stored:
            return kind
    raise TypeError(f"{array.dtype} is not stored in checkpoints")


def working(kind: str) -> np.dtype[Any]:
    """The type that sums over tensors of a floating type are formed in."""
    return np.dtype(np.float64 if kind == "F64" else np.float32)


def widen(stored: Array, kind: str, out: Array) -> None:
    """Write stored values [n] of a floating type into ``out`` [n], exactly."""
    if kind == "BF16":
        bits = stored.astype(np.uint32)
        bits <<= 16
        out[...] = bits.view(np.float32)
    else:
        out[...] = stored


def narrow(values: Array, kind: str) -> Array:
    """Values [n] as a floating type stores them, each rounded to the nearest.

    What lies beyond the type's range becomes infinite.
    """
    if kind != "BF16":
        with np.errstate(over="ignore"):
            return values.astype(STORED[kind], copy=False)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits >> 16) & 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    nothing = np.isnan(values)
    if nothing.any():
        rounded[nothing] = 0x7FC0
    return rounded.astype(np.uint16)


def shown(stored: Array, kind: str) -> Array:
    """Stored values as numpy has them: bfloat16 as float32 of the same values."""
    if kind != "BF16":
        return stored
    values = np.empty(stored.shape, np.float32)
    widen(stored, kind, values)
    return values
