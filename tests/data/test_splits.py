from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from plait.data import DataError, DataSpec, SplitSpec, TableSpec, TaskSpec, load

N = 1000
RNG = np.random.default_rng(0)


def frame(n=N):
    random = np.random.default_rng(1)
    return pl.DataFrame(
        {
            "name": [f"m{i}" for i in range(n)],
            "x": random.normal(size=n),
            "user": random.integers(0, 60, n),
            "day": random.integers(0, 100, n),
            "rare": np.where(np.arange(n) % 100 == 0, "r", "c"),
            "y": random.integers(0, 2, n),
        }
    )


def split_of(table, split=None, **data):
    spec = DataSpec(tables={"t": TableSpec(source=table)}, split=split, **data)
    return load(spec, {"y": TaskSpec()})


def shares(dataset):
    return [float((dataset.split == part).float().mean()) for part in range(3)]


def test_a_random_split_meets_its_fractions_and_repeats_by_seed():
    one, again, other = (split_of(frame(), SplitSpec(seed=seed)) for seed in (0, 0, 1))
    assert shares(one) == pytest.approx([0.8, 0.1, 0.1])
    assert one.split.equal(again.split)
    assert not one.split.equal(other.split)


def test_with_ids_the_split_of_a_row_does_not_depend_on_its_place():
    table = frame()
    shuffled = table.sample(fraction=1, shuffle=True, seed=3)
    one, other = split_of(table, id="name"), split_of(shuffled, id="name")
    assert dict(zip(one.ids, one.split.tolist(), strict=True)) == dict(
        zip(other.ids, other.split.tolist(), strict=True)
    )
    assert shares(one) == pytest.approx([0.8, 0.1, 0.1])


def test_ids_keep_to_one_part_in_every_table():
    table = frame()
    data = DataSpec(
        tables={"a": TableSpec(source=table), "b": TableSpec(source=table.reverse().drop("rare"))},
        id="name",
    )
    dataset = load(data, {"y": TaskSpec(table="a"), "z": TaskSpec(table="b", target="y")})
    parts = {}
    for name, part in zip(dataset.ids, dataset.split.tolist(), strict=True):
        parts.setdefault(name, set()).add(part)
    assert all(len(found) == 1 for found in parts.values())


def test_a_stratified_split_gives_every_value_its_share():
    dataset = split_of(frame(), SplitSpec(kind="stratified", by="rare"))
    rare = np.arange(N) % 100 == 0
    counts = np.bincount(dataset.split.numpy()[rare], minlength=3)
    assert counts.tolist() == [8, 1, 1]
    single = frame().with_columns(rare=pl.int_range(N).cast(pl.String))
    assert (split_of(single, SplitSpec(kind="stratified", by="rare")).split == 0).all()


def test_a_grouped_split_never_cuts_a_group():
    table = frame()
    dataset = split_of(table, SplitSpec(kind="grouped", by="user"))
    frame_ = table.with_columns(part=dataset.split.numpy())
    assert frame_.group_by("user").agg(pl.col("part").n_unique())["part"].max() == 1
    assert shares(dataset) == pytest.approx([0.8, 0.1, 0.1], abs=0.04)
    assert "user" not in dataset.preparation.roles["t"]


def test_three_groups_fill_three_parts():
    table = frame(30).with_columns(user=pl.int_range(30) % 3)
    dataset = split_of(table, SplitSpec(kind="grouped", by="user"))
    assert sorted(set(dataset.split.tolist())) == [0, 1, 2]


def test_a_time_split_trains_on_the_past_and_cuts_no_moment():
    table = frame()
    dataset = split_of(table, SplitSpec(kind="time", by="day"))
    day, part = table["day"].to_numpy(), dataset.split.numpy()
    assert (
        day[part == 0].max() < day[part == 1].min() <= day[part == 1].max() < day[part == 2].min()
    )
    assert shares(dataset) == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_a_column_named_split_is_used_however_it_is_spelled():
    words = ["Training", "val", "TEST", "dev", "train", None] * 10
    table = frame(60).with_columns(split=pl.Series(words))
    dataset = split_of(table)
    assert dataset.split.tolist() == [0, 1, 2, 1, 0, -1] * 10
    assert "split by column 'split'" in dataset.facts[0]


def test_own_words_for_the_parts():
    table = frame(60).with_columns(fold=pl.Series(["1", "2", "3"] * 20))
    names = {"1": "train", "2": "valid", "3": "test"}
    dataset = split_of(table, SplitSpec(kind="column", by="fold", names=names))
    assert dataset.split.tolist() == [0, 1, 2] * 20
    with pytest.raises(DataError, match="row 1: split '1' is not train, valid or test"):
        split_of(table, SplitSpec(kind="column", by="fold"))


def test_without_valid_rows_some_of_train_are_taken_and_it_is_said():
    table = frame(100).with_columns(split=pl.Series((["train"] * 4 + ["test"]) * 20))
    dataset = split_of(table)
    assert int((dataset.split == 1).sum()) == 8
    assert int((dataset.split == 2).sum()) == 20
    assert "no valid rows, so 10% of the train rows were taken" in dataset.facts[0]


def test_what_cannot_be_split_is_refused():
    table = frame()
    holes = table.with_columns(day=pl.when(pl.col("day") > 5).then("day"))
    no_train = frame(20).with_columns(split=pl.lit("test"))
    for source, split, said in (
        (
            table,
            SplitSpec(kind="time", by="dai"),
            "no column 'dai' for the split; did you mean 'day'",
        ),
        (table, SplitSpec(kind="grouped"), "a grouped split needs a column: by"),
        (table, SplitSpec(fractions=(0.5, 0.1, 0.1)), "must be positive and sum to 1"),
        (holes, SplitSpec(kind="time", by="day"), "'day' is missing"),
        (holes, SplitSpec(kind="grouped", by="day"), "'day' is missing"),
        (no_train, None, "no training rows"),
    ):
        with pytest.raises(DataError, match=said):
            split_of(source, split)


def test_a_sample_keeps_a_share_of_the_same_rows_each_time():
    spec = DataSpec(tables={"t": TableSpec(source=frame())}, id="name")
    one, again = (load(spec, {"y": TaskSpec()}, sample=0.1) for _ in range(2))
    whole = load(spec, {"y": TaskSpec()})
    assert len(one) == 100
    assert one.ids.tolist() == again.ids.tolist()
    part = dict(zip(whole.ids, whole.split.tolist(), strict=True))
    assert all(
        part[name] == number for name, number in zip(one.ids, one.split.tolist(), strict=True)
    )


def test_bootstrap_units_are_rows_or_the_values_of_a_column():
    assert split_of(frame()).units.tolist() == list(range(N))
    dataset = split_of(frame(), intervals="user")
    user = frame()["user"].to_numpy()
    assert len(set(zip(user.tolist(), dataset.units.tolist(), strict=True))) == len(
        set(user.tolist())
    )
