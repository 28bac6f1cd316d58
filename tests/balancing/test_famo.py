from __future__ import annotations

import pytest
import torch
from torchjd.scalarization import FAMO

from plait.balancing.base import Signals
from plait.balancing.famo import Famo


def bound(names: str, **given: float) -> Famo:
    balancer = Famo(**given)
    balancer.bind(names)
    return balancer


def test_equals_torchjd_step_for_step():
    draw = torch.Generator().manual_seed(0)
    ours, theirs = bound("abc", decay=0.01), FAMO(3, weight_decay=0.01).double()
    for _ in range(40):
        before = torch.rand(3, generator=draw, dtype=torch.float64) + 0.1
        after = before * (0.5 + torch.rand(3, generator=draw, dtype=torch.float64))
        s = Signals.of(dict(zip("abc", before.tolist(), strict=True)))
        values = before.clone().requires_grad_()
        theirs(values).backward()
        torch.testing.assert_close(ours(s), values.grad, rtol=1e-6, atol=0)
        theirs.update(after)
        ours.advance(s, after)
        torch.testing.assert_close(ours.logits, theirs._w.detach(), rtol=1e-6, atol=1e-9)


def test_one_task_alone_has_weight_one():
    assert bound("ab")(Signals.of({"b": 7.0})).tolist() == [1.0]


def test_weights_sum_to_one_and_weighted_losses_stand_as_the_softmax():
    balancer = bound("ab")
    balancer.logits[:] = torch.tensor([0.3, -0.4])
    s = Signals.of({"a": 0.01, "b": 50.0})
    weights = balancer(s)
    assert weights.sum().item() == pytest.approx(1.0)
    shares = weights * s.losses / (weights * s.losses).sum()
    torch.testing.assert_close(shares, balancer.logits.softmax(0), rtol=1e-5, atol=0)


def test_equal_improvements_change_nothing_without_decay():
    balancer = bound("abc", decay=0.0)
    s = Signals.of({"a": 1.0, "b": 2.0, "c": 0.5})
    balancer.advance(s, s.losses * 0.9)
    assert balancer.logits.abs().max() < 1e-3  # rounding, made larger by Adam's first step


def test_the_task_that_fell_faster_loses_weight():
    balancer = bound("ab")
    s = Signals.of({"a": 1.0, "b": 1.0})
    before = balancer(s)
    balancer.advance(s, torch.tensor([0.5, 0.99]))
    after = balancer(s)
    assert after[0] < before[0]
    assert after[1] > before[1]


def test_a_common_factor_changes_no_improvement():
    one, other = bound("ab"), bound("ab")
    s = Signals.of({"a": 1.0, "b": 2.0})
    after = torch.tensor([0.9, 1.0])
    one.advance(s, after)
    other.advance(Signals.of({"a": 1.0, "b": 2e3}), after * torch.tensor([1.0, 1e3]))
    torch.testing.assert_close(one.logits, other.logits, rtol=1e-6, atol=0)


@pytest.mark.parametrize("after", [None, torch.tensor([0.5, torch.nan])])
def test_without_a_second_look_nothing_is_learnt(after: torch.Tensor | None):
    balancer = bound("ab")
    balancer.advance(Signals.of({"a": 1.0, "b": 2.0}), after)
    assert not balancer.logits.any()
    assert not balancer.adam_steps.any()


def test_a_loss_below_the_minimum_is_refused_by_name():
    with pytest.raises(ValueError, match=r"loss of task 'b' is below minimum=0.0"):
        bound("ab")(Signals.of({"a": 1.0, "b": -0.5}))
    assert bound("ab", minimum=-1.0)(Signals.of({"a": 1.0, "b": -0.5})).isfinite().all()


def test_each_task_may_have_a_minimum_of_its_own():
    one, other = bound("ab", minimum={"a": -1.0, "b": 0.5}), bound("ab")
    s, moved = Signals.of({"a": -0.5, "b": 1.5}), Signals.of({"a": 0.5, "b": 1.0})
    torch.testing.assert_close(one(s), other(moved))
    with pytest.raises(ValueError, match=r"loss of task 'b' is below minimum=0.5"):
        one(Signals.of({"a": 0.0, "b": 0.1}))


def test_a_loss_of_zero_is_finite():
    assert bound("ab")(Signals.of({"a": 0.0, "b": 1.0})).isfinite().all()
