"""The blocks of a study file, each read into the declaration it stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from plait.data.declare import TYPES, DataSpec, SplitSpec, TableSpec, TaskSpec
from plait.recipes.annotations import Setting, between, settings_of
from plait.recipes.annotations import above as over
from plait.recipes.document import Place, nearest, quote
from plait.recipes.measures import loss_and_metrics
from plait.settings import ABOVE, LEAST, Training
from plait.task import KINDS, Kind, kind_of

SPLITS = ("random", "stratified", "grouped", "time", "column")
PARTS = ("train", "valid", "test")
REPEATS = ("refuse", "first", "mean")
TASK_KEYS = (
    "target", "table", "kind", "columns", "by", "unseen", "classes", "positive", "loss", "metrics",
    "where", "missing", "repeats", "preference", "weight", "group", "after",
)  # fmt: skip
TABLE_KEYS = ("path", "inputs", "types", "buckets", "ignore")
COLUMN_KEYS = ("inputs", "types", "buckets", "ignore")
DATA_KEYS = ("table", "tables", *COLUMN_KEYS, "id", "split")
ONE = "table"  # the name of a study's only table

# What other tools call a setting of a training.
WORDS = {
    "lr": "learning_rate", "rate": "learning_rate", "epochs": "passes", "num_epochs": "passes",
    "batch_size": "batch", "early_stopping": "patience", "dtype": "precision",
    "sampling": "mixing", "accumulation": "micro_batches", "grad_clip": "clip",
}  # fmt: skip
TRAINING: Mapping[str, Setting] = settings_of(
    Training,
    {
        **{name: between(low) for name, low in LEAST.items()},
        **{name: over(low) for name, low in ABOVE.items()},
        "warmup": between(0, 1),
    },
)


def data(place: Place) -> DataSpec | None:
    """The ``data:`` block; a bare path is one table."""
    if isinstance(place.value, str):
        return DataSpec(tables={ONE: TableSpec(source=place.value)})
    before = len(place.document.mistakes)
    given = place.mapping("data", DATA_KEYS)
    if "table" in given and "tables" in given:
        given["table"].wrong("give either table or tables, not both")
    tables: dict[str, TableSpec] = {}
    if "tables" in given:
        for key in COLUMN_KEYS:
            if key in given:
                given[key].wrong(
                    f"with several tables, {key} belongs to a table: {{path: …, {key}: …}}"
                )
        for name, inner in given["tables"].mapping("tables").items():
            tables |= _table(name, inner)
        if given["tables"].value == {} and "table" not in given:
            given["tables"].wrong("data needs at least one table: {name: path}")
    elif "table" in given:
        source = _path(given["table"])
        rest = {key: inner for key, inner in given.items() if key in COLUMN_KEYS}
        if source:
            tables = {ONE: TableSpec(source=source, **_columns(rest))}
    else:
        place.missing("table", "data needs table: path, or tables: {name: path}")
    id_ = given["id"].text() if "id" in given else None
    split_ = split(given["split"]) if "split" in given else None
    return (
        DataSpec(tables=tables, id=id_, split=split_)
        if len(place.document.mistakes) == before
        else None
    )


def _table(name: str, place: Place) -> dict[str, TableSpec]:
    if isinstance(place.value, str):
        return {name: TableSpec(source=place.value)}
    given = place.mapping(f"table {name!r}", TABLE_KEYS)
    if "path" not in given:
        place.missing("path", f"table {name!r} needs path")
        return {}
    source = given.pop("path").text()
    return {name: TableSpec(source=source, **_columns(given))} if source else {}


def _path(place: Place) -> str | None:
    """The path of a study's only table."""
    if isinstance(place.value, (dict, list)):
        place.wrong(
            "table is one path, globs allowed; several tables are tables: {name: path}; "
            f"got {quote(place.value)}"
        )
        return None
    return place.text()


def _columns(given: Mapping[str, Place]) -> dict[str, Any]:
    """``inputs``, ``types`` and ``ignore`` of a table."""
    found: dict[str, Any] = {}
    if "inputs" in given:
        place = given["inputs"]
        if isinstance(place.value, list):
            found["inputs"] = place.texts()
        else:
            roles = place.mapping("inputs")
            found["inputs"] = {
                role: inner.texts() if isinstance(inner.value, list) else inner.text()
                for role, inner in roles.items()
            }
    if "types" in given:
        types = {}
        for column, inner in given["types"].mapping("types").items():
            types[column] = choice(inner, TYPES, "type")
        found["types"] = types
    if "buckets" in given:
        found["buckets"] = {
            column: whole(inner, 1) for column, inner in given["buckets"].mapping("buckets").items()
        }
    if "ignore" in given:
        found["ignore"] = given["ignore"].texts()
    return found


def choice(place: Place, accepted: tuple[str, ...], what: str) -> str | None:
    """One of the accepted words."""
    if place.value in accepted:
        return str(place.value)
    word = place.text()
    if word is not None:
        place.wrong(f"no {what} {word!r}{nearest(word, accepted)}")
    return None


def split(place: Place) -> SplitSpec | None:
    """The ``split:`` block: ``{random: [0.8, 0.1, 0.1], seed: 0}``, ``{column: split}``, …"""
    before = len(place.document.mistakes)
    given = place.mapping("a split", (*SPLITS, "seed", "by", "names"))
    kinds = [kind for kind in SPLITS if kind in given]
    if len(kinds) != 1:
        if len(place.document.mistakes) == before:
            place.wrong(f"a split has one of {', '.join(SPLITS)}; got {', '.join(kinds) or 'none'}")
        return None
    kind = kinds[0]
    found: dict[str, Any] = {"kind": kind}
    if kind == "column":
        found["by"] = given["column"].text()
        for key in ("by", "seed"):
            if key in given:
                given[key].wrong(f"a split by column takes no {key}; the column says it all")
        if "names" in given:
            found["names"] = {
                name: choice(inner, PARTS, "part of a split")
                for name, inner in given["names"].mapping("names").items()
            }
    else:
        found["fractions"] = _fractions(given[kind])
        if "seed" in given:
            found["seed"] = whole(given["seed"], 0)
        if "by" in given:
            found["by"] = given["by"].text()
        if "names" in given:
            given["names"].wrong("names belong to a split by column")
        _check_by(place, kind, "by" in given)
    return SplitSpec(**found) if len(place.document.mistakes) == before else None


def _check_by(place: Place, kind: str, given: bool) -> None:
    if kind == "random" and given:
        place.at("by").wrong("a random split takes no by; did you mean grouped or stratified?")
    if kind != "random" and not given:
        place.missing("by", f"a {kind} split needs by: the column it goes by")


def whole(place: Place, least: int) -> int:
    """A whole number."""
    if type(place.value) is not int or place.value < least:
        place.wrong(f"must be a whole number, at least {least}; got {quote(place.value)}")
        return least
    return place.value


def _fractions(place: Place) -> tuple[float, ...]:
    value = place.value
    good = (
        isinstance(value, list)
        and len(value) == 3
        and all(type(part) in {int, float} and 0 <= part < 1 for part in value)
        and abs(sum(value) - 1) < 1e-6
        and value[0] > 0
    )
    if not good:
        place.wrong(
            "must be three fractions for train, valid and test that add up to 1, "
            f"such as [0.8, 0.1, 0.1]; got {quote(value)}"
        )
        return ()
    return tuple(float(part) for part in value)


def tasks(place: Place, tables: Mapping[str, TableSpec] | None) -> dict[str, TaskSpec]:
    """The ``tasks:`` block: a list of columns, ``{column: kind}``, or ``{name: {…}}``."""
    if isinstance(place.value, list):
        names = place.texts()
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            place.wrong(f"given twice: {', '.join(twice)}")
        return {name: TaskSpec(target=name) for name in names}
    found = {}
    for name, inner in place.mapping("tasks").items():
        if not name.strip():
            inner.wrong("a task needs a name")
        elif (read := task(name, inner, tables)) is not None:
            found[name] = read
    for name, spec in found.items():
        if spec.after is not None and spec.after not in place.value:
            place.at(name).at("after").wrong(
                f"no task {quote(spec.after)}{nearest(spec.after, found)}"
            )
    if isinstance(place.value, dict) and not place.value:
        place.wrong("a study needs at least one task")
    return found


def task(name: str, place: Place, tables: Mapping[str, TableSpec] | None) -> TaskSpec | None:
    """One task, or the family of tasks that ``columns`` or ``by`` makes."""
    before = len(place.document.mistakes)
    if place.value is None:
        return TaskSpec(target=name)
    if isinstance(place.value, str):
        kind = _kind(place)
        return TaskSpec(target=name, kind=kind.name) if kind else None
    given = place.mapping(f"task {name!r}", TASK_KEYS)
    found: dict[str, Any] = {}
    for key in ("target", "table", "by", "positive", "where", "group", "after"):
        if key in given and given[key].value is not None:
            found[key] = given[key].text()
    for key in ("columns", "classes", "metrics"):
        if key in given and given[key].value is not None:
            found[key] = given[key].texts()
    if "unseen" in given:
        found["unseen"] = choice(given["unseen"], ("refuse", "skip"), "answer to unseen values")
    if "repeats" in given:
        found["repeats"] = choice(given["repeats"], REPEATS, "answer to repeated ids")
    if "missing" in given and given["missing"].value is not None:
        found["missing"] = _missing(given["missing"])
    if "weight" in given and given["weight"].value is not None:
        found["weight"] = _weight(given["weight"])
    if "preference" in given:
        found["preference"] = _preference(given["preference"])
    if found.get("where"):
        _where(given["where"], found["where"])
    kind = _kind(given["kind"]) if "kind" in given else None
    if kind is not None:
        found["kind"] = kind.name
    loss_and_metrics(given, kind, found, sound=len(place.document.mistakes) == before)
    _combinations(place, given, found, tables)
    if "columns" not in found:
        found.setdefault("target", name)
    return TaskSpec(**found) if len(place.document.mistakes) == before else None


_HINTS = [hint for kind in KINDS.values() for hint in kind.hints]  # words that people know


def _kind(place: Place) -> Kind | None:
    word = place.text()
    if word is None:
        return None
    try:
        return kind_of(word)
    except ValueError:
        place.wrong(f"no kind {word!r}{nearest(word, KINDS, _HINTS)}")
        return None


def _missing(place: Place) -> tuple[Any, ...]:
    """The values that mean no label: one, or a list of them."""
    values = place.value if isinstance(place.value, list) else [place.value]
    if not values or any(isinstance(value, (dict, list)) or value is None for value in values):
        place.wrong(f'must be values that mean no label, as [-1, "?"]; got {quote(place.value)}')
        return ()
    return tuple(values)


def _weight(place: Place) -> str | None:
    """The column of label weights."""
    if isinstance(place.value, (int, float)):
        place.wrong(
            "weight names the column with each label's weight; a number for the whole task is "
            f"preference: {quote(place.value)}"
        )
        return None
    return place.text()


def _where(place: Place, text: str) -> None:
    """A condition must be readable; whether its columns are there is seen with the data."""
    from plait.data.where import ConditionError, condition

    try:
        condition(text)
    except ConditionError as error:
        place.wrong(str(error))


def _preference(place: Place) -> float:
    if type(place.value) not in {int, float} or not 0 <= place.value < float("inf"):
        place.wrong(f"must be a number, at least 0; got {quote(place.value)}")
        return 1.0
    return float(place.value)


def _combinations(
    place: Place,
    given: Mapping[str, Place],
    found: Mapping[str, Any],
    tables: Mapping[str, TableSpec] | None,
) -> None:
    """What single keys cannot tell: keys that exclude or need each other."""
    for other in ("target", "by", "positive"):
        if "columns" in given and other in given:
            given[other].wrong(f"columns make one task each and take no {other}")
    if "unseen" in given and "by" not in given and "columns" not in given:
        place.missing("by", "unseen is about the values of by; give by: column", given["unseen"])
    if found.get("repeats") == "mean" and found.get("kind") == "counts":
        given["repeats"].wrong("the mean of counts is no count; write first, or kind: real")
    if "positive" in given and found.get("kind") not in {None, "binary"}:
        given["positive"].wrong("positive makes a binary task; leave kind out or write binary")
    if found.get("classes") and found.get("kind") in {"real", "counts"}:
        given["classes"].wrong(f"a task of kind {found['kind']} has no classes")
    elif found.get("classes"):
        _check_classes(given["classes"], found["classes"], found.get("kind"))
    if tables is None:
        return
    table = found.get("table")
    if table is not None and table not in tables:
        given["table"].wrong(f"no table {table!r}{nearest(table, tables)}")


def _check_classes(place: Place, classes: tuple[str, ...], kind: str | None) -> None:
    if twice := sorted({name for name in classes if classes.count(name) > 1}):
        place.wrong(f"given twice: {', '.join(twice)}")
    elif kind == "binary" and len(classes) != 2:
        place.wrong(f"a binary task has two classes; got {len(classes)}")
    elif len(classes) < 2:
        place.wrong("a task needs at least two classes")


_DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:\d+)?")


def training(place: Place) -> Training:
    """The ``training:`` block."""
    given = place.mapping("training", TRAINING, WORDS)
    good = {}
    for name, inner in given.items():
        if problem := TRAINING[name].type.problem(inner.value):
            inner.wrong(problem)
        elif name == "device" and not _DEVICE.fullmatch(inner.value):
            inner.wrong(f"no device {inner.value!r}; write auto, cpu, cuda, cuda:1 or mps")
        else:
            good[name] = inner.value
    return Training(**good)
