from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from merging_nets import TASKS, net_bench, net_pool

from plait.merging.base import Have
from plait.merging.pool import Pool
from plait.merging.task_arithmetic import TaskArithmetic
from plait.merging.trust_region import TrustRegion


def slopes(bench, pool, task):
    """Mean |gradient| of single rows at the base, from the definition."""
    bench.load(pool, None)
    module, head = bench.module, bench._heads[task]
    named = dict(module.named_parameters())
    total = {name: np.zeros(value.shape) for name, value in named.items()}
    for row, label in zip(bench._inputs[task][""], bench._labels[task], strict=True):
        loss = -head(module(row)).log_softmax(0)[label]
        for name, slope in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True):
            total[name] += slope.abs().numpy() / bench.count(task)
    return total


def flat(state, names):
    return np.concatenate([np.ravel(state[name]) for name in names])


def wanted(pool, known, keep):
    """The flattened model merged by two loops over tasks and torch's own quantile."""
    names = list(pool.base)
    base = flat(pool.base, names)
    deltas = {task: flat(model, names) - base for task, model in pool.models.items()}
    conflict = np.zeros_like(base)
    for one in TASKS:
        for other in TASKS:
            if one != other:
                conflict += known[one] * np.abs(deltas[other])
    limit = torch.quantile(torch.from_numpy(conflict), keep).item()
    return base + 0.3 * sum((conflict < limit) * delta for delta in deltas.values()), conflict


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.99])
def test_entries_that_other_tasks_are_sensitive_to_are_left_out(keep):
    pool, bench = net_pool(), net_bench()
    found = TrustRegion(keep=keep).merge(pool, Have(bench=bench)).tensors
    names = list(pool.base)
    known = {task: flat(slopes(bench, pool, task), names) for task in TASKS}
    merged, _ = wanted(pool, known, keep)
    np.testing.assert_allclose(flat(found, names), merged, rtol=1e-10)
    with patch("plait.merging.engine.BLOCK", 8):
        blocks = TrustRegion(keep=keep).merge(pool, Have(bench=bench)).tensors
    np.testing.assert_allclose(flat(blocks, names), merged, rtol=1e-10)


def test_without_data_the_task_vectors_stand_in_for_gradients():
    pool, names = net_pool(), list(net_pool().base)
    base = flat(pool.base, names)
    known = {task: np.abs(flat(model, names) - base) for task, model in pool.models.items()}
    merged, _ = wanted(pool, known, 0.8)
    found = TrustRegion(zero_shot=True, keep=0.8).merge(pool).tensors
    np.testing.assert_allclose(flat(found, names), merged, rtol=1e-10)


def test_tensors_without_gradients_are_not_masked_and_do_not_count():
    pool, bench = net_pool(), net_bench()
    more = {task: {**model, "idle": np.full(40, 2.0)} for task, model in pool.models.items()}
    wide = Pool(more, {**pool.base, "idle": np.zeros(40)})
    bench.module.register_buffer("idle", torch.zeros(40, dtype=torch.float64))
    found = TrustRegion(keep=0.7).merge(wide, Have(bench=bench)).tensors
    np.testing.assert_allclose(found["idle"], 0.3 * 3 * 2.0, rtol=1e-12)
    names = list(pool.base)
    known = {task: flat(slopes(bench, wide, task), names) for task in TASKS}
    np.testing.assert_allclose(flat(found, names), wanted(pool, known, 0.7)[0], rtol=1e-10)


def test_one_model_and_models_that_never_meet_are_task_arithmetic():
    one = net_pool(("x",))
    alone = TrustRegion(scale=0.3).merge(one, Have(bench=net_bench(("x",)))).tensors
    for name, value in TaskArithmetic(scale=0.3).merge(one).tensors.items():
        np.testing.assert_allclose(alone[name], value, rtol=1e-12)
    apart = Pool({"a": {"w": np.eye(4)[0]}, "b": {"w": np.eye(4)[1]}}, {"w": np.zeros(4)})
    found = TrustRegion(zero_shot=True, keep=0.5, scale=1.0).merge(apart)
    np.testing.assert_array_equal(found.tensors["w"], [1, 1, 0, 0])


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"keep": 0}, "keep is a share"), ({"rows": 0}, "rows must be at least 1")],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        TrustRegion(**settings)
