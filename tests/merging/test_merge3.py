from __future__ import annotations

import numpy as np
import pytest
import torch
from merging_nets import TASKS, net_bench, net_pool
from scipy.special import expit
from scipy.stats import pearsonr

from plait.merging.base import Have
from plait.merging.items import Items, calibrated, estimate, mixed
from plait.merging.merge3 import Merge3, right
from plait.merging.pool import Pool
from plait.method import MethodError

ROWS = 240


def chances(slopes, offsets, ability):
    """σ(a_j θ − b_j), written out."""
    return np.array([1 / (1 + np.exp(b - a * ability)) for a, b in zip(slopes, offsets)])  # noqa: B905


def bank(count, seed=0):
    draw = np.random.default_rng(seed)
    slopes = np.exp(0.4 * draw.normal(size=count))
    return draw, slopes, slopes * draw.normal(size=count)


def labelled_bench():
    """Labels are what each task's own model says, one in eight at random."""
    pool, bench = net_pool(spread=0.8), net_bench(rows=ROWS)
    draw = np.random.default_rng(5)
    for task in TASKS:
        bench.load(pool, task)
        with torch.no_grad():
            labels = bench.run(task, np.arange(ROWS)).raw.argmax(1)
        noisy = torch.from_numpy(draw.random(ROWS) < 1 / 8)
        other = torch.from_numpy(draw.integers(0, 3, ROWS))
        bench._labels[task] = torch.where(noisy, other, labels)
    return pool, bench


def test_items_and_abilities_are_recovered_from_many_answers():
    draw, slopes, offsets = bank(150)
    abilities = draw.normal(size=400)
    answers = draw.random((400, 150)) < expit(np.outer(abilities, slopes) - offsets)
    found = calibrated(answers.astype(float))
    assert pearsonr(found.abilities, abilities).statistic > 0.97
    assert pearsonr(found.slopes, slopes).statistic > 0.9
    assert pearsonr(found.offsets, offsets).statistic > 0.98
    wanted = expit(np.outer(abilities, slopes) - offsets)
    chances_found = np.stack([found.chances(ability) for ability in found.abilities])
    assert np.abs(chances_found - wanted).mean() < 0.05


def test_the_fit_is_where_the_posterior_is_flat():
    """Its gradient by differences, written out item by item, is zero."""
    answers = (np.random.default_rng(1).random((4, 6)) < 0.6).astype(float)
    found = calibrated(answers)
    free = np.concatenate([np.log(found.slopes), found.offsets, found.abilities])

    def posterior(values):
        logs, offsets, abilities = values[:6], values[6:12], values[12:]
        total = -sum(v**2 for v in logs) / 0.5 - sum(v**2 for v in offsets) / 18
        total -= sum(v**2 for v in abilities) / 2
        for r, ability in enumerate(abilities):
            each = chances(np.exp(logs), offsets, ability)
            total += sum(np.log(p if y else 1 - p) for p, y in zip(each, answers[r], strict=True))
        return total

    step = 1e-5 * np.eye(len(free))
    slopes = [(posterior(free + one) - posterior(free - one)) / 2e-5 for one in step]
    assert np.abs(slopes).max() < 1e-2
    assert all(posterior(free + 1e3 * one) < posterior(free) for one in step)


def test_planted_weights_of_abilities_are_recovered():
    draw, slopes, offsets = bank(4000, 2)
    abilities, weights = np.array([1.5, -1.0]), np.array([0.8, 0.3])
    items = Items(slopes, offsets, abilities)
    answers = draw.random(4000) < chances(slopes, offsets, weights @ abilities)
    found = mixed(items, np.arange(4000), answers.astype(float), abilities)
    assert found @ abilities == pytest.approx(weights @ abilities, abs=0.1)


def test_the_estimate_is_the_papers_sum():
    _, slopes, offsets = bank(12, 3)
    items = Items(slopes, offsets, np.array([1.0, -0.5]))
    seen, answers = np.array([1, 4, 7]), np.array([1.0, 0.0, 1.0])
    ability = mixed(items, seen, answers, items.abilities) @ items.abilities
    p = chances(slopes, offsets, ability)
    unseen = np.mean([p[j] for j in range(12) if j not in (1, 4, 7)])
    mp = 3 / 12 * 2 / 3 + (1 - 3 / 12) * unseen
    for trust in (0.0, 0.5, 1.0):
        found = estimate(items, seen, answers, items.abilities, trust)
        assert found == pytest.approx(trust * 2 / 3 + (1 - trust) * mp, rel=1e-12)


def test_all_items_seen_give_the_accuracy_and_all_right_answers_finite_weights():
    _, slopes, offsets = bank(8, 4)
    items = Items(slopes, offsets, np.array([2.0, 1.0]))
    answers = np.array([1.0, 0, 1, 1, 0, 1, 1, 1])
    assert estimate(items, np.arange(8), answers, items.abilities) == 0.75
    assert np.abs(mixed(items, np.arange(8), np.ones(8), items.abilities)).max() < 10


def test_right_answers_are_those_of_the_likeliest_class():
    bench = net_bench(rows=ROWS)
    rows = np.arange(ROWS)
    with torch.no_grad():
        guess = bench.run("x", rows).raw.argmax(1)
    wanted = (guess == bench._labels["x"]).double().numpy()
    np.testing.assert_array_equal(right(bench, "x", rows), wanted)
    assert 0 < wanted.mean() < 1
    bench.losses["x"], bench._labels["x"] = "bce", (bench._labels["x"] > 0).double()
    with torch.no_grad():
        bench._heads["x"].weight, bench._heads["x"].bias = (
            torch.nn.Parameter(t[:1].clone()) for t in bench._heads["x"].parameters()
        )
        sure = bench.run("x", rows).raw[:, 0] > 0
    wanted = (sure == (bench._labels["x"] > 0)).double().numpy()
    np.testing.assert_array_equal(right(bench, "x", rows), wanted)


def test_the_estimate_of_merges_follows_their_accuracy_on_all_rows():
    pool, bench = labelled_bench()
    draw, everything = np.random.default_rng(0), np.arange(ROWS)
    task = TASKS[0]
    answers = []
    for model in (*TASKS, None):
        bench.load(pool, model)
        answers.append(right(bench, task, everything))
    items = calibrated(np.stack(answers))
    seen = bench.chosen(task, 20, 0)
    full, bare, estimated = [], [], []
    for _ in range(60):
        weights = draw.uniform(-1, 1.2, len(TASKS))
        bench.fill(
            {
                name: value
                + sum(
                    w * (pool.models[t][name] - value) for w, t in zip(weights, TASKS, strict=True)
                )
                for name, value in pool.base.items()
            }
        )
        full.append(right(bench, task, everything).mean())
        some = right(bench, task, seen)
        bare.append(some.mean())
        estimated.append(estimate(items, seen, some, items.abilities[:3]))
    assert np.std(full) > 0.05
    assert pearsonr(full, estimated).statistic > 0.8
    error = np.abs(np.subtract(estimated, full)).mean()
    assert error < np.abs(np.subtract(bare, full)).mean()


def test_the_search_raises_the_accuracy_on_all_rows_and_runs_few():
    pool, bench = labelled_bench()
    ran = []
    run = bench._run
    bench._run = lambda task, rows: (ran.append(len(rows)), run(task, rows))[1]

    def accuracy(state):
        bench.fill({name: state[name] for name in pool.base})
        return np.mean([right(bench, task, np.arange(ROWS)).mean() for task in TASKS])

    have = Have(bench=bench, held=bench, validation=lambda state: float(state["scale"].sum()))
    few = {"task_arithmetic": {"grid": (0.0, 0.1, 0.3, 0.5, 0.7, 1.0)}}
    found = Merge3(method=few).merge(pool, have)
    assert sum(ran) == 4 * len(TASKS) * ROWS + (6 + 1) * len(TASKS) * 20
    reached = accuracy(found.tensors)
    assert reached > accuracy(pool.base) + 0.03
    assert found.evidence["estimate"] == pytest.approx(reached, abs=0.1)
    assert found.evidence["items"]["x"] == [20, ROWS]
    assert found.evidence["validation"] == pytest.approx(found.tensors["scale"].sum())


def test_what_it_cannot_work_on_is_refused_before_any_run():
    pool, bench = net_pool(), net_bench()
    with pytest.raises(ValueError, match=r"give them as Have\(held=…\)"):
        Merge3().merge(pool, Have(bench=bench, validation=lambda _: 0.0))
    with pytest.raises(MethodError, match="merge3 judges one network; emr"):
        Merge3(method="emr").merge(pool, Have(bench=bench, held=bench, validation=lambda _: 0.0))
    other = net_bench(tasks=("x", "y"))
    with pytest.raises(ValueError, match="tasks and models differ in 'z'"):
        Merge3().merge(pool, Have(bench=bench, held=other, validation=lambda _: 0.0))
    squared = net_bench()
    squared.losses = dict.fromkeys(TASKS, "squared")
    with pytest.raises(ValueError, match="merge3 works on losses bce, cross_entropy"):
        Merge3().merge(pool, Have(bench=squared, held=squared, validation=lambda _: 0.0))


@pytest.mark.parametrize("bad", [{"items": 0}, {"trust": 1.5}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Merge3(**bad)


def test_a_task_with_more_labels_a_row_is_named():
    pool, bench = net_pool(), net_bench()
    loss = bench._loss
    bench._loss = lambda task, rows, seen: loss(task, rows, seen).repeat(2)
    assert isinstance(pool, Pool)
    with pytest.raises(ValueError, match="task 'x' has more"):
        Merge3().merge(pool, Have(bench=bench, held=bench, validation=lambda _: 0.0))
