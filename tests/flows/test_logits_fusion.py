from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from plait.flows.logits_fusion import GRID, decoded, divergence, fused


def drawn(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


LARGE, SMALL, TUNED = 2 * drawn(0, 5, 7), drawn(1, 5, 7), drawn(2, 3, 5, 7)


def soft(values):
    exped = np.exp(values - values.max())
    return exped / exped.sum()


def kl(p, q):
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))


def literal(large, small, tuned):
    """One position: every expert alone, every weight of the grid."""
    p, q = soft(large), soft(small)
    best = (np.inf, None, None)
    for number, expert in enumerate(tuned):
        for weight in GRID:
            mixed = soft(large + weight * (expert - small))
            gap = 0.0
            for other in tuned:
                q_t = soft(other)
                gap += (kl(mixed, p) - kl(q_t, q)) ** 2 + (kl(p, mixed) - kl(q, q_t)) ** 2
            if gap < best[0]:
                weights = np.zeros(len(tuned))
                weights[number] = weight
                best = (gap, mixed, weights)
    return best[1], best[2]


@pytest.mark.parametrize("experts", [1, 3])
def test_every_position_gets_the_weights_of_the_papers_objective(experts):
    found = fused(LARGE, SMALL, TUNED[:experts])
    for i in range(5):
        chances, weights = literal(LARGE[i].numpy(), SMALL[i].numpy(), TUNED[:experts, i].numpy())
        np.testing.assert_allclose(found.weights[i].numpy(), weights, atol=1e-12)
        np.testing.assert_allclose(found.logs[i].exp().numpy(), chances, rtol=1e-10)
    assert len(set(found.weights.sum(-1).tolist())) > 1


def test_the_same_base_takes_over_its_expert_exactly():
    found = fused(SMALL, SMALL, TUNED[:1])
    assert (found.weights == 1).all()
    torch.testing.assert_close(found.logs, TUNED[0].log_softmax(-1))


def test_an_expert_that_learned_nothing_changes_nothing():
    found = fused(LARGE, SMALL, SMALL[None])
    torch.testing.assert_close(found.logs, LARGE.log_softmax(-1))


def test_constants_on_any_logits_change_nothing():
    one = fused(LARGE, SMALL, TUNED)
    two = fused(LARGE + 3, SMALL - 50, TUNED + 8)
    torch.testing.assert_close(one.logs, two.logs)
    torch.testing.assert_close(one.weights, two.weights)


def test_fixed_weights_are_proxy_tuning():
    found = fused(LARGE, SMALL, TUNED, weights=[1.0, 0.5, 0.0])
    wanted = LARGE + (TUNED[0] - SMALL) + 0.5 * (TUNED[1] - SMALL)
    torch.testing.assert_close(found.logs, wanted.log_softmax(-1))


def test_the_move_grows_with_the_weight():
    before = LARGE.log_softmax(-1)
    moved = [divergence((LARGE + w * (TUNED[0] - SMALL)).log_softmax(-1), before) for w in GRID]
    assert (moved[0] == 0).all()
    assert all((b > a).all() for a, b in pairwise(moved))


def test_decoding_takes_the_likeliest_token_of_the_fused_models_at_every_step():
    tables = [drawn(seed, 7, 7) for seed in (10, 11, 12)]
    large, small, expert = (lambda tokens, t=t: t[tokens[:, -1]] for t in tables)
    found = decoded(large, small, [expert], torch.tensor([[0], [3]]), 6)
    for row in found.tolist():
        for last, now in pairwise(row):
            logs = fused(tables[0][last], tables[1][last], tables[2][last][None]).logs
            assert now == int(logs.argmax())
    assert found.shape == (2, 7)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"one vocabulary .* \[5, 7\], \[5, 6\]"):
        fused(LARGE, SMALL[:, :6], TUNED)
    with pytest.raises(ValueError, match="2 weights for 3 experts"):
        fused(LARGE, SMALL, TUNED, weights=[1.0, 1.0])
    with pytest.raises(ValueError, match="there is no expert"):
        decoded(lambda t: LARGE, lambda t: SMALL, [], torch.zeros(1, 1), 1)
