"""Items and abilities: the chance that a model answers an item right, by item response theory.

    p_j(θ) = σ(a_j θ − b_j),   a_j > 0

with slope a_j and offset b_j of item j and ability θ of a model. Items and abilities are those of
the highest posterior under log a ~ N(0, 1/4), b ~ N(0, 9), θ ~ N(0, 1), so that items that all
models answer alike have finite ones. A merge's ability is taken to be Σ_m λ_m θ_m of the models it
was made from, with λ_m ~ N(1/M, 1/4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from plait.merging.pool import Array

SLOPE, OFFSET, WEIGHT = 0.25, 9.0, 0.25  # variances of the priors


@dataclass(frozen=True)
class Items:
    """N items: slopes [N], offsets [N]; and the abilities [R] of those who answered all of them."""

    slopes: Array
    offsets: Array
    abilities: Array

    def chances(self, ability: float) -> Array:
        """The chance of a right answer to every item. [N]"""
        return np.asarray(expit(self.slopes * ability - self.offsets))


def calibrated(answers: Array) -> Items:
    """Items and abilities from answers [R, N], 1 for right and 0 for wrong."""
    count, items = answers.shape
    right = answers.mean(1)
    start = np.concatenate([np.zeros(2 * items), (right - right.mean()) * 4])

    def posterior(free: Array) -> tuple[float, Array]:
        logs, offsets, abilities = np.split(free, [items, 2 * items])
        slopes = np.exp(logs)
        score = np.outer(abilities, slopes) - offsets
        loss = np.logaddexp(0, score).sum() - (answers * score).sum()
        loss += (np.square(logs).sum() / SLOPE + np.square(offsets).sum() / OFFSET) / 2
        loss += np.square(abilities).sum() / 2
        off = expit(score) - answers  # [R, N]
        return loss, np.concatenate(
            [
                (abilities @ off) * slopes + logs / SLOPE,
                -off.sum(0) + offsets / OFFSET,
                off @ slopes + abilities,
            ]
        )

    found = minimize(posterior, start, jac=True, method="L-BFGS-B").x
    logs, offsets, abilities = np.split(found, [items, 2 * items])
    assert len(abilities) == count
    return Items(np.exp(logs), offsets, abilities)


def mixed(items: Items, seen: Array, answers: Array, abilities: Array) -> Array:
    """The weights λ [M] of abilities [M] that answers [n] to the items ``seen`` [n] speak for."""
    slopes, offsets = items.slopes[seen], items.offsets[seen]
    even = np.full(len(abilities), 1 / len(abilities))

    def posterior(weights: Array) -> tuple[float, Array]:
        score = slopes * (weights @ abilities) - offsets
        loss = np.logaddexp(0, score).sum() - (answers * score).sum()
        loss += np.square(weights - even).sum() / WEIGHT / 2
        slope = (expit(score) - answers) @ slopes
        return loss, slope * abilities + (weights - even) / WEIGHT

    return np.asarray(minimize(posterior, even, jac=True, method="BFGS").x)


def estimate(
    items: Items, seen: Array, answers: Array, abilities: Array, trust: float = 0.5
) -> float:
    """The share of all items that a merge answers right, from its answers [n] to some of them.

    With s the share of right answers among the n seen, q the mean chance of those unseen and w =
    n/N it is c·s + (1 − c)·(w·s + (1 − w)·q), c being ``trust``.
    """
    share, total = float(answers.mean()), len(items.slopes)
    if len(seen) == total:
        return share
    chances = items.chances(float(mixed(items, seen, answers, abilities) @ abilities))
    unseen = float(np.delete(chances, seen).mean())
    part = len(seen) / total
    return trust * share + (1 - trust) * (part * share + (1 - part) * unseen)
