from __future__ import annotations

import numpy as np
import pytest
import torch
from merging_nets import TASKS, drawn, net_bench, net_pool, state
from torch import nn

from plait.merging.aim import Aim
from plait.merging.base import Have
from plait.merging.modules import ModuleBench
from plait.merging.pool import Pool
from plait.merging.task_arithmetic import TaskArithmetic
from plait.merging.ties import Ties

ALL = {"rows": 24, "batch": 7}


def base_inputs(bench, pool):
    """What reaches both linear layers of the base on all tasks' rows."""
    first, second = [], []
    for task in TASKS:
        rows = bench._inputs[task][""].numpy()
        first.append(rows)
        second.append(np.tanh(rows @ pool.base["first.weight"].T + pool.base["first.bias"]))
    return {"first.weight": np.concatenate(first), "second.weight": np.concatenate(second)}


@pytest.mark.parametrize("inner", [TaskArithmetic(scale=0.3), Ties(scale=0.7)])
def test_changes_shrink_where_the_base_is_active(inner):
    pool, bench = net_pool(), net_bench()
    found = Aim(method=inner, omega=0.3, **ALL).merge(pool, Have(bench=bench)).tensors
    merged, inputs = inner.merge(pool).tensors, base_inputs(bench, pool)
    for name, value in merged.items():
        wanted = value
        if name in inputs:
            size = np.abs(inputs[name]).mean(0)
            wanted = pool.base[name] + (1 - size / size.max() * 0.7) * (value - pool.base[name])
        np.testing.assert_allclose(found[name], wanted, rtol=1e-10)


def test_omega_one_changes_nothing():
    pool = net_pool()
    found = Aim(omega=1.0, method="ties").merge(pool, Have(bench=net_bench())).tensors
    for name, value in Ties().merge(pool).tensors.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12)


def test_the_size_of_the_activations_does_not_matter():
    pool = net_pool()
    small, large = net_bench(), net_bench()
    for task in TASKS:
        large._inputs[task] = {"": 100 * large._inputs[task][""]}
    one = Aim(**ALL).merge(pool, Have(bench=small)).tensors["first.weight"]
    two = Aim(**ALL).merge(pool, Have(bench=large)).tensors["first.weight"]
    np.testing.assert_allclose(one, two, rtol=1e-12)


def test_layer_norms_are_relaxed_by_channel_and_tables_not_at_all():
    with torch.random.fork_rng():
        module = nn.Sequential(nn.Embedding(6, 4), nn.LayerNorm(4), nn.Flatten()).double()
    base = state(module)
    pool = Pool({"t": {name: value + 1 for name, value in base.items()}}, base)
    tokens = torch.tensor([[0, 3], [5, 2], [1, 1]])
    bench = ModuleBench(module, {"t": nn.Identity()}, {"t": tokens})
    found = Aim(method={"task_arithmetic": {"scale": 1.0}}).merge(pool, Have(bench=bench))
    size = np.abs(base["0.weight"][tokens.numpy()]).mean((0, 1))
    moved = {name: value - base[name] for name, value in found.tensors.items()}
    np.testing.assert_allclose(moved["1.weight"], 1 - 0.6 * size / size.max(), rtol=1e-12)
    for name in ("0.weight", "1.bias"):
        np.testing.assert_allclose(moved[name], 1, rtol=1e-12)
    assert found.evidence["relaxed"] == ["1.weight"]


def test_padding_is_no_activation():
    class Padded(nn.Linear):
        def forward(self, tokens, attention_mask):
            return super().forward(tokens).mean(1)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Padded(3, 2, bias=False)

        def forward(self, tokens, mask):
            return self.body(tokens, attention_mask=mask)

    tokens = drawn(1, 5, 3, 3)
    tokens[:, 2] = 1e3
    mask = torch.tensor([1, 1, 0]).expand(5, 3)
    with torch.random.fork_rng():
        module = Outer().double()
    rows = {"t": {"tokens": tokens, "mask": mask}}
    bench = ModuleBench(module, {"t": nn.Identity()}, rows)
    zero = {"body.weight": np.zeros((2, 3))}
    pool = Pool({"t": {"body.weight": np.ones((2, 3))}}, zero)
    found = Aim(method={"task_arithmetic": {"scale": 1.0}}).merge(pool, Have(bench=bench)).tensors
    size = tokens[:, :2].abs().mean((0, 1)).numpy()
    np.testing.assert_allclose(found["body.weight"][0], 1 - 0.6 * size / size.max(), rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"omega": 1.5}, r"omega must lie in \[0, 1\]"), ({"rows": 0}, "rows must be at least 1")],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Aim(**settings)
