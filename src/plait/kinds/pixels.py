"""Kinds with a target for each pixel: segmentation, depth, normals and boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from plait.kinds.base import Array, Kind, tallied
from plait.kinds.rows import TINY, class_surprise, each, log_shares, one, same, shares
from plait.kinds.tokens import confusion

if TYPE_CHECKING:
    from torch import Tensor

BINS = 720  # of a quarter of a degree each, from which the median angle is read
THRESHOLDS = np.linspace(0.05, 0.95, 19)  # at which boundaries are taken from probabilities
NEAR = (11.25, 22.5, 30.0)  # degrees


def _three(classes: int) -> int:  # noqa: ARG001
    return 3


def _sums(rows: Array, n: int, columns: Sequence[Array]) -> Array:
    """How many positions each row has, and the sums of columns [M] over them: [n, 1 + columns]."""
    added = [np.bincount(rows, each, minlength=n) for each in columns]
    return np.column_stack([np.bincount(rows, minlength=n), *added])


def segments(truth: Array, valid: Array, prediction: Array, classes: Sequence[str]) -> Array:
    """Pixels, loss, true, decided and right ones of each class: [n, 2 + 3·C]."""
    rows, n = valid.nonzero()[0], len(truth)
    true, found = truth[valid].astype(np.intp), prediction[valid]
    decided = found.argmax(1) if len(found) else true
    told = confusion(rows, true, decided, n, len(classes))
    return np.column_stack([_sums(rows, n, [class_surprise(true, found)]), told])


def depths(truth: Array, valid: Array, prediction: Array, classes: Sequence[str]) -> Array:  # noqa: ARG001
    """Pixels, |log ratio|, absolute, relative and squared errors: [n, 5]."""
    rows, n = valid.nonzero()[0], len(truth)
    true, found = truth[valid].astype(np.float64), prediction[valid].astype(np.float64)
    error = np.abs(true - found)
    ratio = np.abs(np.log(np.maximum(found, TINY) / true))
    return _sums(rows, n, [ratio, error, error / true, np.square(error)])


def angles(truth: Array, valid: Array, prediction: Array, classes: Sequence[str]) -> Array:  # noqa: ARG001
    """Pixels, 1 − cosine, degrees between, how many are near, a histogram: [n, 6 + BINS]."""
    rows, n = valid.nonzero()[0], len(truth)
    true, found = truth[valid].astype(np.float64), prediction[valid].astype(np.float64)
    length = np.maximum(np.linalg.norm(true, axis=1) * np.linalg.norm(found, axis=1), TINY)
    cosine = np.clip((true * found).sum(1) / length, -1, 1)
    degrees = np.degrees(np.arccos(cosine))
    told = _sums(rows, n, [1 - cosine, degrees, *(degrees < near for near in NEAR)])
    bins = np.minimum((degrees * (BINS / 180)).astype(np.intp), BINS - 1)
    spread = np.bincount(rows * BINS + bins, minlength=n * BINS).reshape(n, BINS)
    return np.column_stack([told, spread])


def edges(truth: Array, valid: Array, prediction: Array, classes: Sequence[str]) -> Array:  # noqa: ARG001
    """Pixels, balanced loss, and at each threshold four counts: [n, 2 + 4·THRESHOLDS].

    The counts are predicted pixels with a true one beside them, predicted ones, true pixels with a
    predicted one beside them, and true ones; beside is up to a pixel away, diagonally too.
    """
    rows, n = valid.nonzero()[0], len(truth)
    true = (truth > 0) & valid
    share = np.clip(prediction.astype(np.float64), TINY, 1 - TINY)
    surprise = np.where(true, -np.log(share), -np.log1p(-share))[valid]
    count, positive = valid.sum((1, 2)), true.sum((1, 2))
    of = true[valid]
    half = count[rows] / (2 * np.where(of, positive[rows], (count - positive)[rows]))
    columns = [_sums(rows, n, [surprise * half])]
    near = _widened(true)
    for threshold in THRESHOLDS:
        found = (prediction >= threshold) & valid
        four = (found & near, found, true & _widened(found), true)
        columns.append(np.column_stack([each.sum((1, 2)) for each in four]))
    return np.column_stack(columns)


def _widened(mask: Array) -> Array:
    """A mask [n, H, W] and all pixels beside it."""
    wide = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    rows = wide[:, :-2] | wide[:, 1:-1] | wide[:, 2:]
    found: Array = rows[:, :, :-2] | rows[:, :, 1:-1] | rows[:, :, 2:]
    return found


def _log_mean(target: Tensor, weight: Tensor, classes: int) -> Tensor:  # noqa: ARG001
    """The weighted geometric mean [1]."""
    return ((target.log() * weight).sum() / weight.sum().clamp(min=1e-12)).exp().reshape(1)


def _direction(target: Tensor, weight: Tensor, classes: int) -> Tensor:  # noqa: ARG001
    """The weighted mean vector [3]."""
    return (target * weight[:, None]).sum(0) / weight.sum().clamp(min=1e-12)


def _even(prior: Tensor) -> Tensor:
    """A balanced loss starts in the middle, whatever the shares are."""
    return prior.new_zeros(1)


def _mirrored(target: Tensor) -> Tensor:
    return target.flip(2)


def _mirrored_vectors(target: Tensor) -> Tensor:
    return target.flip(2) * target.new_tensor([-1, 1, 1])


PIXELS = (
    Kind(
        name="segmentation", loss="cross_entropy", metrics=("miou", "pixel_accuracy"),
        outputs=each, prior=shares, bias=log_shares, judge=tallied,
        place="pixel", tally=segments, mirror=_mirrored,
        labelled=True, named=True, whole=True,
        hints=("semantic", "semantic_segmentation", "masks"),
    ),
    Kind(
        name="depth", loss="log_depth", losses=("absolute_depth",),
        metrics=("depth_rel", "depth_abs", "depth_rmse"),
        outputs=one, prior=_log_mean, bias=log_shares, judge=tallied,
        place="pixel", tally=depths, mirror=_mirrored, hints=("depth_map",),
    ),
    Kind(
        name="normals", loss="cosine",
        metrics=("angle_mean", "angle_median", "within_11", "within_22", "within_30"),
        outputs=_three, prior=_direction, bias=same, judge=tallied,
        place="pixel", tally=angles, mirror=_mirrored_vectors, hints=("surface_normals",),
    ),
    Kind(
        name="boundaries", loss="balanced_bce", metrics=("boundary_f",),
        outputs=one, prior=shares, bias=_even, judge=tallied,
        place="pixel", tally=edges, mirror=_mirrored, labelled=True, whole=True,
        hints=("edges", "edge_detection", "contours"),
    ),
)  # fmt: skip
