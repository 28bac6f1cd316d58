from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from plait.data import DataSpec, TableSpec, TaskSpec, load
from plait.data.scenes import EXPENSIVE, HALF, examples, scenes, write_demo


def digits_in(image, start):
    """The 8 × 8 pictures that fill a half of a scene, wherever they stand, as bytes."""
    half = image[:, start : start + HALF]
    return {
        half[y : y + 8, x : x + 8].tobytes()
        for y in range(5)
        for x in range(4)
        if half.sum() == half[y : y + 8, x : x + 8].sum()
    }


def test_scenes_hold_real_digits_with_true_labels():
    found = scenes()
    digits = load_digits()
    known = {
        (picture * 255 / 16).round().astype(np.uint8).tobytes(): int(digit)
        for picture, digit in zip(digits.images, digits.target, strict=True)
    }
    for row in np.flatnonzero(found["split"] == "test")[:50]:
        image = found["image"][row]
        left = {known[p] for p in digits_in(image, 0) & set(known)}
        right = {known[p] for p in digits_in(image, HALF) & set(known)}
        assert left == {int(found["left"][row])}
        assert right == {int(found["right"][row])}
        assert found["sum"][row] == found["left"][row] + found["right"][row]
        assert found["larger"][row] == (found["left"][row] > found["right"][row])


def test_no_digit_is_written_for_two_parts():
    found = scenes()
    digits = load_digits()
    known = {(p * 255 / 16).round().astype(np.uint8).tobytes() for p in digits.images}
    seen = {}
    for split in ("train", "valid", "test"):
        rows = np.flatnonzero(found["split"] == split)[:400]
        seen[split] = {
            p
            for row in rows
            for start in (0, HALF)
            for p in digits_in(found["image"][row], start) & known
        }
        assert len(seen[split]) > 100
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["valid"]
    assert not seen["valid"] & seen["test"]


def test_few_expensive_and_many_cheap_labels(tmp_path):
    path = write_demo(tmp_path / "demo")
    assert sorted(each.name for each in path.parent.iterdir()) == ["scenes.npz"]
    kinds = {"left": "classes", "right": "classes", "sum": "real", "larger": "binary"}
    data = load(
        DataSpec(tables={"scenes": TableSpec(source=path)}),
        {name: TaskSpec(kind=kind) for name, kind in kinds.items()},
    )
    assert data.counts("train") == {"left": 150, "right": 150, "sum": 3000, "larger": 3000}
    assert data.counts("test") == dict.fromkeys(kinds, 1500)
    assert not set(data.rows("train", "left").tolist()) & set(data.rows("train", "right").tolist())
    assert data.tasks["left"].classes == tuple("0123456789")
    assert data.inputs["image.image"].shape == (1, 12, 22)
    assert len(data.rows("train", "left")) == EXPENSIVE


def test_scenes_repeat_by_seed_and_can_be_shown():
    assert np.array_equal(scenes(3)["image"], scenes(3)["image"])
    assert not np.array_equal(scenes(3)["image"], scenes(4)["image"])
    images, words = examples(5)
    assert images.shape == (5, 12, 22)
    assert all(len(word.split()) == 2 for word in words)
    assert torch.from_numpy(images).dtype == torch.uint8
