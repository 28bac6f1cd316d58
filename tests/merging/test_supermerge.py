from __future__ import annotations

import numpy as np
import pytest
import torch
from learned import learned
from merging_nets import TASKS, net_bench, net_pool

from plait.merging.base import Have
from plait.merging.supermerge import SuperMerge
from plait.merging.task_arithmetic import TaskArithmetic

FEW = {"steps": 6, "batch": 6, "rate": 0.2}


def rows(found):
    return np.array(list(found.evidence["coefficients"].values()))


def test_the_coefficients_are_those_of_the_papers_loop():
    pool = net_pool()
    found = SuperMerge(**FEW).merge(pool, Have(bench=net_bench()))
    free = torch.full((len(pool.base), len(TASKS)), 0.3, dtype=torch.float64).atanh()
    free.requires_grad_()
    adam = torch.optim.Adam([free], lr=0.2)
    losses = learned(pool, net_bench(), free, torch.tanh, adam, steps=6, batch=6)
    wanted = free.detach().tanh().numpy()
    assert np.abs(wanted - 0.3).max() > 0.2
    assert wanted.min() < 0
    np.testing.assert_allclose(rows(found), wanted, rtol=1e-9)
    np.testing.assert_allclose(found.evidence["objective"], [losses[0], losses[-1]], rtol=1e-9)
    for row, (name, value) in zip(wanted, pool.base.items(), strict=True):
        steps = [c * (pool.models[t][name] - value) for c, t in zip(row, TASKS, strict=True)]
        np.testing.assert_allclose(found.tensors[name], value + sum(steps), rtol=1e-9)


def test_coefficients_stay_within_one():
    found = SuperMerge(steps=20, rate=5.0).merge(net_pool(), Have(bench=net_bench()))
    assert np.abs(rows(found)).max() <= 1
    assert np.abs(rows(found)).min() > 0.9


def test_no_steps_are_task_arithmetic():
    pool = net_pool()
    found = SuperMerge(steps=0, start=-0.4).merge(pool, Have(bench=net_bench())).tensors
    for name, value in TaskArithmetic(scale=-0.4).merge(pool).tensors.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12)


def test_where_validation_gets_worse_the_start_is_kept():
    pool = net_pool()
    start = TaskArithmetic(scale=0.3).merge(pool).tensors

    def far(state):
        return sum(float(np.square(state[name] - start[name]).sum()) for name in start)

    found = SuperMerge(**FEW).merge(pool, Have(bench=net_bench(), validation=far))
    assert found.evidence["kept"].startswith("the start")
    np.testing.assert_allclose(rows(found), 0.3, rtol=1e-12)


def test_labels_are_asked_for_and_bad_settings_refused():
    bench = net_bench()
    bench.offers = frozenset(need for need in bench.offers if need.value != "labelled")
    with pytest.raises(ValueError, match="supermerge needs"):
        SuperMerge().merge(net_pool(), Have(bench=bench))
    with pytest.raises(ValueError, match=r"start must lie in \[-1, 1\], got 2"):
        SuperMerge(start=2)
