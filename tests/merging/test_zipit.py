from __future__ import annotations

import numpy as np
import pytest
from permuted import RULES, inputs, mlp, outputs, shuffled

from plait.merging.average import Average
from plait.merging.matching import correlations, match_weights, zipped
from plait.merging.pool import Pool
from plait.merging.units import identity, units
from plait.merging.zipit import Zipit


def literal(likeness: np.ndarray, models: int, again: float, within: float) -> np.ndarray:
    """The membership [M·d, d] of the paper's greedy algorithm, matrices cut down step by step."""
    alike = likeness.copy()
    np.fill_diagonal(alike, -np.inf)
    count = len(alike)
    size = count // models
    member = np.eye(count)
    owner = [i // size for i in range(count)]
    budget = [int((count - size) // models * within + 1e-4)] * models

    def forbid(model: int) -> None:
        for i in range(len(owner)):
            for j in range(len(owner)):
                if owner[i] == owner[j] == model:
                    alike[i, j] = -np.inf

    for model in range(models):
        if budget[model] == 0:
            forbid(model)
    while member.shape[1] > size:
        i, j = sorted(np.unravel_index(alike.argmax(), alike.shape))
        member[:, i] += member[:, j]
        row = np.minimum(alike[i], alike[j]) * again
        row[i] = -np.inf
        alike[i] = alike[:, i] = row
        same = owner[i] == owner[j]
        member, alike = np.delete(member, j, 1), np.delete(np.delete(alike, j, 0), j, 1)
        del owner[j]
        if same:
            budget[owner[i]] -= 1
            if budget[owner[i]] <= 0:
                forbid(owner[i])
    return member


@pytest.mark.parametrize(
    ("models", "again", "within"),
    [(2, 0.3, 0.5), (2, 0.7, 0.0), (2, 1e-4, 0.2), (3, 0.3, 1.0), (3, 1.0, 1.0)],
)
def test_the_pairs_are_those_of_the_literal_algorithm(
    models: int, again: float, within: float
) -> None:
    for seed in range(4):
        draw = np.random.default_rng(seed)
        likeness = np.corrcoef(draw.normal(size=(12 * models, 30)))
        homes = zipped(likeness, models, again=again, within=within)
        member = literal(likeness, models, again, within)
        mine = np.zeros_like(member)
        mine[np.arange(len(member)), homes.reshape(-1)] = 1
        assert sorted(map(tuple, mine.T)) == sorted(map(tuple, member.T))


def test_units_are_never_joined_again_with_their_models_where_that_is_asked() -> None:
    draw = np.random.default_rng(0)
    likeness = np.corrcoef(draw.normal(size=(30, 8)))
    homes = zipped(likeness, 2, again=0.0, within=0.0)
    assert all(len(set(own)) == 15 for own in homes)
    assert len(set(zipped(likeness, 2, again=1.0, within=1.0)[0])) < 15


def test_limits_that_leave_no_pair_are_lifted() -> None:
    for seed in range(5):
        likeness = np.corrcoef(np.random.default_rng(seed).normal(size=(36, 30)))
        homes = zipped(likeness, 3, again=0.7, within=0.0)
        assert sorted(set(homes.reshape(-1))) == list(range(12))


def test_a_model_and_its_copies_in_other_orders_give_the_model_back() -> None:
    state = mlp(0)
    pool = Pool({"a": state, "b": shuffled(state, 1), "c": shuffled(state, 2)})
    merged = Zipit(rules="sequence").merge(pool)
    for name, value in merged.tensors.items():
        np.testing.assert_allclose(value, state[name], atol=1e-12)
    assert merged.evidence == {"units": {"0": 9, "1": 8}, "shared": {"0": 9, "1": 8}}
    plain = Average().merge(pool).tensors
    assert np.abs(outputs(plain, inputs()) - outputs(state, inputs())).max() > 1


def test_the_merged_weights_are_the_product_of_merge_and_unmerge() -> None:
    pool = Pool({"a": mlp(0), "b": mlp(1)})
    given = {"again": 0.3, "within": 0.5}
    found = units(pool, "sequence")
    order = match_weights(pool, found)
    inside = {}
    for group, size in found.sizes.items():
        homes = zipped(correlations(pool, found, group, order), 2, **given)
        member = np.zeros((2, size, size))
        for model in range(2):
            member[model, np.arange(size), homes[model][order[group][model]]] = 1
        inside[group] = member
    out = {
        group: np.swapaxes(u, 1, 2) / u.sum((0, 1))[None, :, None] for group, u in inside.items()
    }
    merged = Zipit(**given, rules="sequence").merge(pool).tensors
    models = list(pool.models.values())
    half = [np.eye(4) / 2] * 2
    for name, write, read in (
        ("0.weight", out["0"], [np.eye(6)] * 2),
        ("1.weight", out["1"], inside["0"]),
        ("2.weight", half, inside["1"]),
    ):
        wanted = sum(write[m] @ models[m][name] @ read[m] for m in range(2))
        np.testing.assert_allclose(merged[name], wanted, atol=1e-12)
    bias = sum(out["1"][m] @ models[m]["1.bias"] for m in range(2))
    np.testing.assert_allclose(merged["1.bias"], bias, atol=1e-12)
    assert any(len(set(row)) < 9 for row in inside["0"].argmax(2))  # something joined within


def test_correlations_are_those_of_all_weights_of_a_unit() -> None:
    pool = Pool({"a": mlp(0), "b": mlp(1)})
    found = units(pool, RULES)
    rows = np.concatenate([
        np.column_stack([s["0.weight"], s["0.bias"], s["1.weight"].T]) for s in pool.models.values()
    ])  # fmt: skip
    mine = correlations(pool, found, "0", identity(found, 2))
    np.testing.assert_allclose(mine, np.corrcoef(rows), atol=1e-12)


@pytest.mark.parametrize("given", [{"again": 1.5}, {"within": -0.1}])
def test_shares_out_of_range_are_refused(given: dict) -> None:
    with pytest.raises(ValueError, match="is a share from 0 to 1"):
        Zipit(**given)
