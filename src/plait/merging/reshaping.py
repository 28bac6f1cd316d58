"""Folders of another form out of folders of models: an adapter, a stack of blocks, a mixture.

As with merges, everything is compared first, and a folder is whole or absent.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import plait
from plait.merging.average import Average
from plait.merging.extraction import extract_lora
from plait.merging.jobs import Job, identity
from plait.merging.pool import Pool, PoolError
from plait.merging.stacking import stack
from plait.merging.upcycling import upcycle
from plait.weights.adapter_folders import AdapterFile
from plait.weights.companions import companions, open_model, tokenizer_differences
from plait.weights.files import discard, publish, read_json, temporary_beside, write_json
from plait.weights.folders import Folder, FolderError

CONFIG = "config.json"


def extract_folder(
    tuned: Path,
    base: Path,
    out: Path,
    *,
    rank: int = 128,
    biases: Literal["refuse", "leave"] = "refuse",
    overwrite: bool = False,
) -> AdapterFile:
    """Write the LoRA adapter that takes the base to the tuned model, as peft stores adapters."""
    if out.exists() and not overwrite:
        raise FolderError(f"{out} is there already; name another place, or replace it")
    pool = Pool({"the tuned model": open_model(tuned)}, open_model(base))
    found = extract_lora(pool, rank=rank, biases=biases)
    found = replace(found, config={**found.config, "base_model_name_or_path": str(base)})
    fresh = temporary_beside(out)
    try:
        found.write(fresh)
        publish(fresh, {"made_by": f"plait {plait.__version__}", "kind": "extract"})
        discard(out)
        fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return found


def stack_folder(
    slices: Sequence[tuple[Path, int, int]],
    out: Path,
    *,
    outside: Path | None = None,
    overwrite: bool = False,
    workers: int = 1,
) -> dict[str, Any]:
    """Write blocks (model, first, stop) on top of one another; the result's configuration.

    All else comes from the model ``outside``, the first slice's unless given.
    """
    outside = slices[0][0] if outside is None else outside
    paths = {str(path): path for path in (outside, *(path for path, _, _ in slices))}
    models = {name: open_model(path) for name, path in paths.items()}
    for name, path in paths.items():
        differences = list(tokenizer_differences(outside, path))
        if differences:
            raise PoolError(f"{name} has another tokenizer than {outside}: {differences[0]}")
    told = [[str(path), start, stop] for path, start, stop in slices]
    recipe = {"stack": told, "outside": str(outside)}
    sink = Folder(out, identity(recipe, paths), replace=overwrite)
    rows = [(str(path), start, stop) for path, start, stop in slices]
    given = _config(outside)
    config = stack(models, rows, given, sink, outside=str(outside), workers=workers)
    _seal(sink, outside, config, recipe)
    return config


def upcycle_folder(
    models: Mapping[str, Path],
    out: Path,
    *,
    base: Path | None = None,
    chosen: int = 2,
    seed: int = 0,
    overwrite: bool = False,
    workers: int = 1,
) -> dict[str, Any]:
    """Write a mixture whose experts are the models' MLPs; the result's configuration."""
    job = Job(models=models, base=base, method=Average())
    pool = job.pool()
    origin = base or next(iter(models.values()))
    recipe = {key: value for key, value in job.spelled().items() if key != "method"}
    recipe |= {"upcycle": {"chosen": chosen, "seed": seed}}
    paths = {**models, **({} if base is None else {"": base})}
    sink = Folder(out, identity(recipe, paths), replace=overwrite)
    config = upcycle(pool, _config(origin), sink, chosen=chosen, seed=seed, workers=workers)
    _seal(sink, origin, config, recipe)
    return config


def _config(folder: Path) -> Mapping[str, Any]:
    """A model's configuration, which says what is built of its tensors."""
    if not (folder / CONFIG).is_file():
        raise PoolError(
            f"{folder / CONFIG} is missing; without it nothing tells how a model is built"
        )
    found = read_json(folder / CONFIG)
    if not isinstance(found, dict):
        raise PoolError(f"{folder / CONFIG}: not a model's configuration")
    return found


def _seal(sink: Folder, origin: Path, config: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    for file in companions(origin):
        shutil.copyfile(file, sink.part / file.name)
    write_json(sink.part / CONFIG, config)
    sink.seal({"made_by": f"plait {plait.__version__}", "kind": "reshaped", "recipe": recipe})
