"""``plait.merge``: checkpoints on the disk, state dicts or modules become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from plait.merging.base import Have, Merged, Merger
from plait.merging.jobs import Job
from plait.merging.pool import Pool
from plait.method import resolve
from plait.weights.companions import open_model
from plait.weights.sources import Arrays, Source


def merge(
    base: Any,
    models: Mapping[str, Any] | Sequence[Any],
    method: Any = "task_arithmetic",
    *,
    out: str | Path | None = None,
    have: Have | None = None,
    workers: int = 1,
    allow_nonfinite: bool = False,
) -> Merged:
    """Merge models, given by name or in a list, that were made from ``base`` (None: no base).

    A model is a path (a safetensors file, a folder, a LoRA adapter's folder), a mapping from names
    to numpy arrays or torch tensors, or a module. ``method`` is a merger, its name, or ``{name:
    {settings}}``. With ``out``, all models being paths, the result is a folder, as ``plait merge``
    writes it; else its tensors are in memory: torch tensors where the first model had them.

    Raises :class:`~plait.merging.pool.PoolError` listing everything that keeps models from being
    merged, and ``ValueError`` for what the method needs and is not there.
    """
    merger: Merger = resolve("merging", method)
    named = dict(models) if isinstance(models, Mapping) else _named(models)
    if out is not None:
        paths = {name: Path(path) for name, path in named.items()}
        job = Job(
            models=paths,
            base=None if base is None else Path(base),
            method=merger,
            allow_nonfinite=allow_nonfinite,
        )
        return job.run(out, workers=workers)
    origin = None if base is None else _source(base)
    pool = Pool(
        {name: _source(model) for name, model in named.items()},
        origin,
        allow_nonfinite=allow_nonfinite,
    )
    merged = merger.merge(pool, have, workers=workers)
    like = next(iter(named.values())) if base is None else base
    return merged if isinstance(like, (str, Path)) else _like(merged, like)


def _named(models: Sequence[Any]) -> dict[str, Any]:
    """Names for models in a list: those of their files where they differ, else numbers."""
    stems = [Path(model).name for model in models if isinstance(model, (str, Path))]
    if len(set(stems)) < len(models):
        stems = [f"model{number}" for number, _ in enumerate(models, 1)]
    return dict(zip(stems, models, strict=True))


def _source(model: Any) -> Source:
    if isinstance(model, Source):
        return model
    if isinstance(model, (str, Path)):
        return open_model(model)
    state = model if isinstance(model, Mapping) else model.state_dict()
    arrays, bfloat16 = {}, set()
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            arrays[name] = value
            continue
        import torch

        tensor = value.detach().cpu()
        if tensor.dtype == torch.bfloat16:
            bfloat16.add(name)
            tensor = tensor.view(torch.uint16)
        arrays[name] = tensor.numpy()
    return Arrays(arrays, frozenset(bfloat16))


def _like(merged: Merged, model: Any) -> Merged:
    """The merged tensors as what the model is made of."""
    state = model if isinstance(model, Mapping) else model.state_dict()
    if all(isinstance(value, np.ndarray) for value in state.values()):
        return merged
    import torch

    tensors: dict[str, Any] = {
        name: torch.from_numpy(np.ascontiguousarray(value)).to(state[name].dtype)
        for name, value in merged.tensors.items()
    }
    return replace(merged, tensors=tensors)
