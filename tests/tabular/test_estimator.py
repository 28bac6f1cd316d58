from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_multilabel_classification
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_estimator,
    parametrize_with_checks,
)
from tabular_toys import QUICK
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import plait
from plait.method import MethodError
from plait.tabular import MultiTaskClassifier, MultiTaskEstimator, MultiTaskRegressor
from plait.training.trackers import TensorBoard

FACES = (MultiTaskEstimator, MultiTaskClassifier, MultiTaskRegressor)
EXCEPTIONS = {
    "check_sample_weight_equivalence_on_dense_data": (
        "rows are drawn into batches, so a row twice is not a row of weight two; it is expected of "
        "scikit-learn's own estimators that learn by batches"
    )
}


@parametrize_with_checks(
    [face(**QUICK) for face in FACES], expected_failed_checks=lambda _: EXCEPTIONS
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize("face", FACES)
def test_scikit_learns_checks_with_the_defaults(face):
    check_estimator(face(), expected_failed_checks=EXCEPTIONS)


@pytest.mark.parametrize("face", FACES)
def test_columns_keep_their_names_and_places(face, quick):
    check_dataframe_column_names_consistency(face.__name__, face(**quick))


def test_each_face_says_what_it_is():
    assert is_classifier(MultiTaskClassifier())
    assert is_regressor(MultiTaskRegressor())
    assert not is_classifier(MultiTaskEstimator())
    assert not is_regressor(MultiTaskEstimator())
    assert plait.MultiTaskEstimator is MultiTaskEstimator


def test_mixed_kinds_with_missing_labels_in_a_frame(fruit, quick):
    found = MultiTaskEstimator(**quick).fit(fruit.X, fruit.Y)
    assert {task.name: task.kind for task in found.tasks_} == {
        "ripe": "binary", "price": "real", "stars": "classes",
    }  # fmt: skip
    said = found.predict(fruit.X)
    assert isinstance(said, pl.DataFrame)
    assert dict(said.schema) == {"ripe": pl.Boolean, "price": pl.Float64, "stars": pl.String}
    assert said.null_count().sum_horizontal().item() == 0
    assert found.score(fruit.X, fruit.Y) > 0.8
    assert list(found.feature_names_in_) == fruit.X.columns
    ripe, price, stars = found.classes_
    assert ripe.tolist() == [False, True]
    assert price is None
    assert stars.tolist() == ["low", "mid", "top"]
    proba = found.predict_proba(fruit.X)
    assert proba[1] is None
    assert proba[2].shape == (len(fruit.X), 3)
    assert (stars[proba[2].argmax(1)] == said["stars"].to_numpy()).all()


def test_pandas_in_pandas_out_with_its_index(fruit, quick):
    X, Y = fruit.X.to_pandas(), fruit.Y.to_pandas()
    X.index = Y.index = [f"row{i}" for i in range(len(X))]
    found = MultiTaskEstimator(**quick).fit(X, Y)
    said = found.predict(X.iloc[5:9])
    assert isinstance(said, pd.DataFrame)
    assert list(said.index) == ["row5", "row6", "row7", "row8"]
    assert list(said.columns) == ["ripe", "price", "stars"]
    same = MultiTaskEstimator(**quick).fit(fruit.X, fruit.Y).predict(fruit.X[5:9])
    np.testing.assert_allclose(said["price"], same["price"], rtol=1e-12)
    one = MultiTaskEstimator(**quick).fit(X, Y["price"]).predict(X)
    assert isinstance(one, pd.Series)
    assert (one.name, one.index[0]) == ("price", "row0")
    categories = Y["stars"].astype("category")
    assert MultiTaskClassifier(**quick).fit(X, categories).predict(X).dtype == "category"


def test_a_series_and_an_array_of_words_come_back_as_they_came(fruit, quick):
    stars = fruit.Y["stars"].drop_nulls()
    X = fruit.X.filter(fruit.Y["stars"].is_not_null())
    said = MultiTaskClassifier(**quick).fit(X, stars).predict(X)
    assert isinstance(said, pl.Series)
    assert said.name == "stars"
    assert said.dtype == pl.String
    words = stars.to_numpy().astype(str)
    array = MultiTaskClassifier(**quick).fit(X, words)
    assert array.classes_.dtype.kind == "U"
    assert array.predict(X).dtype.kind == "U"


def test_a_missing_label_is_as_good_as_a_row_without_it(quick):
    """Where one task's label is missing, the other learns the same as from full rows."""
    random = np.random.default_rng(0)
    X = random.normal(size=(60, 3))
    Y = np.column_stack([X[:, 0], 5.0 * X[:, 1]])
    Y[:, 1][20:] = np.nan
    objects = Y.astype(object)
    objects[20:, 1] = None
    one = MultiTaskRegressor(**quick).fit(X, Y).predict(X)
    two = MultiTaskRegressor(**quick).fit(X, objects).predict(X)
    assert one.dtype == float
    np.testing.assert_array_equal(one, two.astype(float))


def test_weights_count(quick):
    """A class that is weighed down is predicted less."""
    random = np.random.default_rng(0)
    X, y = random.normal(size=(100, 2)), np.arange(100) % 2
    weight = np.where(y == 1, 20.0, 1.0)
    plainly = MultiTaskClassifier(**quick).fit(X, y).predict_proba(X)[:, 1].mean()
    weighed = MultiTaskClassifier(**quick).fit(X, y, sample_weight=weight).predict_proba(X)
    assert weighed[:, 1].mean() > plainly + 0.2
    nothing = np.where(np.arange(100) < 60, 1.0, 0.0)
    one = MultiTaskClassifier(**quick).fit(X, y, sample_weight=nothing).predict_proba(X)
    two = MultiTaskClassifier(**quick).fit(X[:60], y[:60], np.ones(60)).predict_proba(X)
    np.testing.assert_array_equal(one, two)


def test_in_a_pipeline_with_a_column_transformer(fruit, quick):
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["size", "weight"]),
            ("words", OneHotEncoder(sparse_output=False), ["colour"]),
        ]
    )
    X, Y = fruit.X.to_pandas(), fruit.Y.to_pandas()
    pipeline = make_pipeline(columns, MultiTaskEstimator(**quick)).fit(X, Y)
    assert pipeline.predict(X).shape == (len(X), 3)
    assert pipeline.score(X, Y) > 0.8


def test_grid_search_and_cross_validation(quick):
    X, Y = make_multilabel_classification(80, 5, n_classes=3, random_state=0)
    Y = pd.DataFrame(Y, columns=["a", "b", "c"])
    scores = cross_val_score(MultiTaskClassifier(**quick), X, Y, cv=2)
    assert scores.shape == (2,)
    assert (scores > 0.5).all()
    grid = {"sharing": ["hard", {"mmoe": {"experts": 2, "width": 8}}], "balancing": ["pcgrad"]}
    search = GridSearchCV(
        MultiTaskClassifier(**quick), grid, cv=2, scoring="roc_auc", error_score="raise"
    ).fit(X, Y)
    assert search.best_score_ > 0.5
    assert search.best_estimator_.network_.config["sharing"] in (
        "hard", {"mmoe": {"experts": 2, "width": 8}},
    )  # fmt: skip
    assert cross_val_predict(MultiTaskClassifier(**quick), X, Y, cv=2).shape == (80, 3)


def test_methods_of_plait_are_settings(quick):
    X = np.random.default_rng(0).normal(size=(40, 3))
    balancer = plait.resolve("balancing", "uncertainty")
    found = clone(MultiTaskEstimator(**quick, balancing=balancer, procedure="task_sam"))
    found.fit(X, X[:, :2] > 0)
    assert found.predict(X).dtype == bool
    assert found.get_params()["balancing"].card.name == "uncertainty"


def test_trackers_are_observers(quick, tmp_path):
    X = np.random.default_rng(0).normal(size=(40, 3))
    board = TensorBoard(tmp_path, every=1)
    MultiTaskRegressor(**quick, balancing="pcgrad", observers=[board]).fit(X, X[:, :2])
    found = EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"]
    assert {"loss/y0", "weight/y1", "conflict/cosine"} <= set(found)


def test_observers_watch_the_training(quick):
    seen = []
    X = np.random.default_rng(0).normal(size=(40, 3))
    watched = MultiTaskRegressor(**quick, observers=[lambda problem, _: seen.append(problem.step)])
    watched.fit(X, X[:, :2])
    assert seen == list(range(watched.run_.step))


def test_pickles_predict_the_same(fruit, quick):
    found = MultiTaskEstimator(**quick).fit(fruit.X, fruit.Y)
    again = pickle.loads(pickle.dumps(found))
    assert again.predict(fruit.X).equals(found.predict(fruit.X))


def test_a_refit_forgets(fruit, quick):
    found = MultiTaskEstimator(**quick).fit(fruit.X, fruit.Y)
    known = fruit.Y["price"].is_not_null()
    found.fit(fruit.X.filter(known), fruit.Y["price"].filter(known))
    assert not hasattr(found, "classes_")
    assert not hasattr(found, "predict_proba")
    assert not hasattr(MultiTaskRegressor(), "predict_proba")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_fraction": 1.0}, "from 0 to below 1, got 1.0"),
        ({"passes": 0}, "passes must be at least 1"),
        ({"training": {"clop": 1}}, "no setting 'clop'.*clip"),
        ({"training": {"learning_rate": 1}}, "give learning_rate=… instead"),
        ({"tasks": {"yy": "real"}}, "tasks: y has no column 'yy'"),
        ({"tasks": {"y": {"kindd": "real"}}}, "'y' has no setting 'kindd'.*kind"),
        ({"types": {"x9": "text"}}, "no column or role 'x9'"),
    ],
)
def test_faulty_settings_are_refused_in_one_sentence(settings, message):
    X = np.random.default_rng(0).normal(size=(20, 2))
    with pytest.raises(ValueError, match=message):
        MultiTaskEstimator(**settings).fit(X, pd.Series(X[:, 0] > 0, name="y"))


def test_unknown_methods_are_refused_with_the_nearest_name():
    X = np.random.default_rng(0).normal(size=(20, 2))
    with pytest.raises(MethodError, match="pcgrad"):
        MultiTaskEstimator(balancing="pcgrd").fit(X, X)


def test_faulty_data_is_refused_in_one_sentence(fruit):
    X = np.random.default_rng(0).normal(size=(20, 2))
    with pytest.raises(ValueError, match="20 samples and y has 19"):
        MultiTaskRegressor().fit(X, X[:19])
    with pytest.raises(ValueError, match="sample_weight must be finite"):
        MultiTaskRegressor().fit(X, X, sample_weight=-np.ones(20))
    with pytest.raises(ValueError, match="give a DataFrame"):
        MultiTaskEstimator().fit(fruit.X.to_numpy(), fruit.Y)
    found = MultiTaskRegressor(passes=1).fit(X, X)
    with pytest.raises(ValueError, match="y has 1 columns for 2 tasks: y0, y1"):
        found.score(X, X[:, 0])
    with pytest.raises(ValueError, match="one column for each task"):
        found.score(X, X[:19])
