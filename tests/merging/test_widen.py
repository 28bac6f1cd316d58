from __future__ import annotations

import numpy as np
import pytest
from merging_toys import SHAPES, deltas

from plait.merging.pool import Pool
from plait.merging.widen import Widen


def scores(values: list[list[float]], ratio: float, calibration: float) -> np.ndarray:
    """Softmax over the models, column by column, and calibration above a model's mean."""
    table = np.array(values)
    found = np.zeros_like(table)
    for column in range(table.shape[1]):
        powers = np.exp(table[:, column])
        found[:, column] = powers / powers.sum()
    for model, row in enumerate(table):
        found[model, row > row.mean() * ratio] = calibration
    return found


def ranked(row: list[float]) -> list[float]:
    return [sum(other < value for other in row) / len(row) for value in row]


def by_the_paper(
    base: np.ndarray, tau: np.ndarray, ratio: float = 1.0, calibration: float = 1.0
) -> np.ndarray:
    """The merged delta of a matrix [o, n], column by column."""
    lengths, turns = [], []
    for delta in tau:
        length, turn = [], []
        for column in range(base.shape[1]):
            was, now = base[:, column], (base + delta)[:, column]
            length.append(abs(float(np.linalg.norm(now) - np.linalg.norm(was))))
            turn.append(1 - float(was @ now / np.linalg.norm(was) / np.linalg.norm(now)))
        lengths.append(ranked(length))
        turns.append(ranked(turn))
    weights = scores(lengths, ratio, calibration) + scores(turns, ratio, calibration)
    return np.asarray((weights[:, None] / 2 * tau).sum(0))


@pytest.mark.parametrize(("ratio", "calibration"), [(1.0, 1.0), (1.5, 0.8)])
def test_it_is_the_papers_formula(pool: Pool, ratio: float, calibration: float) -> None:
    merged = Widen(ratio=ratio, calibration=calibration).merge(pool).tensors
    for name in SHAPES:
        tau, base = deltas(pool, name), pool.base[name]
        if base.ndim == 2:
            wanted = by_the_paper(base, tau, ratio, calibration)
        else:
            flat = tau.reshape(3, -1)
            raw = scores(np.abs(flat).tolist(), ratio, calibration)
            wanted = (raw * flat).sum(0).reshape(base.shape)
        np.testing.assert_allclose(merged[name] - base, wanted, atol=1e-12)


def test_the_columns_of_an_embedding_are_its_words(pool: Pool) -> None:
    name = "model.embed_tokens.weight"

    def renamed(state: dict) -> dict:
        return {name: state["a.0.weight"]}

    words = Pool({m: renamed(s) for m, s in pool.models.items()}, renamed(pool.base))
    tau = deltas(pool, "a.0.weight")
    found = Widen().merge(words).tensors[name] - pool.base["a.0.weight"]
    wanted = by_the_paper(pool.base["a.0.weight"].T, tau.swapaxes(1, 2)).T
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    plain = Widen(embeddings=()).merge(words).tensors[name] - pool.base["a.0.weight"]
    np.testing.assert_allclose(plain, by_the_paper(pool.base["a.0.weight"], tau), atol=1e-12)


def test_columns_of_zeros_and_kernels_of_more_axes() -> None:
    draw = np.random.default_rng(0)
    base = draw.normal(size=(3, 2, 2))
    base[:, 0, 0] = 0
    models = {name: {"k": base + draw.normal(size=base.shape)} for name in "ab"}
    models["a"]["k"][:, 0, 0] = 0
    merged = Widen().merge(Pool(models, {"k": base})).tensors["k"]
    assert np.isfinite(merged).all()
    flat = Pool(
        {n: {"k": s["k"].reshape(3, 4)} for n, s in models.items()}, {"k": base.reshape(3, 4)}
    )
    np.testing.assert_array_equal(Widen().merge(flat).tensors["k"], merged.reshape(3, 4))
