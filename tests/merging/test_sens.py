from __future__ import annotations

import numpy as np
import pytest
import torch
from merging_nets import TASKS, net_bench, net_pool
from torch import nn

from plait.merging.base import Have
from plait.merging.sens import Sens
from plait.merging.task_arithmetic import TaskArithmetic
from plait.merging.ties import Ties

LAYERS = {"first.weight": 0, "first.bias": 0, "second.weight": 1, "scale": 2}
ONE = {"task_arithmetic": {"scale": 1.0}}


def sensitivities(bench, pool, task):
    """α of an expert, from single rows."""
    bench.load(pool, task)
    named = dict(bench.module.named_parameters())
    total = np.zeros(3)
    for row, label in zip(bench._inputs[task][""], bench._labels[task], strict=True):
        raw = bench._heads[task](bench.module(row))
        loss = nn.functional.cross_entropy(raw, label)
        for name, slope in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True):
            total[LAYERS[name]] += float((slope * named[name].detach()).abs().sum())
    return total / np.linalg.norm(total)


def outputs(bench, pool, model, task):
    bench.load(pool, model)
    return bench._heads[task](bench.module(bench._inputs[task][""])).detach().numpy()


def weights(bench, pool, temperature):
    """σ [3 layers, 3 models]."""
    alpha = np.stack([sensitivities(bench, pool, task) for task in TASKS], axis=1)
    far = np.zeros(3)
    for i, model in enumerate(TASKS):
        for task in TASKS:
            gap = outputs(bench, pool, model, task) - outputs(bench, pool, task, task)
            far[i] += np.linalg.norm(gap, axis=1).mean()
    raised = np.exp(alpha * far / far.sum() / temperature)
    return raised / raised.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_layers_are_weighed_by_sensitivity_and_reach(temperature):
    pool, bench = net_pool(), net_bench()
    found = Sens(temperature=temperature, method=ONE, batch=7).merge(pool, Have(bench=bench))
    sigma = weights(bench, pool, temperature)
    for name, value in pool.base.items():
        row = 3 * sigma[LAYERS[name]]
        np.testing.assert_allclose(found.evidence["coefficients"][name], row, rtol=1e-9)
        steps = [c * (pool.models[t][name] - value) for c, t in zip(row, TASKS, strict=True)]
        np.testing.assert_allclose(found.tensors[name], value + sum(steps), rtol=1e-9)
    spread = np.ptp(list(found.evidence["coefficients"].values()))
    assert spread > (1.0 if temperature < 1 else 0.01)


def test_a_high_temperature_is_the_method_itself():
    pool = net_pool()
    for inner in (TaskArithmetic(scale=0.4), Ties(scale=0.8)):
        found = Sens(temperature=1e12, method=inner).merge(pool, Have(bench=net_bench())).tensors
        for name, value in inner.merge(pool).tensors.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-9)


def test_one_model_is_the_method_itself():
    pool = net_pool(("x",))
    found = Sens(method=ONE).merge(pool, Have(bench=net_bench(("x",)))).tensors
    for name, value in pool.models["x"].items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        Sens(temperature=0)
