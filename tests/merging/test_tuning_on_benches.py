from __future__ import annotations

import numpy as np
import pytest
import torch
from merging_nets import TASKS, drawn, net, net_bench, net_pool
from torch import nn

from plait.losses import LOSSES
from plait.merging.adamerging import AdaMerging
from plait.merging.base import Have
from plait.merging.bench import array
from plait.merging.modules import ModuleBench
from plait.merging.objectives import distance, entropies, entropy, supervised
from plait.merging.pool import Pool
from plait.merging.regmean import RegMean
from plait.merging.tune import Learn, Mix
from plait.method import Need


def test_gradients_are_finite_differences():
    pool, bench = net_pool(), net_bench()
    mix, rows = Mix(pool, bench), np.arange(10)
    point = np.random.default_rng(0).uniform(0, 1, (len(mix.names), len(pool)))

    def loss(coefficients):
        mix.place(coefficients)
        return entropy(bench)("y", rows)

    bench.forget()
    bench.backward(loss(point))
    slope = mix.pull()
    for place in np.ndindex(*point.shape):
        step = np.zeros_like(point)
        step[place] = 1e-6
        found = (float(loss(point + step).detach()) - float(loss(point - step).detach())) / 2e-6
        assert slope[place] == pytest.approx(found, rel=1e-5, abs=1e-8)


def test_planted_coefficients_are_recovered():
    pool, bench = net_pool(), net_bench()
    mix = Mix(pool, bench)
    planted = np.random.default_rng(1).uniform(-1, 1, (len(mix.names), len(pool)))
    mix.place(planted)
    target = {name: tensor.detach().clone() for name, tensor in bench.weights.items()}

    def far(task, rows):
        own = bench.weights
        return sum(0.5 * (own[name] - value).square().sum() for name, value in target.items())

    start = torch.zeros(planted.shape, dtype=torch.float64)
    found, losses = Learn(steps=150, rate=0.1, batch=1).run(mix, start, lambda free: free, far)
    np.testing.assert_allclose(array(found), planted, atol=1e-3)
    assert losses[-1] < 1e-6 < losses[0]


def test_blocks_change_nothing(monkeypatch):
    pool, bench = net_pool(), net_bench()
    mix = Mix(pool, bench)
    point = np.full((len(mix.names), len(pool)), 0.4)
    mix.place(point)
    bench.backward(supervised(bench)("x", np.arange(8)))
    state, slope = {n: v.copy() for n, v in bench.state.items()}, mix.pull()
    monkeypatch.setattr("plait.merging.engine.BLOCK", 7)
    mix.place(point)
    for name, value in bench.state.items():
        np.testing.assert_array_equal(value, state[name])
    np.testing.assert_allclose(mix.pull(), slope, rtol=1e-12)


def test_memory_does_not_grow_with_the_pool():
    wide = {"w": np.zeros((2000, 2000), np.float32)}
    few = Pool({"a": wide, "b": wide}, wide)
    many = Pool(dict.fromkeys("abcdefgh", wide), wide)
    bench = net_bench()
    size = wide["w"].nbytes
    assert 2 * size <= Mix(few, bench).memory <= Mix(many, bench).memory <= 3.5 * size


def test_rows_pass_by_in_shuffled_order_the_same_for_any_other_task():
    bench, fewer = net_bench(), net_bench(TASKS[1:])
    seen = np.concatenate([bench.drawn("y", 7, step, 3) for step in range(24)])
    assert sorted(seen[:24]) == list(range(24))
    assert sorted(seen[24:48]) == list(range(24))
    assert list(seen[:24]) != list(seen[24:48])
    np.testing.assert_array_equal(bench.drawn("y", 7, 5, 3), fewer.drawn("y", 7, 5, 3))
    assert list(bench.drawn("y", 7, 5, 3)) != list(bench.drawn("y", 7, 5, 4))


@pytest.mark.parametrize(("loss", "outputs"), [("cross_entropy", 4), ("bce", 1), ("cumulative", 3)])
def test_entropies_are_those_of_the_predicted_classes(loss, outputs):
    raw = drawn(4, 6, outputs).sort(1, descending=True).values  # thresholds must not cross
    shares = LOSSES[loss].predict(raw)
    if shares.ndim == 1:
        shares = torch.stack([shares, 1 - shares], 1)
    wanted = -(shares * shares.log()).sum(1)
    torch.testing.assert_close(entropies(loss, raw), wanted)


def test_distances_go_to_the_targets_of_the_same_rows():
    bench = net_bench()
    rows = np.array([3, 1, 7])
    everything = bench.run("x", np.arange(24)).features.detach()
    assert float(distance(bench, {"x": everything})("x", rows).detach()) < 1e-12
    moved = everything + 0.5
    assert float(distance(bench, {"x": moved})("x", rows).detach()) == pytest.approx(0.5)
    assert float(distance(bench, {"x": moved}, "l2")("x", rows).detach()) == pytest.approx(0.25)


def test_what_was_not_asked_for_is_not_shown():
    bench = net_bench().granted(frozenset({Need.UNLABELLED}))
    seen = bench.run("x", np.arange(2))
    for look in (lambda: seen.raw, lambda: bench.loss("x", np.arange(2), seen)):
        with pytest.raises(LookupError, match="card"):
            look()
    with pytest.raises(LookupError, match="gradients"):
        bench.backward(seen.features.sum())


def test_what_could_run_instead_is_named():
    with pytest.raises(ValueError, match=r"unlabelled inputs per task; with what .* run: \w"):
        AdaMerging().merge(net_pool(), Have())


def test_a_bench_needs_a_head_and_a_loss_for_every_task():
    bench = net_bench()
    rows = {task: bench._inputs[task][""] for task in TASKS}
    with pytest.raises(ValueError, match="has no head, or no rows: z"):
        ModuleBench(bench.module, {t: bench._heads[t] for t in "xy"}, rows)
    with pytest.raises(ValueError, match="task 'x': no loss 'hinge'"):
        ModuleBench(bench.module, bench._heads, rows, losses="hinge")


def altered(**changes):
    """A bench whose rows, heads or labels of task y are others."""
    bench = net_bench()
    parts = {"heads": bench._heads, "inputs": {t: r[""] for t, r in bench._inputs.items()},
             "labels": dict(bench._labels)}  # fmt: skip
    for name, value in changes.items():
        parts[name] = {**parts[name], "y": value}
    return ModuleBench(net(), parts["heads"], parts["inputs"], parts["labels"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"inputs": torch.zeros(24, 7).double()},
            r"'y': the network cannot run its rows .*another",
        ),
        ({"inputs": torch.zeros(0, 4).double()}, "there are no training rows of 'y'"),
        ({"inputs": torch.full((24, 4), np.nan).double()}, "'y': 24 of its 24 rows hold NaN"),
        ({"heads": nn.Linear(9, 3).double()}, r"'y': its head does not take the features .*\[5\]"),
        ({"labels": torch.zeros(5, dtype=torch.long)}, "'y' has 24 rows and 5 labels"),
        ({"labels": torch.full((24,), 7)}, "'y' has labels from 7 to 7, and its head tells 3"),
    ],
)
def test_rows_heads_and_labels_that_do_not_fit_are_told_before_a_merge_looks(changes, words):
    for method in (RegMean(), AdaMerging(steps=1)):
        with pytest.raises(ValueError, match=words):
            method.merge(net_pool(), Have(bench=altered(**changes)))
