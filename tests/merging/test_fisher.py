from __future__ import annotations

import numpy as np
import pytest
import torch
from merging_nets import TASKS, drawn, net_bench, net_pool
from torch import nn

from plait.merging.base import Have
from plait.merging.fisher import Fisher
from plait.merging.modules import ModuleBench
from plait.merging.pool import Pool
from plait.merging.statistics.base import gather
from plait.merging.statistics.fisher import Diagonal


def information(bench, pool, task):
    """F of an expert, from the definition: Σ_c p_c (∂ log p_c/∂θ)² for every row."""
    bench.load(pool, task)
    named = dict(bench.module.named_parameters())
    total = {name: torch.zeros_like(value) for name, value in named.items()}
    rows = bench.count(task)
    for row in range(rows):
        logs = bench.run(task, np.array([row])).raw.log_softmax(1)[0]
        for label in range(len(logs)):
            slopes = torch.autograd.grad(logs[label], list(named.values()), retain_graph=True)
            for name, slope in zip(named, slopes, strict=True):
                total[name] += logs[label].exp().detach() * slope.square() / rows
    return {name: value.numpy() for name, value in total.items()}


def test_the_average_is_weighed_by_the_exact_fisher_information():
    pool, bench = net_pool(), net_bench()
    merged = Fisher(floor=1e-9).merge(pool, Have(bench=bench)).tensors
    known = {task: information(bench, pool, task) for task in TASKS}
    for name in pool.base:
        shares = np.stack([known[task][name] + 1e-9 for task in TASKS])
        models = np.stack([pool.models[task][name] for task in TASKS])
        np.testing.assert_allclose(merged[name], (shares * models).sum(0) / shares.sum(0))


def logistic(loss):
    """A linear model of one output whose head is the identity."""
    head = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(head.weight)
    body = nn.Linear(3, 1, bias=False).double()
    return ModuleBench(body, {"t": head}, {"t": drawn(7, 9, 3)}, {"t": drawn(8, 9)}, losses=loss)


@pytest.mark.parametrize(
    ("loss", "variance"),
    [
        ("bce", lambda z: torch.sigmoid(z) * torch.sigmoid(-z)),
        ("poisson", torch.exp),
        ("squared", torch.ones_like),
    ],
)
def test_a_linear_models_information_is_the_closed_form(loss, variance):
    bench, weight = logistic(loss), drawn(9, 1, 3)
    pool = Pool({"t": {"weight": weight.numpy()}})
    source = gather(Diagonal(rows=9), bench, pool)["t"]
    found = np.empty(3)
    source.read("weight", 0, 3, found)
    rows = bench._inputs["t"][""]
    wanted = (variance(rows @ weight[0])[:, None] * rows.square()).mean(0)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-12)


def test_thresholds_of_ordinal_classes_are_independent_binary_labels():
    head = nn.Linear(1, 2).double()
    body = nn.Linear(3, 1, bias=False).double()
    bench = ModuleBench(body, {"t": head}, {"t": drawn(7, 5, 3)}, losses="cumulative")
    found = next(iter(Diagonal(rows=5).of(bench, "t").values()))
    wanted = np.zeros((1, 3))
    for row in bench._inputs["t"][""]:
        raw = head(body(row))
        for place in range(2):
            slope = torch.autograd.grad(raw[place], body.weight, retain_graph=True)[0]
            share = torch.sigmoid(raw[place]).item()
            wanted += share * (1 - share) * slope.square().numpy() / 5
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_given_labels_make_it_the_empirical_information():
    pool, bench = net_pool(), net_bench()
    source = gather(Diagonal(labels="given"), bench, pool)["z"]
    found = np.empty(5)
    source.read("scale", 0, 5, found)
    bench.load(pool, "z")
    wanted = np.zeros(5)
    for row in range(bench.count("z")):
        raw = bench.run("z", np.array([row])).raw
        loss = nn.functional.cross_entropy(raw, bench._labels["z"][row : row + 1])
        slope = torch.autograd.grad(loss, bench.module.scale)[0]
        wanted += slope.square().numpy() / bench.count("z")
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_weights_choose_among_the_models():
    pool, bench = net_pool(), net_bench()
    only = Fisher(weights={"x": 1.0, "y": 0.0, "z": 0.0}).merge(pool, Have(bench=bench)).tensors
    for name, value in pool.models["x"].items():
        np.testing.assert_allclose(only[name], value, rtol=1e-12)
    with pytest.raises(ValueError, match="weights and models differ in: y, z"):
        Fisher(weights={"x": 1.0}).merge(pool, Have(bench=bench))


def test_normalised_weights_are_divided_by_the_norm_over_the_whole_model():
    pool, bench = net_pool(), net_bench()
    one = Fisher(normalise=True, floor=1e-14).merge(pool, Have(bench=bench))
    norms = one.evidence["norms"]
    known = {task: information(bench, pool, task) for task in TASKS}
    for task in TASKS:
        size = np.sqrt(sum((value**2).sum() for value in known[task].values()))
        assert norms[task] == pytest.approx(size)
    shares = np.stack([known[task]["scale"] / norms[task] for task in TASKS])
    models = np.stack([pool.models[task]["scale"] for task in TASKS])
    wanted = (shares * models).sum(0) / shares.sum(0)
    np.testing.assert_allclose(one.tensors["scale"], wanted, rtol=1e-8)
