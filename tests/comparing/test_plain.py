"""Plain models: the view of the inputs, the estimators, and what they are fitted on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from studies import dataset, plan, school_dataset
from threadpoolctl import threadpool_info, threadpool_limits

from plait.batch import Input
from plait.comparing.plain.estimators import Constants, Forests, Linears, Trees, threads_for
from plait.comparing.plain.fitting import Samples, poolable, pools, threaded
from plait.comparing.plain.view import View
from plait.task import Task
from plait.weights.files import DamagedError
from plait.weights.states import read_state, write_state

INPUTS = {
    "numeric": Input(key="numeric", type="numeric", shape=(2,)),
    "categorical": Input(key="categorical", type="categorical", shape=(2,), sizes=(3, 2)),
}
PARTS = {
    "rows": {
        "numeric": torch.tensor([[0.5, -1.0], [2.0, 0.0]]),
        "categorical": torch.tensor([[2, 1], [0, 0]]),
    }
}
TEXT = {"text.words": Input(key="text.words", type="text", shape=(-1,), sizes=(50,))}


def test_numbers_and_categories_stand_side_by_side() -> None:
    view = View.of(INPUTS, PARTS, codes=False, most=10)
    np.testing.assert_allclose(
        view.table(PARTS), [[0.5, -1.0, 0, 0, 1, 0, 1], [2.0, 0.0, 1, 0, 0, 1, 0]]
    )
    coded = View.of(INPUTS, PARTS, codes=True, most=10)
    np.testing.assert_allclose(coded.table(PARTS), [[0.5, -1.0, 2, 1], [2.0, 0.0, 0, 0]])
    assert coded.categories == [2, 3]


def test_frequent_tokens_become_counts_and_padding_none() -> None:
    words = torch.tensor([[7, 7, 9, 0], [7, 9, 0, 0], [9, 7, 3, 0], [3, 0, 0, 0], [9, 5, 5, 5]])
    parts = {"rows": {"text.words": words}}
    view = View.of(TEXT, parts, codes=False, most=2)
    assert view.tokens["text.words"] == [7, 9]
    found = view.table(parts).toarray()
    np.testing.assert_allclose(found[0], np.log1p([2, 1]), rtol=1e-6)
    np.testing.assert_allclose(found[3], [0, 0])


def test_an_input_that_a_part_lacks_is_zero() -> None:
    view = View.of(INPUTS, PARTS, codes=False, most=10)
    parts = {"a": PARTS["rows"], "b": {"numeric": torch.ones(1, 2)}}
    np.testing.assert_allclose(view.table(parts)[2], [1, 1, 0, 0, 0, 0, 0])


def test_a_view_is_plain_data() -> None:
    view = View.of({**INPUTS, **TEXT}, {}, codes=True, most=5)
    assert View.from_json(view.to_json()) == view


@pytest.mark.parametrize("classes", [0, 4])
def test_trees_predict_what_scikit_learn_predicts(classes: int, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(200, 5)).astype(np.float32)
    if classes:
        y = numbers.choice([0, 2, 3], 200)  # class 1 has no row
        forest = RandomForestClassifier(7, random_state=0).fit(x, y)
        wanted = np.insert(forest.predict_proba(x), 1, 0, axis=1)
        task = Task(name="t", kind="classes", classes=tuple("abcd"))
    else:
        forest = RandomForestRegressor(7, random_state=0).fit(x, x[:, 0] + x[:, 1])
        wanted = forest.predict(x)
        task = Task(name="t", kind="real")
    forests = Forests({"t": Trees.of(forest, classes)})
    np.testing.assert_allclose(forests.predict("t", task, x), wanted, atol=1e-12)
    forests.save(tmp_path)
    loaded = Forests.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict("t", task, x), forests.predict("t", task, x))
    assert loaded.parameters() == forests.parameters() > 0


@pytest.mark.parametrize(("part", "value"), [("left", 10_000), ("left", 0), ("feature", -5)])
def test_trees_that_point_outside_or_back_are_refused(
    part: str, value: int, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    forest = RandomForestRegressor(2, random_state=0).fit(x, x[:, 0])
    Forests({"t": Trees.of(forest, 0)}).save(tmp_path)
    state = read_state(tmp_path / "forests.safetensors")
    state[f"{part}.t"][np.flatnonzero(state["left.t"] >= 0)[-1]] = value
    write_state(tmp_path / "forests.safetensors", state)
    with pytest.raises(DamagedError, match="points outside itself"):
        Forests.load(tmp_path)


def test_linear_models_and_constants_are_saved_exactly(tmp_path: Path) -> None:
    weights = {"a.b": np.array([[1.0, -2.0]]), "c": np.ones((3, 2))}
    linears = Linears(weights, {"a.b": np.array([0.5]), "c": np.zeros(3)})
    linears.save(tmp_path)
    x = np.array([[0.1, 0.2]])
    binary = Task(name="a.b")
    classes = Task(name="c", kind="classes", classes=("x", "y", "z"))
    loaded = Linears.load(tmp_path)
    assert loaded.predict("a.b", binary, x) == linears.predict("a.b", binary, x)
    np.testing.assert_allclose(loaded.predict("c", classes, x), [[1 / 3] * 3])
    Constants({"a.b": [0.25, 0.75]}).save(tmp_path)
    assert Constants.load(tmp_path).predict("a.b", binary, x).tolist() == [0.75]


def test_targets_are_standardised_and_missing_labels_left_out() -> None:
    data = dataset()
    samples = {s.pool.name: s for s in Samples(plan(data), codes=False, pooled=False)}
    price = samples["price"]
    assert len(price.target) == data.counts("train")["price"] == price.table.shape[0]
    assert price.target.mean() == pytest.approx(0, abs=1e-6)
    assert price.target.std() == pytest.approx(1, abs=0.02)
    assert set(samples["grade"].target) == {0, 1, 2}


def test_tasks_of_different_kinds_are_not_pooled() -> None:
    assert not poolable(dataset())
    data = school_dataset()
    assert poolable(data)
    (pool,) = pools(data)
    assert pool.tasks == data.tasks.names
    assert len(set(pool.units)) == 1  # one unit for all schools: their means are to be learnt
    (sample,) = Samples(plan(data), codes=False, pooled=True)
    np.testing.assert_array_equal(sample.table[:, -6:].argmax(1), sample.task)


def test_only_large_tables_are_given_several_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert threads_for(np.zeros((600, 300))) == 1
    assert threads_for(np.broadcast_to(np.zeros(1), (60_000, 100))) == 3
    # Of texts, only what is there counts.
    assert threads_for(scipy.sparse.eye_array(60_000, 100)) == 1


def test_solvers_use_one_thread_for_a_small_table(monkeypatch):
    def used():
        return {each["num_threads"] for each in threadpool_info()}

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with threadpool_limits(2):
        before = used()  # some libraries may take no more than one
        assert 2 in before
        with threaded(np.zeros((600, 300))):
            assert used() == {1}
        assert used() == before
        with threaded(np.broadcast_to(np.zeros(1), (60_000, 100))):
            assert used() == before
