from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from merging_nets import TASKS, drawn, net_bench, net_pool
from torch import nn

from plait.merging.base import Have
from plait.merging.exclusive import Choice, Router, Rows, split
from plait.merging.modules import ModuleBench
from plait.merging.pool import Pool
from plait.merging.task_arithmetic import TaskArithmetic
from plait.merging.twin import Twin

FEW = {"rows": 20, "epochs": 3, "batch": 16}


def truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    u, s, vt = np.linalg.svd(matrix)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


def test_every_row_has_weights_of_its_own_by_the_router_of_its_shared_features() -> None:
    pool, bench = net_pool(), net_bench()
    merged = Twin(keep=0.5, **FEW).merge(pool, Have(bench=bench))
    shared = TaskArithmetic(scale=0.29).merge(pool).tensors
    x = bench._inputs["y"][""][:6]
    alone = bench.module(x)
    mix = merged.change.around.router(alone).softmax(1).detach().numpy()
    assert mix.std(0).max() > 1e-3
    with merged.change.around.given(alone):
        found = bench.module(x).detach().numpy()
    for row, weights, wanted in zip(x.numpy(), mix, found, strict=True):
        own = {name: value.copy() for name, value in shared.items()}
        for name in ("first.weight", "second.weight"):
            rank = min(own[name].shape) // 2
            for task, weight in zip(TASKS, weights, strict=True):
                own[name] += weight * truncated(pool.models[task][name] - shared[name], rank)
        hidden = np.tanh(own["first.weight"] @ row + own["first.bias"])
        np.testing.assert_allclose(own["second.weight"] @ hidden * own["scale"], wanted, rtol=1e-9)
    torch.testing.assert_close(bench.module(x), alone)  # outside, nothing is added


class Deep(nn.Module):
    """An embedding, a convolution, a norm and a linear layer, without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.conv = nn.Conv1d(4, 5, 3, padding=1, bias=False)
        self.norm = nn.LayerNorm(5, bias=False)
        self.out = nn.Linear(5, 6, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, L] → [B, 6]."""
        maps = torch.tanh(self.conv(self.table(tokens).transpose(1, 2)))
        found: torch.Tensor = self.out(self.norm(maps.transpose(1, 2))).mean(1)
        return found


def deep(seed: int) -> Deep:
    with torch.random.fork_rng():
        made = Deep().double()
    for number, tensor in enumerate(made.parameters()):
        tensor.data = drawn(10 * seed + number, *tensor.shape)
    return made


def test_whole_parts_and_a_sure_router_serve_the_expert_through_every_kind_of_layer() -> None:
    experts = {task: deep(number) for number, task in enumerate("abc", 1)}
    base = {name: value.numpy() for name, value in deep(0).state_dict().items()}
    pool = Pool(
        {t: {k: v.numpy() for k, v in e.state_dict().items()} for t, e in experts.items()}, base
    )
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 7, (9, 5)))
    with torch.random.fork_rng():
        heads = {task: nn.Linear(6, 2).double() for task in "abc"}
    bench = ModuleBench(deep(0), heads, dict.fromkeys("abc", tokens))
    merged = Twin(keep=1.0, **FEW).merge(pool, Have(bench=bench))
    assert len(merged.evidence["parts"]) == 4
    whose = np.array([0, 1, 2, 0, 1, 2, 2, 1, 0])
    choice = merged.change.around
    with choice.rows.at(torch.eye(3, dtype=torch.float64)[whose]):
        found = bench.module(tokens)
        with choice.among(torch.tensor([4, 2])):  # a piece of the rows, in another order
            piece = bench.module(tokens[[4, 2]])
    wanted = torch.stack(
        [experts["abc"[who]](row[None])[0] for who, row in zip(whose, tokens, strict=True)]
    )
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(piece, wanted[[4, 2]])


def test_without_rank_it_is_task_arithmetic() -> None:
    pool, bench = net_pool(), net_bench()
    merged = Twin(keep=0.0, scale=0.4, **FEW).merge(pool, Have(bench=bench))
    wanted = TaskArithmetic(scale=0.4).merge(pool).tensors
    for name, value in wanted.items():
        np.testing.assert_array_equal(merged.tensors[name], value)
    assert merged.evidence["parts"] == []


def test_the_router_learns_to_tell_tasks_whose_rows_differ() -> None:
    pool, bench = net_pool(), net_bench()
    for place, task in enumerate(TASKS):
        bench._inputs[task][""] += 3 * torch.eye(4, dtype=torch.float64)[place]
    merged = Twin(rows=24, epochs=60, batch=24, rate=0.01, dropout=0.0).merge(
        pool, Have(bench=bench)
    )
    first, last = merged.evidence["objective"]
    assert last < 0.5 * first
    for place, task in enumerate(TASKS):
        routes = merged.evidence["routes"][task]
        assert routes[place] == max(routes)
        assert sum(routes) == pytest.approx(1)
    turned = Pool({t: pool.models[t] for t in reversed(TASKS)}, pool.base)
    again = Twin(rows=24, epochs=60, batch=24, rate=0.01, dropout=0.0).merge(
        turned, Have(bench=bench)
    )
    for task in TASKS:  # the order of the models is free
        np.testing.assert_allclose(
            again.evidence["routes"][task][::-1], merged.evidence["routes"][task], rtol=1e-6
        )


def test_a_copy_runs_by_itself_and_rows_that_do_not_fit_are_told() -> None:
    module, rows = nn.Sequential(nn.Linear(4, 4)), Rows()
    split(module, 2, 1.0, rows)
    pair = nn.ModuleDict({"module": module, "choice": Choice(4, 2, rows)})
    twin = copy.deepcopy(pair)
    with pair["choice"].rows.at(torch.ones(3, 2)):
        twin["module"](torch.zeros(5, 4))
        with pytest.raises(
            RuntimeError, match="3 rows choose their models, and a layer is given 5"
        ):
            module(torch.zeros(5, 4))
    with twin["choice"].rows.at(torch.ones(3, 2)), pytest.raises(RuntimeError, match="given 5"):
        twin["module"](torch.zeros(5, 4))


def test_the_router_is_the_authors_layers() -> None:
    router = Router(3, 2).double()
    router.start(0, ["a", "b"])
    x = drawn(1, 8, 3)
    hidden = x
    for weight, bias in list(zip(router.weights, router.biases, strict=True))[:2]:
        z = hidden @ weight.T + bias
        z = (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()
        hidden = torch.where(z > 0, z, 0.01 * z)
    torch.testing.assert_close(router(x), hidden @ router.weights[2].T + router.biases[2])


def test_features_for_positions_and_bad_settings_are_refused() -> None:
    bench = net_bench()
    for task in TASKS:
        bench._inputs[task][""] = bench._inputs[task][""][:, None]
    with pytest.raises(ValueError, match="twin routes whole rows, and task 'x' has features for"):
        Twin(**FEW).merge(net_pool(), Have(bench=bench))
    with pytest.raises(ValueError, match="keep lies from 0 to 1"):
        Twin(keep=2)
    with pytest.raises(ValueError, match="batch 2"):
        Twin(batch=1)
