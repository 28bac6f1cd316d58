from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from plait.data import DataError, DataSpec, TableSpec, TaskSpec, load
from plait.data.columns import table_of

N = 200
RNG = np.random.default_rng(0)
WORDS = np.array(["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"])


def frame():
    return pl.DataFrame(
        {
            "age": RNG.normal(size=N),
            "count": RNG.integers(0, 90, N),
            "flag": RNG.random(N) < 0.5,
            "colour": RNG.choice(["red", "green", "blue"], N),
            "zip_code": RNG.integers(0, 9, N),
            "customer_id": np.arange(N),
            "uuid": [f"u{i}" for i in range(N)],
            "note": [" ".join(RNG.choice(WORDS, 8)) + f" {i}" for i in range(N)],
            "smiles": ["".join(RNG.choice(list("CNO=()"), 20)) + str(i) for i in range(N)],
            "same": ["x"] * N,
            "nothing": pl.Series([None] * N, dtype=pl.Float64),
            "vector": [[1.0, float(i)] for i in range(N)],
            "day": pl.date_range(pl.date(2020, 1, 1), pl.date(2020, 7, 18), eager=True),
            "y": RNG.integers(0, 2, N),
        }
    )


def made(table, **spec):
    data = DataSpec(tables={"t": TableSpec(source=table, **spec)})
    return load(data, {"y": TaskSpec()})


def test_types_are_inferred_from_names_and_values():
    found = {column.role: column.type for column in made(frame()).columns}
    assert found == {
        "age": "numeric", "count": "numeric", "flag": "numeric", "colour": "categorical",
        "zip_code": "categorical", "customer_id": "ignored", "uuid": "ignored", "note": "text",
        "smiles": "text", "same": "ignored", "nothing": "ignored", "vector": "vector",
        "day": "numeric",
    }  # fmt: skip


def test_declared_types_override_and_ignored_columns_are_left_out():
    dataset = made(
        frame(), types={"count": "categorical", "colour": "text", "age": "ignored"}, ignore=["z*"]
    )
    found = {column.role: (column.type, column.reason) for column in dataset.columns}
    assert found["count"] == ("categorical", "declared")
    assert found["colour"][0] == "text"
    assert found["age"][0] == "ignored"
    assert "zip_code" not in found
    assert "text.colour" in dataset.inputs


def test_the_table_of_columns_is_readable():
    shown = table_of(made(frame()).columns).splitlines()
    assert shown[0].split() == ["column", "type", "because"]
    assert any(line.startswith("colour") and "3 values" in line for line in shown)


def test_only_the_target_is_mandatory():
    dataset = made(pl.DataFrame({"x": np.arange(50.0), "y": [0, 1] * 25}))
    assert list(dataset.inputs) == ["numeric"]


def test_mistakes_name_the_nearest_valid_word():
    for spec, said in (
        ({"types": {"aeg": "numeric"}}, "no column or role 'aeg'; did you mean 'age'"),
        ({"types": {"age": "numerik"}}, "no type 'numerik' for 'age'; did you mean 'numeric'"),
        ({"types": {"vector": "text"}}, "'vector' cannot be text"),
        ({"ignore": ["agee"]}, "no column 'agee' for ignore; did you mean 'age'"),
        ({"inputs": {"a": "agee"}}, "no column 'agee' for input 'a'; did you mean 'age'"),
        ({"inputs": {"a": "y"}}, "'y' is a target, so it cannot be an input"),
    ):
        with pytest.raises(DataError, match=said):
            made(frame(), **spec)


def test_a_table_without_inputs_is_refused():
    with pytest.raises(DataError, match="no column is left as an input"):
        made(pl.DataFrame({"same": [1] * 50, "y": [0, 1] * 25}))


def test_roles_take_lists_patterns_and_names():
    table = frame().with_columns(a0=pl.lit(1.5) * pl.col("age"), a1=pl.col("age") ** 2)
    dataset = made(table, inputs={"signal": "a?", "story": ["note", "colour"]})
    assert dataset.preparation.roles["t"] == {
        "signal[0]": ("a0",), "signal[1]": ("a1",), "story": ("note", "colour"),
    }  # fmt: skip
    assert list(made(table, inputs=["age", "note"]).preparation.roles["t"]) == ["age", "note"]


def test_paths_of_images_ask_to_be_declared():
    table = pl.DataFrame({"file": [f"{i}.png" for i in range(50)], "y": [0, 1] * 25})
    with pytest.raises(DataError, match=r"declare types: \{file: image\}"):
        made(table)
