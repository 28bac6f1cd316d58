from __future__ import annotations

import numpy as np
import pytest
from merging_toys import deltas

from plait.merging.iso import Iso
from plait.merging.pool import Pool

MATRICES = ("a.0.weight", "a.1.weight")


def difference(pool: Pool, tensors: dict, name: str) -> np.ndarray:
    return tensors[name] - pool.base[name]


def test_iso_c_has_a_flat_spectrum_of_the_same_nuclear_norm(pool: Pool) -> None:
    merged = Iso(scale=1.0).merge(pool).tensors
    for name in MATRICES:
        found = np.linalg.svd(difference(pool, merged, name), compute_uv=False)
        wanted = np.linalg.svd(deltas(pool, name).sum(0), compute_uv=False)
        np.testing.assert_allclose(found, wanted.mean(), rtol=1e-10)
    np.testing.assert_allclose(
        difference(pool, merged, "a.0.bias"), deltas(pool, "a.0.bias").mean(0), atol=1e-14
    )


def test_iso_c_is_the_nearest_such_matrix(pool: Pool) -> None:
    """Of all matrices with equal singular values σ̄ it is the closest to the sum: its polar one."""
    merged = Iso(scale=1.0).merge(pool).tensors
    total = deltas(pool, "a.1.weight").sum(0)
    gram = total @ total.T
    values, vectors = np.linalg.eigh(gram)
    polar = vectors @ np.diag(values**-0.5) @ vectors.T @ total
    level = np.sqrt(values).mean()
    np.testing.assert_allclose(difference(pool, merged, "a.1.weight"), level * polar, atol=1e-10)


def by_the_code(stack: np.ndarray, share: float) -> np.ndarray:
    """Iso-CTS as the paper's Algorithm 2 writes it."""
    count, smallest = len(stack), min(stack.shape[1:])
    common = int(smallest * share)
    common = smallest - round((smallest - common) / count) * count
    own = (smallest - common) // count
    u, s, vt = np.linalg.svd(stack.sum(0), full_matrices=False)
    columns, values, rows = np.zeros((len(u), 0)), [], np.zeros((0, vt.shape[1]))
    for delta in stack:
        a, b, c = np.linalg.svd(delta - u[:, :common] @ u[:, :common].T @ delta)
        columns, rows = np.hstack([columns, a[:, :own]]), np.vstack([rows, c[:own]])
        values += list(b[:own])
    columns, rows = np.hstack([columns, u[:, :common]]), np.vstack([rows, vt[:common]])
    values += list(s[:common])
    p, _, q = np.linalg.svd(columns, full_matrices=False)
    v, _, w = np.linalg.svd(rows, full_matrices=False)
    return np.mean(values) * (p @ q) @ (v @ w)


@pytest.mark.parametrize("common", [0.1, 0.5, 0.8])
def test_iso_cts_is_the_papers_algorithm(pool: Pool, common: float) -> None:
    merged = Iso(variant="cts", common=common, scale=0.6).merge(pool).tensors
    for name in MATRICES:
        wanted = 0.6 * by_the_code(deltas(pool, name), common)
        np.testing.assert_allclose(difference(pool, merged, name), wanted, atol=1e-9)


def test_with_all_in_common_or_one_model_cts_is_c(pool: Pool) -> None:
    alone = Pool({"x": pool.models["x"]}, pool.base)
    for some, common in ((pool, 1.0), (alone, 0.5)):
        c = Iso(scale=1.0).merge(some).tensors
        cts = Iso(variant="cts", common=common, scale=1.0).merge(some).tensors
        if common == 1.0:
            np.testing.assert_array_equal(cts["a.1.weight"], c["a.1.weight"])
        np.testing.assert_allclose(cts["a.1.weight"], c["a.1.weight"], atol=1e-9)


def test_it_is_idempotent(pool: Pool) -> None:
    once = Iso(scale=1.0).merge(pool).tensors
    twice = Iso(scale=1.0).merge(Pool({"once": once}, pool.base)).tensors
    np.testing.assert_allclose(twice["a.0.weight"], once["a.0.weight"], atol=1e-10)


@pytest.mark.parametrize("variant", ["c", "cts"])
def test_directions_that_are_not_there_are_not_lifted(variant: str) -> None:
    draw = np.random.default_rng(0)
    low = draw.normal(size=(20, 2)) @ draw.normal(size=(2, 16))
    pool = Pool({"a": {"w": low}}, {"w": np.zeros((20, 16))})
    found = Iso(variant=variant, scale=1.0).merge(pool).tensors["w"]  # type: ignore[arg-type]
    values = np.linalg.svd(found, compute_uv=False)
    assert np.count_nonzero(values > 1e-9) == 2
    np.testing.assert_allclose(values.sum(), np.linalg.norm(low, "nuc"))
