from __future__ import annotations

import numpy as np
import pytest
from merging_toys import SHAPES, deltas

from plait.merging.emr import Emr
from plait.merging.pool import Pool
from plait.weights.sinks import Memory


@pytest.mark.parametrize("by", ["site", "entry"])
def test_it_is_the_papers_formula(pool: Pool, by: str) -> None:
    merged = Emr(by=by).merge(pool)  # type: ignore[arg-type]
    own, left, parts = np.zeros(3), np.zeros(3), {}
    for name in SHAPES:
        tau = deltas(pool, name)
        gamma = np.where(tau.sum(0) > 0, 1, -1)
        masks = tau * gamma > 0
        unified = gamma * (np.abs(tau) * masks).max(0)
        parts[name] = (masks, unified)
        weight = 1 / unified.size if by == "site" else 1
        own += weight * np.abs(tau).reshape(3, -1).sum(1)
        left += weight * np.abs(masks * unified).reshape(3, -1).sum(1)
        np.testing.assert_allclose(merged.tensors[name], pool.base[name] + unified, atol=1e-14)
    for number, task in enumerate(pool.names):
        for name, (masks, unified) in parts.items():
            wanted = pool.base[name] + own[number] / left[number] * masks[number] * unified
            np.testing.assert_allclose(merged.tasks[task][name], wanted, atol=1e-12)


def test_a_task_keeps_one_bit_for_each_entry_and_a_number_for_each_tensor(pool: Pool) -> None:
    sink = Memory()
    Emr().merge(pool, sink=sink)
    for task in pool.names:
        kept = sink.kept(task)
        assert {name.rpartition(".")[0] for name in kept} == set(SHAPES)
        masks = sum(value.nbytes for name, value in kept.items() if name.endswith(".mask"))
        assert masks == sum(-(-int(np.prod(shape)) // 8) for shape in SHAPES.values())


def test_the_mean_size_of_every_task_vector_is_kept(pool: Pool) -> None:
    merged = Emr().merge(pool)
    for task in pool.names:
        own, served = (
            sum(np.abs(state[name] - pool.base[name]).mean() for name in SHAPES)
            for state in (pool.models[task], merged.tasks[task])
        )
        np.testing.assert_allclose(served, own)


def test_a_model_equal_to_the_base_stays_there(pool: Pool) -> None:
    models = {**pool.models, "still": pool.base}
    served = Emr().merge(Pool(models, pool.base)).tasks["still"]
    for name in SHAPES:
        np.testing.assert_array_equal(served[name], pool.base[name])
