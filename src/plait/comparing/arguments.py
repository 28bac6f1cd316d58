"""What :func:`plait.compare` is given, checked before anything is read or computed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import Any

from plait.method import Method, did_you_mean, resolve

_SHAPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "targets": ((str, Mapping, Iterable), "column names, or {column: kind}"),
    "tasks": ((str, Mapping, Iterable), "column names, or {name: kind}"),
    "strategies": ((str, Mapping, Iterable), "names of strategies, or {label: method}"),
    "encoder": ((Mapping,), "a mapping, such as {'trunk': {'mlp': {'width': 64}}}"),
    "experts": ((Mapping,), "a mapping, such as {'models': {'task': 'folder'}}"),
    "seeds": ((int, Mapping), "a whole number, or {'init': 3, 'split': 1}"),
    "id": ((str,), "the name of a column"),
    "intervals": ((str,), "the name of a column"),
}


def check(*, out: str | Path | None, **given: Any) -> None:
    """Raise ``ValueError`` for arguments of another shape than they take, all of them at once.

    An encoder's keys, names and settings are checked as well.
    """
    wrong = [
        f"{name} must be {words}; got {given[name]!r}"
        for name, (kinds, words) in _SHAPES.items()
        if given.get(name) is not None and not isinstance(given[name], kinds)
    ]
    wrong += [*_strategies(given.get("strategies")), *_tasks(given.get("tasks"))]
    split, sample, time = (given.get(name) for name in ("split", "sample", "time"))
    if split is not None and not hasattr(split, "fractions"):
        wrong.append(f"split must be a SplitSpec of plait.data; got {split!r}")
    if sample is not None and not (_number(sample) and 0 < sample <= 1):
        wrong.append(f"sample must be a number above 0 and at most 1; got {sample!r}")
    if time is not None and not (_number(time) and time > 0):
        wrong.append(f"time must be seconds, above 0; got {time!r}")
    if out is not None and Path(out).is_file():
        wrong.append(f"out: {out} is a file; give a folder")
    if wrong:
        raise ValueError("\n".join(wrong))
    if given.get("encoder"):
        from plait.networks.encoder import check_encoder

        check_encoder(given["encoder"])


def _strategies(given: Any) -> Iterator[str]:
    if not isinstance(given, (list, tuple)):
        return
    names = [name for name in given if isinstance(name, str)]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"strategies: {name!r} is given twice; name them: {{label: method}}"
    for other in given:
        if not isinstance(other, str):
            yield f"strategies: a list holds names; got {other!r}; write {{label: method}}"


def _tasks(given: Any) -> Iterator[str]:
    for name, task in given.items() if isinstance(given, Mapping) else ():
        if not (task is None or isinstance(task, (str, Mapping)) or hasattr(task, "target")):
            yield f"task {name!r} is a kind, a mapping or a TaskSpec; got {task!r}"


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def named_tasks(value: Any, where: str) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """The tasks that a setting names and the path to each in it.

    ``where``: in the ``keys`` of a mapping (``every`` task must be one), in the ``values`` (a text,
    a list of texts, a mapping to either), or in ``both``.
    """
    match value:
        case str():
            yield value, ()
        case Mapping():
            for key, inner in value.items():
                if where != "values":
                    yield key, (key,)
                if where in ("values", "both"):
                    yield from ((name, (key, *path)) for name, path in named_tasks(inner, "values"))
        case list() | tuple():
            for place, inner in enumerate(value):
                if isinstance(inner, str):
                    yield inner, (place,)


def left_out(value: Any, where: str, names: Mapping[str, str]) -> list[str]:
    """The tasks that a setting by task lacks; ``names`` maps them, as told, to glob patterns."""
    if where != "every" or not isinstance(value, Mapping):
        return []
    return [
        name
        for name, pattern in names.items()
        if not any(fnmatchcase(key, pattern) for key in value)
    ]


def unknown_tasks(method: Method, names: Collection[str]) -> list[str]:
    """A sentence for each name that settings of a method, or of its parts, take for a task's.

    And one for each setting that must name all tasks and does not.
    """
    wrong = []
    for setting, value in method.settings().items():
        part, where = type(method).parts.get(setting), type(method).names_tasks.get(setting)
        if part is not None and value is not None:
            wrong += unknown_tasks(resolve(part, value), names)
        if where is None:
            continue
        strange = [name for name, _ in named_tasks(value, where) if name not in names]
        for name in strange:
            nearest = did_you_mean(name, names)
            wrong.append(f"{method.card.name}: {setting}: no task {name!r}{nearest}")
        lacking = left_out(value, where, {name: escape(name) for name in names})
        if lacking and not strange:
            told = f"given by task, and lacks {', '.join(lacking)}"
            wrong.append(f"{method.card.name}: {setting}: {told}")
    return wrong
