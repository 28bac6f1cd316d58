from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from plait.tabular import MultiTaskRegressor

RANDOM = np.random.default_rng(0).normal(size=(40, 2))
NAMED = pl.DataFrame(RANDOM, schema=["a", "b"])


@pytest.fixture
def fitted(quick):
    return MultiTaskRegressor(**quick).fit(NAMED, RANDOM)


@pytest.mark.parametrize("X", [NAMED, NAMED.lazy(), NAMED.to_pandas(), NAMED.to_arrow()])
def test_any_table_is_read(X, fitted, quick):
    found = MultiTaskRegressor(**quick).fit(X, RANDOM)
    assert found.n_features_in_ == 2
    np.testing.assert_allclose(found.predict(X), fitted.predict(NAMED))


def test_missing_inputs_are_welcome_and_infinite_ones_are_not(fitted):
    gaps = RANDOM.copy()
    gaps[3, 1] = np.nan
    frame = pd.DataFrame(gaps, columns=["a", "b"])
    assert np.isfinite(fitted.predict(frame)).all()
    frame.loc[3, "b"] = np.inf
    with pytest.raises(ValueError, match="X, row 4: column 'b' holds an infinite value"):
        fitted.predict(frame)


def test_other_columns_than_in_fit_are_refused(fitted):
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(NAMED.rename({"a": "c"}))
    with pytest.raises(ValueError, match="same order"):
        fitted.predict(NAMED.select("b", "a"))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        said = fitted.predict(RANDOM)
    np.testing.assert_array_equal(said, fitted.predict(NAMED))


def test_a_row_is_read_the_same_alone(fitted):
    """What is said of a row does not depend on the rows beside it."""
    whole = fitted.predict(NAMED)
    one = np.concatenate([fitted.predict(NAMED[i]) for i in range(len(NAMED))])
    np.testing.assert_allclose(one, whole, rtol=1e-12)
    assert isinstance(fitted.predict(pa.table({"a": [0.0], "b": [1.0]})), np.ndarray)


def test_too_few_rows_are_refused(quick):
    with pytest.raises(ValueError, match=r"1 sample\(s\)"):
        MultiTaskRegressor(**quick).fit(NAMED[:1], RANDOM[:1])
