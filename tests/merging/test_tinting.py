from __future__ import annotations

import numpy as np
import pytest
import torch
from merging_nets import TASKS, net_bench, net_pool
from torch import nn
from torch.func import functional_call

from plait.merging.base import Have
from plait.merging.bench import keyed
from plait.merging.task_arithmetic import TaskArithmetic
from plait.merging.tinting import Tinting

FEW = {"rounds": 3, "batch": 8, "rate": 0.05}


def literal(pool, bench, *, confident):
    """The paper's loop over stacked task vectors; heads are copies that torch differentiates."""
    base = {name: torch.from_numpy(value) for name, value in pool.base.items()}
    vectors = {
        name: torch.stack([torch.from_numpy(pool.models[t][name]) - base[name] for t in TASKS])
        for name in base
    }
    individual = {}
    for task in TASKS:
        own = {name: torch.from_numpy(value) for name, value in pool.models[task].items()}
        features = functional_call(bench.module, own, (bench._inputs[task][""],))
        individual[task] = bench._heads[task](features).softmax(1).detach()
    free = torch.full((len(base), len(TASKS)), 0.3, dtype=torch.float64, requires_grad=True)
    heads = {
        t: [p.detach().clone().requires_grad_() for p in bench._heads[t].parameters()]
        for t in TASKS
    }
    adam = torch.optim.Adam([free, *(p for t in TASKS for p in heads[t])], lr=FEW["rate"])
    dropped = 0
    for number in range(FEW["rounds"]):
        for place in keyed(0, "round", number).permutation(len(TASKS)):
            task = TASKS[place]
            rows = torch.from_numpy(bench.drawn(task, FEW["batch"], number, 0))
            weights = {
                name: value + torch.tensordot(free[n], vectors[name], 1)
                for n, (name, value) in enumerate(base.items())
            }
            features = functional_call(bench.module, weights, (bench._inputs[task][""][rows],))
            logits = features @ heads[task][0].T + heads[task][1]
            kept = []
            for row, one in enumerate(rows.tolist()):
                expert, merged = individual[task][one], logits[row].softmax(0)
                if confident and expert.argmax() != merged.argmax() and expert.max() < merged.max():
                    dropped += 1
                    continue
                kept.append(-logits[row].log_softmax(0)[expert.argmax()])
            adam.zero_grad()
            torch.stack(kept).mean().backward()
            adam.step()
            with torch.no_grad():
                free.clamp_(0, 1)
    return free.detach().numpy(), heads, dropped


@pytest.mark.parametrize("confident", [True, False])
def test_coefficients_and_heads_are_those_of_the_papers_loop(confident):
    pool, bench = net_pool(spread=1.0), net_bench()
    wanted, heads, dropped = literal(pool, net_bench(), confident=confident)
    assert (dropped > 0) == confident
    found = Tinting(confident=confident, **FEW).merge(pool, Have(bench=bench))
    rows = np.array(list(found.evidence["coefficients"].values()))
    np.testing.assert_allclose(rows, wanted, rtol=1e-9)
    for task in TASKS:
        for part, value in zip(bench.head(task), heads[task], strict=True):
            torch.testing.assert_close(part, value.detach())


def test_no_round_is_task_arithmetic_with_the_experts_heads():
    pool, bench = net_pool(), net_bench()
    merged = Tinting(rounds=0).merge(pool, Have(bench=bench)).tensors
    for name, value in TaskArithmetic(scale=0.3).merge(pool).tensors.items():
        np.testing.assert_allclose(merged[name], value, rtol=1e-12)
    for task in TASKS:
        for part, value in zip(bench.head(task), net_bench().head(task), strict=True):
            assert torch.equal(part, value)


def test_where_validation_gets_worse_heads_and_coefficients_go_back():
    pool, bench, calls = net_pool(), net_bench(), []

    def worse(state):
        calls.append(bench.head("x")[0].clone())
        return float(len(calls))

    merged = Tinting(**FEW).merge(pool, Have(bench=bench, validation=worse))
    assert "start" in merged.evidence["kept"]
    assert not torch.equal(calls[0], calls[1]), "the trained heads are what is judged"
    assert torch.equal(bench.head("x")[0], calls[0])
    assert set(np.ravel(list(merged.evidence["coefficients"].values()))) == {0.3}


def test_a_batch_of_which_no_row_counts_takes_no_step():
    expert = torch.tensor([[0.6, 0.4], [0.4, 0.6]])
    raw = torch.tensor([[0.0, 9.0], [9.0, 0.0]])
    assert Tinting()._loss(raw, expert) is None
    assert Tinting(confident=False)._loss(raw, expert) == pytest.approx(9.0, abs=1e-3)
    assert Tinting()._loss(raw[:1], torch.tensor([[0.0, 1.0]])) == pytest.approx(0, abs=1e-3)


def test_heads_that_are_not_linear_are_named():
    bench = net_bench()
    bench._heads["y"] = nn.Sequential(bench._heads["y"])
    with pytest.raises(ValueError, match="the head of task 'y' is not one linear layer"):
        Tinting().merge(net_pool(), Have(bench=bench))
