from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

import plait
from plait.tabular import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from plait.tabular.saving import plain
from plait.weights.files import DamagedError


@pytest.fixture
def fitted(fruit, quick):
    return MultiTaskEstimator(**quick, tasks={"price": {"preference": 2.0}}).fit(fruit.X, fruit.Y)


def test_a_moved_folder_predicts_the_same_in_another_process(fitted, fruit, tmp_path):
    fitted.save(tmp_path / "one" / "model")
    shutil.move(tmp_path / "one", tmp_path / "two")
    fruit.X.write_parquet(tmp_path / "x.parquet")
    code = (
        "import polars as pl, plait\n"
        "found = plait.MultiTaskEstimator.load('two/model')\n"
        "found.predict(pl.read_parquet('x.parquet')).write_parquet('said.parquet')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True)
    assert pl.read_parquet(tmp_path / "said.parquet").equals(fitted.predict(fruit.X))


def test_everything_about_an_estimator_comes_back(fitted, fruit, tmp_path):
    found = MultiTaskEstimator.load(fitted.save(tmp_path / "model"))
    assert found.get_params() == {**fitted.get_params(), "observers": ()}
    assert found.tasks_ == fitted.tasks_
    assert list(found.feature_names_in_) == list(fitted.feature_names_in_)
    assert found.n_features_in_ == 3
    assert found.run_ == fitted.run_
    assert [None if c is None else c.tolist() for c in found.classes_] == [
        None if c is None else c.tolist() for c in fitted.classes_
    ]
    assert found.score(fruit.X, fruit.Y) == fitted.score(fruit.X, fruit.Y)
    found.set_params(passes=1).fit(fruit.X, fruit.Y)  # and it can be fitted again


def test_the_folder_is_a_model_like_those_of_a_study(fitted, fruit, tmp_path):
    model = plait.load(fitted.save(tmp_path / "model"))
    assert model.tasks == ("ripe", "price", "stars")
    said = model.predict(fruit.X)
    np.testing.assert_allclose(said["price"], fitted.predict(fruit.X)["price"], rtol=1e-4)
    assert said["stars"].equals(fitted.predict(fruit.X)["stars"])


@pytest.mark.parametrize("y", ["flat", "table"])
def test_arrays_come_back_as_arrays(y, quick, tmp_path):
    X = np.random.default_rng(0).normal(size=(40, 3))
    given = (X[:, 0] > 0).astype(np.int32) if y == "flat" else X[:, :2]
    cls = MultiTaskClassifier if y == "flat" else MultiTaskRegressor
    fitted = cls(**quick).fit(X, given)
    found = MultiTaskEstimator.load(fitted.save(tmp_path / "model"))
    assert type(found) is cls
    assert not hasattr(found, "feature_names_in_")
    said = found.predict(X)
    assert (said.dtype, said.shape) == (given.dtype, given.shape)
    np.testing.assert_array_equal(said, fitted.predict(X))


def test_saving_again_replaces_and_never_clobbers(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    fitted.save(tmp_path / "model")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and holds no estimator"):
        fitted.save(tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model"]


def test_damage_and_strangers_are_named(fitted, tmp_path):
    folder = fitted.save(tmp_path / "model")
    with pytest.raises(ValueError, match="holds a MultiTaskEstimator, not a MultiTaskRegressor"):
        MultiTaskRegressor.load(folder)
    path = folder / "preparation.json"
    path.write_text(path.read_text().replace("colour", "color"))
    with pytest.raises(DamagedError, match=r"preparation\.json \(altered\)"):
        MultiTaskEstimator.load(folder)
    with pytest.raises(DamagedError, match="holds no estimator"):
        MultiTaskEstimator.load(tmp_path)


def test_settings_are_plain_data():
    famo = plait.resolve("balancing", {"famo": {"rate": 0.05}})
    given = {"balancing": famo, "n": np.int64(3), "random": np.random.RandomState(0)}
    assert plain(given) == {"balancing": {"famo": {"rate": 0.05}}, "n": 3, "random": None}
