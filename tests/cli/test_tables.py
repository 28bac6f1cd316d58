"""Exported tables: no cell is a formula."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from plait.cli import tables

FRAME = pl.DataFrame(
    {
        "id": ["=1+1", "+x", "-x", "@x", "\tx", "\rx", "plain", None],
        "=y": [-1.0, 2, 3, 4, 5, 6, 7, 8],
    }
)


def test_text_that_starts_like_a_formula_is_prefixed_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    tables.write(FRAME, path)
    back = pl.read_csv(path)
    assert back.columns == ["id", "'=y"]
    assert back["id"].to_list() == ["'=1+1", "'+x", "'-x", "'@x", "'\tx", "'\rx", "plain", None]
    assert back["'=y"].to_list()[0] == -1.0


def test_parquet_keeps_text_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.parquet"
    tables.write(FRAME, path)
    assert pl.read_parquet(path).equals(FRAME)


def test_other_endings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown format '.xlsx'; end it in .parquet or .csv"):
        tables.write(FRAME, tmp_path / "out.xlsx")
    assert not list(tmp_path.iterdir())
