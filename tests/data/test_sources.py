from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from plait.data import DataError
from plait.data.sources import read

ROWS = {"x": [1.0, None, 3.0], "word": ["a", "b", None], "n": [1, 2, 3]}


def content(table):
    return pl.concat([chunk.frame for chunk in table.chunks(table.columns, size=2)])


def sources(folder):
    frame = pl.DataFrame(ROWS)
    frame.write_parquet(folder / "t.parquet")
    frame.write_csv(folder / "t.csv")
    return {
        "polars": frame,
        "lazy": frame.lazy(),
        "pandas": pd.DataFrame({"x": [1.0, np.nan, 3.0], "word": ["a", "b", None], "n": [1, 2, 3]}),
        "arrow": frame.to_arrow(),
        "parquet": folder / "t.parquet",
        "csv": str(folder / "t.csv"),
        "dict": {
            "x": np.array([1, np.nan, 3]),
            "word": ["a", "b", None],
            "n": torch.tensor([1, 2, 3]),
        },
    }


@pytest.mark.parametrize("kind", ["polars", "lazy", "pandas", "arrow", "parquet", "csv", "dict"])
def test_every_source_gives_the_same_table(tmp_path, kind):
    table = read(sources(tmp_path)[kind], "t")
    assert table.rows == 3
    assert content(table).to_dict(as_series=False) == ROWS


def test_datasets_objects_bring_class_names_and_splits():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    one = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    assert read(one, "t").classes == {"label": ("no", "yes")}
    both = read(datasets.DatasetDict({"train": one, "test": one.select([1])}), "t")
    assert both.collect(["text", "split"]).rows() == [("a", "train"), ("b", "train"), ("b", "test")]


def test_npz_arrays_become_columns_vectors_and_images(tmp_path):
    np.savez(tmp_path / "t.npz", image=np.zeros((4, 3, 3)), v=np.ones((4, 2)), y=np.arange(4))
    table = read(tmp_path / "t.npz", "t")
    assert sorted(table.arrays) == ["image", "v"]
    assert table.columns == ["y", "image", "v"]
    chunk = next(table.chunks(["v", "y"], np.array([False, True, False, True])))
    assert chunk.rows.tolist() == [1, 3]
    assert chunk.column("v").shape == (2, 2)
    assert chunk.column("y").to_list() == [1, 3]


def test_what_cannot_be_read_says_why(tmp_path):
    np.savez(tmp_path / "bad.npz", a=np.zeros(3), b=np.zeros(4))
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "table.json").write_text("{}")
    pl.DataFrame(ROWS).write_parquet(tmp_path / "assays.parquet")
    for source, said in {
        tmp_path / "bad.npz": "differing lengths: a 3, b 4",
        tmp_path / "objects.npz": "not a readable npz file of plain arrays",
        tmp_path / "broken.parquet": "broken.parquet: not a readable Parquet file",
        tmp_path / "table.json": "unknown format",
        tmp_path / "asays.parquet": "did you mean 'assays.parquet'?",
    }.items():
        with pytest.raises(DataError, match=said.replace("?", r"\?")):
            read(source, "t")
    with pytest.raises(DataError, match="cannot read a int"):
        read(3, "t")
    with pytest.raises(DataError, match="no rows"):
        read(pl.DataFrame({"a": []}), "t")


def test_a_missing_column_names_the_nearest():
    table = read(pl.DataFrame(ROWS), "t")
    with pytest.raises(DataError, match="no column 'wrd' for a test; did you mean 'word'"):
        table.need("wrd", "a test")


def test_relative_paths_start_at_the_base(tmp_path):
    pl.DataFrame(ROWS).write_parquet(tmp_path / "t.parquet")
    assert read("t.parquet", "t", tmp_path).rows == 3
