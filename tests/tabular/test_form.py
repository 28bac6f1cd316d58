from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest

from plait.tabular.form import Form, columns_of

NAN = float("nan")


def told(y, names=None):
    """The columns as plain lists, and the form."""
    form, frame = columns_of(y, names)
    return form, {name: frame[name].to_list() for name in frame.columns}


@pytest.mark.parametrize(
    "y",
    [
        np.array([1.0, NAN, 3.0]),
        np.array([1, None, 3], dtype=object),
        [1.0, None, 3.0],
        pd.Series([1.0, None, 3.0]),
        pl.Series([1.0, None, 3.0]),
        pl.Series("", [1.0, NAN, 3.0]),
    ],
)
def test_one_missing_label_however_it_is_spelled(y):
    form, columns = told(y)
    assert form.flat
    assert columns == {"y": [1.0, None, 3.0]}


def test_columns_of_arrays_are_numbered_or_named():
    assert told(np.zeros((2, 2)))[0].names == ("y0", "y1")
    assert told(np.zeros((2, 1)))[0].names == ("y",)
    assert told(np.zeros((2, 2)), ("a", "b"))[0].names == ("a", "b")
    with pytest.raises(ValueError, match="y has 2 columns for 1 tasks: a"):
        columns_of(np.zeros((2, 2)), ("a",))


def test_columns_of_objects_have_types_of_their_own():
    _, columns = told(np.array([["a", 1, True], [None, 2.5, False]], dtype=object))
    assert columns == {"y0": ["a", None], "y1": [1.0, 2.5], "y2": [True, False]}


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "target y is None"),
        (np.zeros((2, 2, 2)), "y should be a 1d array or a table"),
        (np.array([1, "a"], dtype=object), "'y' mixes values of several types: int, str"),
        (np.array([{}, {}]), "'y' mixes values of several types: dict"),
        ([[1, 2], [3]], "differ in length"),
        (np.array(["2020-01-01"], dtype="M8[D]"), r"datetime64\[D\] values"),
        (np.array([1j]), "Complex data not supported"),
    ],
)
def test_what_is_no_target_is_refused(y, message):
    with pytest.raises(ValueError, match=message):
        columns_of(y)


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.array([1, 0], dtype=np.int32), ["0", "1"]),
        (np.array([1.5, -2.0, NAN]), ["-2", "1.5"]),
        (np.array([True, False]), ["false", "true"]),
        (np.array(["b", "a"]), ["a", "b"]),
        (np.array(["b", None], dtype=object), ["a", "b"]),
    ],
)
def test_labels_are_values_of_the_array(y, classes):
    form, _ = columns_of(y)
    labels = form.labels(0, classes)
    assert labels.dtype == y.dtype
    assert set(labels) >= {value for value in y.tolist() if value in labels.tolist()}
    assert len(labels) == 2


def test_words_beside_numbers_make_objects():
    form, _ = columns_of(np.array([["a", 1.0], ["b", 2.0]], dtype=object))
    words = np.array(["a", "b"], dtype=object)
    given = form.give([words, np.array([0.5, 1.5])], [words, None], None)
    assert given.tolist() == [["a", 0.5], ["b", 1.5]]
    form, _ = columns_of(np.array([[0, 1.0], [1, 2.0]]))
    mixed = form.give([np.array([0, 1]), np.array([0.5, 1.5])], [np.array([0, 1]), None], None)
    assert mixed.dtype == float


def test_frames_keep_the_types_of_classes_and_give_amounts_as_numbers():
    y = pl.DataFrame({
        "n": pl.Series([0, 1], dtype=pl.Int8),
        "w": pl.Series(["a", "b"], dtype=pl.Categorical),
        "x": pl.Series([1, 2], dtype=pl.Int64),
    })  # fmt: skip
    form, frame = columns_of(y)
    assert frame["w"].dtype == pl.String
    labels = [form.labels(0, ["0", "1"]), form.labels(1, ["a", "b"]), None]
    given = form.give([labels[0], labels[1], np.array([1.5, 2.5])], labels, None)
    assert dict(given.schema) == {"n": pl.Int8, "w": pl.String, "x": pl.Float64}


def test_a_form_is_plain_data():
    for y in (np.zeros((2, 2)), pd.DataFrame({"a": ["x", "y"]}), pl.Series("b", [True, False])):
        form, _ = columns_of(y)
        assert Form.from_json(form.to_json()) == form
