"""Linear models of all tasks that keep every user private, the small tasks favoured.

User j has the tasks Ω_j and one unit of budget, Σ_{i∈Ω_j} ω_ij² = 1: ω_ij = n_i^e/√(Σ_{k∈Ω_j}
n_k^2e), e ≤ 0, n_i the number of users of task i, counted with noise from one task of each user.
With ‖x‖ ≤ R and ‖y‖ ≤ Y by clipping, task i gets A_i = Σ_j ω_ij x_j x_jᵀ + R² s N, made symmetric
and its eigenvalues clipped at 0, and r_i = Σ_j ω_ij x_j y_ijᵀ + RY s N, N normal; then θ_i = (A_i +
λI)⁻¹ r_i. Records of a user in one task share ω_ij. All of it is ρ-zCDP with ρ = ½(2/s² + 1/σ²), σ
the noise of the counts, and so (ε, δ)-private with ε = ρ + 2√(ρ log 1/δ).

    >>> round(noise_of(1.0, 1e-5, counting=0.1)[0], 2)
    7.31
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch

from plait.comparing.model import Model
from plait.comparing.plain.estimators import Linears
from plait.comparing.plain.fitting import Sample, Samples
from plait.comparing.plan import Plan
from plait.comparing.strategy import Strategy
from plait.data.seeding import generator
from plait.method import Card, Need, Paper

Array = np.ndarray[Any, Any]
WIDEST = 2000  # columns; the noisy matrix of a task is dense


@dataclass(frozen=True, kw_only=True)
class PrivateSkew(Strategy):
    """Private multi-task ridge regression; a user is a value of the task's ``group``, or a row.

    ``epsilon`` (infinity: no noise) and ``delta`` are the guarantee, ``exponent`` e; ``radius`` R,
    ``bound`` Y for numbers and counts, ``counting`` the share of ρ for the counts, ``strength`` λ
    (None: 1 + sR²√2d, as large as the noise of A).
    """

    card: ClassVar[Card] = Card(
        family="strategy",
        name="private_skew",
        summary="a private linear model for each task, small tasks favoured",
        paper=Paper(
            title="Multi-Task Differential Privacy Under Distribution Skew",
            authors="Krichene, Walid and Jain, Prateek and Song, Shuang and Sundararajan, Mukund "
            "and Thakurta, Abhradeep and Zhang, Li",
            year=2023,
            venue="ICML",
            url="https://arxiv.org/abs/2302.07975",
        ),
        needs=frozenset({Need.LABELLED}),
        deviations=(
            "Inputs are the encoded columns; the authors learn users' vectors by alternation.",
            "Tasks without numbers are fitted as indicators, and the score passes their link.",
            "The noise is keyed by the seed: whoever knows the seed can take it away again.",
            "Vocabularies and the units of columns and targets are not part of the guarantee.",
        ),
    )
    baseline: ClassVar[bool] = True
    epsilon: float = 1.0
    delta: float = 1e-5
    exponent: float = -0.25
    radius: float = 1.0
    bound: float = 3.0
    strength: float | None = None
    counting: float = 0.1

    def __post_init__(self) -> None:
        if self.exponent > 0:
            raise ValueError(f"exponent must not be positive, got {self.exponent}")
        if not (self.epsilon > 0 and 0 < self.delta < 1 and 0 < self.counting < 1):
            raise ValueError("epsilon must be positive, delta and counting lie between 0 and 1")
        given = (self.radius, self.bound, *([] if self.strength is None else [self.strength]))
        if not min(given) > 0:
            raise ValueError("radius, bound and strength must be positive")

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:  # noqa: ARG002
        """Weigh, add the noise, solve."""
        samples = Samples(plan, codes=False, pooled=False)
        every = list(samples)
        noise, sigma = noise_of(self.epsilon, self.delta, counting=self.counting)
        users = [users_of(plan, sample) for sample in every]
        weights = user_weights(users, self.exponent, sigma, seed)
        found, intercepts = {}, {}
        for sample, weight in zip(every, weights, strict=True):
            x = clipped(_inputs(sample), self.radius)
            y, factor, bound = _targets(sample, self.bound)
            draw = generator("private_skew", seed, sample.pool.name)
            left, right = statistics(
                x, clipped(y, bound), weight, noise * self.radius**2, noise * self.radius * bound,
                draw,
            )  # fmt: skip
            usual = 1 + noise * self.radius**2 * math.sqrt(2 * len(left))
            ridge = usual if self.strength is None else self.strength
            theta = np.linalg.solve(left + ridge * np.eye(len(left)), right).T * factor
            found[sample.pool.name], intercepts[sample.pool.name] = theta[:, :-1], theta[:, -1]
        evidence = {"epsilon": self.epsilon, "delta": self.delta, "noise": noise}
        return samples.model(Linears(found, intercepts), evidence)


def noise_of(epsilon: float, delta: float, *, counting: float) -> tuple[float, float]:
    """The noise s of A and r, and σ of the counts, for a guarantee; zeros for infinite epsilon."""
    if math.isinf(epsilon):
        return 0.0, 0.0
    log = math.log(1 / delta)
    rho = (math.sqrt(log + epsilon) - math.sqrt(log)) ** 2
    return math.sqrt(1 / ((1 - counting) * rho)), math.sqrt(1 / (2 * counting * rho))


def user_weights(users: list[Array], exponent: float, sigma: float, seed: int) -> list[Array]:
    """The weight of every record, for the users [n] of the records of each task.

    A user's records in one task share its ω, so that no user moves the sums by more than one.
    """
    pairs = np.concatenate([np.stack([np.unique(u), np.full(len(np.unique(u)), i)], 1)
                            for i, u in enumerate(users)])  # fmt: skip
    who, place = np.unique(pairs[:, 0], return_inverse=True)
    draw = generator("private_skew", seed, "counts")
    order = draw.permutation(len(pairs))
    _, first = np.unique(place[order], return_index=True)  # one task of each user
    counts = np.bincount(pairs[order[first], 1], minlength=len(users)).astype(float)
    counts = np.maximum(counts + sigma * draw.normal(size=len(counts)), 1.0)
    scale = counts**exponent
    whole = np.bincount(place, scale[pairs[:, 1]] ** 2, minlength=len(who))
    found = []
    for i, mine in enumerate(users):
        at = np.searchsorted(who, mine)
        times = np.bincount(at, minlength=len(who))
        found.append(scale[i] / np.sqrt(whole[at]) / times[at])
    return found


def statistics(
    x: Array, y: Array, weight: Array, left: float, right: float, draw: np.random.Generator
) -> tuple[Array, Array]:
    """A [d, d] and r [d, k] with noise of these sizes; A symmetric, no eigenvalue negative."""
    gram = (x * weight[:, None]).T @ x + left * draw.normal(size=(x.shape[1], x.shape[1]))
    cross = (x * weight[:, None]).T @ y + right * draw.normal(size=(x.shape[1], y.shape[1]))
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    return (vectors * np.maximum(values, 0.0)) @ vectors.T, cross


def clipped(rows: Array, most: float) -> Array:
    """Rows [n, d] no longer than ``most``."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows * np.minimum(1.0, most / np.maximum(lengths, 1e-300)))


def _inputs(sample: Sample) -> Array:
    """The table with a column of ones, dense."""
    table = sample.table
    if table.shape[1] > WIDEST:
        raise ValueError(
            f"private_skew: {table.shape[1]} columns of inputs, and {WIDEST} are allowed; the "
            "noise grows with each of them"
        )
    dense = table.toarray() if scipy.sparse.issparse(table) else np.asarray(table)
    return np.concatenate([dense, np.ones((len(dense), 1))], 1).astype(float)


def _targets(sample: Sample, bound: float) -> tuple[Array, float, float]:
    """Targets [n, k], what their score is multiplied by before the link, and their bound."""
    target, kind = sample.target.astype(float), sample.kind
    if kind.kind == "binary":  # σ(2s) has the value and the slope of (1 + s)/2 at 0
        return 2 * target[:, None] - 1, 2.0, 1.0
    if kind.named:
        count = len(kind.classes)
        return (target[:, None] == np.arange(count)) - 1 / count, float(count), 1.0
    value = np.log(target + 0.5) if kind.kind == "counts" else target
    return value[:, None], 1.0, bound


def users_of(plan: Plan, sample: Sample) -> Array:
    """Who each record of a task belongs to: its group, or its row where it has none."""
    rows, _, _ = plan.dataset.truth(sample.pool.name, "train")
    group = plan.dataset.batch(torch.as_tensor(rows)).task(sample.pool.name).group
    return rows if group is None else group.numpy()
