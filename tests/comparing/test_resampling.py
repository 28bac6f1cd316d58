"""Bootstrap draws: joint over tasks that share units, independent of order."""

from __future__ import annotations

import numpy as np
import pytest

from plait.comparing import resampling
from plait.comparing.resampling import Resamples


def test_the_first_replicate_is_the_data_and_the_others_draw_as_many_units():
    units = np.array([7, 3, 3, 9])
    counts = Resamples({"a": units}, replicates=50).counts("a", units)
    assert counts.shape == (51, 4)
    assert (counts[0] == 1).all()
    assert (counts[:, 1] == counts[:, 2]).all()  # two rows of one unit
    assert (counts[1:, [0, 1, 3]].sum(1) == 3).all()
    assert len(np.unique(counts, axis=0)) > 5


def test_every_unit_is_drawn_once_on_average():
    units = np.arange(40)
    counts = Resamples({"a": units}, replicates=4000).counts("a", units)[1:]
    assert counts.mean(0) == pytest.approx(np.ones(40), abs=0.08)
    assert counts.var(0) == pytest.approx(np.full(40, 1 - 1 / 40), abs=0.12)


def test_tasks_that_share_units_move_together():
    units = {
        "a": np.arange(10),
        "b": np.arange(5, 15),
        "c": np.arange(14, 20),
        "d": np.arange(30, 40),
    }
    drawn = Resamples(units, replicates=30)
    counts = {name: drawn.counts(name, own) for name, own in units.items()}
    np.testing.assert_array_equal(counts["a"][:, 5:], counts["b"][:, :5])
    np.testing.assert_array_equal(counts["b"][:, 9], counts["c"][:, 0])
    assert len({drawn.pool_of[name] for name in "abc"}) == 1
    assert drawn.pool_of["d"] != drawn.pool_of["a"]
    assert (counts["d"].sum(1) == 10).all()
    assert drawn.units == 30


def test_draws_depend_on_the_units_and_the_seed_alone():
    units = {"a": np.arange(10), "b": np.arange(100, 110)}
    first = Resamples(units, replicates=30)
    turned = Resamples({"z": units["b"][::-1], "y": units["a"]}, replicates=30)
    np.testing.assert_array_equal(first.counts("b", units["b"]), turned.counts("z", units["b"]))
    np.testing.assert_array_equal(first.counts("a", units["a"]), turned.counts("y", units["a"]))
    assert (first.counts("a", units["a"]) != first.counts("b", units["b"])).any()
    other = Resamples(units, replicates=30, seed=1)
    assert (first.counts("a", units["a"]) != other.counts("a", units["a"])).any()


def test_draws_are_the_same_in_larger_and_smaller_pieces(monkeypatch):
    units = np.arange(30)
    whole = Resamples({"a": units}, replicates=40).counts("a", units)
    monkeypatch.setattr(resampling, "_AT_ONCE", 100)
    np.testing.assert_array_equal(Resamples({"a": units}, replicates=40).counts("a", units), whole)


def test_seeds_are_drawn_one_less_than_there_are():
    drawn = Resamples({}, replicates=2000)
    weights = drawn.seeds([("0", "1"), ("0", "2"), ("0", "3")])
    assert weights[0] == pytest.approx([1 / 3] * 3)
    assert set(np.unique(weights[1:])) == {0, 0.5, 1}
    assert weights.sum(1) == pytest.approx(np.ones(2001))
    assert weights[1:].mean(0) == pytest.approx([1 / 3] * 3, abs=0.03)
    assert (drawn.seeds(["only"]) == 1).all()


def test_very_many_units_get_fewer_replicates(monkeypatch):
    monkeypatch.setattr(resampling, "LARGEST", 30_000)
    units = {"a": np.arange(100)}
    assert Resamples(units, replicates=1000).replicates == 300
    assert Resamples({"a": np.arange(1000)}, replicates=1000).replicates == 200
    assert Resamples(units, replicates=50).replicates == 50
    with pytest.raises(ValueError, match="replicates must be 1 or more"):
        Resamples(units, replicates=0)
