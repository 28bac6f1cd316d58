"""Studies as files: :func:`read` a YAML file into a :class:`StudySpec`, :func:`write` it back."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from glob import escape
from pathlib import Path
from typing import Any

from plait.comparing.emit import emit
from plait.data.declare import DataSpec, SplitSpec, TableSpec, TaskSpec
from plait.method import Entry, index
from plait.recipes import blocks, spelling, tuning
from plait.recipes.document import Document, Place, RecipeError, nearest, parse, read_document
from plait.recipes.encoders import encoder
from plait.recipes.spelling import Spelled
from plait.settings import TRACKERS, Training

KEYS = (
    "title", "data", "tasks", "encoder", "training", "experts", "strategies", "seeds", "intervals",
    "tune", "track", "version",
)  # fmt: skip
VERSION = 1  # of the study file: raised when a file that was valid would be read differently


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A study as its file declares it; every value is plain, so :func:`write` gives it back.

    ``strategies`` maps labels to spelled methods; empty means the usual ones. ``seeds`` says how
    often weights are drawn (``init``) and rows are split (``split``). ``experts`` names the folders
    of models made elsewhere, by task, and of their base. ``tune`` gives every strategy
    the same number of ``trials``, ``track`` the folder of each tracker. Paths in ``data`` are as
    written; :meth:`located` expands them.
    """

    data: DataSpec
    tasks: Mapping[str, TaskSpec]
    title: str = ""
    encoder: Mapping[str, Any] = field(default_factory=dict)
    training: Training = Training()
    experts: Mapping[str, Any] | None = None
    strategies: Mapping[str, Spelled] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    tune: Mapping[str, Any] | None = None
    track: Mapping[str, str] = field(default_factory=dict)

    def located(self, folder: Path) -> StudySpec:
        """The study with ``${VAR}`` expanded and relative paths taken from a folder.

        What an encoder is ``pretrained`` on is taken for a folder where there is one.

        Raises :class:`RecipeError` for a variable that is not set.
        """
        tables = {
            name: replace(table, source=str(folder / expand(table.source)))
            for name, table in self.data.tables.items()
        }
        encoder = {key: _pretrained(form, folder) for key, form in self.encoder.items()}
        track = {name: str(folder / expand(where)) for name, where in self.track.items()}
        data = replace(self.data, tables=tables)
        experts = self.experts and _located(self.experts, folder)
        return replace(self, data=data, encoder=encoder, track=track, experts=experts)


def read(path: str | Path) -> StudySpec:
    """The study in a file. Raises :class:`RecipeError` with every mistake, each with its line."""
    return from_document(read_document(Path(path)))


def _names(tasks: Mapping[str, TaskSpec]) -> dict[str, str]:
    """The tasks' names, or what they are like where only the data tell, with glob patterns."""
    found: dict[str, str] = {}
    for name, spec in tasks.items():
        if spec.columns is not None:
            columns = [spec.columns] if isinstance(spec.columns, str) else spec.columns
            found |= {each: each for each in columns}
        elif spec.by is not None:
            found[f"{name}[…]"] = escape(f"{name}[") + "*]"
        else:
            found[name] = escape(name)
    return found


def loads(text: str, name: str = "study.yaml") -> StudySpec:
    """The study in a text; ``name`` stands before the line in messages."""
    return from_document(parse(text, name))


def from_document(document: Document) -> StudySpec:
    """The study in a document. Raises :class:`RecipeError` with every mistake."""
    root = document.root
    _check_version(root)
    given = root.mapping("a study", KEYS)
    for key in ("data", "tasks"):
        if key not in given:
            root.missing(key, f"a study needs {key}")
    found: dict[str, Any] = {}
    if "data" in given:
        found["data"] = blocks.data(given["data"])
        _check_paths(given["data"], found["data"])
    if "tasks" in given:
        tables = found["data"].tables if found.get("data") else None
        before = len(document.mistakes)
        found["tasks"] = blocks.tasks(given["tasks"], tables)
        every = len(document.mistakes) == before
    readers = {
        "title": Place.text, "encoder": encoder, "training": blocks.training,
        "experts": experts, "strategies": strategies, "seeds": seeds, "tune": tuning.tune,
        "track": track,
    }  # fmt: skip
    for key, reader in readers.items():
        if key in given and given[key].value is not None:
            found[key] = reader(given[key])
    if "intervals" in given:
        by = intervals(given["intervals"])
        if found.get("data") is not None:
            found["data"] = replace(found["data"], intervals=by)
    tuning.check(root, found)
    if "tasks" in found and every:
        spelling.hold_to(document, _names(found["tasks"]))
    document.finish()
    return StudySpec(**found)


def _check_version(root: Place) -> None:
    """Refuse a file of a later version alone: its other keys may mean something by then."""
    if not isinstance(root.value, dict) or "version" not in root.value:
        return
    place = root.at("version")
    if blocks.whole(place, 1) <= VERSION:
        return
    from plait import __version__

    reads = f"plait {__version__} reads {VERSION if VERSION == 1 else f'1 to {VERSION}'}"
    place.wrong(
        f"this study is written in version {place.value} of the study file and {reads}; "
        "pip install --upgrade plait"
    )
    root.document.finish()


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def expand(path: str) -> str:
    """A path with ``${VAR}`` and ``${VAR:-default}`` replaced from the environment.

    Raises :class:`RecipeError` for a variable that is neither set nor given a default.
    """

    def value(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name) or default
        if found is None:
            raise RecipeError([f"{path}: the environment variable {name} is not set"])
        return found

    return _VARIABLE.sub(value, path)


def _pretrained(form: Any, folder: Path) -> Any:
    if not isinstance(form, Mapping):
        return form
    if "pretrained" not in form:
        return {name: _pretrained(inner, folder) for name, inner in form.items()}
    name = expand(str(form["pretrained"]))
    local = folder / name
    return {**form, "pretrained": str(local.resolve()) if local.exists() else name}


def _located(experts: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The folders of given experts as paths from a folder, variables expanded."""
    models = {task: str(folder / expand(path)) for task, path in experts["models"].items()}
    base = {"base": str(folder / expand(experts["base"]))} if "base" in experts else {}
    return {**base, "models": models}


def _check_paths(place: Place, data: DataSpec | None) -> None:
    """Note variables that are not set."""
    if data is None:
        return
    for name, table in data.tables.items():
        try:
            expand(table.source)
        except RecipeError as error:
            where = (
                place.under(None, "table")
                if name == blocks.ONE
                else place.under(None, "tables", name)
            )
            where.wrong(f"{error}; set it, or write ${{NAME:-folder}}")


def experts(place: Place) -> dict[str, Any] | None:
    """The ``experts:`` block: ``{base: folder, models: {task: folder}}``; base may be left out."""
    given = place.mapping("experts", ("base", "models"))
    if "models" not in given:
        place.missing("models", "experts need models: a folder for each task")
        return None
    models = {task: inner.text() for task, inner in given["models"].mapping("models").items()}
    if not models:
        given["models"].wrong("is empty; give a folder for each task")
    else:
        place.document.naming.append((given["models"], "every"))
    base = {"base": given["base"].text()} if "base" in given else {}
    return {**base, "models": {task: path for task, path in models.items() if path is not None}}


_LABELLED = "{label: {method: {settings}}}"


def strategies(place: Place) -> dict[str, Spelled]:
    """The ``strategies:`` block: ``{label: method}``, or a list of names."""
    if place.value in ([], {}):
        place.wrong("the study has no strategies; leave the key out for the usual ones")
    if isinstance(place.value, list):
        items = [place.under(item, i) for i, item in enumerate(place.value)]
        found = {}
        for item in items:
            label = next(iter(item.value), "") if isinstance(item.value, dict) else item.value
            if str(label) in found:
                item.wrong(f"{label!r} is given twice; name them: {{label: method}}")
            elif (spelled := strategy(item)) is not None:
                found[str(label)] = spelled
        return found
    found = {}
    for label, inner in place.mapping("strategies").items():
        entry = index().get(f"strategy.{label}")
        if not label.strip():
            inner.wrong("a strategy needs a label: {label: method}")
            continue
        if entry is None and not inner.value and isinstance(inner.value, (dict, type(None))):
            known = nearest(label, spelling.names("strategy"))
            inner.wrong(f"no strategy method {label!r}{known}; a label of yours is {_LABELLED}")
            continue
        if entry is None or _names_a_strategy(inner.value, entry):
            spelled = strategy(inner)
        else:
            spelled = spelling.configured(entry, label, inner)
            if isinstance(spelled, Mapping):
                spelling.construct(place, "strategy", spelled)
        if spelled is not None:
            found[label] = spelled
    return found


def _names_a_strategy(value: Any, label: Entry) -> bool:
    """Whether what stands under a strategy's own name is another strategy, and not its settings."""
    if not isinstance(value, dict) or len(value) != 1:
        return isinstance(value, str) and value in spelling.names("strategy")
    (key,) = value
    strategies = [*spelling.names("strategy")]
    accepted = [*label.settings]
    for setting in spelling.settings(label).values():
        accepted += spelling.names(str(setting.part)) if setting.inline else []
    near = difflib.get_close_matches(key, [*accepted, *strategies], n=1)
    return key not in accepted and (
        ":" in key or key in strategies or (bool(near) and near[0] in strategies)
    )


def strategy(place: Place) -> Spelled | None:
    """One strategy; its class is asked whether it takes the values."""
    spelled = spelling.method(place, "strategy")
    if isinstance(spelled, Mapping):
        spelling.construct(place, "strategy", spelled)
    return spelled


def seeds(place: Place) -> dict[str, int]:
    """The ``seeds:`` block: ``{init: 3, split: 1}``; a bare number is ``init``."""
    if not isinstance(place.value, dict):
        return {"init": blocks.whole(place, 1)}
    given = place.mapping("seeds", ("init", "split"))
    return {key: blocks.whole(inner, 1) for key, inner in given.items()}


def intervals(place: Place) -> str | None:
    """The ``intervals:`` block: ``{by: column}``, the column whose values are resampled."""
    if not isinstance(place.value, dict):
        return place.text()
    given = place.mapping("intervals", ("by",))
    if "by" not in given:
        place.missing("by", "intervals need by: the column whose values are resampled")
        return None
    return given["by"].text()


def track(place: Place) -> dict[str, str]:
    """The ``track:`` block: ``{tensorboard: folder}``, the folder of each tracker."""
    given = place.mapping("track", TRACKERS)
    found = {name: inner.text() for name, inner in given.items()}
    return {name: folder for name, folder in found.items() if folder is not None}


def write(spec: StudySpec) -> str:
    """The study as YAML without what is at its default; :func:`loads` gives back an equal one."""
    return emit(plain(spec))


def plain(spec: StudySpec) -> dict[str, Any]:
    """The study as the plain data of its file."""
    found: dict[str, Any] = {"title": spec.title} if spec.title else {}
    found["data"] = _plain_data(spec.data)
    found["tasks"] = {name: _plain_task(name, task) for name, task in spec.tasks.items()}
    if spec.encoder:
        found["encoder"] = _copy(spec.encoder)
    if changed := _changed(spec.training):
        found["training"] = changed
    if spec.experts:
        found["experts"] = _copy(spec.experts)
    if spec.strategies:
        found["strategies"] = {
            label: {} if spelled == label else _copy(spelled)
            for label, spelled in spec.strategies.items()
        }
    if spec.seeds:
        found["seeds"] = dict(spec.seeds)
    if spec.data.intervals is not None:
        found["intervals"] = {"by": spec.data.intervals}
    if spec.tune is not None:
        found["tune"] = _copy(spec.tune)
    if spec.track:
        found["track"] = dict(spec.track)
    return found


def _plain_data(data: DataSpec) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if list(data.tables) == [blocks.ONE]:
        table = _plain_table(data.tables[blocks.ONE])
        found = {"table": table.pop("path"), **table}
    else:
        found["tables"] = {name: _plain_table(table) for name, table in data.tables.items()}
    if data.id is not None:
        found["id"] = data.id
    if data.split is not None:
        found["split"] = _plain_split(data.split)
    return found


def _plain_table(table: TableSpec) -> dict[str, Any]:
    changed = _changed(table)
    return {"path": changed.pop("source"), **changed}


def _plain_split(split: SplitSpec) -> dict[str, Any]:
    if split.kind == "column":
        names = {"names": dict(split.names)} if split.names else {}
        return {"column": split.by, **names}
    by = {} if split.by is None else {"by": split.by}
    return {split.kind: list(split.fractions), "seed": split.seed, **by}


def _plain_task(name: str, task: TaskSpec) -> dict[str, Any]:
    changed = _changed(task)
    if changed.get("target") == name:
        del changed["target"]
    return changed


def _changed(spec: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not at their defaults."""
    found = {}
    for one in fields(spec):
        value = getattr(spec, one.name)
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        if value != default:
            found[one.name] = _copy(value)
    return found


def _copy(value: Any) -> Any:
    """Plain lists and dicts."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(item) for item in value]
    return value
