from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from tabular_toys import QUICK


@pytest.fixture
def quick() -> dict:
    """Settings of a network that learns easy tables in a moment."""
    return dict(QUICK)


@pytest.fixture
def fruit() -> SimpleNamespace:
    """A polars table with words and gaps, and labels of three kinds, a third of them missing."""
    random = np.random.default_rng(0)
    rows = 240
    x = random.normal(size=(rows, 2))
    colour = random.choice(["red", "green", "blue"], rows)
    X = pl.DataFrame({"size": x[:, 0], "weight": x[:, 1], "colour": colour})
    X = X.with_columns(size=pl.when(pl.int_range(rows) % 7 > 0).then("size"))
    Y = pl.DataFrame({
        "ripe": x[:, 1] > 0,
        "price": 10 + 3 * x[:, 1],
        "stars": np.where(colour == "red", "low", np.where(x[:, 1] > 0, "mid", "top")),
    })  # fmt: skip
    gaps = random.random((rows, 3)) < 1 / 3
    Y = Y.select(
        pl.when(pl.Series(~gaps[:, i])).then(name).alias(name) for i, name in enumerate(Y.columns)
    )
    return SimpleNamespace(X=X, Y=Y)
