from __future__ import annotations

import numpy as np
import pytest

from plait.flows.score_fusion import convex, fitted, ndcg, normalised, order, reciprocal

DRAW = np.random.default_rng(0)
MEANING, WORDS = DRAW.normal(size=(6, 9)), DRAW.gamma(2.0, 3.0, size=(6, 9))
GAPS = WORDS.copy()
GAPS[DRAW.random(GAPS.shape) < 0.4] = np.nan


def literal(scores, way, least):
    """φ, query by query and candidate by candidate."""
    rows = []
    for row in scores:
        there = [s for s in row if not np.isnan(s)]
        mean = sum(there) / len(there)
        deviation = (sum((s - mean) ** 2 for s in there) / len(there)) ** 0.5
        start = {"minmax": min(there), "theoretical": least, "zscore": mean}[way]
        width = deviation if way == "zscore" else max(there) - start
        lowest = least if way == "theoretical" else min(there)
        rows.append([((lowest if np.isnan(s) else s) - start) / width for s in row])
    return np.array(rows)


@pytest.mark.parametrize("way", ["minmax", "theoretical", "zscore"])
@pytest.mark.parametrize("words", [WORDS, GAPS])
def test_the_convex_sum_is_the_papers(way, words):
    found = convex(MEANING, words, 0.7, way=way, least=(-5.0, 0.0))
    wanted = 0.7 * literal(MEANING, way, -5.0) + 0.3 * literal(words, way, 0.0)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_reciprocal_ranks_are_summed_where_a_candidate_was_found():
    found = reciprocal(MEANING, GAPS, smooth=10)
    for q in range(6):
        for d in range(9):
            terms = [
                1 / (10 + 1 + np.sum(scores[q] > scores[q, d]))
                for scores in (MEANING, GAPS)
                if not np.isnan(scores[q, d])
            ]
            assert found[q, d] == pytest.approx(sum(terms), rel=1e-12)


@pytest.mark.parametrize("way", ["minmax", "zscore"])
def test_an_affine_change_of_one_ranker_changes_no_ranking(way):
    one = order(convex(MEANING, WORDS, 0.4, way=way))
    np.testing.assert_array_equal(one, order(convex(MEANING, 7 * WORDS - 100, 0.4, way=way)))


def test_ranks_are_free_of_any_rising_map():
    np.testing.assert_allclose(reciprocal(np.exp(MEANING), WORDS**3), reciprocal(MEANING, WORDS))


def test_shares_of_one_and_none_are_the_single_rankings():
    np.testing.assert_array_equal(order(convex(MEANING, WORDS, 1.0)), order(MEANING))
    np.testing.assert_array_equal(order(convex(MEANING, WORDS, 0.0)), order(WORDS))
    np.testing.assert_array_equal(order(reciprocal(WORDS, WORDS)), order(WORDS))


def test_minmax_pins_the_lowest_and_theoretical_does_not():
    assert (normalised(WORDS, "minmax").min(1) == 0).all()
    assert (normalised(WORDS, "theoretical", 0.0).min(1) > 0).all()


@pytest.mark.parametrize("way", ["minmax", "zscore"])
def test_equal_scores_are_0_and_ties_keep_their_order(way):
    same = np.full((1, 4), 3.3)
    np.testing.assert_array_equal(normalised(same, way), np.zeros((1, 4)))
    np.testing.assert_array_equal(order(same), [[0, 1, 2, 3]])
    nothing = np.full((1, 4), np.nan)
    np.testing.assert_array_equal(normalised(nothing, way), np.zeros((1, 4)))
    assert np.isnan(convex(nothing, nothing, 0.5, way=way)).all()
    assert np.isnan(reciprocal(nothing, nothing)).all()


def test_the_planted_share_is_fitted_and_beats_either_ranker():
    draw = np.random.default_rng(3)
    truth = draw.normal(size=(200, 30))
    one = truth + draw.normal(size=truth.shape)
    two = 50 + 20 * (truth + 3 * draw.normal(size=truth.shape))
    relevant = (truth >= np.sort(truth, 1)[:, -3:-2]).astype(float)
    share = fitted(one, two, relevant)
    assert 0.6 < share < 1
    both = ndcg(convex(one, two, share), relevant)
    assert both > max(ndcg(one, relevant), ndcg(two, relevant))
    assert fitted(one, one, relevant) == 0.5
    assert fitted(one, two, relevant, metric=lambda fused, _: -np.abs(fused - one).sum()) >= 0


def test_ndcg_is_the_sum_of_discounted_gains():
    scores, gains = np.array([[0.2, 0.9, 0.5]]), np.array([[3.0, 0.0, 1.0]])
    best = 3 / np.log2(2) + 1 / np.log2(3)
    assert ndcg(scores, gains) == pytest.approx((1 / np.log2(3) + 3 / np.log2(4)) / best)
    assert ndcg(scores, gains, at=2) == pytest.approx((1 / np.log2(3)) / best)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: convex(MEANING, WORDS[:2], 0.5), "of one shape for all"),
        (lambda: convex(MEANING, WORDS, 1.2), "share must lie in"),
        (lambda: convex(MEANING, WORDS, 0.5, way="rank"), "no way 'rank'"),
        (lambda: convex(MEANING, WORDS, 0.5, way="theoretical"), "below 0, the least"),
        (lambda: reciprocal(MEANING, smooth=-1), "smooth must be at least 0"),
        (lambda: fitted(MEANING, WORDS, np.zeros((6, 9))), "no candidate is relevant"),
    ],
)
def test_what_cannot_be_fused_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
