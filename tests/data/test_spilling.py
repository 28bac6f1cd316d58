"""What was parsed once is read again as if the file had been: the same values, or the file."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from plait.data import DataError, csv_files, spilling
from plait.data.csv_files import CsvRows
from plait.data.sources import read

MIXED = "id,n,x,word,late\n" + "".join(
    f"{i:03d},{i},{i / 3 if i % 7 else ''},w{i % 5},{i}\n" for i in range(1, 400)
)


def rows(folder: Path, content: str, **given: object) -> CsvRows:
    path = folder / "rows.csv"
    path.write_text(content)
    found = read(path, "t", **given).frame  # type: ignore[arg-type]
    assert isinstance(found, CsvRows)
    return found


def whole(found: CsvRows) -> pl.DataFrame:
    return pl.concat(found.batches(list(found.types)))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "BLOCK", 512)
    monkeypatch.setattr(spilling, "MEMORY", 100)  # so that there is a file


def test_what_is_set_aside_is_what_parsing_again_gives(tmp_path: Path) -> None:
    found = rows(tmp_path, MIXED, text=["word"])
    assert found.aside is not None
    (tmp_path / "rows.csv").unlink()  # it is not read again
    table = whole(found)
    assert table.schema == found.types
    assert table["id"][0] == "001"
    assert table["x"].null_count() == 57
    assert next(found.batches(["word", "n"])).columns == ["word", "n"]
    (tmp_path / "rows.csv").write_text(MIXED)
    again = CsvRows(files=found.files, separator=",", types=found.types, counts=found.counts)
    assert whole(again).equals(table)


def test_several_readers_read_at_once(tmp_path: Path) -> None:
    found = rows(tmp_path, MIXED)
    pairs = zip(found.batches(["n"]), found.batches(["n", "id"]), strict=True)
    assert all(one["n"].equals(two["n"]) for one, two in pairs)


@pytest.mark.parametrize(
    ("late", "dtype", "value"),
    [
        ("007", pl.String, "007"),  # an id after all
        ("1.50", pl.Float64, 1.5),
        ("99999999999999999999", pl.Float64, 1e20),
        ("", pl.Int64, None),
    ],
)
def test_types_that_turn_out_late_hold_for_all_rows(
    tmp_path: Path, late: str, dtype: type[pl.DataType], value: object
) -> None:
    found = rows(tmp_path, f"{MIXED}400,400,1,w,{late}\n")
    assert found.types["late"] == dtype
    table = whole(found)
    assert table["late"][-1] == value
    assert str(table["late"][0]) == ("1.0" if dtype == pl.Float64 else "1")
    assert (found.aside is None) == (late == "007")  # 1 could have been 01


def test_words_that_mean_missing_are_missing(tmp_path: Path) -> None:
    blanks = {"late": ["none"]}
    found = rows(tmp_path, f"{MIXED}400,400,1,w,none\n", blanks=lambda name: blanks.get(name, ()))
    assert found.types["late"] == pl.Int64
    assert whole(found)["late"].to_list() == [*range(1, 400), None]


def test_without_room_the_file_is_parsed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = whole(rows(tmp_path, MIXED))

    def refuse(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(spilling.Spill, "add", refuse)
        found = rows(tmp_path, MIXED)
    assert found.aside is None
    assert whole(found).equals(full)
    monkeypatch.setattr(csv_files, "has_room", lambda _: False)
    found = rows(tmp_path, MIXED)
    assert found.aside is None
    assert whole(found).equals(full)


@pytest.mark.parametrize("quoted", [False, True])
def test_a_short_and_a_long_row_do_not_make_up_for_each_other(tmp_path: Path, quoted: bool) -> None:
    word = '"w"' if quoted else "w"
    lines = [f"{i},{word},{i}" for i in range(100)]
    lines[60], lines[61] = "60,w", "61,w,61,61"
    with pytest.raises(DataError, match="line 62: 2 fields where the header has 3"):
        rows(tmp_path, "\n".join(["a,b,c", *lines]) + "\n")
