"""Ranks and corrected tests against hand computation, scipy, and what they promise of noise."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from planted import binary, cells, real
from scipy import stats

from plait.comparing.contrasts import contrasts, holm, mean_ranks, signed_ranks
from plait.comparing.statistics import rank


def test_ranks_are_those_of_a_hand_count():
    values = {"a": [0.9, 0.7, 0.5], "b": [0.8, 0.7, 0.6], "c": [0.1, 0.9, 0.4]}
    found = mean_ranks({name: np.array(each) for name, each in values.items()})
    assert found == pytest.approx({"a": (1 + 2.5 + 2) / 3, "b": (2 + 2.5 + 1) / 3, "c": 7 / 3})


def test_holm_is_the_step_down_procedure():
    p = [0.011, 0.02, 0.6, 0.005, 0.02]
    # By hand: sorted .005 .011 .02 .02 .6, times 5 4 3 2 1, never falling, at most one.
    assert holm(p) == pytest.approx([0.044, 0.06, 0.6, 0.025, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_signed_ranks_count_every_sign_that_chance_could_have_given():
    differences = np.array([0.3, -0.1, 0.7, 0.2, 0.55, 0.9, -0.05])
    ranks = stats.rankdata(np.abs(differences))
    seen = ranks[differences > 0].sum()
    every = [np.dot(ranks, signs) for signs in product((0, 1), repeat=len(ranks))]
    far = abs(seen - np.mean(every))
    p = np.mean([abs(total - np.mean(every)) >= far - 1e-12 for total in every])
    assert signed_ranks(differences) == pytest.approx(p)
    assert signed_ranks(np.append(differences, 0.0)) == pytest.approx(p)  # a tie says nothing
    assert signed_ranks(np.zeros(4)) == 1.0


def test_a_difference_is_in_per_cent_of_what_it_is_held_against():
    base = np.array([[0.5, 0.6], [-20.0, -10.0]])  # the second metric is an error, sign turned
    found = {each.strategy: each for each in contrasts({"base": base, "way": base + 0.1}, "base")}
    assert found["way"].difference == pytest.approx(100 * (2 * 0.1 / 0.55 + 2 * 0.1 / 15) / 4)
    assert (found["way"].better, found["way"].worse, found["way"].blocks) == (4, 0, 4)
    assert (found["base"].p, found["base"].adjusted) == (None, None)
    assert [found["way"].rank, found["base"].rank] == [1.0, 2.0]


def test_undefined_blocks_are_left_out_and_a_way_without_one_is_not_compared():
    base = np.array([[0.5, np.nan, 0.6]])
    whole, short = np.array([[0.6, 0.1, 0.7]]), np.array([[0.6, 0.7, np.nan]])
    found = contrasts({"base": base, "whole": whole, "short": short}, "base")
    assert [(each.strategy, each.blocks) for each in found] == [("whole", 2), ("base", 2)]
    assert contrasts({"base": np.full((2, 2), np.nan)}, "base") == []
    with pytest.raises(ValueError, match="no strategy 'joint'"):
        contrasts({"base": base}, "joint")


def test_a_task_that_the_reference_has_nothing_of_is_left_out():
    base = np.array([[0.5, 0.5], [0.0, 0.0]])  # no per cent of 0
    found = {each.strategy: each for each in contrasts({"a": base, "b": base + 0.1}, "a")}
    assert (found["b"].blocks, found["b"].difference) == (2, pytest.approx(20.0))


def test_of_many_ways_that_are_noise_none_is_significant_and_a_better_one_is():
    random = np.random.default_rng(0)
    base = 0.8 + 0.02 * random.normal(size=(12, 3))
    blocks = {f"way {i}": base + 0.01 * random.normal(size=base.shape) for i in range(30)}
    blocks |= {"base": base, "better": base + 0.02 + 0.01 * random.normal(size=base.shape)}
    found = contrasts(blocks, "base")
    assert min(each.p for each in found if each.p and each.strategy != "better") < 0.05
    assert [each.strategy for each in found if each.significant] == ["better"]
    assert found[0].strategy == "better"


def test_a_ranking_knows_the_figures_of_every_task_and_seed():
    tasks = binary("a", "b")
    made = cells(tasks, {"separate": 0.6, "joint": 0.3, "prior": 5.0}, steady=("prior",), seeds=3)
    found = rank(made, tasks, replicates=200)
    assert {name: values.shape for name, values in found.blocks.items()} == dict.fromkeys(
        ("separate", "joint", "prior"), (2, 3)
    )
    for score in found.scores:
        row = found.blocks[score.strategy][tasks.position[score.task]]
        assert row.mean() == pytest.approx(score.metrics["auroc"].value)
    assert len(set(found.blocks["prior"][0])) == 1
    errors = rank(cells(real("x"), {"separate": 0.5}), real("x"), replicates=200)
    assert (errors.blocks["separate"] < 0).all()  # the ranking metric is an error: lower is better
