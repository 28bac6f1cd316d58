"""A LoRA adapter out of a tuned model: the nearest one of a given rank, layer by layer.

    δ = θ_tuned − θ₀ = U Σ Vᵀ  [o, n],   B = U_:r Σ_r^½  [o, r],   A = Σ_r^½ V_:rᵀ  [r, n]

so that B·A is the best approximation of rank r: its squared error is the sum of the squares of the
singular values left out. The scaling α/r is 1 in every module.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> tuned = {"q.weight": np.array([[2.0, 4.0], [1.0, 2.0]])}
>>> found = extract_lora(Pool({"tuned": tuned}, {"q.weight": np.zeros((2, 2))}), rank=8)
>>> found.config["rank_pattern"], found.modules["q"]["lora_A.weight"].shape
({'q': 1}, (1, 2))
>>> np.round(found.modules["q"]["lora_B.weight"] @ found.modules["q"]["lora_A.weight"], 6)
array([[2., 4.],
       [1., 2.]])
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np

from plait.merging.pool import Array, Pool, PoolError
from plait.merging.stages.descent import TABLES
from plait.merging.stages.spectral import above_rounding, svd
from plait.weights.adapter_folders import AdapterFile
from plait.weights.sites import Site


def extract_lora(
    pool: Pool,
    *,
    rank: int = 128,
    whole: tuple[str, ...] = TABLES,
    biases: Literal["refuse", "leave"] = "refuse",
) -> AdapterFile:
    """The adapter of at most that rank that takes the pool's base to its one model.

    Matrices named ``….weight`` become factors, of the rank that they need and no more. Tensors that
    have changed and are none, or whose names fit ``whole`` (embeddings, heads, norms), are saved
    with their modules as they are. A changed bias of a layer that becomes factors has no place in
    an adapter: it stops the extraction unless ``biases="leave"``, which leaves it the base's.
    Raises :class:`PoolError` where there is not one model and a base, or where nothing has changed.
    """
    if rank < 1:
        raise ValueError(f"rank is at least 1, not {rank}")
    if len(pool) != 1 or pool.base is None:
        raise PoolError("an adapter is extracted from one tuned model and its base")
    modules: dict[str, dict[str, Array]] = {}
    changed: list[Site] = []
    for site in pool.sites:
        if not (site.floating and site.size):
            continue
        values, _ = pool.block(site, 0, site.size, against_base=True)
        if not values.any():
            continue
        if _factored(site, whole):
            down, up = _factors(values.reshape(site.shape), rank)
            modules[_module(site)] = {"lora_A.weight": down, "lora_B.weight": up}
        else:
            changed.append(site)
    saved = [site for site in changed if _module(site) not in modules]
    stuck = [site.name for site in changed if _module(site) in modules]
    if stuck and biases == "refuse":
        raise PoolError(
            f"{stuck[0]!r} has changed beside a layer that becomes factors; an adapter has no "
            "place for it (biases='leave' leaves it the base's)"
        )
    if not modules:
        raise PoolError("no matrix has changed, so there is no adapter to extract")
    ranks = {path: len(own["lora_A.weight"]) for path, own in modules.items()}
    names = sorted({_module(site).rpartition(".")[2] for site in saved})
    return AdapterFile(_config(ranks, names), modules, _whole(pool, names))


def _factored(site: Site, whole: tuple[str, ...]) -> bool:
    fits = any(fnmatchcase(site.name, pattern) for pattern in whole)
    return len(site.shape) == 2 and site.name.endswith(".weight") and not fits


def _module(site: Site) -> str:
    return site.name.rpartition(".")[0]


def _factors(delta: Array, rank: int) -> tuple[Array, Array]:
    """A [r, n] and B [o, r]."""
    u, sigma, vt = svd(delta)
    rank = min(rank, int(above_rounding(sigma, delta.shape).sum()))
    root = np.sqrt(sigma[:rank])
    return root[:, None] * vt[:rank], u[:, :rank] * root


def _whole(pool: Pool, names: list[str]) -> dict[str, Array]:
    """All tensors of the modules with these last names, which is how peft looks them up."""
    found = {}
    for site in pool.sites:
        if site.floating and _module(site).rpartition(".")[2] in names:
            values, _ = pool.block(site, 0, site.size, against_base=False)
            found[site.name] = values.reshape(site.shape)
    return found


def _config(ranks: dict[str, int], saved: list[str]) -> dict[str, Any]:
    most = max(ranks.values())
    return {
        "peft_type": "LORA",
        "r": most,
        "lora_alpha": most,
        "rank_pattern": ranks,
        "alpha_pattern": dict(ranks),  # α/r = 1 whatever the rank
        "target_modules": sorted(ranks),
        "modules_to_save": saved or None,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
