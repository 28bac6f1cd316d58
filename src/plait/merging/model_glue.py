"""Model-GLUE, its merge: families of alike models, each merged greedily; the best family's merge.

    s(m, k) = mean over matrices, mean over columns j of cos(W_m[:, j], W_k[:, j])
    θ ← c θ + (1 − c) θ_m   with the c in 0.1, …, 0.9 of the lowest loss, where that is no higher

A model joins the first family whose founder, its first model, is more alike to it than ``alike``,
and else founds one of its own. In a family the models come one after another, that of the lowest
validation loss first. A search costs M + 9·(M − 1) looks at validation at most. Models of different
families are not merged; the paper joins them by a mixture with a router, which is not built here.

>>> import numpy as np
>>> from plait.merging.base import Have
>>> from plait.merging.pool import Pool
>>> pool = Pool({"a": {"w": np.array([[1.0], [0.0]])}, "b": {"w": np.array([[1.2], [0.2]])},
...              "c": {"w": np.array([[0.0], [1.0]])}})
>>> far = Have(validation=lambda state: float(abs(state["w"] - [[1.08], [0.08]]).sum()))
>>> merged = ModelGlue().merge(pool, far)
>>> merged.evidence["families"], merged.tensors["w"].ravel().round(2)
([['a', 'b'], ['c']], array([1.08, 0.08]))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from plait.merging.base import Have, Merged, Merger
from plait.merging.engine import BLOCK
from plait.merging.pipeline import Pipeline
from plait.merging.pool import Array, Pool
from plait.merging.stages.sums import Sum
from plait.method import Card, Need, Paper
from plait.weights.sinks import Memory, Sink
from plait.weights.sites import Site

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
Weights = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class ModelGlue(Merger):
    """Find families of models, merge each greedily on validation, and take the best.

    ``of`` says whether likeness is that of the weights or of their differences to the base.
    """

    card: ClassVar[Card] = Card(
        family="merging",
        name="model_glue",
        summary="Families of alike models, each merged greedily on validation; the best of them.",
        paper=Paper(
            title="Model-GLUE: Democratized LLM Scaling for A Large Model Zoo in the Wild",
            authors=(
                "Xinyu Zhao and Guoheng Sun and Ruisi Cai and Yukun Zhou and Pingzhi Li and "
                "Peihao Wang and Bowen Tan and Yexiao He and Li Chen and Yi Liang and Beidi Chen "
                "and Binhang Yuan and Hongyi Wang and Ang Li and Zhangyang Wang and Tianlong Chen"
            ),
            year=2024,
            venue="Advances in Neural Information Processing Systems",
            url="https://arxiv.org/abs/2410.05357",
        ),
        needs=frozenset({Need.VALIDATION}),
        deviations=(
            "the merge within families; the mixture that joins the families is not built",
            "the best share found is merged, where the authors' code keeps the last one tried",
            "a model like no founder founds a family, where the authors' code drops it",
            "all matrices count; the authors take those of attention and feed-forward parts",
            "judged by the validation loss, where the authors take scores of proxy tasks",
        ),
    )
    alike: float = 0.95
    of: Literal["weights", "deltas"] = "weights"

    def __post_init__(self) -> None:
        if not -1 <= self.alike <= 1:
            raise ValueError(f"alike is a cosine in [-1, 1], got {self.alike:g}")
        if self.of not in ("weights", "deltas"):
            raise ValueError(f"of is weights or deltas, not {self.of!r}")

    def needs(self) -> frozenset[Need]:
        """The base too, where differences to it are compared."""
        return self.card.needs | ({Need.BASE} if self.of == "deltas" else set())

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:
        """Compare, group, merge every group, and keep the best."""
        likeness = alikeness(pool, against_base=self.of == "deltas")
        families = self._families(pool.names, likeness)
        alone = {name: self._loss(pool, have, {name: 1.0}, workers) for name in pool.names}
        if not np.isfinite(list(alone.values())).any():
            raise ValueError("model_glue: no model has a finite validation loss")
        found = [self._greedy(pool, have, family, alone, workers) for family in families]
        losses = [loss for _, loss in found]
        best = int(np.argmin(losses))
        merged = line(found[best][0]).run(pool.among(*found[best][0]), Have(), sink, workers)
        evidence: dict[str, Any] = {
            "families": families,
            "likeness": likeness.round(6).tolist(),
            "losses": [loss if np.isfinite(loss) else None for loss in losses],
            "alone": {name: loss if np.isfinite(loss) else None for name, loss in alone.items()},
            "weights": found[best][0],
        }
        return Merged(tensors=merged.tensors, evidence=evidence)

    def _families(self, names: tuple[str, ...], likeness: Array) -> list[list[str]]:
        """The models by family, founders first."""
        families: list[list[int]] = []
        for number in range(len(names)):
            mine = (one for one in families if likeness[one[0], number] > self.alike)
            family = next(mine, None)
            if family is None:
                families.append([number])
            else:
                family.append(number)
        return [[names[number] for number in family] for family in families]

    def _greedy(
        self, pool: Pool, have: Have, family: list[str], alone: Weights, workers: int
    ) -> tuple[Weights, float]:
        """The models' weights in the family's merge, and its loss."""
        first, *others = sorted(family, key=lambda name: (alone[name], name))
        weights, best = {first: 1.0}, alone[first]
        for name in others:
            start = weights
            for share in SHARES:
                tried = {one: share * weight for one, weight in start.items()} | {name: 1 - share}
                loss = self._loss(pool, have, tried, workers)
                if loss <= best and np.isfinite(loss):
                    weights, best = tried, loss
        return weights, best

    @staticmethod
    def _loss(pool: Pool, have: Have, weights: Weights, workers: int) -> float:
        """The validation loss of a weighted sum of models, infinite for NaN."""
        assert have.validation is not None, "its need was checked"
        state = line(weights).run(pool.among(*weights), Have(), Memory(), workers).tensors
        loss = float(have.validation(state))
        return loss if np.isfinite(loss) else np.inf


def line(weights: Weights) -> Pipeline:
    """Σ_m w_m θ_m."""
    return Pipeline(combine=Sum(), scale=dict(weights), against_base=False)


def alikeness(pool: Pool, *, against_base: bool) -> Array:
    """The mean cosine [M, M] of the models' columns over all matrices; 1 where there is none."""
    matrices = [s for s in pool.sites if s.floating and s.size and len(s.shape) > 1]
    if not matrices:
        return np.ones((len(pool), len(pool)))
    found: Array = np.mean([_cosines(pool, s, against_base) for s in matrices], axis=0)
    return found


def _cosines(pool: Pool, site: Site, against_base: bool) -> Array:
    """The mean cosine [M, M] of the columns of one matrix; equal columns of zeros are alike."""
    products = np.zeros((len(pool), len(pool), site.width))
    step = max(BLOCK // site.width, 1) * site.width
    for start in range(0, site.size, step):
        values, _ = pool.block(site, start, min(start + step, site.size), against_base=against_base)
        rows = values.reshape(len(pool), -1, site.width).astype(np.float64)
        products += np.einsum("irw,jrw->ijw", rows, rows)
    norms = np.sqrt(np.einsum("iiw->iw", products))
    both = norms[:, None] * norms[None, :]
    neither = (norms[:, None] == 0) & (norms[None, :] == 0)
    cosines = np.divide(products, both, out=neither.astype(float), where=both > 0)
    found: Array = cosines.mean(-1)
    return found
