"""Checkpoints on the disk: safetensors files, single or in shards, opened lazily.

Only heads are read when a checkpoint is opened. An index may name plain files beside it and nothing
else: no folders, no absolute paths, and no links to anywhere but the cache of the hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plait.weights.files import DamagedError, read_json
from plait.weights.kinds import STORED
from plait.weights.sites import Site
from plait.weights.sources import Array, Source
from plait.weights.states import AGAIN, Header, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MOST_INDEX = 2**26  # bytes
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_PLAIN = re.compile(r"[^/\\:\x00-\x1f]+\.safetensors")


class Checkpoint(Source):
    """The tensors of one or more safetensors files; ``files`` are their paths.

    Values are read a block at a time, so that memory holds no more than the blocks in work.
    """

    def __init__(self, where: Path, files: Mapping[Path, Header]) -> None:
        self.where = where
        self.files = tuple(files)
        self.metadata = {path: header.metadata for path, header in files.items()}
        sites = []
        self._places: dict[str, tuple[Path, int]] = {}
        stored = {name for header in files.values() for name in header.tensors}
        for path, header in files.items():
            tied: dict[str, list[str]] = {}
            for alias, owner in header.metadata.items():  # as safetensors' save_model tells it
                if owner not in header.tensors or alias == "format":
                    continue
                if alias in stored:
                    raise DamagedError(
                        f"{path}: {alias[:80]!r} is stored, and said to be tied to {owner[:80]!r}; "
                        f"{AGAIN}"
                    )
                stored.add(alias)
                tied.setdefault(owner, []).append(alias)
            for name, (kind, shape) in header.tensors.items():
                aliases = tuple(tied.get(name, ()))
                sites.append(Site(name=name, shape=shape, kind=kind, aliases=aliases))
                place = (path, header.begins[name])
                self._places |= dict.fromkeys((name, *aliases), place)
        super().__init__(sites)

    def stored(self, name: str, start: int, stop: int) -> Array:
        """Values of a tensor, from the disk."""
        path, begin = self._places[name]
        found = np.empty(stop - start, STORED[self.names[name].kind])
        _read(path, begin + start * found.itemsize, found)
        return found

    def read(self, name: str, start: int, stop: int, out: Array) -> None:
        """Values of a floating tensor, straight into ``out`` where they are stored like that."""
        path, begin = self._places[name]
        stored = STORED[self.names[name].kind]
        if stored == out.dtype and out.flags.c_contiguous:
            _read(path, begin + start * stored.itemsize, out)
        else:
            super().read(name, start, stop, out)


def _read(path: Path, position: int, out: Array) -> None:
    """Fill an array from a file, opened anew: that is cheap beside a block, and safe in threads."""
    view = out.data.cast("B") if out.size else memoryview(b"")
    with path.open("rb", buffering=0) as file:
        file.seek(position)
        while view:
            count = file.readinto(view)
            if not count:
                raise DamagedError(f"{path} became shorter while it was read; {AGAIN}")
            view = view[count:]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """A safetensors file, a folder with one, or a folder of shards with an index.

    Raises :class:`DamagedError` for what is missing, damaged, unsafe or a pickle, with the fix.
    """
    path = Path(path)
    if path.is_file():
        return Checkpoint(path, {path: read_header(path)})
    if not path.is_dir():
        raise DamagedError(f"{path}: there is no such file or folder")
    if (path / INDEX).is_file():
        return _sharded(path)
    found = sorted(path.glob("*.safetensors"))
    if (path / SINGLE).is_file():
        found = [path / SINGLE]
    if len(found) == 1:
        inside(path, found[0])
        return Checkpoint(path, {found[0]: read_header(found[0])})
    if found:
        names = ", ".join(one.name for one in found[:5])
        raise DamagedError(
            f"{path}: several safetensors files ({names}) and no {INDEX}; name the one meant"
        )
    pickles = sorted(one for pattern in PICKLES for one in path.glob(pattern))
    if pickles:
        raise DamagedError(
            f"{path}: its weights are a pickle ({pickles[0].name}), which can run any program when "
            f"it is read; plait convert {pickles[0] if len(pickles) == 1 else path} writes its "
            "tensors as safetensors and runs nothing"
        )
    raise DamagedError(f"{path}: no weights in it ({SINGLE} or {INDEX})")


def _sharded(folder: Path) -> Checkpoint:
    index = folder / INDEX
    placed = _weight_map(index)
    headers: dict[Path, Header] = {}
    for file in dict.fromkeys(placed.values()):
        path = folder / file
        inside(folder, path)
        headers[path] = read_header(path)
    problems = []
    owners: dict[str, Path] = {}
    for path, header in headers.items():
        for name in header.tensors:
            if name in owners:
                problems.append(f"{name!r} is in {owners[name].name} and in {path.name}")
            elif name not in placed:
                problems.append(f"{name!r} of {path.name} is not in the index")
            owners[name] = path
    for name, file in placed.items():
        if name not in headers[folder / file].tensors:
            problems.append(f"{name!r} is not in {file}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DamagedError(f"{index}: {'; '.join(problems[:5])}{more}; {AGAIN}")
    return Checkpoint(folder, headers)


def _weight_map(index: Path) -> dict[str, str]:
    """The index's file by tensor; every file is a plain name."""
    if index.stat().st_size > MOST_INDEX:
        raise DamagedError(
            f"{index}: {index.stat().st_size:,} bytes; at most {MOST_INDEX:,} are read"
        )
    try:
        told: Any = read_json(index)
    except RecursionError as error:
        raise DamagedError(f"{index}: not readable as JSON (nested too deep)") from error
    placed = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(placed, dict) or not placed:
        raise DamagedError(f"{index}: no weight_map in it; {AGAIN}")
    for name, file in placed.items():
        if not isinstance(file, str) or not _PLAIN.fullmatch(file) or file.startswith("."):
            raise DamagedError(
                f"{index}: {name[:80]!r} is said to be in {file!r}; an index may name safetensors "
                "files beside it and nothing else"
            )
    return placed


def inside(folder: Path, path: Path) -> None:
    """Refuse a link that leads out of the folder, unless to the blobs of the hub's cache."""
    real = path.resolve()
    allowed = [folder.resolve()]
    if folder.parent.name == "snapshots":  # models--owner--name/snapshots/revision
        allowed.append((folder.parent.parent / "blobs").resolve())
    if not any(real.is_relative_to(one) for one in allowed):
        raise DamagedError(
            f"{path} is a link out of its folder, to {real}; put the file itself there"
        )
