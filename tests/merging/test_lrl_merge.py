from __future__ import annotations

import numpy as np
import pytest
from merging_toys import SHAPES, deltas

from plait.merging.lrl_merge import LrlMerge
from plait.merging.pool import Pool
from plait.merging.ties import Ties


@pytest.fixture
def pair(pool: Pool) -> Pool:
    return Pool({name: pool.models[name] for name in ("x", "y")}, pool.base)


def test_without_slack_it_is_ties(pair: Pool) -> None:
    found = LrlMerge(slack=0.0, keep=0.4, scale=0.8).merge(pair).tensors
    wanted = Ties(keep=0.4, scale=0.8).merge(pair).tensors
    for name in SHAPES:
        np.testing.assert_array_equal(found[name], wanted[name])


@pytest.mark.parametrize("skill", ["x", "y"])
def test_the_other_wins_a_conflict_only_by_more_than_the_slack(pair: Pool, skill: str) -> None:
    merged = LrlMerge(skill=skill, slack=0.05, keep=1.0, scale=2.0).merge(pair).tensors
    favoured = list(pair.names).index(skill)
    flipped = 0
    for name in SHAPES:
        tau = deltas(pair, name).reshape(2, -1)
        for found, mine, other in zip(
            np.ravel(merged[name] - pair.base[name]),
            tau[favoured],
            tau[1 - favoured],
            strict=True,
        ):
            if np.sign(mine) == np.sign(other):
                wanted = (mine + other) / 2
            else:
                wanted = other if abs(other) > abs(mine) + 0.05 else mine
                flipped += abs(mine) < abs(other) <= abs(mine) + 0.05
            np.testing.assert_allclose(found, 2 * wanted, atol=1e-12)
    assert flipped


def test_more_slack_leaves_more_to_the_skill_until_it_wins_everywhere(pair: Pool) -> None:
    def lost(slack: float) -> int:
        merged = LrlMerge(slack=slack, keep=1.0, scale=1.0).merge(pair).tensors
        return sum(
            int(np.sum(np.sign(merged[n] - pair.base[n]) != np.sign(deltas(pair, n)[1])))
            for n in SHAPES
        )

    found = [lost(slack) for slack in (0.0, 0.02, 0.1, 0.5, 1e6)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0
    assert found[-1] == 0


def test_roles_and_settings_are_checked(pool: Pool, pair: Pool) -> None:
    with pytest.raises(ValueError, match="no model is called 'sft', there are: x, y"):
        LrlMerge(skill="sft").merge(pair)
    with pytest.raises(ValueError, match="lrl_merge merges 2 models beside any base"):
        LrlMerge().merge(pool)
    with pytest.raises(ValueError, match="slack is 0 or more, not -1"):
        LrlMerge(slack=-1)
    with pytest.raises(ValueError, match="keep is a share above 0 and at most 1, not 0"):
        LrlMerge(keep=0.0)
