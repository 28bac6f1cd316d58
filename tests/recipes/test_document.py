"""YAML is read with its lines; what is broken or hostile is refused, fast, with the line."""

# ruff: noqa: E501

from __future__ import annotations

import math
from pathlib import Path

import pytest

from plait.recipes.document import RecipeError, parse, read_document


def test_scalars_follow_yaml_1_2() -> None:
    text = "a: no\nb: 1e-3\nc: 007\nd: 2020-01-01\ne: ~\nf: True\ng: '5'\nh: !!str 5\ni: -.inf\nj: 1_000"
    assert parse(text).value == {
        "a": "no", "b": 0.001, "c": "007", "d": "2020-01-01", "e": None, "f": True, "g": "5",
        "h": "5", "i": -math.inf, "j": "1_000",
    }  # fmt: skip


def test_yaml_1_1_does_not_bring_its_booleans_back() -> None:
    assert parse("%YAML 1.1\n---\na: no\nb: on").value == {"a": "no", "b": "on"}


def test_every_value_knows_its_line() -> None:
    document = parse("a:\n  b: 1\n  c:\n    - x\n    - y: 2\n")
    assert document.line(("a", "b")) == 2
    assert document.line(("a", "c", 1, "y")) == 5
    assert document.line(("a", "unknown")) == 1


def test_values_of_an_alias_have_the_line_where_it_is_used() -> None:
    document = parse("a: &x {b: 1}\n\nc: *x\n")
    assert document.value["c"] == {"b": 1}
    assert document.line(("c", "b")) == 3


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\n\tb: 2", 2, "a tab indents this line"),
        ("a:\n  b: 1\n\tc: 2", 3, "a tab indents this line"),
        ("a: [1, 2\nb: 3", 2, "not valid YAML"),
        ("a: b: c", 1, "a ':' too many"),
        ("a: *nope", 1, "must be quoted"),
        ("a: 1\n---\nb: 2", 2, "a second document"),
        ("a: 1\n\nb: !!python/object/apply:os.system [ls]", 3, "tag"),
        ("a: !custom 3", 1, "tag"),
        ("a: 1\nb: bell\x07", 2, "unacceptable character"),
        ("a: &x [*x]", 1, "must be quoted"),
        ("a: 1\n<<: {b: 2}", 2, "merge keys"),
        ("a: 1\n? [1, 2]\n: 3", 2, "a key must be plain text"),
        ("", 1, "the file is empty"),
        ("# only a comment", 1, "the file is empty"),
    ],
)
def test_one_clear_error_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text, "s.yaml")
    assert len(caught.value.mistakes) == 1
    assert caught.value.mistakes[0].startswith(f"s.yaml:{line}: ")
    assert words in str(caught.value)


def test_a_key_given_twice_is_reported_with_both_lines() -> None:
    document = parse("a: 1\nb: 2\na: 3")
    assert document.value == {"a": 1, "b": 2}
    with pytest.raises(
        RecipeError, match=r"study.yaml:3: a: the key is given twice; first on line 1"
    ):
        document.finish()


def _bomb(levels: int) -> str:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_bomb(9), "values"),
        ("a: " + "[" * 5000, "deeper"),
        ("a: " + "{b: " * 5000, "deeper"),
        ("a: &x 1\nb: [" + "*x, " * 500 + "]", "aliases"),
        ("a: [" + "1, " * 30_000 + "]", "values"),
        ("a: " + "x" * 300_000, "at most"),
    ],
    ids=["aliases by ten", "lists", "mappings", "aliases", "long", "large"],
)
def test_bombs_are_refused(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        parse(text)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a: 1\nb: caf\xe9\n", ":2: byte 0xe9 is not UTF-8"),
        (b"a: 1\x00", "unacceptable character"),
        (b"x" * 300_000, "at most"),
    ],
)
def test_bytes_that_are_not_a_study(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(data)
    with pytest.raises(RecipeError, match=words):
        read_document(path)


def test_a_byte_order_mark_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read_document(path).value == {"a": 1, "b": 2}


def test_a_missing_file_and_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("a: 1")
    with pytest.raises(RecipeError, match=r"no such file; did you mean 'study.yaml'\?"):
        read_document(tmp_path / "stduy.yaml")
    with pytest.raises(RecipeError, match="this is a folder"):
        read_document(tmp_path)
