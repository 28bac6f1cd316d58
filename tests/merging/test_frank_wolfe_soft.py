from __future__ import annotations

import numpy as np
import pytest
import torch
from merging_nets import TASKS, net_bench, net_pool
from torch.func import functional_call

from plait.merging.adamerging import AdaMerging
from plait.merging.base import Have
from plait.merging.frank_wolfe_soft import FrankWolfeSoft

FEW = {"rounds": 3, "steps": 3, "batch": 6, "rate": 0.05}


def literal(pool, bench, aim):
    """The paper's rounds on whole weights: differences to the weights as they are, learned anew."""
    now = {name: torch.from_numpy(value) for name, value in pool.base.items()}
    for number in range(3):
        toward = {
            name: torch.stack([torch.from_numpy(pool.models[t][name]) - now[name] for t in TASKS])
            for name in now
        }
        free = torch.full((len(now), 3), 1e-8 if number else 0.3, dtype=torch.float64)
        free.requires_grad_()
        adam = torch.optim.Adam([free], lr=0.05)

        def mixed(free, now=now, toward=toward):
            return {
                name: value + torch.tensordot(row, toward[name], 1)
                for row, (name, value) in zip(free, now.items(), strict=True)
            }

        for step in range(3):
            loss = 0.0
            for task in TASKS:
                rows = torch.from_numpy(bench.drawn(task, 6, step, number))
                given = (bench._inputs[task][""][rows],)
                raw = bench._heads[task](functional_call(bench.module, mixed(free), given))
                loss = loss + aim(raw, bench._labels[task][rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
        now = {name: value.detach() for name, value in mixed(free).items()}
    return now


def entropy(raw, _):
    return -(raw.softmax(1) * raw.log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize(
    ("objective", "aim"), [("entropy", entropy), ("labels", torch.nn.functional.cross_entropy)]
)
def test_the_weights_are_those_of_the_papers_rounds(objective, aim):
    pool = net_pool()
    found = FrankWolfeSoft(objective=objective, **FEW).merge(pool, Have(bench=net_bench()))
    for name, value in literal(pool, net_bench(), aim).items():
        np.testing.assert_allclose(found.tensors[name], value.numpy(), rtol=1e-8)


def test_one_round_is_adamerging_without_bounds():
    pool = net_pool()
    few = {"steps": 4, "batch": 6, "rate": 0.01}
    one = FrankWolfeSoft(rounds=1, **few).merge(pool, Have(bench=net_bench()))
    two = AdaMerging(batches=1, **few).merge(pool, Have(bench=net_bench()))
    for name, value in two.tensors.items():
        np.testing.assert_allclose(one.tensors[name], value, rtol=1e-10)


def test_rounds_at_no_rate_stay_where_the_first_began():
    pool = net_pool()
    found = FrankWolfeSoft(rounds=3, steps=1, rate=0.0).merge(pool, Have(bench=net_bench()))
    rows = np.array(list(found.evidence["coefficients"].values()))
    np.testing.assert_allclose(rows, 0.3, rtol=1e-6)


def test_labels_are_asked_for_where_they_are_wanted():
    bench = net_bench()
    bench.offers = frozenset(need for need in bench.offers if need.value != "labelled")
    with pytest.raises(ValueError, match="frank_wolfe_soft needs"):
        FrankWolfeSoft(objective="labels").merge(net_pool(), Have(bench=bench))
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        FrankWolfeSoft(rounds=0)
