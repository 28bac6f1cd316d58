"""1bit-Merging: every task's task vector as signs and one number a matrix, beside a merged model.

    δ_m ≈ α_m sgn(δ_m),   α_m = mean|δ_m|,   δ_m = θ_m − θ₀  [o, n]

for the matrices whose names fit ``compress``: of all multiples of the signs the nearest one, and of
the same ℓ1 norm. The model's tensors are what ``method`` merges. A task is served, by ``on``, the
base or the merged model with its α_m sgn(δ_m) added; at all other tensors it is served, by
``rest``, the merged model's or its own, which it then keeps whole. The sign of 0 is +.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([[4.0, -2.0]])}, "b": {"w": np.array([[1.0, 1.0]])}},
...             base={"w": np.zeros((1, 2))})
>>> merged = OneBit(method={"task_arithmetic": {"scale": 0.5}}).merge(pool)
>>> merged.tensors["w"], merged.tasks["a"]["w"]
(array([[ 2.5, -0.5]]), array([[ 3., -3.]]))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.base import Merger, Pipeline, inner_pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stage import Context, Grain, Overlay
from plait.method import Card, Method, MethodError, Need, Paper
from plait.weights.sites import Site


@dataclass(frozen=True, kw_only=True)
class Signs(Overlay):
    """The signs and sizes of the models' own deltas where ``compress`` fits."""

    grain: ClassVar[Grain] = Grain.TENSOR
    looks_back: ClassVar[bool] = True
    compress: tuple[str, ...]
    on: Literal["base", "merged"]
    rest: Literal["merged", "own"]

    def layout(self, site: Site) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Bits and a number, or nothing, or the whole."""
        if len(site.shape) == 2 and any(fnmatchcase(site.name, name) for name in self.compress):
            return {"sign": ("BOOL", site.shape), "size": ("F64", ())}
        return {"own": (site.kind, site.shape)} if self.rest == "own" else {}

    def keep(self, delta: Array, ctx: Context) -> dict[str, Array]:  # noqa: ARG002
        """What is laid out, for all models."""
        assert ctx.original is not None
        laid = self.layout(ctx.site)
        if "sign" in laid:
            size = np.abs(ctx.original).mean(axis=(1, 2), dtype=np.float64)
            return {"sign": ctx.original >= 0, "size": size}
        return {"own": ctx.original} if laid else {}

    def serve(self, delta: Array, kept: Mapping[str, Array]) -> Array:
        """The task's own delta."""
        if "own" in kept:
            return kept["own"].astype(delta.dtype)
        if "sign" not in kept:
            return delta
        size = kept["size"].astype(delta.dtype)
        own = np.where(kept["sign"], size, -size)
        return np.asarray(delta + own if self.on == "merged" else own)


@dataclass(frozen=True, kw_only=True)
class OneBit(Merger):
    """A merged model, and for every task the signs of its task vector."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="one_bit",
        summary="Every task's task vector kept as signs and one number a matrix.",
        paper=Paper(
            title="1bit-Merging: Dynamic Quantized Merging for Large Language Models",
            authors=(
                "Shuqi Liu and Yuxuan Yao and Bowei He and Zehua Liu and Xiongwei Han and "
                "Mingxuan Yuan and Han Wu and Linqi Song"
            ),
            year=2025,
            venue="arXiv",
            url="https://arxiv.org/abs/2502.10743",
        ),
        needs=frozenset({Need.BASE, Need.TASK_ID}),
        deviations=(
            "built from the abstract: how base and signs combine is not public, so a setting",
            "the rows' task is given; the paper's router, which finds it, is not public",
            "all tasks compress the same modules, the paper attention or MLP by the task",
        ),
    )
    parts: ClassVar[Mapping[str, str]] = {"method": "merging"}
    method: Method | str | Mapping[str, Any] = "task_arithmetic"
    compress: tuple[str, ...] = ("*",)
    on: Literal["base", "merged"] = "base"
    rest: Literal["merged", "own"] = "merged"

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """Nothing compressed, and nothing scaled by the method."""
        return {"compress": (), "rest": "own", "method": {"task_arithmetic": {"scale": 1.0}}}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Signs on the base and on the merged model."""
        return ({}, {"on": "merged", "rest": "own"})

    def pipeline(self, pool: Pool) -> Pipeline:
        """The method's pipeline with the signs beside."""
        line = inner_pipeline(self.method, pool, self.card.name)
        if line.overlay is not None:
            raise MethodError("one_bit keeps something for each task, and so does its method")
        signs = Signs(compress=tuple(self.compress), on=self.on, rest=self.rest)
        return replace(line, overlay=signs)
