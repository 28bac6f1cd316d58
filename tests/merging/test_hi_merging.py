from __future__ import annotations

import numpy as np
import pytest
from merging_toys import SHAPES, deltas

from plait.merging.base import Have
from plait.merging.hi_merging import HiMerging
from plait.merging.pool import Pool


@pytest.mark.parametrize("keep", [0.3, 1.0])
def test_it_adds_up_what_agrees(pool: Pool, keep: float) -> None:
    merged = HiMerging(keep=keep, scale=0.7).merge(pool).tensors
    for name in SHAPES:
        stack = deltas(pool, name)
        for number, delta in enumerate(stack):
            size = np.sort(np.abs(delta).ravel())
            least = size[max(len(size) - int(len(size) * keep) - 1, 0)]
            stack[number] = np.where(np.abs(delta) >= least, delta, 0)
        agree = stack * np.sign(stack.sum(0)) > 0
        wanted = 0.7 * (stack * agree).sum(0)
        np.testing.assert_allclose(merged[name] - pool.base[name], wanted, atol=1e-12)


def test_every_pair_is_tried_and_the_best_one_taken(pool: Pool) -> None:
    target = HiMerging(keep=0.6, scale=0.3).merge(pool).tensors
    calls = []

    def loss(state: dict) -> float:
        calls.append(state)
        return sum(float(np.abs(state[name] - target[name]).sum()) for name in SHAPES)

    settings = {"shares": (0.2, 0.6, 1.0), "grid": (0.1, 0.3)}
    merged = HiMerging(**settings).merge(pool, Have(validation=loss))  # type: ignore[arg-type]
    assert (merged.evidence["keep"], merged.evidence["scale"]) == (0.6, 0.3)
    assert len(calls) == len(merged.evidence["search"]) == 6
    for name in SHAPES:
        np.testing.assert_allclose(merged.tensors[name], target[name], atol=1e-14)


def test_what_is_given_is_not_searched(pool: Pool) -> None:
    def loss(state: dict) -> float:
        return float(np.abs(state["a.0.weight"] - pool.base["a.0.weight"]).sum())

    merged = HiMerging(keep=0.5).merge(pool, Have(validation=loss))
    assert {tried[0] for tried in merged.evidence["search"]} == {0.5}
    assert merged.evidence["scale"] == 0.1
    fixed = HiMerging(keep=0.5, scale=0.4).merge(pool, Have(validation=loss))
    assert not fixed.evidence


def test_shares_out_of_range_are_refused() -> None:
    for settings in ({"keep": 0.0}, {"shares": (0.5, 2.0)}):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            HiMerging(**settings)  # type: ignore[arg-type]
