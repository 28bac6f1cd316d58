"""Checkpoints as tensors by name: safetensors files read and written as numpy arrays, no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, load_file, save

from plait.weights.files import DamagedError, write_atomic
from plait.weights.kinds import SIZES

Array = np.ndarray[Any, Any]

MOST_HEADER = 2**26  # bytes
MOST_TENSORS = 500_000
LONGEST_NAME = 10_000
MOST_AXES = 64  # as numpy has them
MOST_VALUES = 2**63
AGAIN = "copy the file again from where it is whole"


@dataclass(frozen=True)
class Header:
    """What the head of a safetensors file says: type and shape by name, and its metadata.

    ``begins`` is the byte in the file at which each tensor begins.
    """

    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    metadata: Mapping[str, str]
    begins: Mapping[str, int] = field(default_factory=dict)


def read_header(path: str | Path) -> Header:
    """The checked head of a safetensors file; no tensor is read.

    Raises :class:`DamagedError` naming file, tensor and fix: for a pickle, a cut file, bytes that
    belong to no tensor, tensors that overlap, names given twice, sizes that do not fit.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(8)
            size = file.seek(0, 2)
            _refuse_pickle(path, head)
            length = int.from_bytes(head, "little")
            if len(head) < 8 or length > size - 8 or length > MOST_HEADER:
                raise DamagedError(
                    f"{path}: not a whole safetensors file ({size} bytes, its header claims "
                    f"{length}); {AGAIN}"
                )
            file.seek(8)
            text = file.read(length)
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing; {AGAIN}") from None
    told = _parse(path, text)
    metadata = told.pop("__metadata__", {})
    plain = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    if not plain:
        raise DamagedError(f"{path}: its metadata are not text; {AGAIN}")
    if len(told) > MOST_TENSORS:
        raise DamagedError(f"{path}: {len(told):,} tensors; at most {MOST_TENSORS:,} are read")
    places = {name: _place(path, name, row) for name, row in told.items()}
    _covered(path, places, size - 8 - length)
    return Header(
        {name: (kind, shape) for name, (kind, shape, _, _) in places.items()},
        metadata,
        {name: 8 + length + begin for name, (_, _, begin, _) in places.items()},
    )


def _refuse_pickle(path: Path, head: bytes) -> None:
    # The length of a header may begin with the same bytes (1152 is 80 04); then zeros follow.
    pickled = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    pickled = pickled and any(head[3:])
    if pickled or head[:4] == b"PK\x03\x04":
        raise DamagedError(
            f"{path} is a pickle (torch.save), which can run any program when it is read; plait "
            f"reads safetensors only: plait convert {path} writes its tensors so and runs nothing"
        )


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DamagedError(f"{path}: its header names {twice[:80]!r} twice; {AGAIN}")
        return found

    try:
        told = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # also numbers of too many digits
        raise DamagedError(f"{path}: its header is not readable ({error}); {AGAIN}") from error
    if not isinstance(told, dict):
        raise DamagedError(f"{path}: its header is no list of tensors; {AGAIN}")
    return told


def _place(path: Path, name: str, row: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, begin and end of one tensor."""
    if len(name) > LONGEST_NAME:
        raise DamagedError(f"{path}: the tensor {name[:80]!r}… has a name of {len(name)} letters")
    if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
        raise DamagedError(f"{path}: the name {name[:80]!r} is no text; {AGAIN}")
    match row:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            counts = len(shape) <= MOST_AXES and all(
                type(side) is int and 0 <= side < MOST_VALUES for side in shape
            )
        case _:
            raise DamagedError(f"{path}: its header does not say what {name!r} is; {AGAIN}")
    if kind not in SIZES:
        raise DamagedError(f"{path}: {name!r} has the type {kind!r}, which plait does not read")
    if not counts or not 0 <= begin <= end < MOST_VALUES:
        told = ", ".join(map(repr, shape[:8])) + (", …" if len(shape) > 8 else "")
        raise DamagedError(f"{path}: {name!r} has the shape [{told}] at {begin} to {end}; {AGAIN}")
    wanted = math.prod(shape) * SIZES[kind]
    if end - begin != wanted:
        raise DamagedError(
            f"{path}: {name!r} has {end - begin} bytes where {kind} {shape} takes {wanted}; {AGAIN}"
        )
    return kind, tuple(shape), begin, end


def _covered(
    path: Path, places: Mapping[str, tuple[str, tuple[int, ...], int, int]], total: int
) -> None:
    """Tensors must follow one another without gaps and fill the file."""
    done, before = 0, ""
    for name, (_, _, begin, end) in sorted(places.items(), key=lambda item: item[1][2:]):
        if begin < done:
            raise DamagedError(f"{path}: {name!r} overlaps {before!r}; {AGAIN}")
        if begin > done:
            raise DamagedError(
                f"{path}: {begin - done} bytes before {name!r} are nobody's; {AGAIN}"
            )
        done, before = end, name
    if done > total:
        raise DamagedError(
            f"{path}: damaged, cut short: {before!r} ends at byte {done} of {total}; {AGAIN}"
        )
    if done < total:
        raise DamagedError(f"{path}: {total - done} bytes follow the last tensor; {AGAIN}")


def read_state(path: str | Path) -> dict[str, Array]:
    """The tensors of a safetensors file, by name; bfloat16, which numpy lacks, as float32.

    Raises :class:`DamagedError` with path, tensor and fix where the file is not whole (see
    :func:`read_header`) or a tensor holds NaN or infinite values.
    """
    path = Path(path)
    kinds = {kind for kind, _ in read_header(path).tensors.values()}
    try:
        found: dict[str, Array] = _widened(path) if "BF16" in kinds else load_file(path)
    except (SafetensorError, TypeError, KeyError) as error:
        raise DamagedError(f"{path}: not readable as safetensors: {error}; {AGAIN}") from error
    for name, value in found.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise DamagedError(
                f"{path}: {name!r} holds NaN or infinite values; restore the file, or train again"
            )
    return found


def _widened(path: Path) -> dict[str, Array]:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    told = json.loads(data[8:end])
    brief = [name for name, row in told.items() if row.get("dtype") == "BF16"]
    for name in brief:
        told[name]["dtype"] = "U16"
    text = json.dumps(told).encode()
    found: dict[str, Array] = load(len(text).to_bytes(8, "little") + text + data[end:])
    for name in brief:
        found[name] = (found[name].astype("<u4") << 16).view("<f4")
    return found


def write_state(
    path: str | Path, state: Mapping[str, Array], about: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file, atomically; ``about`` is text kept in its header."""
    tensors = {name: np.ascontiguousarray(value) for name, value in state.items()}
    write_atomic(path, save(tensors, metadata=dict(about) if about else None))
