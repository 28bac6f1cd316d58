"""Pickled checkpoints (``torch.save``) as safetensors, read in a process of their own.

A pickle is a program. The child process builds tensors and plain containers from it and refuses
all else, under limits on memory and time, so that no file can do more than be refused. torch is
loaded there and nowhere else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plait.weights.checkpoints import INDEX, MOST_INDEX, PICKLES, SINGLE, inside, open_checkpoint
from plait.weights.companions import companions
from plait.weights.files import (
    DamagedError,
    flush,
    read_json,
    temporary_beside,
    write_json,
)
from plait.weights.folders import ROOM, DiskFullError, FolderError
from plait.weights.states import read_header

PICKLED_INDEX = "pytorch_model.bin.index.json"
PICKLED = "pytorch_model.bin"
GIB = 2**30
TWICE = 2  # a file mapped into memory, and its largest tensor once more
_PLAIN = re.compile(r"[^/\\:\x00-\x1f.][^/\\:\x00-\x1f]*\.bin")


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What a conversion wrote: files, the tensors in them, and all that was left out.

    ``tied`` names tensors that are another one's, ``left`` what is no tensor, with its place, and
    ``under`` the key under which a file had its tensors.
    """

    files: tuple[Path, ...]
    tensors: int
    bytes: int
    tied: Mapping[str, str]
    left: tuple[str, ...]
    under: tuple[str, ...]


def convert(
    path: str | Path,
    out: str | Path | None = None,
    *,
    key: str | None = None,
    memory: int | None = None,
    seconds: float = 600,
    replace: bool = False,
) -> Converted:
    """Write the tensors of a pickled checkpoint as safetensors; no code in it is run.

    ``path`` is a file, or a folder with one or with shards and their index. What is written stands
    beside it, or in the folder ``out`` with the configuration and tokenizer files; the names are
    those under which libraries look for weights. ``key`` says where in the file the tensors are.
    ``memory`` is what the reading process may take for each file, by default twice the file and a
    GiB; ``seconds`` is the longest it may take for each file.

    Raises :class:`DamagedError` naming the file and what is wrong with it,
    :class:`~plait.weights.folders.FolderError` for what is there already.
    """
    path = Path(path)
    sources, index = _sources(path)
    home = sources[0].parent
    place = home if out is None else Path(out)
    _refuse_present(place, sources, index is not None, replace=replace)
    place.mkdir(parents=True, exist_ok=True)
    needed, free = sum(one.stat().st_size for one in sources), shutil.disk_usage(place).free
    if needed > free / ROOM:
        raise DiskFullError(
            f"{place}: {needed / 1e9:,.2f} GB are to be written and {free / 1e9:,.2f} GB are free; "
            "make room, and give the same command again"
        )
    work = temporary_beside(place / "converted")
    work.mkdir()
    try:
        told = {}
        for source in sources:
            target = work / _target(source, index is not None)
            told[target.name] = _one(source, target, key, memory, seconds)
        if index is not None:
            _indexed(work / INDEX, index, told)
            open_checkpoint(work)  # no tensor in two of the files
        for file in companions(path) if out is not None and place != home else ():
            shutil.copyfile(file, work / file.name)
        written = tuple(place / file.name for file in sorted(work.iterdir(), key=_index_last))
        for file in written:
            (work / file.name).replace(file)
        flush(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Converted(
        files=written,
        tensors=sum(len(one["tensors"]) for one in told.values()),
        bytes=sum(one["bytes"] for one in told.values()),
        tied={alias: owner for one in told.values() for alias, owner in one["tied"].items()},
        left=tuple(name for one in told.values() for name in one["left"]),
        under=tuple(dict.fromkeys(one["under"] for one in told.values() if one["under"])),
    )


def _sources(path: Path) -> tuple[list[Path], Mapping[str, str] | None]:
    """The pickles of a checkpoint, and the file of each tensor by the index where there is one."""
    folder = path if path.is_dir() else path.parent
    index = folder / PICKLED_INDEX
    if index.is_file() and (path.is_dir() or path == index):
        placed = _weight_map(index)
        files = [folder / name for name in dict.fromkeys(placed.values())]
        for file in files:
            inside(folder, file)
            if not file.is_file():
                raise DamagedError(f"{file} is missing; {PICKLED_INDEX} names it")
        return files, placed
    if path.is_file():
        if path.suffix == ".safetensors":
            raise DamagedError(f"{path} is no pickle; it is safetensors already")
        return [path], None
    if not path.is_dir():
        raise DamagedError(f"{path}: there is no such file or folder")
    found = sorted(one for pattern in PICKLES for one in path.glob(pattern))
    if (path / PICKLED).is_file():
        found = [path / PICKLED]
    if not found:
        raise DamagedError(f"{path}: no pickled weights in it ({', '.join(PICKLES)})")
    if len(found) > 1:
        names = ", ".join(one.name for one in found[:5])
        raise DamagedError(f"{path}: several pickles ({names}); name the one meant")
    inside(path, found[0])
    return found, None


def _weight_map(index: Path) -> Mapping[str, str]:
    if index.stat().st_size > MOST_INDEX:
        raise DamagedError(f"{index}: more than {MOST_INDEX:,} bytes")
    try:
        told: Any = read_json(index)
    except RecursionError as error:
        raise DamagedError(f"{index}: not readable as JSON (nested too deep)") from error
    placed = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(placed, dict) or not placed:
        raise DamagedError(f"{index}: no weight_map in it")
    for name, file in placed.items():
        if not isinstance(file, str) or not _PLAIN.fullmatch(file):
            raise DamagedError(
                f"{index}: {name[:80]!r} is said to be in {file!r}; an index may name .bin files "
                "beside it and nothing else"
            )
    return placed


def _target(source: Path, sharded: bool) -> str:
    """The name that libraries look for: that of the pickle, ``pytorch_model`` being ``model``."""
    if source.name == PICKLED and not sharded:
        return SINGLE
    stem = source.stem
    return f"{stem.removeprefix('pytorch_') if sharded else stem}.safetensors"


def _refuse_present(place: Path, sources: list[Path], sharded: bool, *, replace: bool) -> None:
    names = [_target(source, sharded) for source in sources] + ([INDEX] if sharded else [])
    if len(set(names)) < len(names):
        raise DamagedError(f"{place}: two of its files would have one name: {', '.join(names)}")
    there = [name for name in names if (place / name).exists()]
    if there and not replace:
        raise FolderError(f"{place / there[0]} is there already; name another place, or replace it")


def _one(
    source: Path, target: Path, key: str | None, memory: int | None, seconds: float
) -> dict[str, Any]:
    """Let a child process write one file, and check what it wrote."""
    allowed = TWICE * source.stat().st_size + GIB if memory is None else memory
    request = {"source": str(source.resolve()), "target": str(target.resolve()), "key": key,
               "memory": allowed, "seconds": max(1, round(seconds))}  # fmt: skip
    # -P: a torch.py that lies about in the folder at hand is not what the child imports.
    words = [sys.executable, "-P", "-m", "plait.weights.unpickle"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, on a module of plait
            words, input=json.dumps(request), capture_output=True, text=True, check=False,
            timeout=seconds, env=alone,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DamagedError(f"{source}: not read within {seconds:g} s; --time allows more") from None
    if done.returncode == -_signal("SIGXCPU"):
        raise DamagedError(f"{source}: not read within {seconds:g} s; --time allows more")
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        answer = {"wrong": f"reading it ended with code {done.returncode}: {_last(done.stderr)}"}
    if answer.get("memory"):
        raise DamagedError(
            f"{source}: reading it takes more than {allowed / GIB:,.1f} GiB; --memory allows more"
        )
    if "wrong" in answer:
        raise DamagedError(f"{source}: {answer['wrong']}")
    written = read_header(target).tensors
    if list(written) != answer["tensors"]:
        raise DamagedError(f"{source}: {target.name} does not hold what was read")
    return answer


def _indexed(path: Path, placed: Mapping[str, str], told: Mapping[str, Mapping[str, Any]]) -> None:
    """The index over the new files; it must name the same tensors as the old one."""
    where = {name: file for file, one in told.items() for name in one["tensors"]}
    known = {*where, *(alias for one in told.values() for alias in one["tied"])}
    missing = [name for name in placed if name not in known]
    extra = [name for name in known if name not in placed]
    if missing or extra:
        lost = [f"{name!r} is in no file" for name in missing]
        lost += [f"{name!r} is not in the index" for name in extra]
        raise DamagedError(f"{PICKLED_INDEX}: {'; '.join(lost[:5])}")
    total = sum(one["bytes"] for one in told.values())
    write_json(path, {"metadata": {"total_size": total}, "weight_map": where})


def _index_last(file: Path) -> tuple[bool, str]:
    return file.name == INDEX, file.name


def _signal(name: str) -> int:
    import signal

    return int(getattr(signal, name, 0)) or -(10**6)  # no process ends with the latter


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else "no message"
