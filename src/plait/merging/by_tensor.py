"""Other methods, or other settings of one, for some of the tensors: by name and by depth.

    θ[name] = merge_r(θ₀, θ_1, …, θ_M)[name],   r = the first rule whose pattern fits the name

A pattern is a shell's (``*.mlp.*``); tensors that none fits are merged by ``method``. A setting of
a rule may be ``{depths: [v₁, …, v_k]}``: then it runs piecewise linearly from v₁ in the first block
to v_k in the last, tensors outside blocks taking v₁. What a method finds over the whole model (the
threshold of TIES) it finds here over the tensors that are merged by equal settings.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> names = ("0.w", "1.w", "head")
>>> pool = Pool({"a": {n: np.ones(1) for n in names}}, base={n: np.zeros(1) for n in names})
>>> rules = {"[01].*": {"task_arithmetic": {"scale": {"depths": [0.2, 0.6]}}}}
>>> merged = ByTensor(rules=rules, method={"task_arithmetic": {"scale": 1.0}}).merge(pool)
>>> {name: float(value[0]) for name, value in merged.tensors.items()}
{'0.w': 0.2, '1.w': 0.6, 'head': 1.0}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np

from plait.merging.base import Have, Merged, Merger, inner_pipeline
from plait.merging.pipeline import Pipeline, place_groups
from plait.merging.pool import Pool
from plait.method import Card, Law, Method, MethodError, Need, resolve, spell, unspell
from plait.weights.sinks import Sink
from plait.weights.sites import Site

DEPTHS = "depths"


@dataclass(frozen=True, kw_only=True)
class ByTensor(Merger):
    """Merge tensors by the first rule that fits their name, and all others by ``method``."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="by_tensor",
        summary="Other methods or settings for tensors of some names and depths.",
        needs=frozenset({Need.BASE}),
        laws=frozenset({Law.PERMUTATION}),
        deviations=("coefficients left free take their default; nothing is searched here",),
    )
    parts: ClassVar[Mapping[str, str]] = {"method": "merging"}
    method: Method | str | Mapping[str, Any] = "task_arithmetic"
    rules: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for pattern, spelled in (self.rules or {}).items():
            try:
                resolve("merging", _at(spelled, 0, 1))
            except MethodError as error:
                raise ValueError(f"the rule {pattern!r}: {error}") from error

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """Nothing scaled."""
        return {"method": {"task_arithmetic": {"scale": 1.0}}}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """With and without rules."""
        return ({}, {"rules": {"*weight": {"ties": {"keep": 0.5}}}})

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:  # noqa: ARG002
        """Merge each group of tensors by its own pipeline, all into one sink."""
        groups: dict[str, list[Site]] = {}
        rules = self.rules or {}
        unused = set(rules)
        for site in pool.sites:
            pattern = next((one for one in rules if fnmatchcase(site.name, one)), None)
            unused.discard(pattern or "")
            spelled = _plain(self.method) if pattern is None else rules[pattern]
            method = json.dumps(_at(spelled, site.depth or 0, pool.layers), sort_keys=True)
            groups.setdefault(method, []).append(site)
        if unused:
            raise ValueError(f"no tensor has a name that fits {', '.join(map(repr, unused))}")
        lines = [(_line(json.loads(text), pool.only(tuple(sites))), sites)
                 for text, sites in groups.items()]  # fmt: skip
        place_groups(pool, lines, sink, workers)
        counts = {text: len(sites) for text, sites in groups.items()}
        return Merged(tensors=sink.tensors, evidence={"tensors": counts})


def _line(method: Any, pool: Pool) -> Pipeline:
    line = inner_pipeline(method, pool, ByTensor.card.name)
    if line.overlay is not None:
        raise MethodError("by_tensor merges into one model; its methods must keep nothing by task")
    return line


def _plain(method: Any) -> Any:
    return spell(method) if isinstance(method, Method) else method


def _at(spelled: Any, depth: int, layers: int) -> Any:
    """A method as it is spelled at a depth: settings by depth become numbers."""
    spelled = _plain(spelled)
    if isinstance(spelled, str):
        return spelled
    name, settings = unspell("merging", spelled)
    return {name: {key: _number(value, depth, layers) for key, value in settings.items()}}


def _number(value: Any, depth: int, layers: int) -> Any:
    if not (isinstance(value, Mapping) and set(value) == {DEPTHS}):
        return _plain(value)
    knots = [float(one) for one in value[DEPTHS]]
    place = depth / max(layers - 1, 1) * (len(knots) - 1)
    return float(np.interp(place, range(len(knots)), knots))
