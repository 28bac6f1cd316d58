"""Hashed ids: exact, none unknown, the same wherever they are read."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from plait.batch import Input
from plait.data import DataError, DataSpec, TableSpec, TaskSpec, load
from plait.data.preparation import Preparation
from plait.recipes import loads, write

LARGE = 2**61


def frame(users, **more):
    n = len(users)
    random = np.random.default_rng(0)
    split = ["train"] * (n - 2 * (n // 5)) + ["valid"] * (n // 5) + ["test"] * (n // 5)
    y = random.permutation(np.arange(n) % 2)
    return pl.DataFrame({"user": users, "x": random.normal(size=n), "y": y, "split": split, **more})


def loaded(source, **spec):
    table = TableSpec(source=source, types={"user": "hashed"}, **spec)
    return load(DataSpec(tables={"t": table}), {"y": TaskSpec(kind="binary")})


def codes(data):
    return data.batch(data.rows("train")).parts["x"]["hashed.user"][:, 0].numpy()


def every(data):
    (part,) = data.batch(data.split.argsort(stable=True)).parts.values()
    return part["hashed.user"][:, 0].numpy()


def by_letter(text: str) -> int:
    """The bucket's number before the remainder, letter by letter in whole numbers of Python."""
    size = 2**64
    total = sum((ord(c) + 1) * pow(0x9E3779B97F4A7C15, i, size) for i, c in enumerate(text))
    x = (total + len(text) + 0x9E3779B97F4A7C15) % size
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % size
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % size
    return x ^ (x >> 31)


def test_ids_fall_into_the_buckets_that_their_letters_say():
    users = [f"user/{n}-ü" for n in range(99)] + [None]
    data = loaded(frame(users), buckets={"user": 1000})
    wanted = [by_letter(user) % 1000 + 1 if user else 0 for user in users]
    assert every(data).tolist() == wanted
    assert data.inputs["hashed.user"] == Input(
        key="hashed.user", type="hashed", shape=(1,), sizes=(1001,)
    )


def test_large_numbers_are_told_apart_to_the_last_digit():
    data = loaded(frame([LARGE + n for n in range(200)]))
    found = every(data)
    assert found.tolist() == [by_letter(str(LARGE + n)) % 1024 + 1 for n in range(200)]
    # As floats all of them would be one.
    assert len({float(LARGE + n) for n in range(200)}) == 1


def test_more_than_ten_thousand_values_are_all_known():
    users = np.random.default_rng(0).permutation(30_000).tolist()
    data = loaded(frame(users))
    size = data.inputs["hashed.user"].sizes[0] - 1
    assert size == 2**16  # the next power of two to twice the 18,000 of the training rows
    found = every(data)
    assert found.min() > 0
    assert found.max() <= size
    expected = size * (1 - (1 - 1 / size) ** 30_000)  # buckets hit by as many fair throws
    assert len(np.unique(found)) == pytest.approx(expected, rel=0.02)
    assert loaded(frame(users), buckets={"user": 10**6}).inputs["hashed.user"].sizes == (10**6 + 1,)


def test_ids_of_a_csv_keep_their_zeros_and_models_their_buckets(tmp_path):
    users = [f"{n:05d}" for n in range(100)]
    table = frame(users)
    table.write_csv(tmp_path / "t.csv")
    from_file, from_frame = loaded(tmp_path / "t.csv"), loaded(table)
    np.testing.assert_array_equal(every(from_file), every(from_frame))
    again = Preparation.from_json(from_frame.preparation.to_json())
    assert again == from_frame.preparation


def test_rows_that_share_buckets_are_not_the_same_rows():
    table = frame(list(range(100))).with_columns(x=pl.lit(1.0), z=pl.Series([0.0, 1.0] * 50))
    data = loaded(table, buckets={"user": 1}, ignore=["x"])
    assert not [fact for fact in data.warnings if "come again" in fact or "same inputs" in fact]


@pytest.mark.parametrize(
    ("types", "buckets", "message"),
    [
        ({"user": "hashed"}, {"usr": 10}, "buckets: 'usr' is not hashed; did you mean 'user'"),
        ({}, {"user": 10}, "buckets: 'user' is not hashed; declare types: {user: hashed}"),
        ({"user": "hashed"}, {"user": 0}, "buckets of 'user' must be a whole number from 1, got 0"),
        ({"user": "hashed"}, {"user": 1e6}, "must be a whole number from 1, got 1000000.0"),
        ({"user": "hashed"}, {"user": 2**31}, "must be a whole number from 1"),
        ({"list": "hashed"}, {}, "'list' cannot be hashed"),
    ],
)
def test_what_cannot_be_hashed_is_refused(types, buckets, message):
    table = frame(["a", "b"] * 50, list=[["a"], ["b"]] * 50)
    spec = TableSpec(source=table, types=types, buckets=buckets)
    with pytest.raises(DataError, match=message.replace("{", r"\{")):
        load(DataSpec(tables={"t": spec}), {"y": TaskSpec(kind="binary")})


def test_one_role_has_one_number_of_buckets_in_all_tables():
    tables = {
        name: TableSpec(
            source=frame(["a", "b"] * 50).rename({"y": name}), types={"user": "hashed"},
            buckets={"user": count},
        )
        for name, count in (("y", 100), ("z", 200))
    }  # fmt: skip
    with pytest.raises(DataError, match="role 'user' has 100 buckets and 200"):
        load(DataSpec(tables=tables), {"y": TaskSpec(), "z": TaskSpec()})


def test_a_study_file_says_how_many():
    spec = loads("data: {table: t.csv, types: {user: hashed}, buckets: {user: 5000}}\ntasks: [y]")
    (table,) = spec.data.tables.values()
    assert (table.types, table.buckets) == ({"user": "hashed"}, {"user": 5000})
    assert loads(write(spec)).data == spec.data
