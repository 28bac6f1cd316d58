"""What is printed never steers the terminal."""

from __future__ import annotations

import pytest

from plait.cli import console


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07name", "name"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\rb\bc\x07d", "abcd"),
        ("\x9b2Jx", "2Jx"),
        ("evil\u202egnp.exe", "evilgnp.exe"),
        ("naïve Ω 日本 \U0001f600", "naïve Ω 日本 \U0001f600"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_controls_are_stripped(text: str, wanted: str) -> None:
    assert console.clean(text) == wanted


def test_names_stay_on_one_line() -> None:
    assert console.one_line("a\nb\u2028c\x85d\t e") == "a b cd e"


def test_tables_show_markup_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(console.table(("name",), [("[red]x[/red] \x1b[2J",)]))
    assert "[red]x[/red]" in capsys.readouterr().out


def test_wide_tables_are_not_cut_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.show(console.table(("a", "b"), [("x" * 70, "y" * 70)]))
    assert "y" * 70 in capsys.readouterr().out


def test_the_lines_of_a_point_stand_under_each_other_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console.item("one \x1b[2Jtwo three")
    assert capsys.readouterr().out == "- one two three\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "9")
    console.item("one two three")
    assert [row.rstrip() for row in capsys.readouterr().out.splitlines()] == [
        "- one two", "  three",
    ]  # fmt: skip
