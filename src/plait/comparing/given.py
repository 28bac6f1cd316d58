"""Experts that a study is given: a folder for each task, made before and elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from plait.method import did_you_mean
from plait.weights.files import digest

KEYS = ("base", "models")
BASE = "base"


@dataclass(frozen=True, kw_only=True)
class GivenExperts:
    """``models`` maps tasks to folders; ``base`` is the folder of what all were tuned from.

    ``base`` is empty where that is the study's pretrained encoder. ``hashes`` tell the contents of
    every folder by its task, and of the base by an empty name: they are part of what is computed.
    """

    models: Mapping[str, str]
    base: str = ""
    hashes: Mapping[str, str]

    @classmethod
    def of(cls, given: Any, folder: Path | None = None) -> Self:
        """Read ``{models: {task: path}, base: path}``, relative paths starting at ``folder``.

        Raises ``ValueError`` with everything that is wrong: keys, and folders that are not there.
        """
        if not isinstance(given, Mapping) or not isinstance(given.get("models"), Mapping):
            raise ValueError("experts must be {'models': {task: folder}}, with 'base' beside it")
        wrong = [f"experts: no {k!r}{did_you_mean(str(k), KEYS)}" for k in given if k not in KEYS]
        start = folder or Path()
        places = {str(task): start / path for task, path in given["models"].items()}
        if given.get(BASE):
            places[""] = start / given[BASE]
        for task, place in places.items():
            if not place.is_dir():
                wrong.append(f"experts: {task or BASE}: {place} is no folder")
        if not given["models"]:
            wrong.append("experts: models is empty; give {task: folder}")
        if wrong:
            raise ValueError("\n".join(wrong))
        found = {task: str(place.resolve()) for task, place in places.items()}
        hashes = {task: contents(Path(place)) for task, place in found.items()}
        return cls(base=found.pop("", ""), models=found, hashes=hashes)

    def check(self, tasks: tuple[str, ...]) -> Iterator[str]:
        """Every task of a study needs an expert, and every expert a task."""
        for task in tasks:
            if task not in self.models:
                yield f"experts: none for the task {task!r}; give its folder, or leave the task out"
        for task in self.models:
            if task not in tasks:
                yield f"experts: no task {task!r}{did_you_mean(task, tasks)}"

    def unchanged(self, task: str) -> Path:
        """The folder of a task's expert (empty: the base).

        Raises ``ValueError`` where its files are no longer those that the study was given.
        """
        folder = Path(self.models[task] if task else self.base)
        if not folder.is_dir() or contents(folder) != self.hashes[task]:
            raise ValueError(
                f"{folder}: the files have changed since this run was started; restore them, or "
                "start a new run in another folder"
            )
        return folder

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data; ``GivenExperts(**data)`` reads it back."""
        return asdict(self)


def contents(folder: Path) -> str:
    """The hash of a folder's files and their names."""
    told = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        told.update(f"{path.relative_to(folder).as_posix()}\0{digest(path)}\0".encode())
    return told.hexdigest()
