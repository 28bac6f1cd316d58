"""Scenes: generated pictures of two real handwritten digits, for the demo.

Two digits of scikit-learn's bundled set stand side by side on a canvas of 12 × 22 grey values, each
moved a little. Few scenes carry the expensive labels (``left``, ``right``: which digit), many the
cheap ones (``sum`` of both, ``larger``: is the left one larger). No digit that was written down for
training is used for validation or test.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from plait.data.seeding import generator
from plait.data.stores import Array

CAPTION = "generated scenes of real digits"
HEIGHT, WIDTH, HALF, DIGIT = 12, 22, 11, 8
EXPENSIVE = 150
ROWS = {"train": 3_300, "valid": 600, "test": 1_500}
SOURCES = {"train": 0.6, "valid": 0.15, "test": 0.25}
STUDY_FILE = "scenes.npz"


def scenes(seed: int = 0) -> dict[str, Array]:
    """The demo's table as arrays of 5,400 rows.

    ``image`` uint8 [n, 12, 22]; ``left``, ``right``, ``sum``, ``larger`` float64 with NaN for no
    label; ``split``. In train, ``left`` and ``right`` are known on 150 rows each, ``sum`` and
    ``larger`` on the 3,000 others; valid and test rows carry all four.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    random = generator(seed, "scenes")
    order = random.permutation(len(digits.target))
    edges = (np.cumsum(list(SOURCES.values())) * len(order)).astype(int)
    pieces: list[dict[str, Array]] = []
    for (split, rows), sources in zip(ROWS.items(), np.split(order, edges[:-1]), strict=True):
        left, right = random.choice(sources, (2, rows))
        image = np.zeros((rows, HEIGHT, WIDTH))
        for start, chosen in ((0, left), (HALF, right)):
            _place(image, start, digits.images[chosen], random)
        labels = _labels(digits.target[left], digits.target[right])
        if split == "train":
            _hide(labels)
        pieces.append(
            {
                "image": (image * 255 / 16).round().astype(np.uint8),
                **labels,
                "split": np.full(rows, split),
            }
        )
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _place(image: Array, start: int, drawn: Array, random: np.random.Generator) -> None:
    """Draw a digit on every canvas, somewhere in the half that begins at column ``start``."""
    rows = random.integers(0, HEIGHT - DIGIT + 1, len(drawn))
    columns = start + random.integers(0, HALF - DIGIT + 1, len(drawn))
    y = rows[:, None, None] + np.arange(DIGIT)[None, :, None]
    x = columns[:, None, None] + np.arange(DIGIT)[None, None, :]
    image[np.arange(len(drawn))[:, None, None], y, x] = drawn


def _labels(left: Array, right: Array) -> dict[str, Array]:
    return {
        "left": left.astype(float),
        "right": right.astype(float),
        "sum": (left + right).astype(float),
        "larger": (left > right).astype(float),
    }


def _hide(labels: dict[str, Array]) -> None:
    """Leave the expensive labels on 150 rows each and the cheap ones on all others."""
    labels["left"][EXPENSIVE:] = np.nan
    labels["right"][:EXPENSIVE] = np.nan
    labels["right"][2 * EXPENSIVE :] = np.nan
    for name in ("sum", "larger"):
        labels[name][: 2 * EXPENSIVE] = np.nan


def write_demo(folder: Path, seed: int = 0) -> Path:
    """Write ``scenes.npz`` to the folder, in one piece or not at all; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".npz", delete=False) as file:
        arrays: dict[str, Any] = scenes(seed)
        np.savez_compressed(file, **arrays)
    target = folder / STUDY_FILE
    return Path(file.name).replace(target)


def examples(n: int = 8, seed: int = 0) -> tuple[Array, list[str]]:
    """Some test scenes [n, 12, 22] and what they show (``3 8``), for a picture."""
    found = scenes(seed)
    test = np.flatnonzero(found["split"] == "test")[:n]
    words = [f"{found['left'][row]:.0f} {found['right'][row]:.0f}" for row in test]
    return found["image"][test], words
