from __future__ import annotations

import datetime as dt

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.data.where import ConditionError, condition

TABLE = pl.DataFrame(
    {
        "click": [0, 1, None],
        "country": ["de", "fr", "it"],
        "age": [20, 17, 40],
        "zip": ["007", "1", "2"],
        "flag": [True, False, None],
        "day": [dt.date(2024, 1, day) for day in (1, 2, 3)],
        "a b": [1.5, 2.0, 3.0],
        "yes": ["True", "false", None],
    }
)


def holds(text: str) -> list[bool]:
    return TABLE.select(condition(text).expression(TABLE.schema)).to_series().to_list()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("click == 1", [0, 1, 0]),
        ("click != 1", [1, 0, 0]),
        ("not click == 1", [1, 0, 1]),
        ("click is missing", [0, 0, 1]),
        ("click is not missing or age > 30", [1, 1, 1]),
        ('country in ["de", "fr"] and age >= 18', [1, 0, 0]),
        ("country not in ['de']", [0, 1, 1]),
        ("age in [-1, 20]", [1, 0, 0]),
        ("flag", [1, 0, 0]),
        ("not flag", [0, 1, 1]),
        ("flag == false", [0, 1, 0]),
        ("flag == 1", [1, 0, 0]),
        ("yes == true", [1, 0, 0]),
        ('day >= "2024-01-02"', [0, 1, 1]),
        ("`a b` * 2 - 1 > 2.5", [0, 1, 1]),
        ("age % 2 == 0 and (click == 0 or click == 1)", [1, 0, 0]),
        ("click == 0 or click == 1 and age > 18", [1, 0, 0]),
        ("-age < -18", [1, 0, 1]),
        ("age > 1 AND flag", [1, 0, 0]),
        ('zip == "007"', [1, 0, 0]),
    ],
)
def test_conditions_hold_where_they_say(text, rows):
    assert holds(text) == [bool(row) for row in rows]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clik == 1", "character 1: no column 'clik'; did you mean 'click'"),
        ("zip == 7", "character 8: column 'zip' is text; write \"7\""),
        ('age == "7"', "column 'age' is a number; write it without quotes"),
        ('day > "soon"', "'soon' is no time; write 2024-01-31"),
        ("click", "this is a number, not a condition"),
        ("click = 1", "character 7: unexpected '='; write == to compare"),
        ("click & flag", "write and"),
        ("country in [de]", "a list holds values, no columns"),
        ("country in []", "expected a column or a value, got ']'"),
        ("age >", "expected a column or a value, got 'the end'"),
        ("(age > 1", "expected ')', got 'the end'"),
        ('country == "de', "unexpected '\"' that is never closed"),
        ("age not 3", "expected 'in', got '3'"),
        ("age == 1 2", "expected and, or, or the end, got '2'"),
        ("1 == 1", "it names no column"),
        ("", "expected a column"),
        ("age + zip > 1", "this is text; only numbers"),
        ("age + click > 1 and country", "this is text, not a condition"),
        ("(" * 90 + "flag" + ")" * 90, "nested deeper than 40 levels"),
        ("age" + "+age" * 90 + " > 1", "at most 40 of + - in a row"),
        ("flag or " * 300 + "flag", "longer than 2,000 characters"),
    ],
)
def test_a_mistake_is_named_with_its_character(text, said):
    with pytest.raises(ConditionError) as error:
        holds(text)
    assert said in str(error.value)


def test_a_condition_says_which_columns_it_needs():
    assert condition("a == 1 and `b c` > a").columns == ("a", "b c")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="agezip01<>=!()[]\"'`+-*/%., ndotrisflg", max_size=40))
def test_any_text_is_a_condition_or_a_mistake(text):
    try:
        found = holds(text)
    except ConditionError:
        return
    assert len(found) == 3
