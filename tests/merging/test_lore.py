from __future__ import annotations

import numpy as np
import pytest
from merging_toys import SHAPES

from plait.merging.average import Average
from plait.merging.lore import Lore
from plait.merging.pool import Pool

MATRICES = ("a.0.weight", "a.1.weight")


def estimate(stack: np.ndarray, mu: float, sweeps: int) -> tuple[np.ndarray, np.ndarray]:
    """The implicit base and the parts; thresholding by the polar form, from eigenvalues."""
    base, parts = np.zeros_like(stack[0]), np.zeros_like(stack)
    for _ in range(sweeps):
        base = np.mean([model - part for model, part in zip(stack, parts, strict=True)], axis=0)
        for number, model in enumerate(stack):
            values, vectors = np.linalg.eigh((model - base).T @ (model - base))
            sigma = np.sqrt(np.maximum(values, 1e-30))
            shrink = np.maximum(1 - mu / sigma, 0)
            parts[number] = (model - base) @ vectors @ np.diag(shrink) @ vectors.T
    return base, parts


def stack(pool: Pool, name: str) -> np.ndarray:
    return np.stack([model[name] for model in pool.models.values()])


@pytest.mark.parametrize("mu", [0.01, 0.3])
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_it_is_the_papers_descent(pool: Pool, mu: float, scale: float) -> None:
    merged = Lore(mu=mu, scale=scale, sweeps=7).merge(Pool(pool.models)).tensors
    for name in MATRICES:
        base, parts = estimate(stack(pool, name), mu, 7)
        np.testing.assert_allclose(merged[name], base + scale * parts.sum(0), atol=1e-9)
    for name in ("a.0.bias", "a.1.scale"):
        np.testing.assert_allclose(merged[name], stack(pool, name).mean(0), atol=1e-14)


def test_every_sweep_lowers_the_objective(pool: Pool) -> None:
    models = stack(pool, "a.0.weight")
    losses = []
    for sweeps in range(1, 8):
        none = Lore(mu=0.2, scale=0.0, sweeps=sweeps).merge(pool).tensors["a.0.weight"]
        base, parts = estimate(models, 0.2, sweeps)
        np.testing.assert_allclose(none, base, atol=1e-9)
        fit = ((base + parts - models) ** 2).sum() / 2
        losses.append(fit + 0.2 * sum(np.linalg.norm(part, "nuc") for part in parts))
    assert losses == sorted(losses, reverse=True)


def test_their_mean_in_place_of_their_sum_would_be_the_plain_mean(pool: Pool) -> None:
    merged = Lore(mu=0.2, scale=1 / 3, sweeps=500).merge(pool).tensors
    wanted = Average().merge(pool).tensors
    for name in SHAPES:
        np.testing.assert_allclose(merged[name], wanted[name], atol=1e-6)


def test_a_threshold_above_all_singular_values_leaves_the_mean(pool: Pool) -> None:
    merged = Lore(mu=1e3).merge(pool).tensors
    wanted = Average().merge(pool).tensors
    for name in SHAPES:
        np.testing.assert_allclose(merged[name], wanted[name], atol=1e-14)
    with pytest.raises(ValueError, match="at least one sweep"):
        Lore(sweeps=0)
