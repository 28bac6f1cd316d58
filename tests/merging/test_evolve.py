from __future__ import annotations

import numpy as np
import pytest

from plait.merging.base import Have
from plait.merging.evolve import Evolve
from plait.merging.mergekit import Mergekit
from plait.merging.pool import Pool

NAMES = ("a", "b", "c")


def blocks(seed: int) -> dict[str, np.ndarray]:
    """Three blocks of a matrix each."""
    draw = np.random.default_rng(seed)
    return {f"layers.{number}.weight": draw.normal(size=(6, 5)) for number in range(3)}


@pytest.fixture(scope="module")
def models() -> Pool:
    """Three models around a base."""
    base = blocks(0)
    steps = {name: blocks(number) for number, name in enumerate(NAMES, 1)}
    return Pool({n: {k: base[k] + step[k] for k in base} for n, step in steps.items()}, base)


class Judge:
    """How far a state is from an aim; how often it was asked."""

    def __init__(self, aim):
        self.aim = aim
        self.losses = []

    def __call__(self, state):
        gap = sum(float(np.square(state[k] - self.aim[k]).sum()) for k in self.aim)
        self.losses.append(gap)
        return gap


def weighted(pool, weights):
    """θ₀ + Σ w_m δ_m, with weights [M] or, by block, [M, 3]."""
    each = np.broadcast_to(np.asarray(weights, float).reshape(3, -1), (3, 3))
    return {
        key: value + sum(each[m, i] * (pool.models[n][key] - value) for m, n in enumerate(NAMES))
        for i, (key, value) in enumerate(pool.base.items())
    }


def test_planted_weights_are_found_within_the_trials(models):
    judge = Judge(weighted(models, [0.7, 0.1, 0.4]))
    found = Evolve(method="task_arithmetic", trials=120).merge(models, Have(validation=judge))
    assert len(judge.losses) == 120 == found.evidence["trials"]
    weights = [found.evidence["weight"][name][0] for name in NAMES]
    np.testing.assert_allclose(weights, [0.7, 0.1, 0.4], atol=0.02)
    assert found.evidence["loss"] == min(judge.losses)
    assert judge(found.tensors) == found.evidence["loss"]


def test_weights_above_one_are_found_where_they_are_allowed(models):
    judge = Judge(weighted(models, [2.2, 0.5, 1.0]))
    free = Evolve(method="task_arithmetic", trials=200, most=3.0)
    found = free.merge(models, Have(validation=judge))
    weights = [found.evidence["weight"][name][0] for name in NAMES]
    np.testing.assert_allclose(weights, [2.2, 0.5, 1.0], atol=0.06)


def test_anchors_find_weights_that_change_with_depth(models):
    ends = np.array([[0.1, 0.9], [0.5, 0.5], [0.8, 0.0]])
    every = np.stack([ends[:, 0], ends.mean(1), ends[:, 1]], 1)
    judge = Judge(weighted(models, every))
    settings = {"method": "task_arithmetic", "trials": 250}
    by_depth = Evolve(**settings, anchors=2).merge(models, Have(validation=judge)).evidence
    np.testing.assert_allclose([by_depth["weight"][name] for name in NAMES], ends, atol=0.05)
    flat = Evolve(**settings).merge(models, Have(validation=judge)).evidence
    assert flat["loss"] > 100 * by_depth["loss"]


def test_densities_are_searched_too(models):
    planted = Mergekit(
        method="ties",
        weight={"a": 0.9, "b": 0.2, "c": 0.5},
        density={"a": 0.3, "b": 0.9, "c": 0.6},
    )
    judge = Judge(planted.merge(models).tensors)
    found = Evolve(trials=80).merge(models, Have(validation=judge)).evidence
    assert found["loss"] < 0.4 * found["start"]
    assert found["density"]["a"][0] < 0.5 < found["density"]["b"][0]


def test_the_first_try_is_the_even_merge_and_the_result_never_worse(models):
    even = Mergekit(method="ties", weight=1 / 3, density=1.0).merge(models).tensors
    judge = Judge(even)
    found = Evolve(trials=6).merge(models, Have(validation=judge))
    assert judge.losses[0] == 0 == found.evidence["loss"]
    for name, value in even.items():
        np.testing.assert_array_equal(found.tensors[name], value)


def test_a_seed_is_a_search(models):
    def weights(seed):
        judge = Judge(weighted(models, [0.7, 0.1, 0.4]))
        found = Evolve(method="linear", trials=20, seed=seed)
        return found.merge(models, Have(validation=judge)).evidence["weight"]

    assert weights(1) == weights(1) != weights(2)


def test_a_recipe_that_cannot_be_stored_loses():
    base = {"w": np.float16([0.0])}
    pool = Pool({name: {"w": np.float16([20000.0])} for name in ("a", "b")}, base)
    free = Evolve(method="task_arithmetic", trials=40, most=4.0)
    found = free.merge(pool, Have(validation=lambda state: -float(state["w"][0])))
    assert np.isfinite(found.tensors["w"]).all()
    assert found.tensors["w"][0] > 40000


def test_validation_rows_are_asked_for(models):
    with pytest.raises(ValueError, match="evolve needs labelled validation rows"):
        Evolve().merge(models)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"method": "slerp"}, "method is one of linear"),
        ({"anchors": 0}, "anchors must be at least 1"),
        ({"most": 0.0}, "most must be a number above 0"),
        ({"trials": 0}, "trials must be at least 1"),
        ({"way": "grid"}, "no way to search"),
    ],
)
def test_bad_settings_are_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        Evolve(**bad)
