from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

import plait.method
from plait.method import (
    Card,
    Entry,
    Law,
    Method,
    MethodError,
    Need,
    Paper,
    describe,
    did_you_mean,
    find,
    index,
    iterate,
    methods,
    resolve,
    spell,
    unspell,
)


@dataclass(frozen=True, kw_only=True)
class Inner(Method):
    card: ClassVar[Card] = Card(family="toys", name="inner", summary="An inner toy method.")
    keep: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep must lie in [0, 1], got {self.keep}")


@dataclass(frozen=True, kw_only=True)
class Outer(Method):
    card: ClassVar[Card] = Card(
        family="toys",
        name="outer",
        summary="An outer toy method.",
        needs=frozenset({Need.BASE, Need.UNLABELLED}),
        laws=frozenset({Law.ABSENT}),
    )
    parts: ClassVar[dict[str, str]] = {"inside": "toys"}
    inline: ClassVar[str | None] = "inside"
    inside: Inner | None = None
    sizes: tuple[int, ...] = (1, 2)
    rates: dict[str, float] = field(default_factory=dict)


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    rows = [describe(Inner), describe(Outer)]
    known = {**index(), **{row["key"]: Entry.from_row(row) for row in rows}}
    monkeypatch.setattr(plait.method, "index", lambda: known)


def test_resolve_takes_a_name_a_mapping_or_an_object():
    assert resolve("toys", "inner") == Inner()
    assert resolve("toys", {"inner": None}) == Inner()
    assert resolve("toys", {"inner": {"keep": 0.25}}) == Inner(keep=0.25)
    assert resolve("toys", Inner(keep=1.0)) == Inner(keep=1.0)
    nested = resolve("toys", {"outer": {"inside": {"inner": {"keep": 0.1}}}})
    assert nested.inside == Inner(keep=0.1)
    assert list(iterate(nested)) == [nested, nested.inside]


def test_spell_leaves_defaults_out_and_reads_back():
    assert spell(Inner()) == "inner"
    assert spell(Outer(inside=Inner(), sizes=(3,))) == {"outer": {"inner": {}, "sizes": [3]}}
    deep = Outer(inside=Inner(keep=0.75))
    assert resolve("toys", spell(deep)) == deep


def test_a_part_may_be_written_in_place_of_its_setting():
    wanted = Outer(inside=Inner(keep=0.25))
    assert resolve("toys", {"outer": {"inner": {"keep": 0.25}}}) == wanted
    assert resolve("toys", {"outer": {"inside": {"inner": {"keep": 0.25}}}}) == wanted
    assert resolve("toys", {"outer": "inner"}) == Outer(inside=Inner())
    with pytest.raises(MethodError, match="no toys method 'innre'; did you mean 'inner'"):
        resolve("toys", {"outer": {"innre": {}}})
    with pytest.raises(MethodError, match="no setting 'size'; did you mean 'sizes'"):
        resolve("toys", {"outer": {"size": [1]}})


def test_a_class_outside_the_index_is_spelled_by_its_place(monkeypatch):
    monkeypatch.setattr(plait.method, "index", dict)
    spelled = spell(Inner(keep=0.25))
    assert spelled == {f"{__name__}:Inner": {"keep": 0.25}}
    assert resolve("toys", spelled) == Inner(keep=0.25)


def test_true_is_not_the_same_setting_as_one():
    assert spell(Inner(keep=1)) == {"inner": {"keep": 1}}  # 1 is no float default either
    assert spell(Inner(keep=0.5)) == "inner"


@pytest.mark.parametrize(
    ("spelled", "said", "where"),
    [
        ("iner", "no toys method 'iner'; did you mean 'inner'?", ()),
        ({"inner": {"kep": 1}}, "no setting 'kep'; did you mean 'keep'?", ("inner", "kep")),
        ({"inner": {"keep": 2.0}}, "keep must lie in [0, 1], got 2.0", ("inner",)),
        ({"inner": {"keep": "x"}}, "toys 'inner'", ("inner",)),
        (
            {"outer": {"inside": {"inner": {"kep": 1}}}},
            "no setting 'kep'",
            ("outer", "inside", "inner", "kep"),
        ),
        ({"a": {}, "b": {}}, "is its name, or {name: {settings}}", ()),
        (3, "is its name, or {name: {settings}}", ()),
        ({"inner": 3}, "the settings of toys 'inner' must be a mapping", ("inner",)),
        ("no.such:Class", "cannot load 'no.such:Class'", ()),
        ("json:JSONDecoder", "is not a plait method", ()),
    ],
)
def test_mistakes_are_named_with_the_path_of_keys(spelled, said, where):
    with pytest.raises(MethodError) as caught:
        resolve("toys", spelled)
    assert said in str(caught.value)
    assert caught.value.where == where


def test_methods_are_listed_by_family_and_by_what_one_has():
    assert [entry.name for entry in methods("toys")] == ["inner", "outer"]
    assert [entry.name for entry in methods("toys", have=["base"])] == ["inner"]
    have = ["Base", "UNLABELLED", "double-backward"]
    assert [entry.name for entry in methods("toys", have=have)] == ["inner", "outer"]
    with pytest.raises(MethodError, match="did you mean 'toys'"):
        methods("toyz")
    with pytest.raises(MethodError, match="did you mean 'unlabelled'"):
        methods("toys", have=["unlabeled"])


def test_an_entry_holds_what_a_page_needs():
    entry = Entry.from_row(json.loads(json.dumps(describe(Outer))))
    assert (entry.family, entry.name) == ("toys", "outer")
    assert entry.laws == ("ABSENT",)
    assert entry.needs == ("base", "unlabelled")
    assert entry.settings["sizes"] == {"type": "tuple[int, ...]", "default": [1, 2]}
    assert entry.load() is Outer


def test_needs_have_words_for_users():
    assert all(need.words and need.words != need.value for need in Need)


def test_bibtex_leaves_empty_fields_out():
    paper = Paper(title="On Toys", authors="A. Author and B. Other", year=2020)
    entry = paper.bibtex("inner")
    assert entry.startswith("@inproceedings{inner,\n  title = {On Toys},\n")
    assert "year = {2020}" in entry
    assert "booktitle" not in entry


def test_unspell_makes_keys_text():
    assert unspell("toys", {"inner": {1: 2}}) == ("inner", {"1": 2})


def test_did_you_mean_lists_the_names_when_none_is_near():
    assert did_you_mean("zzz", ["b", "a"]) == "; valid: a, b"
    assert did_you_mean("zzz", []) == ""


def test_every_indexed_method_can_be_found(monkeypatch):
    monkeypatch.undo()
    for key, entry in index().items():
        assert find(entry.family, entry.name).card.key == key


def test_listing_methods_imports_none_of_them_and_no_torch():
    code = (
        "import sys, plait.method as m; n = len(m.methods());"
        "bad = [x for x in sys.modules if x.startswith('plait.') and x != 'plait.method'];"
        "assert not bad, bad; assert 'torch' not in sys.modules; print(n)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(json.loads(_stored()))


def _stored() -> str:
    from importlib.resources import files

    return files("plait").joinpath("methods.json").read_text("utf-8")


def test_a_method_named_like_a_setting_is_no_misspelling():
    found = resolve("strategy", {"merge": {"star": {}}})
    assert spell(found) == {"merge": {"star": {}}}
    with pytest.raises(MethodError, match="did you mean 'start'"):
        resolve("strategy", {"merge": {"strt": "warm_up"}})
