"""Folders of merged weights: preallocated shards, written in any order, whole or absent.

Everything is written in a hidden folder beside the place asked for. A shard is preallocated, filled
block by block, flushed and renamed; when all are there the folder is sealed by its manifest and
renamed into place. What a killed process leaves is continued by the next one with the same
``identity``: finished shards are kept, all else is written again.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from plait.weights.checkpoints import INDEX, SINGLE, Checkpoint, open_checkpoint
from plait.weights.files import (
    DamagedError,
    alive,
    born,
    discard,
    flush,
    publish,
    published,
    read_json,
    sweep,
    sweep_beside,
    temporary_beside,
    write_json,
)
from plait.weights.kinds import SIZES, shown
from plait.weights.sinks import Laid, Layout, Sink, Tasks
from plait.weights.sites import Site
from plait.weights.sources import Array, State
from plait.weights.states import read_header

SHARD = 2**31  # bytes of tensors in one file, unless one tensor is larger
ROOM = 1.02  # of what the tensors take must be free on the disk
PROGRESS = "progress.json"
CLAIM = "claim.json"
TASKS = "tasks"
NAMES = "names.json"


class FolderError(ValueError):
    """A place that cannot be written to, and what to do about it."""


class DiskFullError(FolderError):
    """No room for what is to be written; the same command goes on from there."""

    exit_code = 75


class Folder(Sink):
    """A folder of safetensors files that appears whole at :meth:`seal`, or not at all.

    ``identity`` is text that says what is being written: only a folder left by the same is
    continued. ``replace`` allows to replace what stands there, once the new folder is whole.
    """

    def __init__(
        self, path: str | Path, identity: str, *, shard: int = SHARD, replace: bool = False
    ) -> None:
        self.path = Path(path)
        self.part = self.path.parent / f".{self.path.name}.merging"
        self.identity = identity
        self._shard = shard
        self._replace = replace
        self._file: Growing
        self._own: dict[str, Growing] = {}
        if self.path.exists() and not replace:
            raise FolderError(f"{self.path} is there already; name another place, or replace it")

    def shards(self, sites: Sequence[Site], tasks: Tasks) -> Iterator[Sequence[Site]]:
        """The shards not yet finished, each flushed to its place when the next is asked for."""
        groups = _grouped(sites, self._shard)
        names = _shard_names(len(groups))
        self._begin(sum(site.bytes for site in sites))
        if tasks:
            (self.part / TASKS).mkdir(exist_ok=True)
            write_json(self.part / TASKS / NAMES, list(tasks))
        for number, (name, group) in enumerate(zip(names, groups, strict=True), 1):
            path = self.part / name
            if path.is_file():
                continue
            laid = {site.name: (site.kind, site.shape) for site in group}
            file = Growing(path, laid, _tied(group))
            self._file, self._own = (
                file,
                {
                    task: Growing(self._task_path(place, number), _laid(group, layout))
                    for place, (task, layout) in enumerate(tasks.items())
                },
            )
            try:
                yield group
                for one in (*self._own.values(), file):  # the model's last: it says that all are
                    one.finish()
            finally:
                for one in (*self._own.values(), file):
                    one.drop()
        if len(names) > 1:
            placed = {site.name: name for name, group in zip(names, groups, strict=True)
                      for site in group}  # fmt: skip
            total = sum(site.bytes for site in sites)
            index = {"metadata": {"total_size": total}, "weight_map": placed}
            write_json(self.part / INDEX, index)

    def write(self, site: Site, start: int, stored: Array) -> None:
        """Write values at their place in the shard."""
        self._file.write(site.name, start, stored)

    def keep(self, task: str, name: str, start: int, values: Array) -> None:
        """Write values at their place in the task's part of the shard."""
        self._own[task].write(name, start, values)

    def seal(self, about: Mapping[str, Any] | None = None) -> None:
        """Put the finished folder into its place, with a manifest of every file's SHA-256."""
        publish(self.part, about, leave=(PROGRESS, CLAIM))
        for name in (PROGRESS, CLAIM):
            (self.part / name).unlink(missing_ok=True)
        if self.path.exists():
            discard(self.path)
        self.part.rename(self.path)
        flush(self.path.parent)

    def drop(self) -> None:
        """Remove what was written."""
        discard(self.part)

    @property
    def tensors(self) -> State:
        """The model's tensors, read when they are asked for."""
        return Lazy(open_checkpoint(self._whole))

    def kept(self, task: str) -> State:
        """What a task keeps, read when it is asked for."""
        return read_kept(self._whole, task)

    @property
    def _whole(self) -> Path:
        return self.path if published(self.path) and not self.part.exists() else self.part

    def _begin(self, needed: int) -> None:
        """Take the hidden folder, empty or with the finished shards of the same merge."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        sweep_beside(self.part)
        sweep_beside(self.path)
        if self.part.is_dir() and not _continued(self.part, self.identity):
            discard(self.part)
        self.part.mkdir(exist_ok=True)
        _claim(self.part / CLAIM)
        sweep(self.part)
        write_json(self.part / PROGRESS, {"identity": self.identity})
        done = sum(path.stat().st_size for path in self.part.rglob("*.safetensors"))
        free = shutil.disk_usage(self.part).free
        if needed - done > free / ROOM:
            raise DiskFullError(
                f"{self.path}: {(needed - done) / 1e9:,.2f} GB are still to be written and "
                f"{free / 1e9:,.2f} GB are free; make room, and give the same command again"
            )

    def _task_path(self, place: int, number: int) -> Path:
        return self.part / TASKS / f"{place}-{number:05d}.safetensors"


def read_kept(folder: Path, task: str) -> State:
    """What a task keeps in a merged folder, under ``""`` what all share; read when asked for."""
    names = read_json(folder / TASKS / NAMES)
    if task not in names:
        raise KeyError(task)
    files = sorted((folder / TASKS).glob(f"{names.index(task)}-*.safetensors"))
    return Lazy(Checkpoint(folder, {path: read_header(path) for path in files}))


class Lazy(Mapping[str, Array]):
    """The tensors of a checkpoint as arrays by name; each is read when it is asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._owners = {
            name: site for site in checkpoint.sites.values() for name in (site.name, *site.aliases)
        }

    def __getitem__(self, name: str) -> Array:
        site = self._owners[name]
        found = self._checkpoint.stored(site.name, 0, site.size)
        return shown(found, site.kind).reshape(site.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    def __len__(self) -> int:
        return len(self._owners)


class Growing:
    """One safetensors file that is filled from several threads, under a temporary name.

    ``laid`` says type and shape of its tensors by name, in the order in which they stand.
    """

    def __init__(self, path: Path, laid: Laid, metadata: Mapping[str, str] | None = None) -> None:
        self._path = path
        self._temporary = temporary_beside(path)
        self._lock = threading.Lock()
        self._begins: dict[str, tuple[int, int]] = {}
        head: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
        done = 0
        for name, (kind, shape) in laid.items():
            size = prod(shape) * SIZES[kind]
            head[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [done, done + size]}
            self._begins[name] = (done, SIZES[kind])
            done += size
        text = json.dumps(head, ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._data = 8 + len(text)
        self._handle = self._temporary.open("w+b", buffering=0)
        self._handle.write(len(text).to_bytes(8, "little") + text)
        allocate(self._handle.fileno(), self._data + done)

    def write(self, name: str, start: int, stored: Array) -> None:
        """Put values [n], or their bytes, at the flat place ``start`` of a tensor."""
        begin, size = self._begins[name]
        view = np.ascontiguousarray(stored).reshape(-1).view(np.uint8).data
        with self._lock:
            self._handle.seek(self._data + begin + start * size)
            while view:
                view = view[self._handle.write(view) :]

    def finish(self) -> None:
        """Flush the file, and give it its name."""
        os.fsync(self._handle.fileno())
        self._handle.close()
        self._temporary.replace(self._path)
        flush(self._path.parent)

    def drop(self) -> None:
        """Close the file; one that was not finished is gone."""
        self._handle.close()
        self._temporary.unlink(missing_ok=True)


def allocate(handle: int, size: int) -> None:
    """Give an open file its size, its place on the disk reserved where the system can do that."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, 0, size)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                raise
        else:
            return
    os.truncate(handle, size)


def _grouped(sites: Sequence[Site], most: int) -> list[list[Site]]:
    groups: list[list[Site]] = [[]]
    held = 0
    for site in sites:
        if groups[-1] and held + site.bytes > most:
            groups.append([])
            held = 0
        groups[-1].append(site)
        held += site.bytes
    return groups


def _shard_names(count: int) -> list[str]:
    if count == 1:
        return [SINGLE]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _tied(sites: Sequence[Site]) -> dict[str, str]:
    return {alias: site.name for site in sites for alias in site.aliases}


def _laid(sites: Sequence[Site], layout: Layout) -> Laid:
    return {name: what for site in sites for name, what in layout(site).items()}


def _continued(part: Path, identity: str) -> bool:
    """Whether a folder was left by the same merge; refuse to touch what is not a merge's."""
    if not (part / PROGRESS).is_file():
        others = [path for path in part.iterdir() if path.name != CLAIM]
        if others and not published(part) and not any(part.glob(".*.tmp")):
            raise FolderError(f"{part} is in the way and was not left by a merge; remove it")
        return False
    try:
        return bool(read_json(part / PROGRESS).get("identity") == identity)
    except (DamagedError, AttributeError):
        return False


def _claim(path: Path) -> None:
    """Take the folder for this process, unless a living one has it."""
    own = {"process": os.getpid(), "born": born(os.getpid())}
    try:
        found = read_json(path)
        process, birth = int(found["process"]), str(found["born"])
        if process != os.getpid() and alive(process, birth):
            raise FolderError(f"{path.parent}: process {process} is writing there; wait for it")
    except (FileNotFoundError, DamagedError, KeyError, TypeError):
        pass
    write_json(path, own)
