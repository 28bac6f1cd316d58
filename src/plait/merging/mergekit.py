"""mergekit's linear merges, by tensor and model as its YAML says them: linear, task vectors, signs.

    linear           θ = Σ_m w_m θ_m / n                         n = Σ_m w_m, or 1
    task_arithmetic  θ = θ₀ + λ Σ_m w_m δ_m / n                  dare_linear: of thinned out δ_m
    ties             θ = θ₀ + λ Σ_m a_m w_m δ_m / n              n = Σ_m a_m w_m, or 1
    breadcrumbs and della_linear as task_arithmetic, breadcrumbs_ties and della as ties

with δ_m = θ_m − θ₀ [*s], a_m = 1[sgn(w_m δ_m) = s] [*s] and s the sign of Σ_m w_m δ_m, plus where
that is zero. ``normalize`` chooses the first n; a divisor of zero is 1. ties keeps the
⌊size·density_m⌋ largest magnitudes of each tensor, breadcrumbs as many below the ⌊size·gamma_m⌋
largest; dare_* keep entries at random at the rate density_m, della at rates that rise with the rank
in a row from density_m − epsilon_m to density_m + epsilon_m. With ``rescale`` what is left is
scaled so that Σ|δ_m| stays. A setting is a number, a list that runs from the first block of the
model to the last, or a list of ``{filter, value}`` of which the first counts whose filter is part
of the tensor's name.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([4.0, 1.0])}, "b": {"w": np.array([2.0, -3.0])}},
...             base={"w": np.zeros(2)})
>>> Mergekit(method="ties", weight={"a": 1.0, "b": 3.0}).merge(pool).tensors["w"]
array([ 2.5, -3. ])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from plait.merging.base import Have, Merged, Merger, Pipeline
from plait.merging.pipeline import place_groups
from plait.merging.pool import Pool
from plait.merging.settings import of_site
from plait.merging.stage import Combine, Edit
from plait.merging.stages.shares import End, Largest, SumsKept, Thin, ThinByRank, Times
from plait.merging.stages.signs import Agreeing
from plait.merging.stages.sums import Sum
from plait.method import Card, Law, Need
from plait.weights.sinks import Sink
from plait.weights.sites import Site

NOTHING = 1e-8  # a sum of weights below this divides nothing
DEFAULTS: Mapping[str, tuple[bool, bool]] = {  # normalize, rescale
    "linear": (True, False), "task_arithmetic": (False, False), "ties": (True, False),
    "dare_linear": (False, True), "dare_ties": (False, True),
    "breadcrumbs": (False, False), "breadcrumbs_ties": (False, False),
    "della_linear": (False, True), "della": (True, True),
}  # fmt: skip
BY_MODEL = ("weight", "density", "gamma", "epsilon")
Numbers = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Mergekit(Merger):
    """mergekit's methods with its settings; ``weight`` and ``density`` may be given by model.

    ``normalize`` and ``rescale`` are as mergekit has them for the method unless given.
    """

    card: ClassVar[Card] = Card(
        family="merging",
        name="mergekit",
        summary="Weighted sums of weights or task vectors with mergekit's settings by tensor.",
        needs=frozenset({Need.BASE}),
        deviations=(
            "sums are formed in float32 and rounded once, where mergekit works in the stored type",
            "of magnitudes equal to the smallest one kept all are kept; mergekit takes any of them",
            "rows of tensors of more than two dimensions are those of the last",
            "masks are plait's own draws, at densities rounded to 1/65,536",
        ),
        laws=frozenset({Law.PERMUTATION}),
    )
    names_tasks: ClassVar[Mapping[str, str]] = {
        "weight": "keys", "density": "keys", "gamma": "keys", "epsilon": "keys",
    }  # fmt: skip
    method: Literal[
        "linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs",
        "breadcrumbs_ties", "della_linear", "della",
    ] = "linear"  # fmt: skip
    weight: Any = 1.0
    density: Any = 1.0
    gamma: Any = 0.01
    epsilon: Any = 0.15
    scale: Any = 1.0
    normalize: bool | None = None
    rescale: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in DEFAULTS:
            raise ValueError(f"method is one of {', '.join(DEFAULTS)}, not {self.method!r}")

    @classmethod
    def neutral(cls) -> Mapping[str, Any]:
        """The sum of all task vectors."""
        return {"method": "task_arithmetic"}

    @classmethod
    def examples(cls) -> tuple[Mapping[str, Any], ...]:
        """Every method of it, with settings by name and depth."""
        by_name = [{"filter": "weight", "value": [0.5, 1.0]}, {"value": 1.0}]
        return (
            {},
            {"method": "task_arithmetic", "scale": 0.5},
            {"method": "ties", "density": by_name},
            {"method": "dare_ties", "density": 0.5},
            {"method": "dare_linear", "density": 0.5, "weight": by_name, "rescale": False},
            {"method": "breadcrumbs_ties", "density": 0.5, "gamma": 0.2},
            {"method": "della", "density": 0.5},
        )

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:  # noqa: ARG002
        """Merge the tensors of equal settings together."""
        groups: dict[tuple[tuple[float, ...], ...], list[Site]] = {}
        for site in pool.sites:
            by_model = [
                tuple(self._of(pool, site, setting, name) for name in pool.names)
                for setting in BY_MODEL
            ]
            scale = (self._of(pool, site, "scale", ""),)
            groups.setdefault((*by_model, scale), []).append(site)
        lines = [(self._line(pool, *values), sites) for values, sites in groups.items()]
        place_groups(pool, lines, sink, workers)
        return Merged(tensors=sink.tensors)

    def _line(self, pool: Pool, weights: Numbers, keeps: Numbers, gammas: Numbers,
              epsilons: Numbers, scales: Numbers) -> Pipeline:  # fmt: skip
        """The stages for tensors of these settings."""
        normalize, rescale = DEFAULTS[self.method]
        normalize = normalize if self.normalize is None else self.normalize
        rescale = rescale if self.rescale is None else self.rescale
        (scale,) = scales
        edits: tuple[Edit, ...] = ()
        if min(keeps) < 1 and self.method not in ("linear", "task_arithmetic"):
            if self.method == "ties":
                edits = (Largest(keeps=keeps),)
            elif self.method.startswith("dare"):
                edits = (Thin(keeps=keeps, seed=self.seed),)
            elif self.method.startswith("della"):
                edits = (ThinByRank(keeps=keeps, windows=epsilons, seed=self.seed),)
            else:
                low, high = (End(keeps=keeps, outliers=gammas, upper=up) for up in (False, True))
                edits = (low, high)
            edits += (SumsKept(),) if rescale else ()
        combine: Combine
        if self.method.endswith("ties") or self.method == "della":
            combine = Agreeing(over="weights" if normalize else "nothing", zero="plus")
        else:
            total = sum(weights)
            combine = Sum(over=total if normalize and abs(total) >= NOTHING else 1.0)
        return Pipeline(
            edits=edits,
            combine=combine,
            scale=dict(zip(pool.names, weights, strict=True)),
            finish=() if scale == 1 or self.method == "linear" else (Times(factor=scale),),
            against_base=self.method != "linear",
        )

    def _of(self, pool: Pool, site: Site, setting: str, model: str) -> float:
        """A setting's value for a model's tensor."""
        given = getattr(self, setting)
        if isinstance(given, Mapping):
            strange = sorted(set(given) - set(pool.names))
            if strange or model not in given:
                what = f"no model {strange[0]!r}" if strange else f"nothing for {model!r}"
                raise ValueError(f"{setting} by model: {what}; the models: {', '.join(pool.names)}")
            given = given[model]
        value = of_site(given, site, pool.layers)
        if value is None:
            whose = f" of {model!r}" if model else ""
            raise ValueError(f"no filter of {setting} fits {site.name!r}{whose}; end with a value")
        return value
