from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sk

from plait.kinds import KINDS, kind_of
from plait.metrics import METRICS, Undefined

SHAPE = (12, 5, 6)
RANDOM = np.random.default_rng(0)
VALID = RANDOM.random(SHAPE) < 0.7
WEIGHT = RANDOM.random(SHAPE[0])
EVERY = np.broadcast_to(WEIGHT[:, None, None], SHAPE)[VALID]


def score(name, kind, truth, found, classes=()):
    tally = KINDS[kind].tally(truth, VALID, found, classes)
    return METRICS[name].score(np.zeros(len(tally)), tally, WEIGHT)


def test_masks_are_scored_as_all_pixels_together():
    truth = RANDOM.integers(0, 4, SHAPE)
    shares = RANDOM.random((*SHAPE, 4)) + np.eye(4)[truth]
    shares /= shares.sum(-1, keepdims=True)
    given = truth[VALID], shares[VALID].argmax(1)
    expected = sk.jaccard_score(*given, average="macro", sample_weight=EVERY)
    assert score("miou", "segmentation", truth, shares, "abcd") == pytest.approx(expected)
    expected = sk.accuracy_score(*given, sample_weight=EVERY)
    assert score("pixel_accuracy", "segmentation", truth, shares, "abcd") == pytest.approx(expected)


def test_depths_are_scored_by_absolute_and_relative_errors():
    truth, found = RANDOM.gamma(2, 2, SHAPE), RANDOM.gamma(2, 2, SHAPE)
    given = {"sample_weight": EVERY}
    for name, oracle in (
        ("depth_abs", sk.mean_absolute_error),
        ("depth_rel", sk.mean_absolute_percentage_error),
        ("depth_rmse", sk.root_mean_squared_error),
    ):
        expected = oracle(truth[VALID], found[VALID], **given)
        assert score(name, "depth", truth, found) == pytest.approx(expected)


def test_normals_are_scored_by_their_angles():
    truth = RANDOM.normal(size=(*SHAPE, 3))
    found = truth + 0.4 * RANDOM.normal(size=(*SHAPE, 3))
    truth /= np.linalg.norm(truth, axis=-1, keepdims=True)
    angle = []
    for a, b in zip(truth[VALID], found[VALID], strict=True):
        angle.append(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))
    mean = np.average(angle, weights=EVERY)
    assert score("angle_mean", "normals", truth, found) == pytest.approx(mean)
    order = np.argsort(angle)
    below = np.cumsum(EVERY[order])
    middle = np.sort(angle)[np.searchsorted(below, below[-1] / 2)]
    assert score("angle_median", "normals", truth, found) == pytest.approx(middle, abs=0.3)
    for name, limit in (("within_11", 11.25), ("within_22", 22.5), ("within_30", 30)):
        share = np.average(np.array(angle) < limit, weights=EVERY)
        assert score(name, "normals", truth, found) == pytest.approx(share)


def test_boundaries_are_scored_pixel_by_pixel_with_one_pixel_of_tolerance():
    truth = (RANDOM.random(SHAPE) < 0.15).astype(int)
    found = RANDOM.random(SHAPE)
    best = 0.0
    for threshold in np.linspace(0.05, 0.95, 19):
        near = decided = met = true = 0.0
        for image in range(SHAPE[0]):
            positive = (found[image] >= threshold) & VALID[image]
            real = (truth[image] > 0) & VALID[image]
            for one, other, which in ((positive, real, 0), (real, positive, 1)):
                for y, x in zip(*np.nonzero(one), strict=True):
                    beside = other[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any()
                    if which == 0:
                        near, decided = near + beside * WEIGHT[image], decided + WEIGHT[image]
                    else:
                        met, true = met + beside * WEIGHT[image], true + WEIGHT[image]
        if near and met:
            precision, recall = near / decided, met / true
            best = max(best, 2 * precision * recall / (precision + recall))
    assert score("boundary_f", "boundaries", truth, found) == pytest.approx(best)


def test_images_without_any_boundary_have_no_score():
    found = score("boundary_f", "boundaries", np.zeros(SHAPE), RANDOM.random(SHAPE))
    assert found == Undefined("no pixel is a boundary")


def test_dense_is_said_more_exactly():
    with pytest.raises(ValueError, match="say which: segmentation, depth, normals, boundaries"):
        kind_of("dense")
