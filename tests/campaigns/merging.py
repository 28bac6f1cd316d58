"""``kill -9`` at random moments of merges, again and again, until each is finished nonetheless."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from campaign_toy import ended, fork

from plait.merging.jobs import Job
from plait.method import resolve
from plait.weights.files import DamagedError, verify
from plait.weights.states import write_state

WAYS: tuple[Any, ...] = (
    "average", {"ties": {"keep": 0.3}}, {"dare": {"drop": 0.5}}, "emr", "iso",
)  # fmt: skip
SHARD = 400_000  # bytes: eight files and more


def campaign(count: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Kill ``count`` times; what was torn, merged otherwise or left behind."""
    chance = random.Random(seed)
    models = _models(folder / "models")
    jobs = [_job(models, way) for way in WAYS]
    wanted, lengths = [], []
    for number, job in enumerate(jobs):
        start = time.monotonic()
        assert ended(fork(lambda: job.run(folder / f"whole{number}", shard=SHARD))) == 0  # noqa: B023
        lengths.append(time.monotonic() - start)
        wanted.append(_hash(folder / f"whole{number}"))
        shutil.rmtree(folder / f"whole{number}")
    place = folder / "work"
    place.mkdir()
    out, old = place / "out", ""
    found = {
        "kills": 0,
        "merges": 0,
        "torn": 0,
        "strays": 0,
        "other bits": 0,
        "other exit codes": 0,
    }
    absent = way = 0
    while found["kills"] < count:
        job, replace = jobs[way], bool(old)
        process = fork(lambda: job.run(out, shard=SHARD, workers=2, replace=replace))  # noqa: B023
        time.sleep(chance.uniform(0, lengths[way]))
        os.kill(process, signal.SIGKILL)
        code = ended(process)
        if code == -signal.SIGKILL:
            found["kills"] += 1
            lengths[way] *= 1.05  # a handful of kills a merge, on any machine
            absent += not out.exists()
            found["torn"] += out.exists() and not _whole(out, {old, wanted[way]})
            continue
        lengths[way] *= 0.85
        if code != 0:
            found["other exit codes"] += 1
            shutil.rmtree(place)
            place.mkdir()
            old = ""
            continue
        found["merges"] += 1
        found["other bits"] += _hash(out) != wanted[way]
        found["strays"] += len({path.name for path in place.iterdir()} - {"out"})
        old = wanted[way] if chance.random() < 0.3 else ""
        if not old:  # the next one replaces it, or finds no folder
            shutil.rmtree(out)
        way = (way + 1) % len(jobs)
    return {**found, "absent at a kill": absent}


def _models(folder: Path) -> Path:
    """A base and three models in files of some megabytes."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    base = {f"blocks.{n}.w": draw.normal(size=(160, 300)).astype("f4") for n in range(16)}
    for name in ("base", "one", "two", "three"):
        state = {k: v + 0.1 * draw.normal(size=v.shape).astype("f4") for k, v in base.items()}
        write_state(folder / f"{name}.safetensors", state)
    return folder


def _job(models: Path, way: Any) -> Job:
    paths = {name: models / f"{name}.safetensors" for name in ("one", "two", "three")}
    method = resolve("merging", way)
    return Job(models=paths, base=models / "base.safetensors", method=method)


def _whole(out: Path, wanted: set[str]) -> bool:
    try:
        verify(out)
    except DamagedError:
        return False
    return _hash(out) in wanted


def _hash(out: Path) -> str:
    """A hash of all files of a folder, names and bytes."""
    whole = hashlib.sha256()
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        data = path.read_bytes()
        whole.update(f"{path.relative_to(out).as_posix()} {len(data)}\n".encode() + data)
    return whole.hexdigest()
