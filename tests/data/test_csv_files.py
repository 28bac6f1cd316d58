from __future__ import annotations

import csv

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait.data import DataError, csv_files, csv_types
from plait.data.sources import read


def write(folder, content, name="rows.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def columns(table):
    return pl.concat([chunk.frame for chunk in table.chunks(table.columns)]).to_dict(
        as_series=False
    )


FAULTS = {
    "short row": ("a,b\n1,2\n3\n4,5\n", "line 3: 1 fields where the header has 2"),
    "long row": ("a,b\n1,2\n3,4,5\n", "line 3: 3 fields where the header has 2"),
    "empty row": ("a,b\n1,2\n\n3,4\n", "line 3: 0 fields"),
    "same header twice": ("a,a\n1,2\n", "line 1: column 'a' appears twice"),
    "nameless column": ("a,\n1,2\n", "line 1: column 2 has no name"),
    "latin-1": (b"a,b\n1,2\n1,\xe9\n", "line 3: byte 0xe9 is not UTF-8; save the file as UTF-8"),
    "latin-1 header": (b"\xe9,b\n1,2\n", "line 1: not UTF-8"),
    "utf-16": ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
    "nul": ("a,b\n1,2\n1,x\0y\n", "line 3: a NUL byte"),
    "open quote": ('a,b\n1,"x\n', "a quote is never closed"),
    "late word": ("a,b\n" + "1,2\n" * 50 + "x,2\n", "row 51: column 'a' holds numbers, but 'x'"),
    "empty": ("", "empty"),
    "header only": ("a,b\n", "no rows"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_error_with_file_and_line(tmp_path, fault):
    content, said = FAULTS[fault]
    path = write(tmp_path, content)
    with pytest.raises(DataError) as error:
        read(path, "t")
    assert str(error.value).startswith("rows.csv")
    assert said in str(error.value)


def test_line_numbers_hold_in_later_blocks_and_after_quoted_line_breaks(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "BLOCK", 64)
    lines = ["a,b"] + ['1,"two\nlines"', "2,x"] * 40 + ["3,4,5"]
    path = write(tmp_path, "\n".join(lines) + "\n")
    with pytest.raises(DataError, match="line 122: 3 fields"):
        read(path, "t")


def test_one_record_may_be_longer_than_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "BLOCK", 16)
    path = write(tmp_path, 'a,b\n1,"' + "long\n" * 30 + '"\n2,y\n')
    assert columns(read(path, "t"))["a"] == [1, 2]


def test_bom_line_ends_separators_and_missing_words(tmp_path):
    path = write(tmp_path, "\ufeffa;b;c\r\n1;NA;x\r\n2;3.5;\r\n")
    assert columns(read(path, "t")) == {"a": [1, 2], "b": [None, 3.5], "c": ["x", None]}


@pytest.mark.parametrize("word", ["NA", "N/A", "NaN", "nan", "null", "NULL", ""])
@pytest.mark.parametrize("place", range(6))
def test_a_word_for_missing_is_found_wherever_it_stands(tmp_path, word, place):
    values = ["a", "1.5", "b", "2.5", "c", "3.5"]
    values[place] = word
    path = write(tmp_path, "t,x\n{},{}\n{},{}\n{},{}\n".format(*values))
    wanted = [None if at == place else value for at, value in enumerate(values)]
    numbers = [value and float(value) for value in wanted[1::2]]
    assert columns(read(path, "t")) == {"t": wanted[::2], "x": numbers}


def test_an_empty_line_at_the_end_is_no_row(tmp_path):
    path = write(tmp_path, "a,b\n1,2\n3,4\n\n")
    table = read(path, "t")
    assert table.rows == 2
    assert columns(table) == {"a": [1, 3], "b": [2, 4]}


def test_leading_zeros_and_declared_text_stay_text(tmp_path):
    path = write(tmp_path, "zip,code,n\n007,1,1\n123,2,2\n")
    assert columns(read(path, "t", text=["code"])) == {
        "zip": ["007", "123"],
        "code": ["1", "2"],
        "n": [1, 2],
    }


def test_quotes_hide_separators(tmp_path):
    path = write(tmp_path, 'a,b\n1,"say ""hi"", x"\n')
    assert columns(read(path, "t"))["b"] == ['say "hi", x']


def test_a_glob_reads_files_in_order_and_names_the_right_one(tmp_path):
    write(tmp_path, "a,b\n1,2\n3,4\n", "part-1.csv")
    write(tmp_path, "a,b\n5,6\n", "part-2.csv")
    table = read(str(tmp_path / "part-*.csv"), "t")
    assert columns(table)["a"] == [1, 3, 5]
    assert table.where(2) == "part-2.csv, row 1"
    write(tmp_path, "a,c\n5,6\n", "part-3.csv")
    with pytest.raises(DataError, match=r"part-3\.csv, line 1: its columns differ"):
        read(str(tmp_path / "part-*.csv"), "t")


def test_fuzzed_files_give_a_table_or_a_data_error(tmp_path):
    random = np.random.default_rng(0)
    alphabet = np.frombuffer(b'a1,;"\n\r\0\xff .-', np.uint8)
    for trial in range(300):
        path = write(tmp_path, random.choice(alphabet, random.integers(0, 60)).tobytes(), "f.csv")
        try:
            table = read(path, "t")
        except DataError:
            continue
        assert len(columns(table)[table.columns[0]]) == table.rows, trial


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=6)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8),
    block=st.sampled_from([9, 2**24]),
)
def test_what_a_csv_writer_wrote_comes_back(tmp_path, rows, block):
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows([("a", "b"), *rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_files, "BLOCK", block)
        found = columns(read(path, "t", text=["a", "b"]))
    kept = [[None if cell in csv_types.MISSING else cell for cell in row] for row in rows]
    assert [list(row) for row in zip(found["a"], found["b"], strict=True)] == kept
