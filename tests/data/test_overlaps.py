from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.data import DataSpec, TableSpec, TaskSpec, load
from plait.data.overlaps import normal_form
from plait.data.survey import survey

N = 60
SPLIT = (["train"] * 4 + ["valid", "test"]) * (N // 6)
WORDS = ("fine", "dull", "long", "warm", "cold", "loud", "calm")


def texts(shift=0):
    return [
        f"a {WORDS[row % 7]} film, number {row + shift} of {WORDS[row // 7 % 7]}"
        for row in range(N)
    ]


def told(tables, tasks):
    data = DataSpec(tables={name: TableSpec(source=table) for name, table in tables.items()})
    found = survey(data, tasks)
    loaded = load(data, tasks)
    # Both ways of looking say the same.
    assert (list(found.facts), list(found.warnings)) == (loaded.facts, loaded.warnings)
    return "\n".join(found.facts), "\n".join(found.warnings)


def labels():
    return (np.arange(N) // 2) % 2


def test_the_normal_form_sets_case_blanks_and_punctuation_aside():
    found = normal_form(pl.Series(["A  Fine,\nfilm!", "a fine film", "é-É", "?!", ""]))
    assert found.to_list() == ["a fine film", "a fine film", "é é", "?!", ""]


@given(st.lists(st.text("aB1é٣ \t.,-_\n", max_size=12), min_size=1))
def test_the_normal_form_is_its_words_one_blank_apart(texts):
    words = ["".join(c if c.isalnum() else " " for c in text.lower()).split() for text in texts]
    wanted = [" ".join(own) or text for own, text in zip(words, texts, strict=True)]
    assert normal_form(pl.Series(texts)).to_list() == wanted


def test_copies_but_for_case_and_punctuation_are_counted_within_a_task():
    text = texts()
    text[5] = text[0]  # a test row, the same
    text[11] = text[1].upper().replace(",", " !")  # another, but for case and punctuation
    table = pl.DataFrame({"text": text, "y": labels(), "split": SPLIT})
    _, warnings = told({"t": table}, {"y": TaskSpec()})
    assert (
        "1 test row (10.0%) has exactly the inputs of a training row of the same task" in warnings
    )
    assert "2 (20.0%) but for case, white space and punctuation" in warnings


def test_rows_of_one_table_that_train_another_are_counted():
    one, two = texts(), texts(1000)
    two[5], two[11] = one[0], one[1].title()
    tables = {
        name: pl.DataFrame({"text": text, "y": labels(), "split": SPLIT})
        for name, text in (("one", one), ("two", two))
    }
    tasks = {"a": TaskSpec(table="one", target="y"), "b": TaskSpec(table="two", target="y")}
    facts, warnings = told(tables, tasks)
    assert "2 test rows of two (20.0%) are training rows of one" in warnings
    assert "rows of two (" in warnings
    assert "training rows of two" not in warnings
    assert "same task" not in facts + warnings


def test_the_same_inputs_with_another_label_are_told():
    text = texts()
    text[1] = text[0]
    y = labels()
    y[0], y[1] = 0, 1
    facts, _ = told({"t": pl.DataFrame({"text": text, "y": y, "split": SPLIT})}, {"y": TaskSpec()})
    assert "Rows with the inputs of another row but a different label: y (1)." in facts


def test_pairs_of_tasks_are_counted():
    random = np.random.default_rng(0)
    a = [row % 2 if row < 40 else None for row in range(N)]
    b = [row % 3 / 7 if row >= 30 else None for row in range(N)]
    table = pl.DataFrame({"x": random.normal(size=N), "a": a, "b": b, "split": SPLIT})
    facts, _ = told({"t": table}, {"a": TaskSpec(), "b": TaskSpec(kind="real")})
    assert "Rows labelled for both of two tasks: a and b: 10." in facts


def test_one_class_and_absent_classes_are_warned_of():
    y = [("a", "b")[row % 2] if SPLIT[row] == "train" else "a" for row in range(N)]
    table = pl.DataFrame({"x": np.arange(N) / 7, "y": y, "split": SPLIT})
    tasks = {"y": TaskSpec(kind="classes", classes=["a", "b", "c"])}
    _, warnings = told({"t": table}, tasks)
    assert "Classes of y without a training label: c; they cannot be learnt." in warnings
    assert "All test labels are of one class for y: some scores are undefined there" in warnings


@pytest.mark.data
def test_film_reviews_of_two_tables_overlap(real_data):
    folder = real_data / "text"
    names = ("sentiment_sst2", "subjectivity")
    data = DataSpec(
        tables={
            name: TableSpec(source=folder / f"{name}.parquet", inputs={"text": "text"})
            for name in names
        }
    )
    tasks = {name: TaskSpec(table=name, target="label", kind="binary") for name in names}
    found = "\n".join([*(s := survey(data, tasks)).facts, *s.warnings])
    assert "rows of sentiment_sst2" in found
    assert "are training rows of subjectivity" in found
