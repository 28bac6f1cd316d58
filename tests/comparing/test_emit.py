"""Plain data as YAML: what is written reads back as it was."""

from __future__ import annotations

import pytest

from plait.comparing.emit import emit, inline, scalar, word
from plait.recipes.document import parse

TEXTS = (
    *("joint", "NR-AR", "a b", "no", "007", "1e3", "12", "-4.5", "true", "null", "~", ".inf"),
    *("", " x", "x ", "a: b", "# c", "- d", "{e}", "[f]", "*g", "&h", "!i", "%j", "@k", "<<", "="),
    *("it's", 'say "l"', "two\nlines", "tab\tx", "\x07", "naïve", "\U0001f600", "\u2028"),
)


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_reads_back_as_text(text: str) -> None:
    written = emit({"key": text, text: 1})
    assert parse(written, "study.yaml").value == {"key": text, text: 1}


def test_short_mappings_stand_on_one_line_and_long_ones_do_not() -> None:
    written = emit(
        {
            "seeds": {"init": 3, "split": 1},
            "strategies": {"joint": {}, "merged": {"merge": {"ties": {"keep": 0.2}}}},
            "columns": [f"column_{i}" for i in range(20)],
        }
    )
    lines = written.splitlines()
    assert lines[0] == "seeds: {init: 3, split: 1}"
    assert lines[1:4] == ["strategies:", "  joint: {}", "  merged: {merge: {ties: {keep: 0.2}}}"]
    assert lines[4:6] == ["columns:", "  - column_0"]


def test_values_are_written_as_yaml_spells_them() -> None:
    told = inline({"a": None, "b": True, "c": float("inf"), "d": [1, "no"], "e": 1e-05})
    assert told == "{a: null, b: true, c: .inf, d: [1, no], e: 1e-05}"
    assert word("plain") == "plain"
    assert scalar("1e-05") == 1e-05
