"""Bad studies: every mistake told in one pass with its line and its fix, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus import CASES

from plait.recipes import RecipeError, loads, read


def named(cases: list) -> list[pytest.param]:
    return [pytest.param(*rest, id=name) for name, *rest in cases]


@pytest.mark.parametrize(("text", "told"), named(CASES))
def test_every_mistake_is_told_at_its_line_with_its_fix(text: str, told: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        loads(text)
    mistakes = caught.value.mistakes
    assert len(mistakes) == len(told), "\n".join(mistakes)
    for mistake, wanted in zip(mistakes, told, strict=True):
        line, _, parts = wanted.partition(": ")
        assert mistake.startswith(f"study.yaml:{line}: ")
        for part in parts.split(" | "):
            assert part in mistake


def test_the_corpus_is_large_and_no_case_is_there_twice() -> None:
    assert len(CASES) >= 120
    assert len({name for name, *_ in CASES}) == len({text for _, text, _ in CASES}) == len(CASES)


# -- bombs -----------------------------------------------------------------------------------------


def tenfold(levels: int) -> str:
    """Aliases that grow tenfold a level: 300 bytes that would become 50 MB."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (tenfold(9), "more than 20,000 values"),
        ("data: &x 1\ntasks: [" + "*x, " * 500 + "]", "more than 200 aliases"),
        ("data: " + "[" * 5000, "nested deeper than 24 levels"),
        ("data: " + "{a: " * 5000, "nested deeper than 24 levels"),
        ("\n".join(" " * level + "a:" for level in range(60)), "nested deeper than 24 levels"),
        ("tasks: [" + "a, " * 30_000 + "]", "more than 20,000 values"),
        ("title: " + "x" * 300_000, "at most 262,144"),
        ("tasks: {" + ", ".join(f"t{i}: binary" for i in range(15_000)) + "}", "20,000 values"),
    ],
    ids=["tenfold", "aliases", "lists", "mappings", "blocks", "many", "long", "keys"],
)
def test_bombs_are_refused(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        loads(text)
    assert len(caught.value.mistakes) == 1


# -- bytes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"data: x\ntitle: caf\xe9\n", ":2: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("data: x".encode("utf-16"), ":1: byte 0xff is not UTF-8; save the file as UTF-8"),
        (b"data: x\ntasks: [a\x00]", ":2: unacceptable character"),
        (b"\x1f\x8b\x08\x00", ":1: byte 0x8b is not UTF-8"),
        (b"x" * 300_000, "300,000 bytes; a study file has at most 262,144"),
        (b"", ":1: the file is empty"),
    ],
    ids=["latin-1", "utf-16", "nul", "gzip", "huge", "empty"],
)
def test_bytes_that_are_no_study(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(data)
    with pytest.raises(RecipeError) as caught:
        read(path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_path_that_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("data: x")
    (tmp_path / "fruit.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RecipeError, match=r"there is no such file; did you mean 'study.yaml'\?"):
        read(tmp_path / "stduy.yaml")
    with pytest.raises(RecipeError, match="a study is a YAML file; this is a folder"):
        read(tmp_path)
    with pytest.raises(RecipeError, match=r"a table; plait init .*fruit.csv writes a study"):
        read(tmp_path / "fruit.csv")


# -- what looks wrong and is right -----------------------------------------------------------------


def test_names_that_yaml_takes_for_something_else_stay_names() -> None:
    """Norway, numbers, dates and nothing are names of tasks, columns and classes like others."""
    spec = loads(
        "version: 1\ndata: {table: x.csv, id: 007}\n"
        "tasks: {no: binary, 2020-01-01: real, 1e3: , on: , ~: real}\n"
        "training: {learning_rate: 1e-3}\n"
    )
    assert list(spec.tasks) == ["no", "2020-01-01", "1e3", "on", "~"]
    assert spec.data.id == "007"
    assert spec.training.learning_rate == 0.001
