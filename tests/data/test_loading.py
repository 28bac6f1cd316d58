from __future__ import annotations

import gc
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch

from plait.data import DataError, DataSpec, TableSpec, TaskSpec, load

N = 5000


def frame(n=N):
    random = np.random.default_rng(0)
    columns = {f"x{i}": random.normal(size=n) for i in range(8)}
    return pl.DataFrame(
        {
            **columns,
            "word": random.choice(["a", "b", "c"], n),
            "note": [f"note number {i % 97}" for i in range(n)],
            "y": random.integers(0, 2, n),
        }
    )


def test_inputs_in_files_are_those_in_memory_and_leave_nothing_behind(tmp_path):
    frame().write_parquet(tmp_path / "t.parquet")
    data = DataSpec(tables={"t": TableSpec(source=tmp_path / "t.parquet", types={"note": "text"})})
    cache = tmp_path / "cache"
    held = load(data, {"y": TaskSpec()})
    filed = load(data, {"y": TaskSpec()}, memory=1000, cache=cache)
    assert len(list(cache.iterdir())) == 1
    assert filed.fingerprint == held.fingerprint
    rows = torch.tensor([4999, 3, 77])
    (one,), (other,) = held.batch(rows).parts.values(), filed.batch(rows).parts.values()
    assert set(one) == {"numeric", "categorical", "text.note"}
    assert all(torch.equal(one[key], other[key]) for key in one)
    wide = filed.extra_inputs({"features.note": torch.zeros(N, 2)})
    del filed
    gc.collect()
    assert wide.batch(rows).parts
    del wide, other
    gc.collect()
    assert list(cache.iterdir()) == []


def test_a_failed_load_leaves_no_files(tmp_path):
    table = frame(100).with_columns(
        x0=pl.when(pl.int_range(100) == 99).then(np.inf).otherwise("x0")
    )
    table = table.with_columns(split=pl.Series(["train"] * 90 + ["valid"] * 5 + ["test"] * 5))
    data = DataSpec(tables={"t": TableSpec(source=table)})
    with pytest.raises(DataError, match="row 100: 'x0' is inf"):
        load(data, {"y": TaskSpec()}, memory=10, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


MEASURE = """
import resource, sys
from plait.data import DataSpec, Rows, TableSpec, TaskSpec, load
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
load(DataSpec(tables={"t": TableSpec(source=sys.argv[2])}), {"y": TaskSpec()})
before = peak()
data = load(DataSpec(tables={"t": TableSpec(source=sys.argv[1])}), {"y": TaskSpec()}, memory=0)
assert Rows(data, batch=256, seed=0).batch(0).parts
print(len(data), peak() - before)
"""


def test_a_large_table_is_read_in_bounded_memory(tmp_path):
    random = np.random.default_rng(0)
    block = {f"x{i}": random.normal(size=30_000) for i in range(150)}
    first = tmp_path / "large-0.parquet"
    table = pl.DataFrame({**block, "y": random.integers(0, 2, 30_000)})
    table.write_parquet(first, compression="uncompressed", row_group_size=3_000)
    table.head(500).write_parquet(tmp_path / "few.parquet")
    for number in range(1, 16):
        (tmp_path / f"large-{number}.parquet").hardlink_to(first)
    size = 16 * first.stat().st_size
    paths = [str(tmp_path / name) for name in ("large-*.parquet", "few.parquet")]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths],
        capture_output=True, text=True, env={**os.environ, "POLARS_MAX_THREADS": "2"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows, grown = map(int, done.stdout.split())
    assert rows == 480_000
    # In memory the inputs alone would take half as much as the files, twice while they are joined.
    assert grown < 0.6 * size, f"{grown / 1e6:.0f} MB for {size / 1e6:.0f} MB of files"


def test_declarations_that_match_nothing_are_refused():
    source = frame(50)
    for tables, tasks, said in (
        ({}, {"y": TaskSpec()}, "no tables are declared"),
        ({"t": TableSpec(source=source)}, {}, "no tasks are declared"),
        (
            {"t": TableSpec(source="nowhere.parquet")},
            {"y": TaskSpec()},
            "no file 'nowhere.parquet'",
        ),
    ):
        with pytest.raises(DataError, match=said):
            load(DataSpec(tables=tables), tasks)
    with pytest.raises(DataError, match="no encoder 'bagg'; did you mean 'bag'"):
        load(DataSpec(tables={"t": TableSpec(source=source)}), {"y": TaskSpec()}, text={"bagg": {}})


def test_two_tasks_of_one_name_are_refused():
    data = DataSpec(tables={"t": TableSpec(source=frame(50))})
    with pytest.raises(DataError, match="two tasks are called 'y'"):
        load(data, {"y": TaskSpec(), "all": TaskSpec(columns="y*")})
