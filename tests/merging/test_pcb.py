from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from merging_toys import flat, merged_delta

from plait.merging.pcb import Pcb
from plait.merging.pool import Pool


def clamp(row: list[float], low: float, high: float) -> list[float]:
    """Raised to the entry at the share ``low``, lowered to that before the last share ``high``."""
    rising, count = sorted(row), len(row)
    least, most = rising[int(count * low)], rising[int(count * (1 - high) - 1)]
    return [min(max(value, least), most) for value in row]


def unit(row: list[float]) -> list[float]:
    return [(value - min(row)) / (max(row) - min(row)) for value in row]


def by_the_code(tau: np.ndarray, keep: float, clip: float) -> np.ndarray:
    """The authors' formula on whole flat vectors [M, P], entry by entry."""
    sizes = [clamp(np.abs(row).tolist(), clip, clip) for row in tau]
    units = [unit(row) for row in sizes]
    shares = []
    for mine, row in zip(units, tau, strict=True):
        scores = []
        for place, u in enumerate(mine):
            signed = np.sign(row[place]) * u
            inter = sum(
                np.tanh(signed * np.sign(other[place]) * its[place])
                for its, other in zip(units, tau, strict=True)
            )
            scores.append(np.exp(len(tau) * u**2) * inter)
        shares.append(unit(clamp(scores, 1 - keep, 0)))
    share, signed_size = np.array(shares), np.sign(tau) * np.array(sizes)
    return np.asarray((share * signed_size).sum(0) / np.maximum(share.sum(0), 1e-12))


@pytest.mark.parametrize(("keep", "clip"), [(0.05, 0.01), (0.3, 0.05), (0.5, 0.0)])
@pytest.mark.parametrize("block", [1 << 18, 8])
def test_it_is_the_authors_formula(pool: Pool, keep: float, clip: float, block: int) -> None:
    with patch("plait.merging.engine.BLOCK", block):
        merged = Pcb(keep=keep, clip=clip, scale=1.1).merge(pool, workers=2).tensors
    wanted = 1.1 * by_the_code(flat(pool), keep, clip)
    np.testing.assert_allclose(merged_delta(pool, merged), wanted, atol=1e-11)


def test_the_share_kept_is_that_of_the_whole_model() -> None:
    draw = np.random.default_rng(0)
    state = {"large": draw.normal(size=600) * 10, "small": draw.normal(size=400)}
    pool = Pool({"a": state}, {name: np.zeros_like(value) for name, value in state.items()})
    merged = Pcb(keep=0.1, scale=1.0).merge(pool).tensors
    kept = {name: np.count_nonzero(value) for name, value in merged.items()}
    # What is as large as the 99 % place shares the highest score; 100 − 1 of 1,000 are above 90 %.
    assert kept == {"large": 99, "small": 0}
    whole = np.concatenate(list(state.values()))
    most = np.sort(np.abs(whole))[989]
    large = merged["large"][merged["large"] != 0]
    np.testing.assert_allclose(np.abs(large).max(), most)
    clipped = np.clip(state["large"], -most, most)
    np.testing.assert_allclose(large, clipped[merged["large"] != 0])


def test_entries_that_others_contradict_are_the_first_to_go() -> None:
    draw = np.random.default_rng(1)
    one = draw.choice([-1, 1], 200) * draw.uniform(1, 2, 200)
    two = one * np.repeat([1, -1], 100)
    pool = Pool({"a": {"w": one}, "b": {"w": two}}, {"w": np.zeros(200)})
    merged = Pcb(keep=0.2).merge(pool).tensors["w"]
    assert np.count_nonzero(merged[:100]) > 30
    assert not merged[100:].any()


def test_models_that_are_all_of_one_size_or_none_give_no_nan() -> None:
    for delta in (np.ones(50), np.zeros(50)):
        pool = Pool({"a": {"w": delta}, "b": {"w": delta}}, {"w": np.zeros(50)})
        assert not Pcb().merge(pool).tensors["w"].any()


def test_shares_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="keep is a share above 0 and at most 1, not 5"):
        Pcb(keep=5)
    with pytest.raises(ValueError, match=r"clip is a share from 0 to below 0\.5, not 0\.5"):
        Pcb(clip=0.5)
