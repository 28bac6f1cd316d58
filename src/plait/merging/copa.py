"""CoPA-Merging (RobustMerge): the factors of LoRA adapters, pruned, rescaled and merged apart.

The models are adapter files, with A_m [r, n] and B_m [o, r] for every layer. Ã_m and B̃_m keep the
share ``keep`` of each factor's largest entries, and the rows of A say what pruning has taken:

    s_m = Σ_n |A_m| / Σ_n |Ã_m|  [r],   raised to at least its own ⌊(1 − ``top``) r⌋-th smallest
    A = λ Σ_m Ã_m,   B = λ Σ_m (B̃_m ⊙ s_m) / Σ_m s_m,   s_m for each column of B̃_m

λ is ``scale``, on both factors. What is no factor of LoRA is averaged. A is a sum and B a mean, so
that B·A has products of every A with every B, and one adapter alone comes back λ² times.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> one = {"q.lora_A.weight": np.array([[1.0, 4.0]]), "q.lora_B.weight": np.array([[2.0], [1.0]])}
>>> two = {"q.lora_A.weight": np.array([[3.0, 1.0]]), "q.lora_B.weight": np.array([[4.0], [3.0]])}
>>> merged = Copa(keep=1.0, scale=1.0).merge(Pool({"one": one, "two": two})).tensors
>>> merged["q.lora_A.weight"], merged["q.lora_B.weight"].T
(array([[4., 5.]]), array([[3., 2.]]))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from plait.merging.base import Have, Merged, Merger
from plait.merging.pool import Array, Pool, PoolError
from plait.merging.results import stored, write
from plait.merging.stages.sums import added
from plait.method import Card, Law, Paper
from plait.weights.sinks import Sink
from plait.weights.sites import Site
from plait.weights.sources import Source

DOWN, UP = "lora_A", "lora_B"


@dataclass(frozen=True, kw_only=True)
class Copa(Merger):
    """LoRA factors merged apart: A added up, B averaged by what pruning has taken from A."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="copa",
        summary="Factors of LoRA adapters, pruned, rescaled by rows and merged apart.",
        paper=Paper(
            title="RobustMerge: Parameter-Efficient Model Merging for MLLMs with Direction "
            "Robustness",
            authors=("Fanhu Zeng and Haiyang Guo and Fei Zhu and Li Shen and Hao Tang"),
            year=2025,
            venue="Advances in Neural Information Processing Systems",
            url="https://arxiv.org/abs/2502.17159",
        ),
        laws=frozenset({Law.PERMUTATION}),
        deviations=(
            "a row of A that is pruned whole takes the largest scale of the others",
            "the factors' scaling, α/r, is not looked at; adapters should have the same",
        ),
    )
    keep: float = 0.2
    top: float = 0.2
    scale: float = 2.0

    def __post_init__(self) -> None:
        for name, share in (("keep", self.keep), ("top", self.top)):
            if not 0 < share <= 1:
                raise ValueError(f"{name} is a share above 0 and at most 1, not {share:g}")

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:  # noqa: ARG002
        """Merge factor by factor.

        Raises :class:`PoolError` for folders of adapters, which are read as products, and for
        a factor without its other.
        """
        sites = {site.name: site for site in pool.sites}
        self._check(pool, sites)

        def place(site: Site) -> None:
            values = self._values(pool, site)
            if UP in site.name:
                down = self._values(pool, sites[site.name.replace(UP, DOWN)])
                merged = self._up(values, down)
            elif DOWN in site.name:
                merged = added(self._pruned(values)) * values.dtype.type(self.scale)
            else:
                merged = added(values) / values.dtype.type(len(values))
            done = stored(merged.reshape(-1), site, allow_nonfinite=pool.allow_nonfinite)
            sink.write(site, 0, done)

        write(pool, sink, place, workers=workers)
        return Merged(tensors=sink.tensors)

    @staticmethod
    def _check(pool: Pool, sites: dict[str, Site]) -> None:
        if any(isinstance(model, Source) and model.partial for model in pool.models.values()):
            raise PoolError(
                "copa merges the factors of adapters: name the files adapter_model.safetensors, "
                "not their folders, and no base"
            )
        for name, site in sites.items():
            if UP in name:
                other = sites.get(name.replace(UP, DOWN))
                if other is None or other.shape[0] != site.shape[-1]:
                    raise PoolError(f"copa finds no {DOWN} of the same rank for {name!r}")

    @staticmethod
    def _values(pool: Pool, site: Site) -> Array:
        """The models' tensors [M, *s]."""
        values, _ = pool.block(site, 0, site.size, against_base=False)
        return values.reshape(len(values), *site.shape)

    def _pruned(self, values: Array) -> Array:
        """The values [M, *s] with the smallest of each model set to zero."""
        flat = np.abs(values).reshape(len(values), -1)
        dropped = int(flat.shape[1] * (1 - self.keep))
        if not dropped:
            return values
        least = np.partition(flat, dropped - 1, axis=1)[:, dropped - 1 : dropped]
        return np.where((flat >= least).reshape(values.shape), values, 0)

    def _up(self, up: Array, down: Array) -> Array:
        """B [o, r] of all B_m [M, o, r] and A_m [M, r, n]."""
        whole, left = np.abs(down).sum(2), np.abs(self._pruned(down)).sum(2)
        scales = np.divide(whole, left, out=np.zeros_like(whole), where=left > 0)
        scales = np.where(left > 0, scales, np.maximum(scales.max(1, keepdims=True), 1))
        place = min(int(scales.shape[1] * (1 - self.top)), scales.shape[1] - 1)
        scales = np.maximum(scales, np.sort(scales, axis=1)[:, place : place + 1])
        total = added(self._pruned(up) * scales[:, None, :]) / added(scales)
        return np.asarray(total * up.dtype.type(self.scale))
