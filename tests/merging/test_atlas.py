from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from learned import learned
from merging_nets import TASKS, net_bench, net_pool

from plait.merging.atlas import Atlas
from plait.merging.base import Have

FEW = {"steps": 6, "batch": 6, "rate": 0.2, "decay": 0.3, "clip": 0.5}


def rows(found):
    return np.array(list(found.evidence["coefficients"].values()))


def test_the_coefficients_are_those_of_the_papers_loop():
    pool = net_pool()
    found = Atlas(**FEW).merge(pool, Have(bench=net_bench()))
    free = torch.zeros(len(pool.base), len(TASKS), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.AdamW([free], lr=0.2, weight_decay=0.3)
    norms = []

    def before(step):
        norms.append(float(torch.nn.utils.clip_grad_norm_([free], 0.5)))
        adam.param_groups[0]["lr"] = 0.5 * 0.2 * (1 + math.cos(math.pi * step / 6))

    learned(pool, net_bench(), free, lambda f: f, adam, steps=6, batch=6, before=before)
    assert max(norms) > 0.5  # something was clipped
    np.testing.assert_allclose(rows(found), free.detach().numpy(), rtol=1e-9)
    for row, (name, value) in zip(free.detach().numpy(), pool.base.items(), strict=True):
        steps = [c * (pool.models[t][name] - value) for c, t in zip(row, TASKS, strict=True)]
        np.testing.assert_allclose(found.tensors[name], value + sum(steps), rtol=1e-9)


def test_it_starts_at_the_base():
    pool = net_pool()
    found = Atlas(steps=0).merge(pool, Have(bench=net_bench())).tensors
    for name, value in pool.base.items():
        np.testing.assert_array_equal(found[name], value)


def test_decay_pulls_back_to_the_base():
    pool = net_pool()
    free, held = (
        Atlas(steps=15, decay=decay).merge(pool, Have(bench=net_bench())) for decay in (0.0, 3.0)
    )
    assert np.abs(rows(held)).mean() < 0.8 * np.abs(rows(free)).mean()


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"clip": 0}, "clip must be above 0"), ({"steps": -1}, "steps must be 0 or more")],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Atlas(**settings)


def test_a_task_is_unlearned_with_its_sign_turned():
    pool, steps = net_pool(), {**FEW, "clip": 1e9, "decay": 0.0}
    have = Have(bench=net_bench(), validation=lambda state: 1.0)  # the guard would keep the start
    found = Atlas(forget="y", **steps).merge(pool, have)
    free = torch.zeros(len(pool.base), len(TASKS), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.AdamW([free], lr=0.2, weight_decay=0.0)

    def before(step):
        adam.param_groups[0]["lr"] = 0.5 * 0.2 * (1 + math.cos(math.pi * step / 6))

    learned(pool, net_bench(), free, lambda f: f, adam, steps=6, batch=6, before=before, turned="y")
    np.testing.assert_allclose(rows(found), free.detach().numpy(), rtol=1e-9)
    with pytest.raises(ValueError, match="no task 'yy' to forget; did you mean 'y'"):
        Atlas(forget="yy").merge(pool, Have(bench=net_bench()))
