"""Files that are whole or absent: atomic writes, and folders sealed by a manifest.

A file is written beside its place, flushed to the disk and renamed over it; a folder counts as
finished when its manifest, written last, lists every file with its SHA-256. A killed process leaves
only temporary files, which :func:`sweep` removes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
DAY = 86_400.0
_HOST = "".join(c if c.isalnum() else "_" for c in socket.gethostname())[:32] or "host"
_SESSION = secrets.token_hex(4)  # where the system does not say when a process was born


class DamagedError(ValueError):
    """A sealed folder whose contents are not what its manifest says."""


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a file so that, whenever the process is killed, it is the old one or the new one."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: Any) -> None:
    """Write plain data as readable JSON, atomically; ``ValueError`` for NaN and infinities."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_json(path: str | Path) -> Any:
    """Read a JSON file; ``DamagedError`` names the file where it cannot be parsed."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedError(f"{path}: not readable as JSON ({error})") from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` for a writer to fill; renamed over ``path`` at the end.

    Nothing is left behind, and ``path`` is untouched, where the body raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path: str | Path) -> Path:
    """A name beside ``path`` that no other process uses, and that :func:`sweep` knows."""
    path = Path(path)
    token = secrets.token_hex(4)
    own = os.getpid()
    return path.parent / f".{_HOST}-{own}-{born(own) or _SESSION}-{token}{path.suffix}.tmp"


def discard(folder: str | Path) -> None:
    """Remove a folder so that, whenever the process is killed, it is there whole or not at all."""
    gone = temporary_beside(folder)
    try:
        Path(folder).rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows has no handle on a folder to flush
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(path: str | Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(
    folder: str | Path, about: Mapping[str, Any] | None = None, *, leave: Collection[str] = ()
) -> None:
    """Seal a folder: a manifest with the size and SHA-256 of every file, written last.

    ``about`` is plain data kept in the manifest beside the list. ``leave`` names files and folders
    inside that are no part of what is sealed.
    """
    folder = Path(folder)
    files = {}
    paths = [p for p in _contents(folder) if p.relative_to(folder).parts[0] not in leave]
    for path in paths:
        flush(path)
        entry = {"sha256": digest(path), "bytes": path.stat().st_size}
        files[path.relative_to(folder).as_posix()] = entry
    for inner in {path.parent for path in paths}:
        flush(inner)
    write_json(folder / MANIFEST, {**(about or {}), "files": files})


def published(folder: str | Path) -> bool:
    """Whether a folder was sealed."""
    return (Path(folder) / MANIFEST).is_file()


def verify(folder: str | Path) -> dict[str, Any]:
    """Check a sealed folder against its manifest, and return the manifest.

    Raises :class:`DamagedError` listing every file that is missing or altered.
    """
    folder = Path(folder)
    if not published(folder):
        raise DamagedError(f"{folder}: no {MANIFEST}; it was never finished")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DamagedError(f"{folder / MANIFEST}: not a manifest")
    wrong = []
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            wrong.append(f"{name} (outside the folder)")
        elif not path.is_file():
            wrong.append(f"{name} (missing)")
        elif path.stat().st_size != entry["bytes"] or digest(path) != entry["sha256"]:
            wrong.append(f"{name} (altered)")
    if wrong:
        raise DamagedError(f"{folder}: damaged: {', '.join(wrong)}")
    return manifest


def sweep(folder: str | Path) -> list[Path]:
    """Remove the temporary files and folders that killed processes left; returns them."""
    gone = []
    for path in sorted(Path(folder).rglob(".*.tmp")):
        if not _stray(path):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        gone.append(path)
    return gone


def sweep_beside(path: str | Path) -> None:
    """Remove what killed processes left of replacing or discarding one file or folder."""
    path = Path(path)
    names = re.compile(rf"\.{_HOST}-\d+-\w+-[0-9a-f]{{8}}{re.escape(path.suffix)}\.tmp")
    for stray in path.parent.glob(".*.tmp"):
        if names.fullmatch(stray.name) and _stray(stray):
            shutil.rmtree(stray, ignore_errors=True)
            stray.unlink(missing_ok=True)


def born(process: int) -> str:
    """When a running process was born, in the system's own terms; empty where it does not say.

    It tells a process from a later one with the same number.
    """
    try:
        told = Path(f"/proc/{process}/stat").read_text("ascii", "replace")
    except OSError:
        return ""
    state, *rest = told.rpartition(")")[2].split()
    return "" if state == "Z" else rest[18]


def alive(process: int, birth: str = "") -> bool:
    """Whether a process of that number (and of that birth) runs on this machine."""
    if birth and Path("/proc/self/stat").exists():
        return born(process) == birth
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _contents(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        passing = any(part.startswith(".") and part.endswith(".tmp") for part in inner.parts)
        if path.is_file() and inner != Path(MANIFEST) and not passing:
            found.append(path)
    return found


def _stray(path: Path) -> bool:
    host, _, rest = path.name[1:].partition("-")
    process, _, rest = rest.partition("-")
    birth, _, _ = rest.partition("-")
    if host != _HOST or not process.isdigit():  # another machine may still be writing it
        try:
            return time.time() - path.stat().st_mtime > DAY
        except FileNotFoundError:  # its owner has finished it
            return False
    if int(process) == os.getpid():
        return birth != (born(os.getpid()) or _SESSION)
    return not alive(int(process), birth)
