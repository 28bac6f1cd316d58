from __future__ import annotations

import numpy as np
import pytest

from plait.merging.base import Have
from plait.merging.greedy_soup import GreedySoup
from plait.merging.pool import Pool

AIM = np.array([1.0, 2.0])


def far(state):
    return float(np.square(state["w"] - AIM).sum())


def models(count, seed=0):
    draw = np.random.default_rng(seed)
    return {f"m{number}": {"w": AIM + draw.normal(size=2)} for number in range(count)}


def literal(states):
    """The authors' loop: a running mean that takes a model where the score rises."""
    order = sorted(states, key=lambda name: far(states[name]))
    names, soup, best = [order[0]], states[order[0]]["w"], far(states[order[0]])
    for name in order[1:]:
        n = len(names)
        candidate = soup * n / (n + 1) + states[name]["w"] / (n + 1)
        if far({"w": candidate}) < best:
            names, soup, best = [*names, name], candidate, far({"w": candidate})
    return names, soup, best


@pytest.mark.parametrize("seed", range(6))
def test_models_join_in_the_order_of_their_losses_where_they_help(seed):
    states = models(7, seed)
    found = GreedySoup().merge(Pool(states), Have(validation=far))
    names, soup, best = literal(states)
    assert found.evidence["models"] == names
    assert found.evidence["loss"] == pytest.approx(best)
    assert best <= min(far(state) for state in states.values())
    np.testing.assert_allclose(found.tensors["w"], soup, rtol=1e-12)


def test_a_copy_of_the_best_is_not_taken():
    one = {"w": AIM + 0.1}
    found = GreedySoup().merge(Pool({"b": one, "a": one}), Have(validation=far))
    assert found.evidence["models"] == ["a"]


def test_models_without_a_finite_loss_are_left_out():
    states = models(3)

    def judge(state):
        return float("nan") if np.array_equal(state["w"], states["m1"]["w"]) else far(state)

    found = GreedySoup().merge(Pool(states), Have(validation=judge))
    assert "m1" not in found.evidence["models"]
    assert found.evidence["alone"]["m1"] is None
    with pytest.raises(ValueError, match="no model has a finite validation loss"):
        GreedySoup().merge(Pool(states), Have(validation=lambda _: float("inf")))


def test_validation_is_asked_for():
    with pytest.raises(ValueError, match="greedy_soup needs"):
        GreedySoup().merge(Pool(models(2)))
