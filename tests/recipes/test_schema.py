"""The published JSON Schema is current, accepts what the reader accepts and rejects typos."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from plait.recipes import loads, schema
from plait.recipes.document import parse, read_document

jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> Any:
    found = schema.schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def test_the_published_schema_is_current() -> None:
    assert schema.PATH.read_text("utf-8") == schema.text(), "run python -m plait.recipes.schema"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_example_studies_are_accepted_by_both(path: Path, validator: Any) -> None:
    value = read_document(path).value
    assert [error.message for error in validator.iter_errors(value)] == []
    spec = loads(path.read_text("utf-8"), str(path))
    assert spec.strategies


def _misspelt(value: Any) -> list[Any]:
    """The study with one key misspelt, once for each key that plait gives a meaning to."""
    found = []
    for where in (
        ("data",), ("tasks",), ("encoder",), ("training",), ("strategies",), ("seeds",),
        ("training", "passes"), ("seeds", "init"), ("encoder", "trunk"),
        ("encoder", "trunk", "mlp"), ("encoder", "trunk", "mlp", "width"),
        ("strategies", "experts", "joint"), ("strategies", "experts", "joint", "sharing"),
        ("strategies", "experts", "joint", "sharing", "mmoe"),
        ("strategies", "experts", "joint", "sharing", "mmoe", "experts"),
        ("data", "table"), ("tasks", "never_married", "target"),
    ):  # fmt: skip
        wrong = copy.deepcopy(value)
        place = wrong
        for key in where[:-1]:
            place = place[key]
        place[where[-1] + "x"] = place.pop(where[-1])
        found.append((".".join(where), wrong))
    return found


CENSUS = read_document(ROOT / "recipes" / "census.yaml").value


@pytest.mark.parametrize(
    ("key", "wrong"), _misspelt(CENSUS), ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_misspelt_key_is_rejected(key: str, wrong: Any, validator: Any) -> None:
    assert list(validator.iter_errors(wrong)), f"{key} misspelt is accepted"


@pytest.mark.parametrize(
    "text",
    [
        "data: x.csv\ntasks: {a: binray}",
        "data: x.csv\ntasks: [a]\nstrategies: {a: jiont}",
        "data: x.csv\ntasks: [a]\nstrategies: [jiont]",
        "data: x.csv\ntasks: [a]\ntraining: {passes: eight}",
        "data: x.csv\ntasks: [a]\ntraining: {passes: 0}",
        "data: x.csv\ntasks: [a]\nencoder: {text: bga}",
        "data: {table: x.csv, split: {random: [0.5, 0.5]}}\ntasks: [a]",
        "data: {table: x.csv, types: {a: numerik}}\ntasks: [a]",
        "data: {table: x.csv, tables: {a: x.csv}}\ntasks: [a]",
        "data: x.csv\ntasks: [a]\nstrategies: {a: {joint: {sharing: {mmoe: {experts: many}}}}}",
    ],
)
def test_wrong_values_are_rejected(text: str, validator: Any) -> None:
    assert list(validator.iter_errors(parse(text).value))


@pytest.mark.parametrize(
    "text",
    [
        "data: x.csv\ntasks: {a: multilabel, b: }",
        "data: {tables: {a: x.csv, b: {path: y.csv}}}\ntasks: [a]\nstrategies: [joint]",
        "data: x.csv\ntasks: [a]\nstrategies: {joint: , b: joint, c: {joint: }}",
        "data: x.csv\ntasks: [a]\nstrategies: {joint: {balancing: pcgrad}}",
        "data: x.csv\ntasks: [a]\nstrategies: {m: {merge: {average: {}}}, n: {merge: average}}",
        "data: x.csv\ntasks: [a]\nstrategies: {a: {'my.own:Strategy': {any: 3}}}",
        "data: x.csv\ntasks: [a]\nseeds: 3\nintervals: {by: user}\ntraining: {clip: null}",
        "data: x.csv\ntasks: [a]\nencoder: {module: 'my.own:Encoder', settings: {width: 3}}",
    ],
)
def test_short_forms_are_accepted(text: str, validator: Any) -> None:
    assert [error.message for error in validator.iter_errors(parse(text).value)] == []


@pytest.mark.data
@pytest.mark.parametrize(("name", "tasks"), [("tox21", 12), ("school", 139), ("census", 2)])
def test_example_studies_find_their_data(
    name: str, tasks: int, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plait.data import load
    from plait.recipes import read

    monkeypatch.setenv("PLAIT_DATA", str(real_data))
    spec = read(ROOT / "recipes" / f"{name}.yaml").located(ROOT / "recipes")
    assert len(load(spec.data, spec.tasks).tasks) == tasks


def test_the_demo_is_the_example_study() -> None:
    from plait.cli.demo import STUDY

    assert (ROOT / "recipes" / "demo.yaml").read_text("utf-8") == STUDY
