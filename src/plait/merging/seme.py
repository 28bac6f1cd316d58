"""SeMe: language models averaged in one latent space, found by what their vocabulary means.

W_m [v, d] is the head of model m, logits = W_m h; the rows of its pseudoinverse W_m⁺ [d, v] are the
semantic bases of the vocabulary in the model's latent space. A latent h of model m keeps its
meaning in the first model's space as the h′ that gives the same logits,

    Q_m = argmin_Q ‖W_1 Q − W_m‖_F = W_1⁺ W_m  [d, d],   h′ = Q_m h

what W_1 does not see staying as it is (v < d). Every tensor that writes the residual stream becomes
Q_m W, every one that reads it W Q_m⁻¹, and the mean over models is taken. Which axes write and read
is known for models laid out like Llama or BERT, or said by ``rules`` with a group named ``stream``.

>>> import numpy as np
>>> from plait.merging.pool import Pool
>>> rules = {"embed": [None, "->stream"], "lm_head.weight": [None, "stream"]}
>>> head = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
>>> a = {"embed": head * 3, "lm_head.weight": head}
>>> turn = np.array([[0.0, -1.0], [1.0, 0.0]])
>>> b = {name: value @ turn for name, value in a.items()}  # another space, the same meanings
>>> merged = Seme(rules=rules).merge(Pool({"a": a, "b": b})).tensors
>>> bool(np.allclose(merged["embed"], a["embed"]))
True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from plait.merging.base import Have, Merged, Merger
from plait.merging.pool import Array, Pool, PoolError
from plait.merging.results import stored, write
from plait.merging.units import Axis, units
from plait.method import Card, Paper
from plait.weights.sinks import Sink
from plait.weights.sites import Site

STREAM = "stream"
UNSEEN = 1e-10  # directions whose share of the head's largest squared singular value is below


@dataclass(frozen=True, kw_only=True)
class Seme(Merger):
    """Models averaged in the latent space of the first; ``head`` names the head's tensor."""

    card: ClassVar[Card] = Card(
        family="merging",
        name="seme",
        summary="Language models averaged after their latent spaces agree on the vocabulary.",
        paper=Paper(
            title="SeMe: Training-Free Language Model Merging via Semantic Alignment",
            authors="Jian Gu and Aldeida Aleti and Chunyang Chen and Hongyu Zhang",
            year=2025,
            venue="arXiv",
            url="https://arxiv.org/abs/2505.20144",
        ),
        deviations=(
            "a reconstruction: how layers are merged is in no public text that could be read",
            "public are the bases by the head's pseudoinverse, and the move by common meanings",
            "meanings are compared as logits, by least squares; the authors compare cosines",
            "gains of norms are averaged as they are, exact where models are rotated only",
        ),
    )
    head: str = "lm_head.weight"
    rules: Mapping[str, Sequence[str | None]] | None = None

    def run(self, pool: Pool, have: Have, sink: Sink, workers: int) -> Merged:  # noqa: ARG002
        """Find the spaces' maps, and average what they bring together."""
        found = units(pool, self.rules)
        maps = np.zeros((len(pool), 0, 0))
        if STREAM in found.sizes:
            maps = self._maps(pool, found.sizes[STREAM])
        elif sum(len(site.shape) > 1 and site.size > 0 for site in pool.sites) > 1:
            raise PoolError(f"no rule says which tensors write and read the {STREAM!r}")
        back = np.linalg.pinv(maps) if maps.size else maps

        def place(site: Site) -> None:
            values, _ = pool.block(site, 0, site.size, against_base=False)
            total = np.zeros(site.shape, site.working)
            for model, own in enumerate(values.reshape(len(pool), *site.shape)):
                moved = own
                for axis in found.axes.get(site.name, ()):
                    if axis.group == STREAM and own.ndim > 1:
                        moved = _turned(moved, axis, maps[model], back[model])
                total += moved
            total /= len(pool)
            flat = total.reshape(-1)
            sink.write(site, 0, stored(flat, site, allow_nonfinite=pool.allow_nonfinite))

        write(pool, sink, place, workers=workers)
        eye = np.eye(maps.shape[1])
        far = [float(np.linalg.norm(own - eye) / np.linalg.norm(eye)) for own in maps if own.size]
        evidence = {"turned": dict(zip(pool.names, far, strict=False))}
        return Merged(tensors=sink.tensors, evidence=evidence)

    def _maps(self, pool: Pool, width: int) -> Array:
        """Q_m [M, d, d], the first one the identity."""
        site = next((s for s in pool.sites if self.head in (s.name, *s.aliases)), None)
        if site is None or len(site.shape) != 2 or site.shape[1] != width:
            told = "is not there" if site is None else f"is {list(site.shape)}"
            raise PoolError(
                f"the head {self.head!r} {told}; a matrix of {width} columns is needed, one row "
                "for each word (head: its name)"
            )
        heads, _ = pool.block(site, 0, site.size, against_base=False)
        first = heads[0].reshape(site.shape).astype(np.float64)
        seen, turn = np.linalg.eigh(first.T @ first)
        there = seen > UNSEEN * seen.max(initial=0)
        inverse = (turn[:, there] / seen[there]) @ turn[:, there].T
        unseen = turn[:, ~there] @ turn[:, ~there].T
        return np.stack([inverse @ (first.T @ own.reshape(site.shape)) + unseen for own in heads])


def _turned(values: Array, axis: Axis, ahead: Array, back: Array) -> Array:
    """A tensor with the stream along an axis in the first model's space."""
    matrix = ahead if axis.writes else back.T
    moved = np.tensordot(matrix.astype(values.dtype), values, axes=(1, axis.axis))
    return np.asarray(np.moveaxis(moved, 0, axis.axis))
