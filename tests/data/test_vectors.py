from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from plait.data import DataError, DataSpec, Preparation, TableSpec, TaskSpec, load

N = 60
SPLIT = (["train"] * 4 + ["valid", "test"]) * (N // 6)
VECTORS = np.round(np.random.default_rng(0).normal(size=(N, 3)), 3)
TAGS = [["a", "b"][: row % 3] + (["rare"] if row == 5 else []) for row in range(N)]


def dataset(source, **types):
    spec = TableSpec(source=source, types=types)
    return load(DataSpec(tables={"t": spec}), {"y": TaskSpec()})


def frame(**more):
    return pl.DataFrame({"y": np.arange(N) // 2 % 2, "split": SPLIT, **more})


@pytest.mark.parametrize("form", ["[{}]", "{}", "({})"])
@pytest.mark.parametrize("between", [", ", ";", "|", " "])
def test_vectors_written_in_a_csv_are_read(form, between, tmp_path):
    words = [form.format(between.join(map(str, row))) for row in VECTORS.tolist()]
    path = tmp_path / "t.csv"
    frame(v=words).write_csv(path)
    rows = dataset(path, v="vector").batch(torch.arange(N)).parts["vector.v"]["vector.v"]
    assert np.allclose(rows.numpy(), VECTORS)


@pytest.mark.parametrize("dtype", [pl.List(pl.Float64), pl.Array(pl.Float64, 3)])
def test_columns_of_numbers_are_vectors_unasked(dtype, tmp_path):
    path = tmp_path / "t.parquet"
    frame(v=pl.Series(VECTORS.tolist(), dtype=dtype)).write_parquet(path)
    found = dataset(path)
    assert found.inputs["vector.v"].shape == (3,)
    assert np.allclose(found.batch(torch.arange(N)).parts["vector.v"]["vector.v"].numpy(), VECTORS)


def items(found):
    part = next(iter(found.batch(torch.arange(N)).parts.values()))["list.tags"]
    values = found.preparation.encodings[-1].values
    return [sorted(values[code - 1] for code in row if code) for row in part.tolist()]


def test_lists_of_words_are_items_and_unknown_ones_are_left_out(tmp_path):
    wanted = [[tag for tag in tags if tag != "rare"] for tags in TAGS]  # row 5 is a test row
    assert items(dataset(frame(tags=TAGS))) == wanted
    path = tmp_path / "t.csv"
    frame(tags=["|".join(tags) for tags in TAGS]).write_csv(path)
    assert items(dataset(path, tags="list")) == wanted


def test_what_lists_taught_survives_json():
    preparation = dataset(frame(tags=TAGS)).preparation
    again = Preparation.from_json(preparation.to_json())
    rows = pl.DataFrame({"tags": [["b", "new"], [], None]}, schema={"tags": pl.List(pl.String)})
    part = again.encode(rows)["list.tags"]
    assert torch.equal(part, preparation.encode(rows)["list.tags"])
    assert (part > 0).sum(1).tolist() == [1, 0, 0]


def test_lists_of_numbers_may_be_items():
    lists = [[1, 2][: 1 + row % 2] for row in range(N)]
    found = dataset(frame(tags=lists), tags="list")
    assert found.inputs["list.tags"].sizes == (3,)
    with pytest.raises(DataError, match=r"'tags' has 2 values where others have 1.*list"):
        dataset(frame(tags=lists))
