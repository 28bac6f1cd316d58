from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from plait.comparing.model import asked_of
from plait.comparing.plain.fitting import Samples
from plait.comparing.plan import Plan
from plait.comparing.strategies.private_skew import (
    PrivateSkew,
    clipped,
    noise_of,
    statistics,
    user_weights,
    users_of,
)
from plait.data import DataSpec, TableSpec, TaskSpec, load
from plait.data.seeding import generator
from plait.testing.strategies import toy_plan, toy_table

KINDS = {"price": "real", "ripe": "binary"}


def budgets(users, weights):
    """Σ_i (Σ of the user's records in task i of ω)², by user."""
    spent: dict[int, float] = {}
    for mine, weight in zip(users, weights, strict=True):
        for user in np.unique(mine):
            spent[user] = spent.get(user, 0.0) + weight[mine == user].sum() ** 2
    return np.array(list(spent.values()))


USERS = [np.array([1, 2, 3, 4, 5, 6, 7, 7]), np.array([2, 3, 9]), np.array([3])]


@pytest.mark.parametrize("exponent", [0.0, -0.25, -1.0])
@pytest.mark.parametrize("sigma", [0.0, 3.0])
def test_every_user_spends_the_whole_budget(exponent, sigma):
    weights = user_weights(USERS, exponent, sigma, 0)
    np.testing.assert_allclose(budgets(USERS, weights), 1.0, rtol=1e-12)


def test_without_an_exponent_a_user_weighs_its_tasks_alike():
    first, second, third = user_weights(USERS, 0.0, 0.0, 0)
    assert first[0] == pytest.approx(1.0)
    assert first[1] == second[0] == pytest.approx(0.5**0.5)
    assert first[2] == second[1] == third[0] == pytest.approx((1 / 3) ** 0.5)
    assert first[6] == first[7] == pytest.approx(0.5)  # two records of one task


def test_an_exponent_favours_the_small_tasks():
    many = [np.arange(400), np.arange(0, 400, 20)]
    large, small = user_weights(many, -0.5, 0.0, 0)
    assert small[0] > 2 * large[0]
    assert large[1] == pytest.approx(1.0)


def test_without_noise_it_is_weighted_ridge_regression():
    draw = np.random.default_rng(0)
    x, y, w = draw.normal(size=(30, 4)), draw.normal(size=(30, 2)), draw.random(30)
    left, right = statistics(x, y, w, 0.0, 0.0, draw)
    root = np.sqrt(w)[:, None]
    stacked = np.concatenate([root * x, np.sqrt(2.0) * np.eye(4)])
    wanted = np.linalg.lstsq(stacked, np.concatenate([root * y, np.zeros((4, 2))]), rcond=None)[0]
    np.testing.assert_allclose(np.linalg.solve(left + 2.0 * np.eye(4), right), wanted, rtol=1e-9)


def test_the_noise_is_as_large_as_it_is_said():
    x = 1e3 * np.eye(5)  # so far from zero that no eigenvalue is clipped
    found = [statistics(x, x, np.ones(5), 2.0, 3.0, generator("t", i)) for i in range(400)]
    left = np.stack([a for a, _ in found]) - 1e6 * np.eye(5)
    right = np.stack([r for _, r in found]) - 1e6 * np.eye(5)
    above = np.triu_indices(5, 1)
    assert left[:, above[0], above[1]].std() == pytest.approx(2.0 / 2**0.5, rel=0.05)
    assert left[:, range(5), range(5)].std() == pytest.approx(2.0, rel=0.08)
    assert right.std() == pytest.approx(3.0, rel=0.05)
    low, _ = statistics(np.zeros((1, 5)), np.zeros((1, 5)), np.ones(1), 2.0, 0.0, generator("u"))
    assert np.linalg.eigvalsh(low).min() > -1e-12


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
def test_the_noise_is_what_the_renyi_divergences_ask_for(epsilon):
    """Orders a of Rényi's divergence, a/2 Σ (sensitivity/noise)², turned into ε and minimised."""
    noise, sigma = noise_of(epsilon, 1e-6, counting=0.2)
    orders = np.concatenate([np.linspace(1.001, 20, 20_000), np.linspace(20, 2000, 20_000)])
    spent = orders / 2 * (2 / noise**2 + 1 / sigma**2) + math.log(1e6) / (orders - 1)
    assert spent.min() == pytest.approx(epsilon, rel=1e-4)
    assert noise_of(math.inf, 1e-6, counting=0.2) == (0.0, 0.0)


def test_rows_are_clipped_to_a_ball():
    rows = clipped(np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]), 1.0)
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])


def test_privacy_costs_accuracy_and_none_is_near_the_linear_baseline(tmp_path):
    plan = toy_plan()
    batch = plan.dataset.batch(plan.dataset.rows("train"))
    gaps = []
    for epsilon in (math.inf, 1e4, 0.05):
        model = PrivateSkew(epsilon=epsilon, radius=10.0).run(plan, {}, 0, tmp_path)
        found = model.predict(batch.parts, asked_of(batch))
        scale = plan.dataset.tasks["price"].scale
        truth = batch.task("price")
        target = truth.target * scale + plan.dataset.tasks["price"].center
        gaps.append(float(((found["real"] - target) / scale).square().mean()))
        assert model.evidence["epsilon"] == epsilon
    assert gaps[0] < 0.7
    assert gaps[0] < gaps[2]


def test_a_user_is_the_value_of_the_group_column_in_every_task():
    who = [f"u{i // 4}" for i in range(120)]
    table = toy_table().with_columns(pl.Series("who", who))
    specs = {name: TaskSpec(kind=kind, group="who") for name, kind in KINDS.items()}
    plan = Plan.of(load(DataSpec(tables={"toy": TableSpec(source=table)}, id="id"), specs))
    named: dict[int, set[str]] = {}
    for sample in Samples(plan, codes=False, pooled=False):
        rows, _, _ = plan.dataset.truth(sample.pool.name, "train")
        for row, user in zip(rows.tolist(), users_of(plan, sample).tolist(), strict=True):
            named.setdefault(user, set()).add(who[row])
    assert all(len(names) == 1 for names in named.values())
    assert len(named) == len(set().union(*named.values())) > 20


def test_settings_are_checked():
    with pytest.raises(ValueError, match="exponent must not be positive"):
        PrivateSkew(exponent=0.5)
    with pytest.raises(ValueError, match="epsilon must be positive"):
        PrivateSkew(epsilon=0.0)
    with pytest.raises(ValueError, match="radius, bound and strength"):
        PrivateSkew(radius=0.0)
