from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest

from plait.merging.base import Have
from plait.merging.model_glue import ModelGlue, alikeness
from plait.merging.pool import Pool


def state(draw, around=None, spread=0.05):
    """A matrix of two axes, one of three, a vector; near another state where one is given."""
    shapes = {"one.weight": (6, 4), "two.weight": (3, 2, 5), "two.bias": (3,)}
    if around is None:
        return {name: draw.normal(size=shape) for name, shape in shapes.items()}
    return {name: v + spread * draw.normal(size=v.shape) for name, v in around.items()}


@pytest.fixture
def zoo():
    """Five models of two families, mixed; and the centres of these."""
    draw = np.random.default_rng(0)
    one, two = state(draw), state(draw)
    models = {
        name: state(draw, {"a": one, "b": two}[name[0]]) for name in ("a1", "b1", "a2", "b2", "a3")
    }
    return Pool(models), one, two


def far_from(aim):
    return lambda found: sum(float(np.square(found[name] - aim[name]).sum()) for name in aim)


def literal_cosine(one, two):
    """Column by column, matrix by matrix."""
    means = []
    for name in ("one.weight", "two.weight"):
        a, b = (each[name].reshape(-1, each[name].shape[-1]) for each in (one, two))
        columns = [
            a[:, j] @ b[:, j] / np.linalg.norm(a[:, j]) / np.linalg.norm(b[:, j])
            for j in range(a.shape[1])
        ]
        means.append(np.mean(columns))
    return np.mean(means)


def literal_greedy(states, judge):
    """The authors' loop, its best share kept."""
    order = sorted(states, key=lambda name: judge(states[name]))
    current, best = states[order[0]], judge(states[order[0]])
    for name in order[1:]:
        before = current
        for c in np.arange(1, 10) / 10:
            tried = {k: c * before[k] + (1 - c) * states[name][k] for k in before}
            if judge(tried) <= best:
                current, best = tried, judge(tried)
    return current, best


def test_likeness_is_the_mean_cosine_of_columns(zoo):
    pool, _, _ = zoo
    wanted = [[literal_cosine(m, k) for k in pool.models.values()] for m in pool.models.values()]
    np.testing.assert_allclose(alikeness(pool, against_base=False), wanted, rtol=1e-12)
    with patch("plait.merging.model_glue.BLOCK", 7):
        np.testing.assert_allclose(alikeness(pool, against_base=False), wanted, rtol=1e-12)


def test_families_are_found_and_the_best_is_merged_as_the_authors_loop_does(zoo):
    pool, one, two = zoo
    for aim, own in ((one, "a"), (two, "b")):
        judge = far_from(aim)
        found = ModelGlue().merge(pool, Have(validation=judge))
        assert found.evidence["families"] == [["a1", "a2", "a3"], ["b1", "b2"]]
        members = {name: m for name, m in pool.models.items() if name[0] == own}
        wanted, loss = literal_greedy(members, judge)
        assert loss < min(judge(member) for member in members.values())
        assert min(found.evidence["losses"]) == pytest.approx(loss, rel=1e-12)
        assert sum(found.evidence["weights"].values()) == pytest.approx(1)
        assert set(found.evidence["weights"]) <= set(members)
        for name, value in wanted.items():
            np.testing.assert_allclose(found.tensors[name], value, rtol=1e-12)


def test_differences_to_a_base_tell_families_that_weights_do_not():
    draw = np.random.default_rng(1)
    base = {name: 20 * value for name, value in state(draw).items()}
    steps = [state(draw), state(draw)]
    models = {
        f"m{n}": {k: base[k] + v for k, v in state(draw, steps[n % 2]).items()} for n in range(4)
    }
    pool, judge = Pool(models, base), far_from(base)
    by_weights = ModelGlue(alike=0.9).merge(pool, Have(validation=judge)).evidence
    assert by_weights["families"] == [["m0", "m1", "m2", "m3"]]
    by_deltas = ModelGlue(alike=0.9, of="deltas").merge(pool, Have(validation=judge)).evidence
    assert by_deltas["families"] == [["m0", "m2"], ["m1", "m3"]]
    with pytest.raises(ValueError, match="model_glue needs the common base"):
        ModelGlue(of="deltas").merge(Pool(models), Have(validation=judge))


def test_a_model_that_does_not_help_stays_out_and_one_without_a_loss_never_wins(zoo):
    pool, _, _ = zoo
    exact = far_from(pool.models["a2"])

    def judge(found):
        return (
            float("nan")
            if np.array_equal(found["two.bias"], pool.models["b1"]["two.bias"])
            else exact(found)
        )

    found = ModelGlue().merge(pool, Have(validation=judge))
    assert found.evidence["weights"] == {"a2": 1.0}
    assert found.evidence["alone"]["b1"] is None
    for name, value in pool.models["a2"].items():
        np.testing.assert_array_equal(found.tensors[name], value)
    with pytest.raises(ValueError, match="no model has a finite validation loss"):
        ModelGlue().merge(pool, Have(validation=lambda _: float("inf")))


def test_the_looks_at_validation_are_as_many_as_said(zoo):
    pool, one, _ = zoo
    looks = []
    judge = far_from(one)
    ModelGlue(alike=-1).merge(pool, Have(validation=lambda s: (looks.append(1), judge(s))[1]))
    assert len(looks) == 5 + 9 * 4


@pytest.mark.parametrize("bad", [{"alike": 2}, {"of": "heads"}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        ModelGlue(**bad)
