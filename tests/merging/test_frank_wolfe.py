from __future__ import annotations

import numpy as np
import pytest
import torch
from merging_nets import TASKS, net_bench, net_pool
from torch import nn

from plait.merging.base import Have
from plait.merging.frank_wolfe import FrankWolfe
from plait.merging.modules import ModuleBench
from plait.merging.pool import Pool
from plait.merging.task_arithmetic import TaskArithmetic


def gradient(bench, state):
    """Σ_t of the mean cross-entropy's gradient at some weights, in one graph."""
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in state.items()}
    loss = 0.0
    for task in TASKS:
        found = torch.func.functional_call(bench.module, leaves, (bench._inputs[task][""],))
        loss = loss + nn.functional.cross_entropy(bench._heads[task](found), bench._labels[task])
    loss.backward()
    return {name: leaf.grad.numpy() for name, leaf in leaves.items()}


def cosine(one, two):
    return np.vdot(one, two) / (np.linalg.norm(one) * np.linalg.norm(two))


@pytest.mark.parametrize("per", ["model", "tensor"])
def test_steps_go_to_the_vertex_that_lies_most_against_the_gradient(per):
    pool, bench = net_pool(), net_bench()
    found = FrankWolfe(steps=4, rate=2.0, per=per).merge(pool, Have(bench=bench))
    now = dict(TaskArithmetic(scale=0.3).merge(pool).tensors)
    vertices = {**pool.models, None: dict(now)}
    for step in range(4):
        slopes = gradient(bench, now)
        scores = {
            name: {key: cosine(slopes[key], vertex[key]) for key in slopes}
            for name, vertex in vertices.items()
        }
        lowest = {key: min(scores, key=lambda name, key=key: scores[name][key]) for key in slopes}
        if per == "model":
            best = min(scores, key=lambda name: sum(scores[name].values()))
            lowest = dict.fromkeys(slopes, best)
        assert found.evidence["picked"][step] == (lowest if per == "tensor" else best)
        share = 0.3 * 2.0 * 2 / (step + 2)
        now = {key: now[key] + share * (vertices[lowest[key]][key] - now[key]) for key in now}
    for name, value in now.items():
        np.testing.assert_allclose(found.tensors[name], value, rtol=1e-9)


def test_a_linear_losss_vertex_is_the_same_at_every_step():
    weight, rows = nn.Linear(3, 1, bias=False).double(), torch.ones(4, 3, dtype=torch.float64)
    far = {"t": torch.full((4,), 1e6, dtype=torch.float64)}  # the slope hardly moves
    bench = ModuleBench(weight, {"t": nn.Identity()}, {"t": rows}, far, losses="squared")
    pool = Pool({"t": {"weight": np.full((1, 3), 2.0)}}, {"weight": np.array([[0.0, 0, 1]])})
    found = FrankWolfe(steps=6).merge(pool, Have(bench=bench))
    assert found.evidence["picked"] == ["t"] * 6


def test_no_steps_are_task_arithmetic():
    pool = net_pool()
    found = FrankWolfe(steps=0, start=0.4).merge(pool, Have(bench=net_bench())).tensors
    for name, value in TaskArithmetic(scale=0.4).merge(pool).tensors.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="rows at least 1"):
        FrankWolfe(rows=0)


def test_the_textbook_steps_close_the_gap_as_the_theory_says():
    """On a convex loss h_k ≤ 2 C/(k + 2), C the loss's curvature times the square of V's width."""
    draw = np.random.default_rng(0)
    rows = torch.from_numpy(draw.normal(size=(30, 4)))
    states = {t: {"weight": draw.normal(size=(1, 4))} for t in TASKS}
    pool = Pool(states, {"weight": np.zeros((1, 4))})
    inside = 0.6 * states["x"]["weight"] + 0.4 * states["z"]["weight"]
    target = (rows @ torch.from_numpy(inside).T).squeeze(1)
    with torch.random.fork_rng():
        body = nn.Linear(4, 1, bias=False).double()
    bench = ModuleBench(body, dict.fromkeys(TASKS, nn.Identity()), dict.fromkeys(TASKS, rows),
                        dict.fromkeys(TASKS, target), losses="squared")  # fmt: skip

    def loss(steps):
        merged = FrankWolfe(steps=steps, textbook=True).merge(pool, Have(bench=bench))
        off = rows.numpy() @ (merged.tensors["weight"] - inside).T
        return 3 * float((off**2).mean()), merged.evidence["gaps"]

    corners = np.array([states[t]["weight"][0] for t in TASKS])
    corners = np.vstack([corners, 0.3 * corners.sum(0)])
    moved = (corners[:, None] - corners) @ rows.numpy().T
    curved = 3 * 2 * float((moved**2).mean(-1).max())
    for steps in (1, 4, 16, 64):
        value, gaps = loss(steps)
        assert value <= 2 * curved / (steps + 1)
        assert min(gaps) >= -1e-9  # the gap bounds what is left from above
    assert loss(64)[0] < 0.05 * loss(1)[0]
    assert min(gaps) < 0.2 * gaps[0]
