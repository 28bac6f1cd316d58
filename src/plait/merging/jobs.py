"""A merge of checkpoints on the disk: checked from their heads, then written as one folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

import plait
from plait.merging.base import Have, Merged, Merger
from plait.merging.card import card
from plait.merging.engine import BLOCK
from plait.merging.kinship import kinship
from plait.merging.pool import Pool, PoolError
from plait.method import spell
from plait.weights.checkpoints import Checkpoint, open_checkpoint
from plait.weights.companions import companions, open_model, tokenizer_differences
from plait.weights.files import DamagedError, discard, published, write_atomic, write_json
from plait.weights.folders import SHARD, Folder
from plait.weights.sites import Site

ABOUT = "merge.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be merged, and how; a model may be a job itself, whose result it is then.

    ``tokenizer="base"`` takes the base's (without a base the first model's) although others have
    another; by default such models are refused. ``notes`` are what is to be known of the result.
    """

    models: Mapping[str, Path | Job]
    method: Merger
    base: Path | None = None
    tokenizer: Literal["refuse", "base"] = "refuse"
    allow_nonfinite: bool = False
    notes: tuple[str, ...] = ()

    def pool(self) -> Pool:
        """The models, opened and compared; no tensor is read.

        Raises :class:`PoolError` with every problem of every model, and of what the method needs.
        """
        problems: list[str] = []

        def opened(owner: str, path: Path | Job) -> Any:
            try:
                if isinstance(path, Job):  # seen as what it starts from until it is made
                    path.pool()
                    return open_model(path.start)
                return open_model(path)
            except (DamagedError, OSError, PoolError) as error:
                problems.append(f"{owner}: {error}")

        models = {name: opened(name, path) for name, path in self.models.items()}
        base = None if self.base is None else opened("the base", self.base)
        try:
            self._carried()
        except DamagedError as error:
            problems.append(str(error))
        if self.tokenizer == "refuse" and not problems:
            problems += self._tokenizers()
        if problems:
            raise PoolError("cannot merge: " + "; ".join(problems))
        pool = Pool(models, base, allow_nonfinite=self.allow_nonfinite)
        self.method.check(pool, Have())
        return pool

    def run(
        self, out: str | Path, *, workers: int = 1, shard: int = SHARD, replace: bool = False
    ) -> Merged:
        """Merge into a folder that is whole or absent.

        What a killed merge left is continued. Raises :class:`PoolError` before anything is written
        where the models do not fit, and where a tensor turns out not to be finite.
        """
        pool = self.pool()
        sink = Folder(out, self.identity(), shard=shard, replace=replace)
        steps = Path(out).parent / f".{Path(out).name}.steps"
        if self.steps:
            pool = self._after_steps(steps, workers, shard).pool()
        try:
            merged = self.method.merge(pool, sink=sink, workers=workers)
            about = self._about(pool, merged, sink)
        except PoolError:  # a value that no other attempt will change
            sink.drop()
            raise
        for file in self._carried():
            shutil.copyfile(file, sink.part / file.name)
        write_json(sink.part / ABOUT, about)
        write_atomic(sink.part / "README.md", card(about, self._carried()).encode())
        discard(steps)
        sink.seal({"made_by": f"plait {plait.__version__}", "kind": "merge"})
        return merged

    def spelled(self) -> dict[str, Any]:
        """The job as plain data, as a recipe says it."""
        found: dict[str, Any] = {} if self.base is None else {"base": str(self.base)}
        found |= {
            "models": {
                name: one.spelled() if isinstance(one, Job) else str(one)
                for name, one in self.models.items()
            }
        }
        found |= {"method": spell(self.method)}
        found |= {} if self.tokenizer == "refuse" else {"tokenizer": self.tokenizer}
        return found | ({"allow_nonfinite": True} if self.allow_nonfinite else {})

    @property
    def steps(self) -> dict[str, Job]:
        """The models that are to be merged first."""
        return {name: one for name, one in self.models.items() if isinstance(one, Job)}

    @property
    def start(self) -> Path:
        """The folder whose form the result has: the base, or the first model."""
        return self.base or next(iter(self._paths().values()))

    def _after_steps(self, folder: Path, workers: int, shard: int) -> Job:
        """The job with every step made, or found as an earlier run has left it."""
        made = {}
        for name, job in self.steps.items():
            made[name] = folder / job.identity()[:16]
            if not published(made[name]):
                job.run(made[name], workers=workers, shard=shard)
        return replace(self, models={**self.models, **made}, tokenizer="base")

    def _paths(self) -> dict[str, Path]:
        """All models that are there already, the base under no name."""
        found = {} if self.base is None else {"": self.base}
        for name, one in self.models.items():
            if isinstance(one, Job):
                found |= {f"{name}/{own or 'base'}": path for own, path in one._paths().items()}
            else:
                found[name] = one
        return found

    def _carried(self) -> list[Path]:
        return companions(self.start)

    def _tokenizers(self) -> list[str]:
        (_, first), *others = self._paths().items()
        return [
            f"{name!r} has another tokenizer than {first}: {', '.join(found)}; merging would mix "
            "up words (tokenizer: base takes the base's all the same)"
            for name, path in others
            if (found := list(tokenizer_differences(first, path)))
        ]

    def identity(self) -> str:
        """A hash of all that the result depends on."""
        return identity(self.spelled(), self._paths())

    def _about(self, pool: Pool, merged: Merged, sink: Folder) -> dict[str, Any]:
        made = open_checkpoint(sink.part)
        return {
            "recipe": self.spelled(),
            "summary": self.method.card.summary,
            "needs": sorted(need.words for need in self.method.card.needs),
            "parents": {name or "base": _parent(path) for name, path in self._paths().items()},
            "notes": list(self.notes),
            "evidence": dict(merged.evidence),
            "kinship": kinship(pool).told(),
            "tensors": [_noted(made, site, pool) for site in made.sites.values()],
        }


def identity(recipe: Mapping[str, Any], paths: Mapping[str, Path]) -> str:
    """A hash of a recipe and of the models it names, files by size and time of change."""
    files = {
        name: [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in _files(path)]
        for name, path in paths.items()
    }
    text = json.dumps([plait.__version__, recipe, files], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.safetensors")) if path.is_dir() else [path]


def _parent(path: Path) -> dict[str, Any]:
    """Where a model came from, and what tells it from others: a hash of each file's head."""
    found = {}
    for file in _files(path):
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            head = hashlib.sha256(handle.read(length)).hexdigest()
        found[file.name] = {"bytes": file.stat().st_size, "head_sha256": head}
        blob = file.resolve().name
        if file.is_symlink() and len(blob) == 64:  # the hub's cache names a file by its hash
            found[file.name]["sha256"] = blob
    return {"path": str(path), "files": found}


def _noted(made: Checkpoint, site: Site, pool: Pool) -> dict[str, Any]:
    """Norm, and share of change against the base (the first model), of a merged tensor.

    One that has no counterpart of its shape there has changed by no share. Of one with NaN or
    infinite values, which were allowed, the number of these is all there is to tell.
    """
    found: dict[str, Any] = {"name": site.name, "type": site.words}
    if not (site.floating and pool.shape(site.name) == site.shape):
        return found
    size, change, broken = 0.0, 0.0, 0
    for start in range(0, site.size, BLOCK):
        stop = min(start + BLOCK, site.size)
        new, old = np.empty((2, stop - start), site.working)
        made.read(site.name, start, stop, new)
        pool.read_origin(site, start, stop, old)
        if site.name.endswith("running_var") and (new < 0).any():
            raise PoolError(
                f"the merge gives negative values in {site.name!r}, which is a variance; scale it "
                "less, or merge such tensors by a mean (by_tensor)"
            )
        broken += int(np.count_nonzero(~np.isfinite(new)))
        size += float(np.dot(new, new))
        new -= old
        change += float(np.dot(new, new))
    if broken or not np.isfinite(change):  # the first model may be the one that is not finite
        return {**found, "nonfinite": broken}
    norm = size**0.5
    return {**found, "norm": norm, "change": change**0.5 / norm if norm else 0.0}
