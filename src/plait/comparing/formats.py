"""Run folders of other versions, and of other studies: taken up, or refused in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import plait
from plait.comparing.words import listed
from plait.weights.files import DamagedError, read_json

FORMAT = 2
STUDY = "study.json"


def read(folder: Path) -> dict[str, Any]:
    """A run's ``study.json`` as this version writes it.

    Raises :class:`DamagedError` where there is none, and where a newer version wrote it.
    """
    path = folder / STUDY
    if not path.is_file():
        raise DamagedError(f"{folder} holds no run: there is no {STUDY}")
    data = read_json(path)
    found = data.get("format") if isinstance(data, dict) else None
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise DamagedError(f"{path}: not a study that plait has written")
    if found > FORMAT:
        raise DamagedError(
            f"{path}: made by another version of plait, {data.get('plait', 'a newer one')}, which "
            f"writes format {found}; plait {plait.__version__} reads up to format {FORMAT}: "
            "pip install --upgrade plait"
        )
    for number in range(found, FORMAT):
        data = _STEPS[number](data)
    return {**data, "format": FORMAT}


@contextmanager
def understood(folder: Path, data: Mapping[str, Any]) -> Iterator[None]:
    """What another version wrote and this one cannot make sense of is one :class:`DamagedError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        unknown = re.search(r"unexpected keyword argument ('\w+')", str(error))
        said = f"it has no setting {unknown[1]}" if unknown else str(error)
        raise DamagedError(
            f"{folder / STUDY}: written by plait {data['plait']}, and plait {plait.__version__} "
            f"cannot take it up ({said}); read it with the plait and packages that wrote it, or "
            f"compute it anew: plait compare {folder / 'study.yaml'} --out ANOTHER_FOLDER"
        ) from error


def _leases(data: dict[str, Any]) -> dict[str, Any]:
    """1 → 2: files of locks became folders of leases; the study itself is the same."""
    return {"plait": "0.1.0", **data}


_STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _leases}


def refuse_another(folder: Path, new: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` where a folder holds the run of a study of other tasks or data.

    Other strategies, settings, seeds and samples of the same study share its folder.
    """
    if not (folder / STUDY).is_file():
        return
    old, new = read(folder), json.loads(json.dumps(new))
    way_out = "give another folder with --out, or remove this one"
    here, there = _tasks(new), _tasks(old)
    if here != there:
        changes = [f"+{name}" for name in sorted(here - there)]
        changes += [f"-{name}" for name in sorted(there - here)]
        raise ValueError(
            f"{folder} holds the run of another study, {old['title'] or 'without a title'!r}: "
            f"its tasks are others ({listed(changes, 6)}); {way_out}"
        )
    if not _data(old) & _data(new) and _rows(old) == _rows(new):
        raise ValueError(
            f"{folder} holds a run on the same tables with other contents: they have changed since "
            f"it was started; restore them, or {way_out}"
        )
    if not _data(old) & _data(new) and _sources(old) != _sources(new):
        raise ValueError(f"{folder} holds a run on other tables; {way_out}")


def _tasks(study: Mapping[str, Any]) -> set[str]:
    return {task["name"] for table in study["tables"] for task in table["tasks"]}


def _data(study: Mapping[str, Any]) -> set[str]:
    """The hashes of what was read, one for each split."""
    return {table["fingerprint"] for table in study["tables"]}


def _rows(study: Mapping[str, Any]) -> Any:
    """What was declared to be read; None where the data were given as objects."""
    declared = study["declared"]
    return declared and {name: declared[name] for name in ("data", "tasks", "text", "sample")}


def _sources(study: Mapping[str, Any]) -> set[str]:
    declared = study["declared"]
    return {table["source"] for table in declared["data"]["tables"].values()} if declared else set()
