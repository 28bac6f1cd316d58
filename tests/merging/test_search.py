from __future__ import annotations

import numpy as np
import pytest

from plait.merging.search import Search

PLANTED = np.array([0.7, -0.2, 0.4])


def bowl(values):
    return float(np.square(values - PLANTED).sum())


@pytest.mark.parametrize(("way", "near"), [("random", 0.7), ("bayes", 0.3), ("cma", 0.02)])
def test_planted_values_are_found_within_the_trials(way, near):
    found = Search(way=way, trials=150).run(bowl, np.zeros(3), -1, 1)
    assert len(found.tries) == 150
    assert np.abs(found.values - PLANTED).max() < near
    assert found.score == min(score for _, score in found.tries) == bowl(found.values)


@pytest.mark.parametrize("way", ["random", "bayes", "cma"])
def test_a_seed_is_a_search_and_the_start_its_first_try(way):
    def path(seed):
        tries = Search(way=way, trials=14, seed=seed).run(bowl, np.full(3, 0.5), -1, 1).tries
        return np.array([values for values, _ in tries])

    state = np.random.get_state()[1].copy()  # noqa: NPY002
    np.testing.assert_array_equal(path(3), path(3))
    assert not np.array_equal(path(3), path(4))
    np.testing.assert_array_equal(path(3)[0], np.full(3, 0.5))
    assert np.abs(path(3)).max() <= 1
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("way", ["random", "bayes", "cma"])
def test_tries_without_a_finite_score_lose(way):
    def half(values):
        return np.nan if values[0] < 0 else bowl(values)

    found = Search(way=way, trials=30).run(half, np.full(3, -0.5), -1, 1)
    assert found.values[0] >= 0
    with pytest.raises(ValueError, match="none of the 5 tries"):
        Search(way=way, trials=5).run(lambda _: np.inf, np.zeros(1), -1, 1)


def test_one_value_can_be_searched_for():
    found = Search(way="cma", trials=60).run(lambda v: abs(v[0] - 0.3), np.zeros(1), 0, 1)
    assert found.values == pytest.approx([0.3], abs=0.02)


def test_a_missing_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(ValueError, match=r"pip install 'plait\[search\]'"):
        Search(way="cma").run(bowl, np.zeros(3), -1, 1)


@pytest.mark.parametrize("bad", [{"way": "grid"}, {"trials": 0}, {"spread": 0}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))[:3]):
        Search(**bad)
