"""Bad tables: for each a small study, and what its one message must say.

A case has the files of a folder (text or bytes), the study beside them, and the parts of the
message: the file, the place in it, the task where one is concerned, and the fix.
"""

# A case is easier to read with its message on one line.
# ruff: noqa: E501

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl


@dataclass(frozen=True)
class Case:
    name: str
    files: dict[str, Any]
    study: str
    said: tuple[str, ...]


ROWS = 60


def csv(header: str = "id,x,y", rows: int = ROWS, **changed: str) -> str:
    """A sound table ``id,x,y``, rows named by ``r<number from 1>`` changed."""
    lines = [
        changed.get(f"r{number}", f"m{number},{number * 0.7:.2f},{number % 2}")
        for number in range(1, rows + 1)
    ]
    return "\n".join([header, *lines]) + "\n"


def columns(**more: list[Any]) -> str:
    """A sound table with further columns of ``ROWS`` values."""
    base: dict[str, Any] = {
        "id": [f"m{number}" for number in range(1, ROWS + 1)],
        "x": [round(number * 0.7, 2) for number in range(ROWS)],
        "y": [number % 2 for number in range(ROWS)],
        "split": (["train"] * 4 + ["valid", "test"]) * (ROWS // 6),
    }
    return pl.DataFrame({**base, **more}).write_csv()


def parquet(**more: Any) -> bytes:
    held = io.BytesIO()
    base = {"x": np.arange(ROWS) * 0.7, "y": np.arange(ROWS) % 2}
    pl.DataFrame({**base, **more}).write_parquet(held)
    return held.getvalue()


def npz(**arrays: Any) -> bytes:
    held = io.BytesIO()
    np.savez(held, **{"x": np.arange(ROWS) * 0.7, "y": np.arange(ROWS) % 2, **arrays})
    return held.getvalue()


def cycle(*values: Any, **changed: Any) -> list[Any]:
    """``ROWS`` values, those named by ``r<row from 1>`` changed; each value in each part."""
    found = [values[(number * 7 // 6 + number) % len(values)] for number in range(ROWS)]
    for row, value in changed.items():
        found[int(row[1:]) - 1] = value
    return found


def study(data: str = "table: t.csv", tasks: str = "y: binary") -> str:
    return f"data: {{{data}}}\ntasks: {{{tasks}}}\nstrategies: [joint]\n"


ONE = study("table: t.csv, id: id")


def file(name: str, content: str | bytes, *said: str) -> Case:
    """A fault of the file itself."""
    return Case(name, {"t.csv": content}, ONE, ("t.csv", *said))


def task(name: str, spec: str, *said: str, **more: list[Any]) -> Case:
    """A fault of a target ``z`` or of what is declared of it."""
    return Case(name, {"t.csv": columns(**more)}, study(tasks=f"z: {spec}"), said)


FILES = [
    file("short row", csv(r5="m5,1"), "line 6", "2 fields where the header has 3", "add or quote"),
    file("long row", csv(r9="m9,1,0,7"), "line 10", "4 fields where the header has 3", "quote"),
    file("empty line", csv(r9=""), "line 10", "0 fields where the header has 3"),
    file("two empty lines at the end", csv() + "\n\n", "line 62", "0 fields"),
    file("NUL", csv(r3="m3,\0,1"), "line 4", "NUL byte", "remove it"),
    file("NUL in the header", csv("id,x\0,y"), "line 1", "NUL byte", "UTF-8"),
    file("Latin-1", csv(r7="müller,1,0").encode("latin-1"), "line 8", "byte 0xfc", "save the file as UTF-8"),
    file("Latin-1 header", csv("id,größe,y").encode("latin-1"), "line 1", "save it as UTF-8"),
    file("UTF-16", csv().encode("utf-16"), "UTF-16", "save it as UTF-8"),
    file("open quote", csv(r8='m8,"1,0'), "a quote is never closed", 'as ""'),
    file("header twice", csv("id,x,x"), "line 1", "column 'x' appears twice", "rename one"),
    file("column without a name", csv("id,,y"), "line 1", "column 2 has no name", "give it one"),
    file("empty file", "", "empty", "it needs a header and rows"),
    file("blanks only", " \n \n", "empty"),
    file("header only", "id,x,y\n", "no rows below the header"),
    file("gzip named csv", gzip.compress(csv().encode()), "packed with gzip", "unpack it"),
    file("Parquet named csv", parquet(), "Parquet", "name it .parquet"),
    file("spreadsheet named csv", b"PK\x03\x04" + bytes(60), "spreadsheet", "save it as CSV"),
    file("word in a column of numbers", csv(r50="m50,high,1"), "row 50", "column 'x' holds numbers, but 'high'", "correct it", "types: {x: categorical}"),
    file("late word in the target", csv(r55="m55,1,maybe"), "row 55", "column 'y' holds numbers, but 'maybe'", "missing: ['maybe']"),
    file("infinite input", csv(r5="m5,inf,1"), "row 5", "'x' is inf", "is infinite", "correct it or leave it empty"),
    file("missing id", csv(r4=",2,1"), "row 4", "the id 'id' is missing"),
    file("repeated id", csv(r4="m2,2,0"), "row 2", "task 'y'", "1 id appears more than once: m2", "repeats: mean or first"),
    file("contradictory labels", csv(r4="m2,2,1", r6="m5,2,0"), "row 2", "task 'y'", "2 of them with contradictory labels: m2, m5", "keep one row"),
    file("one id, written in NFC and in NFD", csv(r4="caf\u00e9,2,1", r6="cafe\u0301,3,1"), "row 4", "1 id appears more than once", "repeats"),
    Case("a third value in a binary task", {"t.csv": csv(r8="m8,1,7")}, study("table: t.csv", "y: binary"), ("study.yaml:2: tasks.y", "t.csv, row 8", "task 'y' is binary, but 'y' has 3 values ('0', '1', '7')", "'7' is the rarest: correct it or declare missing: [7]")),
    Case("a target that is no column", {"t.csv": csv()}, study("table: t.csv", "yy: binary"), ("study.yaml:2: tasks.yy", "t.csv: no column 'yy'", "did you mean 'y'")),
    Case("missing file", {"tables.csv": csv()}, study("table: table.csv"), ("study.yaml:1: data: ", "no file", "table.csv", "did you mean 'tables.csv'")),
    Case("folder", {"t.csv/a.csv": csv()}, study(), ("t.csv is a folder", "give a file", "pattern")),
    Case("unknown ending", {"t.xlsx": "x"}, study("table: t.xlsx"), ("t.xlsx", "unknown format '.xlsx'", "Parquet (.parquet), CSV (.csv) or npz")),
    Case("pattern that fits nothing", {"t.csv": csv()}, study('table: "u*.csv"'), ("no file 'u*.csv'",)),
    Case("files with differing headers", {"a1.csv": csv(), "a2.csv": csv("id,z,y")}, study('table: "a*.csv"'), ("a2.csv, line 1", "its columns differ from those of a1.csv", "tables of their own")),
    Case("CSV named Parquet", {"t.parquet": csv()}, study("table: t.parquet"), ("t.parquet", "not a readable Parquet file")),
    Case("text named npz", {"t.npz": "x"}, study("table: t.npz"), ("t.npz", "not a readable npz file")),
    Case("npz of differing lengths", {"t.npz": npz(y=np.arange(5) % 2)}, study("table: t.npz"), ("t.npz", "differing lengths", "x 60, y 5")),
    Case("npz with pickled objects", {"t.npz": npz(z=np.array([{}] * ROWS, dtype=object))}, study("table: t.npz"), ("t.npz", "plain arrays")),
]  # fmt: skip

TARGETS = [
    Case("unknown target", {"t.csv": columns(price=cycle(1, 2))}, study(tasks="prize: real"), ("t.csv", "task 'prize'", "did you mean 'price'")),
    Case("unknown pattern", {"t.csv": columns(assay_1=cycle(0, 1))}, study(tasks='a: {columns: "asay_*"}'), ("task 'a'", "no column matches 'asay_*'")),
    Case("unknown id", {"t.csv": columns()}, study("table: t.csv, id: idd"), ("t.csv", "no column 'idd' for the ids", "did you mean 'id'")),
    Case("unknown type column", {"t.csv": columns()}, study("table: t.csv, types: {xx: numeric}"), ("t.csv", "no column or role 'xx'", "did you mean 'x'")),
    Case("unknown ignored column", {"t.csv": columns()}, study("table: t.csv, ignore: [xx]"), ("t.csv", "no column 'xx' for ignore", "did you mean 'x'")),
    Case("unknown input", {"t.csv": columns()}, study("table: t.csv, inputs: [xx]"), ("t.csv", "no column 'xx' for input 'xx'", "did you mean 'x'")),
    Case("target as input", {"t.csv": columns()}, study("table: t.csv, inputs: [x, y]"), ("t.csv", "'y' is a target, so it cannot be an input")),
    task("class of no training row", "classes", "row 6", "task 'z'", "'z' is 'd'", "declare classes", z=cycle("a", "b", "c", r6="d")),
    task("label out of range", "{classes: [a, b]}", "row 9", "task 'z'", "'z' is 'c'", "not among its classes ('a', 'b')", z=cycle("a", "b", r9="c")),
    task("misspelt label", "{classes: [green, blue]}", "row 9", "task 'z'", "'gren'", "did you mean 'green'", z=cycle("green", "blue", r9="gren")),
    task("class that is no whole number", "{kind: classes, classes: [0, 1, 2]}", "row 9", "task 'z'", "'z' is '1.5'", z=cycle(0.0, 1.0, 2.0, r9=1.5)),
    task("three values of a binary task", "binary", "t.csv", "task 'z'", "has 3 values", "kind: classes, or positive: VALUE", z=cycle(0, 1, 2)),
    task("negative count", "counts", "row 9", "task 'z'", "'z' is -1", "a whole number from 0", "missing: [-1]", z=cycle(3, 2, r9=-1)),
    task("broken count", "counts", "row 9", "task 'z'", "'z' is 1.5", "a whole number from 0", z=cycle(3.0, 2.0, r9=1.5)),
    task("infinite target", "real", "row 9", "task 'z'", "'z' is inf", "needs a number", z=cycle(0.5, 1.5, r9=float("inf"))),
    task("words in a real target", "real", "row 1", "task 'z'", "'z' is 'low'", "needs a number", z=cycle("low", "high")),
    task("names as a target", "{}", "t.csv", "task 'z'", "neither numbers nor classes", "another target", z=[f"w{i}" for i in range(ROWS)]),
    task("empty target", "binary", "t.csv", "task 'z'", "no label in the training rows", "the column 'z' is empty", z=[None] * ROWS),
    task("constant class", "classes", "t.csv", "task 'z'", "every training row has the value 'a'", "declare its classes or remove", z=cycle("a")),
    task("no positive value", "{positive: yes}", "t.csv", "task 'z'", "no row has the positive value 'yes'", "did you mean 'yess'", z=cycle("yess", "no")),
    task("no test label", "binary", "no test row has a label of z", "cannot be measured", "split otherwise", z=[None if i % 6 == 5 else i % 2 for i in range(ROWS)]),
    task("no validation label", "binary", "no valid row has a label of z", "cannot be measured", z=[None if i % 6 == 4 else i % 2 for i in range(ROWS)]),
    task("labels in the test rows only", "binary", "t.csv", "task 'z'", "no label in the training rows", "in other parts of the split", z=[i % 4 // 2 if i % 6 == 5 else None for i in range(ROWS)]),
    task("where on an unknown column", "{where: xx > 1}", "study.yaml:2: tasks.z.where", "t.csv", "task 'z'", "no column 'xx'", "did you mean 'x'", z=cycle(0, 1)),
    task("where that cannot be read", "{where: x = 1}", "study.yaml:2: tasks.z.where", "character 3", "write == to compare", z=cycle(0, 1)),
    task("where that compares text with a number", "{where: id == 7}", "study.yaml:2", "task 'z'", "column 'id' is text", 'write "7"', z=cycle(0, 1)),
    task("where that never holds", "{where: x > 1e6}", "t.csv", "task 'z'", "holds for none of its 60 values", z=cycle(0, 1)),
    task("everything declared missing", "{kind: binary, missing: [0, 1]}", "task 'z'", "all of its 60 values are declared missing", z=cycle(0, 1)),
    task("unknown weight column", "{weight: w8}", "t.csv", "no column 'w8' for weight of task 'z'", "did you mean 'w'", z=cycle(0, 1), w=cycle(1, 2)),
    task("a number as weight", "{weight: 0.5}", "study.yaml:2: tasks.z.weight", "preference: 0.5", z=cycle(0, 1)),
    task("negative weight", "{weight: w}", "row 9", "task 'z'", "weight 'w' is -1", "numbers from 0", z=cycle(0, 1), w=cycle(1, 2, r9=-1)),
    task("unknown by column", "{by: shcool, target: y}", "t.csv", "no column 'shcool' for by of task 'z'", "did you mean 'school'", school=cycle(1, 2)),
    task("task without a name", "{by: school, target: y}", "row 9", "'school' is missing, so its task is unknown", school=cycle("a", "b", r9=None)),
    task("task of no training row", "{by: school, target: y}", "row 6", "school 'c' has no training row", "unseen: skip", school=cycle("a", "b", r6="c")),
    Case("the same target twice", {"t.csv": columns()}, study(tasks='a: {columns: y}, b: {columns: "y*"}'), ("two tasks are called 'y'", "declare the column once")),
    Case("mean of repeated counts", {"t.csv": columns(id=[f"m{i // 2}" for i in range(ROWS)], z=cycle(1, 2, 3), split=(["train"] * 8 + ["valid"] * 2 + ["test"] * 2) * 5)}, study("table: t.csv, id: id", "z: {kind: counts, repeats: mean}"), ("study.yaml:2: tasks.z.repeats", "the mean of counts is no count", "first")),
    Case("repeated ids in two parts", {"t.csv": columns(id=[f"m{i // 2}" for i in range(ROWS)])}, study("table: t.csv, id: id", "y: {repeats: first}"), ("t.csv", "task 'y'", "several parts of the split", "grouped split")),
    Case("a target in two tables", {"a.csv": columns(), "b.csv": columns()}, study("tables: {a: a.csv, b: b.csv}"), ("task 'y'", "in several tables (a, b)", "table: a")),
]  # fmt: skip

COLUMNS = [
    Case("unknown split value", {"t.csv": columns(split=cycle("train", "valid", "test", r9="tets"))}, study(), ("t.csv, row 9", "split 'tets' is not train, valid or test", "did you mean 'test'")),
    Case("no training rows", {"t.csv": columns(split=["test"] * ROWS)}, study(), ("t.csv", "the split leaves no training rows", "split")),
    Case("time without a time", {"t.csv": columns(day=cycle("2024-01-05", "2024-02-01", r9=None))}, study("table: t.csv, split: {time: [0.6, 0.2, 0.2], by: day}"), ("t.csv, row 9", "'day' is missing", "the time split needs it")),
    Case("time that cannot be read", {"t.csv": columns(day=cycle("2024-01-05", "2024-02-01", r9="soon"))}, study("table: t.csv, split: {time: [0.6, 0.2, 0.2], by: day}"), ("t.csv, row 9", "'day' is 'soon', which is no time", "2024-01-31")),
    Case("group without a group", {"t.csv": columns(user=cycle("a", "b", "c", "d", r9=None))}, study("table: t.csv, split: {grouped: [0.6, 0.2, 0.2], by: user}"), ("t.csv, row 9", "'user' is missing", "the grouped split needs it")),
    Case("unknown split column", {"t.csv": columns(user=cycle("a", "b"))}, study("table: t.csv, split: {grouped: [0.6, 0.2, 0.2], by: users}"), ("t.csv", "no column 'users' for the split", "did you mean 'user'")),
    Case("intervals without a value", {"t.csv": columns(user=cycle("a", "b", r9=None))}, study() + "intervals: {by: user}\n", ("t.csv, row 9", "'user' is missing")),
    Case("vectors of differing lengths", {"t.csv": columns(v=cycle("1 2 3", r9="1 2"))}, study("table: t.csv, types: {v: vector}"), ("t.csv, row 9", "'v' has 2 values where others have 3", "types: {v: list}")),
    Case("a vector with a word", {"t.csv": columns(v=cycle("1;2", r9="1;two"))}, study("table: t.csv, types: {v: vector}"), ("t.csv, row 9", "'v' is '1;two', which is no vector of numbers")),
    Case("a missing vector", {"t.parquet": parquet(v=[[1.0, 2.0]] * 8 + [None] + [[1.0, 2.0]] * (ROWS - 9))}, study("table: t.parquet"), ("t.parquet, row 9", "'v' is missing", "must be there in every row")),
    Case("an image that is not there", {"t.csv": columns(picture=[f"p{i}.png" for i in range(ROWS)])}, study("table: t.csv, types: {picture: image}"), ("t.csv, row ", "'picture': no image")),
    Case("paths of images without a type", {"t.csv": columns(picture=[f"p{i}.png" for i in range(ROWS)])}, study(), ("'picture' holds paths of image files", "types: {picture: image}", "ignored")),
    Case("text as numbers", {"t.csv": columns(note=cycle("one", "two"))}, study("table: t.csv, types: {note: numeric}"), ("t.csv, row ", "'note' is 'one', which is no number", "correct it")),
    Case("numbers as images", {"t.csv": columns()}, study("table: t.csv, types: {x: image}"), ("t.csv", "'x' cannot be image", "numeric, categorical, hashed, ignored")),
    Case("an array as target", {"t.npz": npz(z=np.zeros((ROWS, 3)))}, study("table: t.npz", "z: real"), ("t.npz", "task 'z'", "'z' is an array", "one value a row")),
    Case("a list as target", {"t.parquet": parquet(z=[["a"]] * ROWS)}, study("table: t.parquet", "z: classes"), ("t.parquet", "task 'z'", "'z' is an array")),
    Case("a list as id", {"t.parquet": parquet(z=[["a"]] * ROWS)}, study("table: t.parquet, id: z"), ("t.parquet", "the id 'z' is a list", "one value a row")),
    Case("nothing to learn from", {"t.csv": "y\n" + "0\n1\n" * 30}, study(), ("t.csv", "no column is left as an input")),
    Case("a role of unlike columns", {"a.csv": columns(n=cycle("one", "two", "three")), "b.csv": columns(n=cycle(1, 2, 3))}, study("tables: {a: a.csv, b: b.csv}", "y: {table: a}, v: {table: b, target: y}"), ("b.csv", "'n' is stored as number here and as string in another table", "rename one")),
]  # fmt: skip

CASES = [*FILES, *TARGETS, *COLUMNS]
