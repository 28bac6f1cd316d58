from __future__ import annotations

import numpy as np
import pytest
import torch
from merging_nets import TASKS, drawn, net_bench, net_pool, state
from torch import nn

from plait.merging.base import Have
from plait.merging.modules import ModuleBench
from plait.merging.pool import Pool
from plait.merging.regmean import RegMean
from plait.merging.regmean_plus import RegMeanPlus

EXACT = {"alpha": 1.0, "batch": 7}


def solved(pairs):
    """Least squares on stacked inputs, every model's own outputs as targets."""
    rows = np.concatenate([x for x, _ in pairs])
    wanted = np.concatenate([x @ weight.T for x, weight in pairs])
    return np.linalg.lstsq(rows, wanted, rcond=None)[0].T


def mean(pool, name):
    return np.mean([model[name] for model in pool.models.values()], axis=0)


def test_the_second_layer_is_fitted_behind_the_merged_first():
    pool, bench = net_pool(), net_bench()
    found = RegMeanPlus(**EXACT).merge(pool, Have(bench=bench))
    merged, rows = found.tensors, {task: bench._inputs[task][""].numpy() for task in TASKS}
    first = solved([(rows[task], pool.models[task]["first.weight"]) for task in TASKS])
    np.testing.assert_allclose(merged["first.weight"], first, rtol=1e-9)
    bias = mean(pool, "first.bias")
    hidden = {task: np.tanh(rows[task] @ first.T + bias) for task in TASKS}
    second = solved([(hidden[task], pool.models[task]["second.weight"]) for task in TASKS])
    np.testing.assert_allclose(merged["second.weight"], second, rtol=1e-9)
    for name in ("first.bias", "scale"):
        np.testing.assert_allclose(merged[name], mean(pool, name), rtol=1e-14)
    assert found.evidence["blocks"] == [["first.weight"], ["second.weight"]]


class Block(nn.Module):
    """x + W₂ tanh(W₁ x)."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(4, 5)
        self.down = nn.Linear(5, 4)

    def forward(self, inputs):
        return inputs + self.down(torch.tanh(self.up(inputs)))


def stack(seed, blocks):
    with torch.random.fork_rng():
        module = nn.Sequential(*[Block() for _ in range(blocks)]).double()
    for number, tensor in enumerate(module.parameters()):
        tensor.data = drawn(50 * seed + number, *tensor.shape)
    return module


def stacks(blocks, tasks=("x", "y")):
    heads = {task: nn.Identity() for task in tasks}
    inputs = {task: drawn(9 + number, 20, 4) for number, task in enumerate(tasks)}
    pool = Pool({task: state(stack(1 + n, blocks)) for n, task in enumerate(tasks)})
    return pool, ModuleBench(stack(0, blocks), heads, inputs)


def test_within_a_block_the_models_own_layers_give_the_inputs():
    pool, bench = stacks(2)
    merged = RegMeanPlus(**EXACT).merge(pool, Have(bench=bench)).tensors
    rows = {task: bench._inputs[task][""].numpy() for task in pool.names}

    def linear(model, name, inputs):
        return inputs @ model[f"{name}.weight"].T + model[f"{name}.bias"]

    for block in range(2):
        up, down = f"{block}.up", f"{block}.down"
        pairs = [(rows[task], pool.models[task][f"{up}.weight"]) for task in pool.names]
        np.testing.assert_allclose(merged[f"{up}.weight"], solved(pairs), rtol=1e-8)
        pairs = [
            (np.tanh(linear(model, up, rows[task])), model[f"{down}.weight"])
            for task, model in pool.models.items()
        ]
        np.testing.assert_allclose(merged[f"{down}.weight"], solved(pairs), rtol=1e-8)
        for task, inputs in rows.items():
            rows[task] = inputs + linear(merged, down, np.tanh(linear(merged, up, inputs)))


def test_one_block_is_regmean():
    pool, bench = stacks(1)
    wanted = RegMean(alpha=0.95).merge(pool, Have(bench=bench)).tensors
    found = RegMeanPlus().merge(pool, Have(bench=bench)).tensors
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9)


def test_two_blocks_are_not():
    pool, bench = stacks(2)
    wanted = RegMean(alpha=0.95).merge(pool, Have(bench=bench)).tensors["1.up.weight"]
    found = RegMeanPlus().merge(pool, Have(bench=bench)).tensors["1.up.weight"]
    assert np.abs(found - wanted).max() > 1e-2


def test_a_bad_alpha_is_refused():
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\], got 2"):
        RegMeanPlus(alpha=2)
