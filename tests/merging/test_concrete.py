from __future__ import annotations

import numpy as np
import pytest
import torch
from merging_nets import TASKS, net_bench, net_pool
from torch.func import functional_call

from plait.merging.base import Have
from plait.merging.bench import keyed
from plait.merging.concrete import Concrete
from plait.merging.task_arithmetic import TaskArithmetic

FEW = {"steps": 4, "tuning": 3, "batch": 6, "rate": 0.3, "tuning_rate": 0.02, "inner_rate": 0.1}


def entropy(raw):
    return -(raw.softmax(1) * raw.log_softmax(1)).sum(1).mean()


class Literal:
    """The paper's two levels on whole tensors, torch differentiating everything."""

    def __init__(self, pool, bench):
        self.bench = bench
        self.base = {name: torch.from_numpy(value) for name, value in pool.base.items()}
        self.vectors = {
            n: torch.stack([torch.from_numpy(pool.models[t][n]) - v for t in TASKS])
            for n, v in self.base.items()
        }
        self.logits = {n: torch.zeros_like(v, requires_grad=True) for n, v in self.base.items()}
        self.free = torch.full((len(self.base), 3), 0.3, dtype=torch.float64, requires_grad=True)

    def masks(self, step):
        found = {}
        for name, logit in self.logits.items():
            u = torch.from_numpy(keyed(0, step, name).random(logit.shape))
            soft = torch.sigmoid(((u + 1e-8).log() - (1 - u + 1e-8).log() + logit) / 0.5)
            found[name] = soft / soft.mean()
        return found

    def loss(self, masks, number):
        weights = {
            name: value + masks[name] * torch.tensordot(row, self.vectors[name], 1)
            for row, (name, value) in zip(self.free, self.base.items(), strict=True)
        }
        total = 0.0
        for task in TASKS:
            rows = torch.from_numpy(self.bench.drawn(task, 6, number, 0))
            given = (self.bench._inputs[task][""][rows],)
            raw = self.bench._heads[task](functional_call(self.bench.module, weights, given))
            total = total + entropy(raw)
        return total, weights

    def run(self, inner):
        outer = torch.optim.Adam(list(self.logits.values()), lr=0.3)
        below = torch.optim.Adam([self.free], lr=0.1)
        for step in range(4):
            masks = self.masks(step)
            self.free.data.fill_(0.3)
            if inner == "adamerging":
                below.zero_grad()
                self.loss({n: m.detach() for n, m in masks.items()}, 2 * step)[0].backward()
                below.step()
            outer.zero_grad()
            self.loss(masks, 2 * step + 1)[0].backward()
            outer.step()
        masks = {name: mask.detach() for name, mask in self.masks(4).items()}
        self.free.data.fill_(0.3)
        adam = torch.optim.Adam([self.free], lr=0.02)
        for step in range(3 if inner == "adamerging" else 0):
            adam.zero_grad()
            self.loss(masks, step)[0].backward()
            adam.step()
        return self.loss(masks, 0)[1]


@pytest.mark.parametrize("inner", ["adamerging", "task_arithmetic"])
def test_masks_and_coefficients_are_those_of_the_papers_levels(inner):
    pool = net_pool()
    found = Concrete(inner=inner, **FEW).merge(pool, Have(bench=net_bench())).tensors
    wanted = Literal(pool, net_bench()).run(inner)
    plain = TaskArithmetic(scale=0.3).merge(pool).tensors
    assert np.abs(found["first.weight"] - plain["first.weight"]).max() > 0.05
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value.detach().numpy(), rtol=1e-7)


def test_large_logits_are_no_mask():
    pool = net_pool()
    few = {"logits": 1e3, "steps": 0, "tuning": 0, "start": 0.4}
    found = Concrete(**few).merge(pool, Have(bench=net_bench())).tensors
    for name, value in TaskArithmetic(scale=0.4).merge(pool).tensors.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12)


def test_a_masks_mean_is_one_so_that_nothing_shrinks():
    pool = net_pool(("x",))
    found = Concrete(steps=0, tuning=0, start=1.0).merge(pool, Have(bench=net_bench(("x",))))
    for name, value in pool.base.items():
        mask = (found.tensors[name] - value) / (pool.models["x"][name] - value)
        assert mask.mean() == pytest.approx(1)
        assert mask.std() > 0.1


def test_seeds_draw_other_masks():
    pool = net_pool()
    one, two = (
        Concrete(steps=0, tuning=0, seed=seed).merge(pool, Have(bench=net_bench())).tensors["scale"]
        for seed in (0, 1)
    )
    assert np.abs(one - two).max() > 1e-3


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        Concrete(temperature=0)
