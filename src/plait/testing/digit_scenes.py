"""Pictures of several real digits, with labels for the whole picture and for every pixel.

Digits of scikit-learn's bundled set (8 × 8, real handwriting) are drawn twice as large on one
canvas; nearer ones hide those behind. No digit drawn for training is drawn for validation or test.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from plait.data.seeding import generator

Array = np.ndarray[Any, Any]
SHARES = {"train": 0.6, "valid": 0.15, "test": 0.25}  # of rows, and of the digits drawn from
INK = 5  # of 16: paler pixels of a digit are see-through
FAR = 6.0  # the distance of the background; digits lie between 1 and 5


def digit_scenes(
    rows: int = 400, size: int = 32, digits: int = 4, seed: int = 0
) -> dict[str, Array]:
    """A table of scenes with two to ``digits`` digits each on ``size`` × ``size`` pixels.

    ``image`` uint8 [n, S, S]; ``mask`` [n, S, S]: 0 for background, 1 + the digit; ``depth``
    [n, S, S]: distances, the smaller the nearer; ``boundary`` [n, S, S]: 1 where a pixel beside is
    of another digit or the background; ``front`` the nearest digit, ``count`` and ``sum`` of the
    digits; ``split``.
    """
    images, numbers, pools = _sources(seed)
    found: dict[str, list[Any]] = {}
    for split, count in _counts(rows).items():
        for row in range(count):
            random = generator(seed, "scene", split, row)
            chosen = random.choice(pools[split], random.integers(2, digits + 1), replace=False)
            scene = _scene(images[chosen], numbers[chosen], size, random)
            for name, value in {**scene, "split": split}.items():
                found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()}


def multi_mnist(rows: int = 400, seed: int = 0) -> dict[str, Array]:
    """Two digits over one another on 20 × 20 pixels: ``image``, ``left``, ``right``, ``split``.

    The left one lies at the top left, the right one at the bottom right, each moved by up to a
    pixel; where both are, the darker counts (after Sabour et al. 2017, on these digits).
    """
    images, numbers, pools = _sources(seed)
    found: dict[str, list[Any]] = {}
    for split, count in _counts(rows).items():
        for row in range(count):
            random = generator(seed, "pair", split, row)
            pair = random.choice(pools[split], 2, replace=False)
            canvas = np.zeros((20, 20))
            for drawn, corner in zip(images[pair], (0, 3), strict=True):
                y, x = corner + random.integers(0, 2, 2)
                place = canvas[y : y + 16, x : x + 16]
                np.maximum(place, np.kron(drawn, np.ones((2, 2))), out=place)
            told = {"image": _bytes(canvas), "split": split}
            told |= {"left": numbers[pair[0]], "right": numbers[pair[1]]}
            for name, value in told.items():
                found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()}


def _sources(seed: int) -> tuple[Array, Array, dict[str, Array]]:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = generator(seed, "digits").permutation(len(data.target))
    edges = (np.cumsum(list(SHARES.values())) * len(order)).astype(int)[:-1]
    return data.images, data.target, dict(zip(SHARES, np.split(order, edges), strict=True))


def _counts(rows: int) -> dict[str, int]:
    return {split: max(1, round(rows * share)) for split, share in SHARES.items()}


def _bytes(canvas: Array) -> Array:
    return (canvas * (255 / 16)).round().astype(np.uint8)


def _scene(images: Array, numbers: Array, size: int, random: np.random.Generator) -> dict[str, Any]:
    ink, owner = np.zeros((size, size)), np.full((size, size), -1)
    distance = np.sort(random.uniform(1.0, 5.0, len(images)))[::-1]  # the farthest first
    for number, drawn in enumerate(images):
        large = np.kron(drawn, np.ones((2, 2)))
        y, x = random.integers(0, size - len(large) + 1, 2)
        here = slice(y, y + len(large)), slice(x, x + len(large))
        seen = large > INK
        ink[here][seen] = large[seen]
        owner[here][seen] = number
    edge = np.zeros((size, size), dtype=bool)
    for axis in (0, 1):
        differs = np.diff(owner, axis=axis) != 0
        before, after = ([slice(None)] * 2 for _ in range(2))
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        edge[tuple(before)] |= differs
        edge[tuple(after)] |= differs
    return {
        "image": _bytes(ink),
        "mask": np.append(numbers + 1, 0)[owner].astype(np.uint8),
        "depth": np.append(distance, FAR)[owner].astype(np.float32),
        "boundary": edge.astype(np.uint8),
        "front": int(numbers[-1]),
        "count": len(images),
        "sum": int(numbers.sum()),
    }
