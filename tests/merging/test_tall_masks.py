from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from merging_toys import SHAPES, deltas, flat, merged_delta

from plait.merging.consensus import Consensus
from plait.merging.pool import Pool
from plait.merging.tall_masks import TallMasks
from plait.merging.task_arithmetic import TaskArithmetic
from plait.merging.ties import Ties
from plait.weights.sinks import Memory

SUM = {"ties": {"reduce": "sum"}}


@pytest.mark.parametrize("method", ["task_arithmetic", SUM])
@pytest.mark.parametrize("block", [1 << 18, 8])
def test_every_task_serves_the_merged_entries_that_are_its_own(
    pool: Pool, method: object, block: int
) -> None:
    given = {"x": 0.2, "y": 0.4, "z": 0.6}
    with patch("plait.merging.engine.BLOCK", block):
        merged = TallMasks(method=method, threshold=given).merge(pool)  # type: ignore[arg-type]
    whole = (
        flat(pool).sum(0)
        if method == "task_arithmetic"
        else merged_delta(pool, Ties(reduce="sum", scale=1.0).merge(pool).tensors)
    )
    np.testing.assert_allclose(merged_delta(pool, merged.tensors), whole, atol=1e-13)
    for own, (task, factor) in zip(flat(pool), given.items(), strict=True):
        mask = [abs(d) > factor * abs(t - d) for d, t in zip(own, whole, strict=True)]
        assert 0 < sum(mask) < len(mask)
        found = merged_delta(pool, merged.tasks[task])
        np.testing.assert_allclose(found, np.where(mask, whole, 0), atol=1e-12)


def test_what_is_zero_in_a_model_is_never_its_own() -> None:
    """Strictly greater: an entry that no model has moved is kept by none."""
    pool = Pool({"a": {"w": np.array([0.0, 1.0])}, "b": {"w": np.zeros(2)}}, {"w": np.zeros(2)})
    sink = Memory()
    TallMasks(threshold=0.0).merge(pool, sink=sink)
    masks = {task: np.unpackbits(sink.kept(task)["w.mask"], count=2).tolist() for task in "ab"}
    assert masks == {"a": [0, 1], "b": [0, 0]}


def test_disjoint_models_come_back_exactly() -> None:
    rows = np.diag([1.5, -2.0, 0.25])
    pool = Pool({f"m{i}": {"w": row} for i, row in enumerate(rows)}, {"w": np.zeros(3)})
    tasks = TallMasks().merge(pool).tasks
    for name, row in zip(pool.names, rows, strict=True):
        np.testing.assert_array_equal(tasks[name]["w"], row)


def test_a_task_keeps_one_bit_for_each_entry(pool: Pool) -> None:
    sink = Memory()
    TallMasks().merge(pool, sink=sink)
    for task in pool.names:
        kept = sink.kept(task)
        assert set(kept) == {f"{name}.mask" for name in SHAPES}
        masks = sum(value.nbytes for value in kept.values())
        assert masks == sum(-(-int(np.prod(shape)) // 8) for shape in SHAPES.values())


@pytest.mark.parametrize("agree", [1, 2, 3])
def test_consensus_leaves_out_what_too_few_tasks_need(pool: Pool, agree: int) -> None:
    merged = Consensus(agree=agree, threshold=0.6, scale=0.7).merge(pool).tensors
    for name in SHAPES:
        tau = deltas(pool, name)
        total = tau.sum(0)
        votes = sum((np.abs(one) > 0.6 * np.abs(total - one)).astype(int) for one in tau)
        wanted = pool.base[name] + 0.7 * np.where(votes >= agree, total, 0)
        np.testing.assert_allclose(merged[name], wanted, atol=1e-12)


def test_the_masks_of_consensus_do_not_depend_on_its_scale(pool: Pool) -> None:
    small, large = (
        merged_delta(pool, Consensus(scale=scale).merge(pool).tensors) for scale in (0.1, 1.0)
    )
    np.testing.assert_allclose(10 * small, large, atol=1e-12)


def test_consensus_of_none_is_task_arithmetic_and_of_more_than_all_the_base(pool: Pool) -> None:
    every = Consensus(agree=0, scale=0.5).merge(pool).tensors
    plain = TaskArithmetic(scale=0.5).merge(pool).tensors
    none = Consensus(agree=4, scale=0.5).merge(pool).tensors
    for name in SHAPES:
        np.testing.assert_array_equal(every[name], plain[name])
        np.testing.assert_array_equal(none[name], pool.base[name])


@pytest.mark.parametrize("method", [TallMasks, Consensus])
def test_thresholds_of_other_models_are_refused(pool: Pool, method: type) -> None:
    with pytest.raises(ValueError, match="thresholds and models differ in: w, z"):
        method(threshold={"x": 1.0, "y": 1.0, "w": 1.0}).merge(pool)
    with pytest.raises(ValueError, match="a threshold of masks is 0 or more"):
        method(threshold=-1.0).merge(pool)
