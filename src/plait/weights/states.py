"""Checkpoints as tensors by name: safetensors files read and written as numpy arrays, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from plait.weights.files import DamagedError, write_atomic

Array = np.ndarray[Any, Any]


def read_state(path: str | Path) -> dict[str, Array]:
    """The tensors of a safetensors file, by name.

    Raises :class:`DamagedError` with the path and its size where the file is cut or is no
    safetensors file.
    """
    path = Path(path)
    try:
        found: dict[str, Array] = load_file(path)
    except SafetensorError as error:
        size = path.stat().st_size
        raise DamagedError(
            f"{path}: not a whole safetensors file ({size} bytes): {error}"
        ) from error
    return found


def write_state(
    path: str | Path, state: Mapping[str, Array], about: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file, atomically; ``about`` is text kept in its header."""
    tensors = {name: np.ascontiguousarray(value) for name, value in state.items()}
    write_atomic(path, save(tensors, metadata=dict(about) if about else None))
