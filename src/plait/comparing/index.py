"""The index of a run's cells: SQLite, only to look things up; the folders are the truth."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from plait.weights.files import DamagedError, read_json, replacing

COLUMNS = ("key", "strategy", "words", "seed", "seconds", "parameters", "finished")
_SCHEMA = (
    "CREATE TABLE cells (key TEXT PRIMARY KEY, strategy TEXT, words TEXT, seed INTEGER, "
    "seconds REAL, parameters REAL, finished REAL)"
)


def rebuild(folder: Path) -> Path:
    """Make ``index.sqlite`` anew from the cells' folders, replacing the old one in one piece."""
    path = folder / "index.sqlite"
    found = [_row(cell) for cell in sorted((folder / "cells").glob("*/manifest.json"))]
    with replacing(path) as temporary, closing(sqlite3.connect(temporary)) as connection:
        # No journal beside the file: it is whole when it gets its name, and WAL is unsafe on NFS.
        connection.execute("PRAGMA journal_mode=MEMORY")
        connection.execute(_SCHEMA)
        insert = "INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?, ?)"
        connection.executemany(insert, [row for row in found if row is not None])
        connection.commit()
    return path


def rows(folder: Path) -> list[dict[str, Any]]:
    """All finished cells; the index is made again where it is missing, older or unreadable."""
    path = folder / "index.sqlite"
    cells = folder / "cells"
    if not path.exists() or path.stat().st_mtime < cells.stat().st_mtime:
        rebuild(folder)
    try:
        return _read(path)
    except sqlite3.DatabaseError:
        rebuild(folder)
        return _read(path)


def _read(path: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        found = connection.execute("SELECT * FROM cells ORDER BY finished, key").fetchall()
    return [dict(zip(COLUMNS, row, strict=True)) for row in found]


def _row(manifest: Path) -> tuple[Any, ...] | None:
    folder = manifest.parent
    if folder.suffix == ".part":
        return None
    try:
        cell, cost = read_json(folder / "cell.json"), read_json(folder / "cost.json")
    except (OSError, DamagedError):
        return None
    strategy = json.dumps(cell["strategy"], ensure_ascii=False)
    finished = manifest.stat().st_mtime
    return (
        cell["key"], strategy, cell["words"], cell["seed"], cost["seconds"], cost["parameters"],
        finished,
    )  # fmt: skip
