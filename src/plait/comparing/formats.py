"""Run folders of other versions, and of other studies: taken up, or refused in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

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
    """What a ``study.json`` lacks, or holds that this version does not know, is one error.

    It is a :class:`DamagedError` that says who wrote the file and what to do.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        unknown = re.search(r"unexpected keyword argument ('\w+')", str(error))
        said = f"it has no setting {unknown[1]}" if unknown else str(error)
        said = f"{error} is missing" if isinstance(error, KeyError) else said
        writer = data.get("plait")
        anew = f"compute it anew: plait compare {folder / 'study.yaml'} --out ANOTHER_FOLDER"
        if writer in (None, plait.__version__):
            raise DamagedError(
                f"{folder / STUDY}: not a whole study ({said}); restore the file, or {anew}"
            ) from error
        raise DamagedError(
            f"{folder / STUDY}: written by plait {writer}, and plait {plait.__version__} "
            f"cannot take it up ({said}); read it with the plait and packages that wrote it, or "
            f"{anew}"
        ) from error


def _leases(data: dict[str, Any]) -> dict[str, Any]:
    """1 → 2: files of locks became folders of leases; the study itself is the same."""
    return {"plait": "0.1.0", **data}


_STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _leases}


@dataclass(frozen=True, kw_only=True)
class _Origin:
    """What a study was made of: its tasks, and the hashes of what was read, one for each split.

    ``rows`` is what was declared to be read, None where the data were given as objects;
    ``sources`` are the tables of it.
    """

    title: str
    tasks: set[str]
    data: set[str]
    rows: Mapping[str, Any] | None
    sources: set[str]

    @classmethod
    def of(cls, study: Mapping[str, Any]) -> Self:
        """From the plain data of a ``study.json``."""
        declared = study["declared"]
        named = ("data", "tasks", "text", "sample")
        tables = declared["data"]["tables"].values() if declared else ()
        return cls(
            title=study["title"] or "without a title",
            tasks={task["name"] for table in study["tables"] for task in table["tasks"]},
            data={table["fingerprint"] for table in study["tables"]},
            rows=declared and {name: declared[name] for name in named},
            sources={table["source"] for table in tables},
        )


def refuse_another(folder: Path, new: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` where a folder holds the run of a study of other tasks or data.

    Other strategies, settings, seeds and samples of the same study share its folder. Raises
    :class:`DamagedError` where what the folder holds cannot be read.
    """
    if not (folder / STUDY).is_file():
        return
    old = read(folder)
    with understood(folder, old):
        there = _Origin.of(old)
    here = _Origin.of(json.loads(json.dumps(new)))
    way_out = "give another folder with --out, or remove this one"
    if here.tasks != there.tasks:
        changes = [f"+{name}" for name in sorted(here.tasks - there.tasks)]
        changes += [f"-{name}" for name in sorted(there.tasks - here.tasks)]
        raise ValueError(
            f"{folder} holds the run of another study, {there.title!r}: "
            f"its tasks are others ({listed(changes, 6)}); {way_out}"
        )
    if here.data & there.data:
        return
    if here.rows == there.rows:
        raise ValueError(
            f"{folder} holds a run on the same tables with other contents: they have changed since "
            f"it was started; restore them, or {way_out}"
        )
    if here.sources != there.sources:
        raise ValueError(f"{folder} holds a run on other tables; {way_out}")
