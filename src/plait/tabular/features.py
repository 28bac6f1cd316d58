"""Inputs in whatever they came in, checked as scikit-learn checks them, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from polars import selectors
from sklearn.utils.validation import validate_data

from plait.data.errors import DataError
from plait.data.sources import read
from plait.tabular.form import is_frame


def inputs_of(estimator: Any, X: Any, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The inputs as a table; ``columns`` are the names they had in ``fit`` (None: this is fit).

    An array holds numbers, and its columns are called x0, x1, …; a frame may hold anything a study
    reads. Missing values are nulls. Raises ``ValueError`` and ``TypeError`` as scikit-learn does.
    """
    fitting = columns is None
    least = 2 if fitting else 1
    if is_frame(X):
        frame = X.collect() if isinstance(X, pl.LazyFrame) else X
        validate_data(estimator, frame, reset=fitting, skip_check_array=True)
        if len(frame) < least:
            raise ValueError(f"Found array with {len(frame)} sample(s) while {least} are required.")
        table = read(frame, "X")
        found = table.collect(list(table.schema))
        names = found.columns
        _finite(found)
    else:
        array = _checked(estimator, X, fitting=fitting, least=least)
        names = [f"x{place}" for place in range(array.shape[1])]
        found = pl.DataFrame(array, schema=names)
        if array.dtype.kind == "f":
            found = found.fill_nan(None)
    # After validation the columns stand where they stood in fit, whatever they are called now.
    return found.rename(dict(zip(names, names if columns is None else columns, strict=True)))


def _checked(estimator: Any, X: Any, *, fitting: bool, least: int) -> Any:
    try:
        return validate_data(
            estimator,
            X,
            reset=fitting,
            dtype="numeric",
            ensure_all_finite="allow-nan",
            ensure_min_samples=least,
        )
    except ValueError as error:
        if "could not convert string" in str(error):
            raise ValueError(
                f"X is an array that holds text ({error}); give a DataFrame, whose columns may be "
                "text and categories"
            ) from error
        raise


def _finite(frame: pl.DataFrame) -> None:
    for column in frame.select(selectors.float()):
        wrong = column.is_infinite().fill_null(value=False)
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            raise DataError(f"X, row {row + 1}: column {column.name!r} holds an infinite value")
