from __future__ import annotations

import numpy as np
import pytest
import torch
from merging_nets import TASKS, net_bench, net_pool, state

from plait.merging.average import Average
from plait.merging.base import Have
from plait.merging.bench import dealt
from plait.merging.surgery import Repairs, Surgery
from plait.merging.task_arithmetic import TaskArithmetic
from plait.method import MethodError

FEW = {"rank": 3, "steps": 6, "batch": 5, "rate": 0.02}


def features(bench, tensors, task):
    """The features of all rows of a task at weights by name."""
    own = {name: torch.from_numpy(np.asarray(value)) for name, value in tensors.items()}
    rows = bench._inputs[task][""]
    with torch.no_grad():
        return torch.func.functional_call(bench.module, own, (rows,))


def test_the_modules_are_those_of_the_papers_loop():
    pool, bench = net_pool(), net_bench()
    merged = Surgery(**FEW).merge(pool, Have(bench=bench))
    tensors = TaskArithmetic(scale=1.0).merge(pool).tensors
    chosen = merged.tensors
    for name, value in tensors.items():
        assert chosen[name].shape == value.shape
    for place, task in enumerate(TASKS):
        z, wanted = features(bench, chosen, task), features(bench, pool.models[task], task)
        fresh = Surgery(**{**FEW, "steps": 0})
        down, up, _ = fresh._fitted(task, z, wanted)
        assert float(up.abs().max()) == 0
        adam = torch.optim.Adam([down, up.requires_grad_()], lr=FEW["rate"])
        for step in range(FEW["steps"]):
            rows = torch.from_numpy(dealt(0, task, 24, 5, step))
            repaired = z[rows] - (up @ torch.relu(down @ z[rows].T)).T
            loss = (repaired - wanted[rows]).abs().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        found = merged.change.after(z, torch.full((24,), place))
        with torch.no_grad():
            expected = z - (up @ torch.relu(down @ z.T)).T
        before, after = merged.evidence["distance"][task]
        assert before == pytest.approx(float((z - wanted).abs().mean()))
        if after < before:
            torch.testing.assert_close(found.detach(), expected)
            assert after == pytest.approx(float((expected - wanted).abs().mean()))
        else:
            torch.testing.assert_close(found.detach(), z)
    assert any(after < before for before, after in merged.evidence["distance"].values())


def test_a_planted_bias_of_low_rank_is_taken_away():
    pool, bench = net_pool(), net_bench(rows=200)
    planted = Surgery(rank=2, steps=500, rate=0.05, batch=50)
    bench.load(pool, "x")
    z = bench.run("x", np.arange(200)).features.detach()
    draw = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 2, 5)))
    wanted = z - torch.relu(z @ draw[0].T) @ draw[1]
    _, _, (before, after) = planted._fitted("x", z, wanted)
    assert after < 0.2 * before


def test_no_step_changes_nothing_and_tells_the_distance():
    pool, bench = net_pool(), net_bench()
    merged = Surgery(steps=0, method="average").merge(pool, Have(bench=bench))
    for name, value in Average().merge(pool).tensors.items():
        np.testing.assert_array_equal(merged.tensors[name], value)
        np.testing.assert_array_equal(state(bench.module)[name], value)
    z = torch.randn(4, 5, dtype=torch.float64, generator=torch.manual_seed(0))
    assert torch.equal(merged.change.after(z, torch.tensor([0, 1, 2, 0])), z)
    assert all(before == after for before, after in merged.evidence["distance"].values())


def test_only_the_rows_own_task_takes_part():
    repairs = Repairs(5, 3, 2).double()
    for number, tensor in enumerate(repairs.parameters()):
        tensor.data = torch.from_numpy(np.random.default_rng(number).normal(size=tensor.shape))
    z = torch.from_numpy(np.random.default_rng(9).normal(size=(4, 2, 5)))
    task = torch.tensor([2, 0, 2, 1])
    found = repairs(z, task)
    for row, place in enumerate(task):
        wanted = z[row] - torch.relu(z[row] @ repairs.down[place].T) @ repairs.up[place].T
        torch.testing.assert_close(found[row], wanted)


def test_it_needs_what_its_method_needs():
    pool = net_pool()
    assert Surgery(method="average").needs() < Surgery(method="adamerging").needs()
    bench = net_bench()
    bench.offers = Surgery().needs()
    with pytest.raises(ValueError, match="gradients and one trained head per task"):
        Surgery(method="adamerging").merge(pool, Have(bench=bench))
    with pytest.raises(MethodError, match="wemoe does not"):
        Surgery(method="wemoe").merge(pool, Have(bench=net_bench()))
