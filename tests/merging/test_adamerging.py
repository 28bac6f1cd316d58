from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from merging_nets import TASKS, net_bench, net_pool
from torch.func import functional_call

from plait.merging.adamerging import AdaMerging
from plait.merging.base import Have
from plait.merging.task_arithmetic import TaskArithmetic

FEW = {"steps": 5, "batch": 6, "batches": 2, "rate": 0.05}


def entropy(raw):
    return -(raw.softmax(1) * raw.log_softmax(1)).sum(1).mean()


def literal(pool, bench, *, per, steps, batch, batches, rate, vectors=None):
    """The paper's loop: every weight is formed from all task vectors, and torch differentiates."""
    base = {name: torch.from_numpy(value) for name, value in pool.base.items()}
    if vectors is None:
        vectors = {
            name: torch.stack([torch.from_numpy(pool.models[t][name]) - base[name] for t in TASKS])
            for name in base
        }
    rows = len(base) if per == "tensor" else 1
    free = torch.full((rows, len(TASKS)), 0.3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([free], lr=rate)
    for step in range(steps):
        weights = {
            name: value + torch.tensordot(free[number if per == "tensor" else 0], vectors[name], 1)
            for number, (name, value) in enumerate(base.items())
        }
        loss = 0.0
        for task in TASKS:
            for part in range(batches):
                drawn = bench.drawn(task, batch, step * batches + part, 0)
                inputs = bench._inputs[task][""][torch.from_numpy(drawn)]
                features = functional_call(bench.module, weights, (inputs,))
                loss = loss + entropy(bench._heads[task](features))
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            free.clamp_(0, 1)
    return free.detach().expand(len(base), -1).numpy()


@pytest.mark.parametrize("per", ["tensor", "task"])
def test_the_coefficients_are_those_of_the_papers_loop(per):
    pool, bench = net_pool(), net_bench()
    found = AdaMerging(per=per, **FEW).merge(pool, Have(bench=bench))
    wanted = literal(pool, net_bench(), per=per, **FEW)
    assert np.abs(wanted - 0.3).max() > 0.05
    rows = np.array(list(found.evidence["coefficients"].values()))
    np.testing.assert_allclose(rows, wanted, rtol=1e-9)
    for row, (name, value) in zip(wanted, pool.base.items(), strict=True):
        steps = [c * (pool.models[t][name] - value) for c, t in zip(row, TASKS, strict=True)]
        np.testing.assert_allclose(found.tensors[name], value + sum(steps), rtol=1e-9)


def test_plus_trims_the_whole_model_and_drops_what_differs_in_sign():
    pool = net_pool()
    flat = np.stack(
        [
            np.concatenate([(m[n] - pool.base[n]).ravel() for n in pool.base])
            for m in pool.models.values()
        ]
    )
    count = flat.shape[1]
    for row in flat:
        least = np.sort(np.abs(row))[count - int(count * 0.4) - 1]
        row[np.abs(row) < least] = 0
    sign = np.sign(flat.sum(0))
    sign[sign == 0] = np.sign(np.sign(flat.sum(0)).sum())
    kept = np.where(np.sign(flat) == sign, flat, 0)
    vectors, start = {}, 0
    for name, value in pool.base.items():
        piece = kept[:, start : start + value.size].reshape(len(kept), *value.shape)
        vectors[name], start = torch.from_numpy(piece), start + value.size
    wanted = literal(pool, net_bench(), per="tensor", vectors=vectors, **FEW)
    found = AdaMerging(plus=True, keep=0.4, **FEW).merge(pool, Have(bench=net_bench()))
    rows = np.array(list(found.evidence["coefficients"].values()))
    np.testing.assert_allclose(rows, wanted, rtol=1e-9)
    for row, (name, value) in zip(wanted, pool.base.items(), strict=True):
        merged = value + np.tensordot(row, vectors[name].numpy(), 1)
        np.testing.assert_allclose(found.tensors[name], merged, rtol=1e-9)


def test_no_steps_are_task_arithmetic():
    pool = net_pool()
    found = AdaMerging(steps=0, start=0.4).merge(pool, Have(bench=net_bench())).tensors
    wanted = TaskArithmetic(scale=0.4).merge(pool).tensors
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12)


def test_coefficients_stay_between_zero_and_one_and_come_back():
    pool, bench, path = net_pool(spread=1.0), net_bench(), []
    for steps in range(3, 12):
        found = AdaMerging(steps=steps, batch=6, rate=0.3).merge(pool, Have(bench=bench))
        path.append(np.array(list(found.evidence["coefficients"].values())))
    assert np.min(path) == 0
    assert np.max(path) == 1
    pairs = itertools.pairwise(path)
    assert any((np.isin(one, (0, 1)) & ~np.isin(two, (0, 1))).any() for one, two in pairs)


def test_where_validation_gets_worse_the_start_is_kept_and_said():
    pool, bench = net_pool(), net_bench()
    start = TaskArithmetic(scale=0.3).merge(pool).tensors

    def far(state):
        return sum(float(np.square(state[name] - start[name]).sum()) for name in start)

    found = AdaMerging(**FEW).merge(pool, Have(bench=bench, validation=far))
    assert "start" in found.evidence["kept"]
    before, after = found.evidence["validation"]
    assert before < after
    for name, value in start.items():
        np.testing.assert_allclose(found.tensors[name], value, rtol=1e-12)
    better = AdaMerging(**FEW).merge(pool, Have(bench=bench, validation=lambda s: -far(s)))
    assert better.evidence["kept"] == "what was tuned"
    assert set(np.ravel(list(better.evidence["coefficients"].values()))) != {0.3}


def test_an_objective_that_is_not_finite_gives_the_start():
    pool, bench = net_pool(), net_bench()
    bench._heads["y"].weight.data[0, 0] = torch.nan
    found = AdaMerging(**FEW).merge(pool, Have(bench=bench))
    assert "infinite or NaN" in found.evidence["kept"]
    assert set(np.ravel(list(found.evidence["coefficients"].values()))) == {0.3}


def test_tasks_without_classes_are_named():
    bench = net_bench(losses={"x": "cross_entropy", "y": "squared", "z": "poisson"})
    with pytest.raises(ValueError, match="'y', 'z' has another; leave such tasks out"):
        AdaMerging().merge(net_pool(), Have(bench=bench))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"keep": 0}, "keep is a share"), ({"start": 2}, "start must lie"), ({"batch": 0}, "batch")],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        AdaMerging(**settings)
