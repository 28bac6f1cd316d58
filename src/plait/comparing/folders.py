"""The JSON of model folders, read as what anyone may have written: whole and fitting, or refused.

Every error is a :class:`DamagedError` that names the file, what is wrong and what to do.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plait.batch import Input
from plait.data.preparation import Preparation
from plait.weights.files import DamagedError
from plait.weights.states import AGAIN

CATEGORIES = "the categories or tokens of a column are cut, or come from another model"


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one mapping, no key of it twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DamagedError(f"{path}: the key {twice[:80]!r} stands there twice; {AGAIN}")
        return found

    try:
        found = json.loads(path.read_text("utf-8"), object_pairs_hook=unique)
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing; {AGAIN}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(f"{path}: not readable as JSON ({error}); {AGAIN}") from error
    if not isinstance(found, dict):
        raise DamagedError(f"{path}: a {type(found).__name__} where a mapping must be; {AGAIN}")
    return found


def check_format(path: Path, told: Mapping[str, Any], key: str, known: int) -> None:
    """Refuse files of another format, and say which plait reads them."""
    version = told.get(key)
    if version == known:
        return
    fix = AGAIN
    if isinstance(version, int) and version > known:
        fix = "a newer plait wrote it, so pip install -U plait"
    raise DamagedError(f"{path}: {key} {version!r}; this plait reads {known}: {fix}")


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """What goes wrong inside, because the file does not hold what it must, names the file."""
    try:
        yield
    except DamagedError:
        raise
    except KeyError as error:
        key = str(error.args[0]) if error.args else "a key"
        lacks = key if " " in key else f"no key {key!r}"
        raise DamagedError(f"{path}: {lacks}; {AGAIN}") from error
    except FileNotFoundError as error:
        raise DamagedError(f"{error.filename or path} is missing; {AGAIN}") from error
    except MemoryError:
        raise
    except Exception as error:  # also what libraries raise on files that they cannot read
        raise DamagedError(f"{path}: {error}; {AGAIN}") from error


def check_inputs(path: Path, prepared: Mapping[str, Input], read: Mapping[str, Input]) -> None:
    """The inputs that the preprocessing gives must be those that a model reads."""
    for key, found in read.items():
        if key.startswith("features."):
            continue
        if key not in prepared:
            raise DamagedError(f"{path}: the model reads {key!r}, which is not there; {AGAIN}")
        mine = prepared[key]
        for what, ours, theirs in (
            ("type", mine.type, found.type),
            ("shape", mine.shape, found.shape),
            ("sizes", mine.sizes, found.sizes),
        ):
            if ours != theirs:
                raise DamagedError(
                    f"{path}: {key!r} has {what} {ours} where the model reads {theirs}: "
                    f"{CATEGORIES}; {AGAIN}"
                )


def check_routes(path: Path, preparation: Preparation, tasks: Collection[str]) -> None:
    """Every task needs a route, and every route a table."""
    routed: set[str] = set()
    for name, route in preparation.routes.items():
        if route.table not in preparation.roles:
            raise DamagedError(f"{path}: {name!r} names the table {route.table!r}, of which there "
                               f"are no columns; {AGAIN}")  # fmt: skip
        routed |= set(route.tasks.values())
    lost = sorted(set(tasks) - routed)
    if lost:
        raise DamagedError(f"{path}: nothing is said about the task {lost[0]!r}; {AGAIN}")


def refuse_others(folder: Path) -> None:
    """Say what a folder is, where it is none of a model."""
    if folder.is_file():
        raise DamagedError(f"{folder} is a file; give the folder of a model")
    if not folder.is_dir():
        raise DamagedError(f"{folder}: no such folder")
    if (folder / "model.json").is_file():
        return
    if (folder / "study.json").is_file():
        raise DamagedError(
            f"{folder} holds a run, which has many models: plait.Study.open(folder).best() gives "
            f"the chosen one, and plait train {folder} --out FOLDER writes it"
        )
    if (folder / "heads.json").is_file():
        raise DamagedError(
            f"{folder} is an export for transformers; its README.md says how to load it"
        )
    if (folder / "model.safetensors").is_file() and (folder / "config.json").is_file():
        raise DamagedError(
            f"{folder} holds a network without its preprocessing, read by "
            "plait.Network.from_pretrained; give the folder of the whole model"
        )
    raise DamagedError(f"{folder} holds no model: there is no model.json")
