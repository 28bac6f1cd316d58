"""SLERP and its relatives: what lies on the sphere, against vectors turned one by one."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from merging_toys import SHAPES, deltas

from plait.merging.karcher import Karcher
from plait.merging.multislerp import Multislerp
from plait.merging.nuslerp import Nuslerp
from plait.merging.pool import Pool
from plait.merging.slerp import Slerp


def turned(one: np.ndarray, two: np.ndarray, t: float) -> np.ndarray:
    """The first vector's direction turned towards the second's, lengths mixed alike."""
    unit, other = one / np.linalg.norm(one), two / np.linalg.norm(two)
    angle = np.arccos(np.clip((unit * other).sum(), -1, 1))
    return (np.sin((1 - t) * angle) * one + np.sin(t * angle) * two) / np.sin(angle)


def pair(pool: Pool, *, base: bool = False) -> Pool:
    models = {name: pool.models[name] for name in ("x", "y")}
    return Pool(models, pool.base if base else None)


def vectors(*rows: list[float]) -> Pool:
    return Pool({f"m{i}": {"w": np.array(row)} for i, row in enumerate(rows)})


@pytest.mark.parametrize("block", [1 << 18, 8])
def test_slerp_turns_whole_tensors_on_their_weights(pool: Pool, block: int) -> None:
    two = pair(pool)
    with patch("plait.merging.engine.BLOCK", block):
        merged = Slerp(t=0.3).merge(two, workers=2).tensors
    for name in ("a.0.weight", "a.0.bias", "a.1.weight"):
        one, other = (state[name] for state in two.models.values())
        np.testing.assert_allclose(merged[name], turned(one, other, 0.3), atol=1e-12)


def test_the_share_of_slerp_may_run_with_the_depth_and_differ_by_name() -> None:
    names = ("0.w", "1.w", "2.w", "head")
    models = {m: {n: np.array(v) for n in names} for m, v in (("a", [1.0, 0.0]), ("b", [0.0, 1.0]))}
    rule = [{"filter": "head", "value": 1.0}, {"value": [0.0, 1.0]}]
    merged = Slerp(t=rule).merge(Pool(models)).tensors
    half = np.sqrt(0.5)
    for name, wanted in zip(names, ([1, 0], [half, half], [0, 1], [0, 1]), strict=True):
        np.testing.assert_allclose(merged[name], wanted, atol=1e-12)
    with pytest.raises(ValueError, match=r"no filter of t fits '0.w'; end with a value"):
        Slerp(t=rule[:1]).merge(Pool(models))
    with pytest.raises(ValueError, match="t is a share from 0 to 1, not 2"):
        Slerp(t=[0.5, 2.0])
    with pytest.raises(ValueError, match="'half' is no setting"):
        Slerp(t="half")


def test_slerp_ends_at_the_models_and_keeps_a_common_norm(pool: Pool) -> None:
    two = pair(pool)
    for t, name in ((0.0, "x"), (1.0, "y")):
        merged = Slerp(t=t).merge(two).tensors
        for site in SHAPES:
            np.testing.assert_allclose(merged[site], two.models[name][site], atol=1e-14)
    merged = Slerp(t=0.3).merge(vectors([3.0, 4.0], [5.0, 0.0])).tensors["w"]
    np.testing.assert_allclose(np.linalg.norm(merged), 5)
    swapped = Slerp(t=0.7).merge(vectors([5.0, 0.0], [3.0, 4.0])).tensors["w"]
    np.testing.assert_allclose(swapped, merged)


def test_slerp_is_linear_between_parallel_and_opposite_tensors() -> None:
    for one in ([2.0, 0.0], [2.0, 0.06]):  # 0.06/2: a cosine of 0.99955
        merged = Slerp(t=0.25).merge(vectors(one, [6.0, 0.0])).tensors["w"]
        np.testing.assert_allclose(merged, 0.75 * np.array(one) + [1.5, 0])
    opposite = Slerp(t=0.25).merge(vectors([2.0, 1.0], [-2.0, -1.0])).tensors["w"]
    np.testing.assert_allclose(opposite, [1.0, 0.5])
    zero = Slerp(t=0.5).merge(vectors([0.0, 0.0], [2.0, 0.0])).tensors["w"]
    np.testing.assert_allclose(zero, [np.sqrt(2), 0])


@pytest.mark.parametrize("method", [Slerp, Nuslerp])
def test_an_arc_has_two_ends(pool: Pool, method: type) -> None:
    name = method.__name__.lower()
    for models in (pool.models, {"x": pool.models["x"]}):
        said = f"{name} merges 2 models beside any base, and there are {len(models)}"
        with pytest.raises(ValueError, match=said):
            method().merge(Pool(models))
    with pytest.raises(ValueError, match="t is a share from 0 to 1, not 2"):
        Slerp(t=2)


def test_nuslerp_turns_task_vectors_about_the_base(pool: Pool) -> None:
    two = pair(pool, base=True)
    merged = Nuslerp(origin="base", weights={"x": 1.0, "y": 3.0}).merge(two).tensors
    for name in ("a.0.weight", "a.0.bias"):
        wanted = two.base[name] + turned(*deltas(two, name), 0.75)
        np.testing.assert_allclose(merged[name], wanted, atol=1e-12)
    with pytest.raises(ValueError, match="nuslerp needs the common base checkpoint"):
        Nuslerp(origin="base").merge(pair(pool))


@pytest.mark.parametrize("block", [1 << 18, 8])
def test_nuslerp_turns_every_row_along_the_last_axis(pool: Pool, block: int) -> None:
    two = pair(pool)
    with patch("plait.merging.engine.BLOCK", block):
        merged = Nuslerp(per="row", weights={"x": 2.0, "y": 1.0}).merge(two).tensors
    one, other = (state["a.0.weight"] for state in two.models.values())
    for row, first, second in zip(merged["a.0.weight"], one, other, strict=True):
        np.testing.assert_allclose(row, turned(first, second, 1 / 3), atol=1e-12)


def test_nuslerp_goes_by_the_share_of_the_weights() -> None:
    near = vectors([2.0, 0.06], [6.0, 0.0])  # where slerp is linear already
    merged = Nuslerp(weights={"m0": 3.0, "m1": 1.0}).merge(near).tensors["w"]
    np.testing.assert_allclose(merged, turned(*(s["w"] for s in near.models.values()), 0.25))
    across = vectors([1.0, 0.0], [0.0, 1.0])
    half = Nuslerp(weights={"m0": 1.0, "m1": -1.0}).merge(across).tensors["w"]
    np.testing.assert_allclose(half, [np.sqrt(0.5)] * 2)
    same = Nuslerp(weights={"m0": 1.0, "m1": 3.0}).merge(vectors([1.0, 2.0], [2.0, 4.0]))
    np.testing.assert_allclose(same.tensors["w"], [1.75, 3.5])


def tangent_step(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mergekit's definition: up into the tangent space at the mean direction, and down again."""
    weights = weights / weights.sum()
    lengths = np.linalg.norm(rows, axis=1)
    units = rows / lengths[:, None]
    mean = weights @ units
    mean /= np.linalg.norm(mean)
    tangent = weights @ (units - np.outer(units @ mean, mean))
    step = np.linalg.norm(tangent) + 1e-300
    return (weights @ lengths) * (np.cos(step) * mean + np.sin(step) / step * tangent)


@pytest.mark.parametrize("origin", ["zero", "base"])
def test_multislerp_is_the_step_through_the_tangent_space(pool: Pool, origin: str) -> None:
    weights = {"x": 0.5, "y": 1.0, "z": 2.5}
    merged = Multislerp(weights=weights, origin=origin).merge(pool).tensors  # type: ignore[arg-type]
    for name in ("a.0.weight", "a.0.bias"):
        start = pool.base[name] if origin == "base" else 0
        rows = np.stack([(state[name] - start).ravel() for state in pool.models.values()])
        wanted = tangent_step(rows, np.array(list(weights.values())))
        np.testing.assert_allclose(np.ravel(merged[name] - start), wanted, atol=1e-12)


def test_multislerp_is_the_mean_where_directions_cancel() -> None:
    merged = Multislerp().merge(vectors([2.0, 2.0], [-1.0, -1.0])).tensors["w"]
    np.testing.assert_allclose(merged, [0.5, 0.5])
    with pytest.raises(ValueError, match="must add up to more than zero"):
        Multislerp(weights={"a": 1.0, "b": -1.0})
    with pytest.raises(ValueError, match="multislerp needs the common base checkpoint"):
        Multislerp(origin="base").merge(vectors([1.0, 0.0], [0.0, 1.0]))


def test_karcher_is_the_mean_on_the_sphere(pool: Pool) -> None:
    merged = Karcher(steps=100, tolerance=1e-12).merge(pool).tensors
    for name in ("a.0.weight", "a.0.bias"):
        rows = np.stack([state[name].ravel() for state in pool.models.values()])
        lengths = np.linalg.norm(rows, axis=1)
        units = rows / lengths[:, None]
        found = merged[name].ravel()
        np.testing.assert_allclose(np.linalg.norm(found), lengths.mean())
        mean = found / lengths.mean()
        angles = np.arccos(units @ mean)
        logs = (angles / np.sin(angles))[:, None] * (units - np.outer(units @ mean, mean))
        np.testing.assert_allclose(logs.sum(0), 0, atol=1e-9)


def test_karcher_turns_with_the_models() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(4, 6))
    rotation, _ = np.linalg.qr(draw.normal(size=(6, 6)))
    plain = Karcher().merge(vectors(*rows)).tensors["w"]
    turned_round = Karcher().merge(vectors(*(rows @ rotation))).tensors["w"]
    np.testing.assert_allclose(turned_round, plain @ rotation, atol=1e-10)
    assert np.abs(plain - Karcher(steps=0).merge(vectors(*rows)).tensors["w"]).max() > 1e-3


def test_karcher_of_two_is_the_middle_of_the_arc_and_zeros_only_shorten() -> None:
    one, two = np.array([4.0, 0.0, 0.0]), np.array([0.0, 2.0, 0.0])
    middle = 3 * turned(one / 4, two / 2, 0.5)
    np.testing.assert_allclose(Karcher().merge(vectors(one, two)).tensors["w"], middle)
    with_zero = Karcher().merge(vectors(one, two, [0.0, 0.0, 0.0])).tensors["w"]
    np.testing.assert_allclose(with_zero, middle * 2 / 3)
    opposite = Karcher().merge(vectors(one, -one)).tensors["w"]
    np.testing.assert_allclose(np.linalg.norm(opposite), 4)
