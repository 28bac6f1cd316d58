from __future__ import annotations

import numpy as np
import pytest
import torch
from merging_nets import TASKS, net_bench, net_pool

from plait.merging.base import Have
from plait.merging.fisher import Fisher
from plait.merging.mats import Mats
from plait.merging.regmean import RegMean
from plait.merging.task_arithmetic import TaskArithmetic

EXACT = {"steps": 1000, "tolerance": 1e-12}
LINEAR = ("first.weight", "second.weight")


def mean(pool):
    return {n: np.mean([m[n] for m in pool.models.values()], axis=0) for n in pool.base}


def test_the_gram_subspace_is_regmeans_closed_form():
    pool, bench = net_pool(), net_bench()
    wanted = RegMean(alpha=0.8).merge(pool, Have(bench=bench)).tensors
    found = Mats(subspace="gram", alpha=0.8, **EXACT).merge(pool, Have(bench=bench)).tensors
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_the_fisher_subspace_is_fisher_mergings_closed_form():
    pool, bench = net_pool(), net_bench()
    wanted = Fisher(floor=1e-12).merge(pool, Have(bench=bench)).tensors
    found = Mats(subspace="fisher", **EXACT).merge(pool, Have(bench=bench)).tensors
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def kfac(bench, pool, task):
    """G and O of both layers, from the definition: every row and every class by itself."""
    bench.load(pool, task)
    module, head = bench.module, bench._heads[task]
    grams = {name: [0.0, 0.0] for name in LINEAR}
    rows = bench._inputs[task][""]
    for row in rows:
        one = module.first(row)
        hidden = torch.tanh(one)
        two = module.second(hidden)
        logs = head(two * module.scale).log_softmax(0)
        for name, given in zip(LINEAR, (row, hidden), strict=True):
            grams[name][0] += torch.outer(given, given).detach().numpy() / len(rows)
        for log in logs:
            slopes = torch.autograd.grad(log, [one, two], retain_graph=True)
            for name, slope in zip(LINEAR, slopes, strict=True):
                square = torch.outer(slope, slope) * log.exp().detach()
                grams[name][1] += square.numpy() / len(rows)
    return grams


def test_kfac_solves_the_kronecker_system():
    pool, bench = net_pool(), net_bench()
    found = Mats(batch=7, **EXACT).merge(pool, Have(bench=bench))
    known = {task: kfac(bench, pool, task) for task in TASKS}
    for name in LINEAR:
        total, right = 0.0, 0.0
        for task in TASKS:
            gram, slopes = known[task][name]
            matrix = np.kron(slopes, gram)  # vec by rows: O W G
            total = total + matrix
            right = right + matrix @ pool.models[task][name].ravel()
        start = mean(pool)[name].ravel()
        wanted = start + np.linalg.pinv(total, rcond=1e-12) @ (right - total @ start)
        np.testing.assert_allclose(found.tensors[name].ravel(), wanted, rtol=1e-6, atol=1e-8)
        assert found.evidence["solved"][name]["residual"] < 1e-11
    for name in ("first.bias", "scale"):
        np.testing.assert_allclose(found.tensors[name], mean(pool)[name], rtol=1e-14)


def test_what_is_left_gets_less_with_every_few_steps():
    pool, bench = net_pool(), net_bench()
    left = [
        Mats(steps=steps).merge(pool, Have(bench=bench)).evidence["solved"]["first.weight"]
        for steps in (1, 8, 30)
    ]
    assert [one["steps"] for one in left[:2]] == [1, 8]
    residuals = [one["residual"] for one in left]
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[-1] < 1e-3


def test_no_steps_return_the_start():
    pool, bench = net_pool(), net_bench()
    wanted = TaskArithmetic(scale=0.4).merge(pool).tensors
    found = Mats(steps=0, start=0.4).merge(pool, Have(bench=bench)).tensors
    average = Mats(steps=0).merge(pool, Have(bench=bench)).tensors
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12)
        np.testing.assert_allclose(average[name], mean(pool)[name], rtol=1e-12)


def test_directions_that_no_input_takes_stay_as_they_start():
    pool, bench = net_pool(), net_bench()
    for task in TASKS:
        bench._inputs[task][""][:, 3] = 0
    found = Mats(start=0.0, **EXACT).merge(pool, Have(bench=bench)).tensors["first.weight"]
    np.testing.assert_allclose(found[:, 3], pool.base["first.weight"][:, 3], rtol=1e-12)
    assert np.abs(found - pool.base["first.weight"])[:, :3].min() > 1e-4


def test_the_identity_is_the_average_and_looks_at_no_data():
    pool = net_pool()
    found = Mats(subspace="identity").merge(pool).tensors
    for name, value in mean(pool).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-14)
    with pytest.raises(ValueError, match="mats needs"):
        Mats(subspace="gram").merge(pool)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"alpha": 2}, r"alpha must lie in \[0, 1\]"),
        ({"steps": -1}, "steps must be 0 or more"),
        ({"rows": 0}, "rows must be at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Mats(**settings)
