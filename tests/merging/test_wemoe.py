from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from merging_nets import TASKS, net, net_bench, net_pool
from torch import nn

from plait.merging.adamerging import AdaMerging
from plait.merging.base import Have
from plait.merging.route import Now, feed_forward, route
from plait.merging.task_arithmetic import TaskArithmetic
from plait.merging.wemoe import Wemoe

FEW = {"steps": 4, "batch": 6, "rate": 0.05}


def literal(bench, pool, task, rows, weights):
    """The features of rows, each with feed-forward weights of its own mixture."""
    found = []
    base, merged = pool.base, TaskArithmetic(scale=0.3).merge(pool).tensors
    for row, mix in zip(rows, weights, strict=True):
        own = {name: value.copy() for name, value in merged.items()}
        for name in ("first.weight", "first.bias", "second.weight"):
            steps = [
                r * (pool.models[t][name] - base[name]) for r, t in zip(mix, TASKS, strict=True)
            ]
            own[name] = base[name] + sum(steps)
        x = bench._inputs[task][""][row].numpy()
        hidden = np.tanh(own["first.weight"] @ x + own["first.bias"])
        found.append((own["second.weight"] @ hidden) * own["scale"])
    return np.array(found)


def routed(settings):
    pool, bench = net_pool(), net_bench()
    merged = Wemoe(**settings).merge(pool, Have(bench=bench))
    return pool, bench, merged


def test_every_row_mixes_the_experts_by_its_own_router():
    pool, bench, _ = routed(FEW)
    router = bench.module.first.router
    rows = np.arange(5)
    x = bench._inputs["y"][""][:5]
    hidden = torch.relu(x @ router.inner.T + router.inner_bias)
    mix = (hidden @ router.outer.T + router.outer_bias).detach().numpy()
    assert np.abs(mix - mix.mean(0)).max() > 1e-6
    found = bench.run("y", rows).features.detach().numpy()
    np.testing.assert_allclose(found, literal(bench, pool, "y", rows, mix), rtol=1e-10)


def test_without_steps_it_is_task_arithmetic_but_for_the_small_start():
    pool, bench, merged = routed({"steps": 0, "hidden": 0})
    wanted = TaskArithmetic(scale=0.3).merge(pool).tensors
    for name, value in wanted.items():
        np.testing.assert_array_equal(merged.tensors[name], value)
    plain = net_bench()
    plain.fill(wanted)
    rows = np.arange(9)
    torch.testing.assert_close(bench.run("x", rows).features, plain.run("x", rows).features)


def test_constant_routers_are_one_coefficient_for_each_model():
    """Then it is AdaMerging, task-wise, while all tensors are routed."""
    settings = {**FEW, "rate": 0.01}
    pool, bench, _ = routed({**settings, "hidden": 0})
    pool.models["x"]["scale"][:] = pool.base["scale"]
    for model in pool.models.values():
        model["scale"][:] = pool.base["scale"]
    bench = net_bench()
    Wemoe(**settings, hidden=0).merge(pool, Have(bench=bench))
    found = bench.module.first.router.outer_bias.detach().numpy()
    twin = AdaMerging(per="task", batches=1, **settings).merge(pool, Have(bench=net_bench()))
    np.testing.assert_allclose(found, twin.evidence["coefficients"]["first.weight"], rtol=1e-9)


def test_a_router_that_points_at_an_expert_serves_that_expert():
    pool, bench, _ = routed({"steps": 0, "hidden": 0})
    bench.module.first.router.outer_bias.data = torch.tensor([0.0, 1, 0], dtype=torch.float64)
    bench.module.scale.data = torch.from_numpy(pool.models["y"]["scale"])
    expert = net_bench()
    expert.load(pool, "y")
    rows = np.arange(9)
    torch.testing.assert_close(bench.run("z", rows).features, expert.run("z", rows).features)


def test_weights_are_averaged_over_real_positions():
    now, each = Now(), torch.arange(12.0).reshape(2, 3, 2)
    now.settle(each)
    torch.testing.assert_close(now.weights, each.mean(1))
    now.hear(nn.Identity(), (), {"attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])})
    now.settle(each)
    torch.testing.assert_close(now.weights, torch.stack([each[0, :2].mean(0), each[1, 0]]))


def test_the_blocks_of_a_transformer_are_routed_apart_and_attention_is_not():
    def block():
        return nn.ModuleDict(
            {
                "q_proj": nn.Linear(4, 4),
                "mlp": nn.ModuleDict({"fc1": nn.Linear(4, 8), "fc2": nn.Linear(8, 4)}),
            }
        )

    module = nn.ModuleDict({"layers": nn.ModuleList([block(), block()]), "top": nn.Linear(4, 4)})
    assert feed_forward(module) == [
        ["layers.0.mlp.fc1", "layers.0.mlp.fc2"],
        ["layers.1.mlp.fc1", "layers.1.mlp.fc2"],
    ]
    module["layers"][0].requires_grad_(False)
    assert feed_forward(module) == [["layers.1.mlp.fc1", "layers.1.mlp.fc2"]]
    assert feed_forward(net()) == [["first", "second"]]


def test_a_copy_of_a_routed_network_runs_by_itself():
    _, bench, _ = routed(FEW)
    twin, x = copy.deepcopy(bench.module), bench._inputs["x"][""][:4]
    torch.testing.assert_close(twin(x), bench.module(x))
    twin.first.router.outer_bias.data += 1
    assert not torch.allclose(twin(x), bench.module(x))


def test_where_validation_gets_worse_the_routers_go_back():
    pool, bench = net_pool(), net_bench()
    seen = []

    def worse(state):
        seen.append(state["first.router.outer_bias"].copy())
        return float(len(seen))

    merged = Wemoe(**FEW).merge(pool, Have(bench=bench, validation=worse))
    assert "start" in merged.evidence["kept"]
    assert np.abs(seen[1] - seen[0]).max() > 1e-3
    np.testing.assert_allclose(bench.module.first.router.outer_bias.detach().numpy(), 0.3)
    assert set(merged.evidence["routes"]) == set(TASKS)


def test_a_network_without_linear_layers_is_refused():
    bench = net_bench()
    bench.module.requires_grad_(False)
    with pytest.raises(ValueError, match="no linear layers that train"):
        Wemoe().merge(net_pool(), Have(bench=bench))
    with pytest.raises(ValueError, match="hidden must be 0 or more"):
        Wemoe(hidden=-1)


def test_a_layer_that_runs_before_its_part_says_so():
    module = net()
    part = route(module, ["first", "second"], 2, 0)
    part.router.now.weights = None
    with pytest.raises(RuntimeError, match="before the first layer"):
        module.second(torch.zeros(1, 6, dtype=torch.float64))
