from __future__ import annotations

import numpy as np
import pytest
import torch
from merging_nets import TASKS, net, net_bench, net_pool
from torch import nn

from plait.merging.base import Have
from plait.merging.mats import Mats
from plait.merging.modules import ModuleBench
from plait.merging.pool import Pool
from plait.merging.regmean import RegMean
from plait.merging.statistics.inputs import Grams


def inputs_of(bench, pool):
    """What reaches both linear layers of every expert on its own rows."""
    found = {}
    for task in TASKS:
        own = {name: torch.from_numpy(value) for name, value in pool.models[task].items()}
        rows = bench._inputs[task][""]
        hidden = torch.tanh(rows @ own["first.weight"].T + own["first.bias"])
        found[task] = {"first.weight": rows.numpy(), "second.weight": hidden.numpy()}
    return found


def test_every_linear_layer_is_least_squares_on_the_models_own_inputs():
    pool, bench = net_pool(), net_bench()
    merged = RegMean(alpha=1.0, batch=7).merge(pool, Have(bench=bench)).tensors
    found = inputs_of(bench, pool)
    for name in ("first.weight", "second.weight"):
        rows = np.concatenate([found[task][name] for task in TASKS])
        wanted = np.concatenate([found[t][name] @ pool.models[t][name].T for t in TASKS])
        solution = np.linalg.lstsq(rows, wanted, rcond=None)[0].T
        np.testing.assert_allclose(merged[name], solution, rtol=1e-10)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_off_diagonals_are_scaled_as_the_paper_says(alpha):
    pool, bench = net_pool(), net_bench()
    merged = RegMean(alpha=alpha).merge(pool, Have(bench=bench)).tensors
    found = inputs_of(bench, pool)
    for name in ("first.weight", "second.weight"):
        top, bottom = 0.0, 0.0
        for task in TASKS:
            gram = found[task][name].T @ found[task][name] / len(found[task][name])
            gram = alpha * gram + (1 - alpha) * np.diag(np.diag(gram))
            top, bottom = top + gram @ pool.models[task][name].T, bottom + gram
        np.testing.assert_allclose(merged[name], (np.linalg.inv(bottom) @ top).T, rtol=1e-9)


def test_everything_else_is_averaged():
    pool = net_pool()
    merged = RegMean().merge(pool, Have(bench=net_bench())).tensors
    for name in ("first.bias", "scale"):
        mean = np.mean([model[name] for model in pool.models.values()], axis=0)
        np.testing.assert_allclose(merged[name], mean, rtol=1e-14)


def test_tasks_weigh_equally_however_many_rows_they_have():
    pool = net_pool()
    bench, more = net_bench(), net_bench()
    more._labels = None
    more._inputs["x"] = {"": more._inputs["x"][""].repeat(5, 1)}
    one = RegMean(alpha=1.0).merge(pool, Have(bench=bench)).tensors
    two = RegMean(alpha=1.0).merge(pool, Have(bench=more)).tensors
    np.testing.assert_allclose(two["second.weight"], one["second.weight"], rtol=1e-10)


def test_directions_that_no_input_takes_are_the_averages():
    pool, bench = net_pool(), net_bench()
    for task in TASKS:
        bench._inputs[task][""][:, 3] = 0
    merged = RegMean(alpha=1.0).merge(pool, Have(bench=bench)).tensors["first.weight"]
    mean = np.mean([model["first.weight"] for model in pool.models.values()], axis=0)
    np.testing.assert_allclose(merged[:, 3], mean[:, 3], rtol=1e-12)


def test_padding_is_no_input():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, tokens, attention_mask):
            return self.inner(tokens).mean(1)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Padded()

        def forward(self, tokens, mask):
            return self.body(tokens, attention_mask=mask)

    short = net_bench()
    long = {}
    for task in TASKS:
        tokens = short._inputs[task][""].reshape(12, 2, -1)
        tokens = torch.cat([tokens, torch.full((12, 1, 4), 50.0)], 1)
        long[task] = {"tokens": tokens, "mask": torch.tensor([[1, 1, 0]]).expand(12, 3)}
    padded = ModuleBench(Outer().double(), short._heads, long)
    pool = net_pool()
    names = {name: f"body.inner.{name}" for name in pool.base}
    renamed = Pool({task: {names[n]: v for n, v in m.items()} for task, m in pool.models.items()})
    wanted = RegMean().merge(pool, Have(bench=short)).tensors
    found = RegMean().merge(renamed, Have(bench=padded)).tensors
    for name in ("first.weight", "second.weight"):
        np.testing.assert_allclose(found[names[name]], wanted[name], rtol=1e-12)


def test_a_bad_alpha_is_refused():
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\], got 2"):
        RegMean(alpha=2)
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        RegMean(rows=0)


def test_a_convolution_is_least_squares_on_what_its_outputs_are_formed_of():
    def made(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            conv = nn.Conv2d(2, 3, 3, stride=2, padding=1, dilation=1, bias=False)
        return nn.Sequential(conv, nn.Flatten()).double()

    experts = {task: made(number) for number, task in enumerate("ab")}
    inputs = {task: torch.from_numpy(np.random.default_rng(ord(task)).normal(size=(6, 2, 5, 5)))
              for task in "ab"}  # fmt: skip
    with torch.random.fork_rng():
        heads = {task: nn.Linear(27, 2).double() for task in "ab"}
    states = {t: {k: v.numpy() for k, v in e.state_dict().items()} for t, e in experts.items()}
    bench = ModuleBench(made(5), heads, inputs)
    merged = RegMean(alpha=1.0).merge(Pool(states), Have(bench=bench)).tensors["0.weight"]
    rows, wanted = [], []
    for task, expert in experts.items():
        patches = nn.functional.unfold(inputs[task], 3, stride=2, padding=1).transpose(1, 2)
        rows.append(patches.reshape(-1, 18))
        wanted.append(expert[0](inputs[task]).detach().flatten(2).transpose(1, 2).reshape(-1, 3))
    solution = np.linalg.lstsq(torch.cat(rows).numpy(), torch.cat(wanted).numpy(), rcond=None)[0]
    np.testing.assert_allclose(merged.reshape(3, -1), solution.T, rtol=1e-9)
    matched = Mats(subspace="gram", tolerance=1e-12).merge(Pool(states), Have(bench=bench))
    np.testing.assert_allclose(matched.tensors["0.weight"].reshape(3, -1), solution.T, rtol=1e-7)
    both = Mats(steps=2).merge(Pool(states), Have(bench=bench))
    assert both.evidence["solved"]["0.weight"]["residual"] < 1


def test_layers_that_read_one_tensor_each_have_the_inputs_that_they_read():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.narrow = nn.Conv1d(2, 2, 1, bias=False)
            self.flat = nn.Linear(5, 5, bias=False)
            self.wide = nn.Conv1d(2, 2, 3, padding=1, bias=False)

        def forward(self, x):
            return (self.narrow(x) + self.flat(x) + self.wide(x)).flatten(1)

    with torch.random.fork_rng():
        module, head = Beside().double(), nn.Linear(10, 2).double()
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 2, 5)))
    found = Grams().of(ModuleBench(module, {"a": head}, {"a": x}), "a")
    columns = {
        "narrow.weight": x.transpose(1, 2).reshape(-1, 2),
        "flat.weight": x.reshape(-1, 5),
        "wide.weight": nn.functional.pad(x, (1, 1)).unfold(2, 3, 1).transpose(1, 2).reshape(-1, 6),
    }
    for name, rows in columns.items():
        np.testing.assert_allclose(found[name], (rows.T @ rows).numpy() / len(rows), rtol=1e-9)
