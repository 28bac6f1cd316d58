from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from plait.data import DataError, DataSpec, TableSpec, TaskSpec, load
from plait.data.mirroring import Mirrored
from plait.data.mixing import Rows
from plait.testing.digit_scenes import digit_scenes, multi_mnist

SPLIT = np.array(["train"] * 6 + ["valid"] * 2 + ["test"] * 2)
MASKS = np.random.default_rng(0).integers(0, 3, (10, 4, 6)).astype(np.uint8)
IMAGES = np.random.default_rng(1).integers(0, 255, (10, 4, 6)).astype(np.uint8)


def loaded(task, label=MASKS, **more):
    table = {"image": IMAGES, "y": label, "split": SPLIT, **more}
    return load(DataSpec(tables={"t": TableSpec(source=table)}), {"y": task})


def test_masks_are_classes_of_pixels_and_what_is_missing_is_ignored():
    data = loaded(TaskSpec(kind="segmentation", missing=[2]))
    assert data.tasks["y"].classes == ("0", "1")
    labels = data.batch(data.rows("train")).task("y")
    assert torch.equal(labels.valid, torch.from_numpy(MASKS[:6] != 2))
    assert (labels.target.numpy()[MASKS[:6] != 2] == MASKS[:6][MASKS[:6] != 2]).all()
    assert labels.units.tolist() == (MASKS[:6] != 2).sum((1, 2)).tolist()


def test_declared_classes_are_counted_from_zero():
    data = loaded(TaskSpec(kind="segmentation", classes=["sky", "road", "car"]))
    assert data.tasks["y"].classes == ("sky", "road", "car")
    with pytest.raises(DataError, match="2 is not among its classes"):
        loaded(TaskSpec(kind="segmentation", classes=["sky", "road"]))


def test_depths_without_a_distance_and_zero_normals_are_no_labels():
    depth = np.where(MASKS == 0, 0.0, MASKS.astype(float))
    labels = loaded(TaskSpec(kind="depth"), depth).labels("y", "train")
    assert torch.equal(labels.valid, torch.from_numpy(MASKS[:6] > 0))
    vectors = np.zeros((10, 4, 6, 3), np.float32)
    vectors[:, :, 1:] = [0, 3, 4]
    labels = loaded(TaskSpec(kind="normals"), vectors).labels("y", "train")
    assert not labels.valid[:, :, 0].any()
    torch.testing.assert_close(labels.target[0, 0, 1], torch.tensor([0, 0.6, 0.8]))


@pytest.mark.parametrize("form", ["png", "palette", "npy"])
def test_labels_are_read_from_files_beside_the_table(form, tmp_path):
    images, masks = [], []
    for row in range(10):
        images.append(f"image{row}.png")
        Image.fromarray(IMAGES[row]).save(tmp_path / images[-1])
        masks.append(f"mask{row}.{'npy' if form == 'npy' else 'png'}")
        if form == "npy":
            np.save(tmp_path / masks[-1], MASKS[row])
        else:
            image = Image.fromarray(MASKS[row])
            if form == "palette":
                image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
            image.save(tmp_path / masks[-1])
    masks[1] = None
    frame = pl.DataFrame({"image": images, "y": masks, "split": SPLIT})
    frame.write_parquet(tmp_path / "t.parquet")
    spec = TableSpec(source="t.parquet", types={"image": "image"})
    data = load(DataSpec(tables={"t": spec}), {"y": TaskSpec(kind="segmentation")}, base=tmp_path)
    labels = data.labels("y", "train")
    assert labels.rows.tolist() == [0, 2, 3, 4, 5]
    assert torch.equal(labels.target[1], torch.from_numpy(MASKS[2].astype(np.int16)))
    (tmp_path / masks[4]).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"row 5: 'y': no label"):
        load(DataSpec(tables={"t": spec}), {"y": TaskSpec(kind="segmentation")}, base=tmp_path)


@pytest.mark.parametrize(
    ("task", "label", "said"),
    [
        (TaskSpec(kind="segmentation"), MASKS[:, :3], "'y' is 3 × 6, the images are 4 × 6"),
        (TaskSpec(kind="segmentation"), MASKS * 0, "every pixel is of class 0"),
        (TaskSpec(kind="segmentation"), MASKS + 0.5, "classes are whole numbers"),
        (TaskSpec(kind="normals"), MASKS, r"normals are \[H, W, 3\]"),
        (TaskSpec(kind="depth", metrics=["miou"]), MASKS, "metric 'miou' does not fit"),
        (TaskSpec(), MASKS, "a target is one value a row"),
    ],
)
def test_what_does_not_fit_is_refused(task, label, said):
    with pytest.raises(DataError, match=said):
        loaded(task, label)


def test_mirroring_is_keyed_by_seed_step_and_row():
    data = loaded(TaskSpec(kind="segmentation"))
    feed = Mirrored(Rows(data, batch=3, seed=0), 0.5, seed=1)
    again = Mirrored(Rows(data, batch=3, seed=0), 0.5, seed=1)
    steps = [feed.batch(step) for step in range(12)]
    turned = set()
    for step in (7, 3):
        one, two = steps[step].parts, again.batch(step).parts
        assert torch.equal(*(next(iter(part.values()))["image.image"] for part in (one, two)))
    for batch in steps:
        plain = data.batch(batch.ids).parts
        a, b = (next(iter(part.values()))["image.image"] for part in (plain, batch.parts))
        turned |= {bool(torch.equal(x, y)) for x, y in zip(a, b, strict=True)}
    assert turned == {True, False}


def test_scenes_of_real_digits_agree_with_themselves():
    found = digit_scenes(20, seed=3)
    assert all(len(value) == 20 for value in found.values())
    for row in range(20):
        mask, depth = found["mask"][row], found["depth"][row]
        nearest = np.unravel_index(depth.argmin(), depth.shape)
        assert mask[nearest] == found["front"][row] + 1
        assert ((mask == 0) == (depth == depth.max())).all()
        assert (found["image"][row][mask == 0] == 0).all()
        shown = len(np.unique(depth)) - 1
        assert 1 <= shown <= found["count"][row] <= 4
        assert 0 < found["boundary"][row].mean() < 0.6
    same = digit_scenes(20, seed=3)
    assert all(np.array_equal(found[name], same[name]) for name in found)
    pairs = multi_mnist(10)
    assert pairs["image"].shape == (10, 20, 20)
    assert set(pairs["left"]) | set(pairs["right"]) <= set(range(10))
