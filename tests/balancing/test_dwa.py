from __future__ import annotations

import math

import pytest
import torch
from torchjd import scalarization

from plait.balancing.base import Signals
from plait.balancing.dwa import DWA


def bound(names: str, **given: float) -> DWA:
    balancer = DWA(**given)
    balancer.bind(names)
    return balancer


def lived(balancer: DWA, losses: list[dict[str, float]], **given: object) -> DWA:
    for step, values in enumerate(losses):
        balancer.advance(Signals.of(values, step=step, **given))
    return balancer


@pytest.mark.parametrize("temperature", [2.0, 0.3])
def test_equals_torchjd_over_windows(temperature: float):
    draw = torch.Generator().manual_seed(0)
    ours, theirs = bound("abc", window=4, temperature=temperature), scalarization.DWA(temperature)
    weighed = set()
    for step in range(30):
        values = (0.1 + torch.rand(3, generator=draw, dtype=torch.float64)).requires_grad_()
        s = Signals.of(dict(zip("abc", values.tolist(), strict=True)), step=step)
        theirs(values).backward()
        torch.testing.assert_close(ours(s), values.grad, rtol=1e-12, atol=0)
        weighed.add(tuple(ours(s).tolist()))
        ours.advance(s)
        if step % 4 == 3:
            theirs.step()
    assert len(weighed) == 7  # ones for two windows, then new weights in each


def test_means_are_over_labels_not_over_steps():
    balancer = bound("ab", window=2)
    for step, (loss, count) in enumerate([(1.0, 1.0), (4.0, 2.0), (2.0, 5.0), (2.0, 5.0)]):
        counts = torch.tensor([count, 1.0])
        balancer.advance(Signals.of({"a": loss, "b": 1.0}, step=step, counts=counts))
    ratio = torch.tensor([2.0 / 3.0, 1.0]).double()  # (1 + 2·4)/3 = 3 in the first window
    found = balancer(Signals.of({"a": 1.0, "b": 1.0}, step=4))
    torch.testing.assert_close(found, 2 * (ratio / 2).softmax(0))


def test_a_factor_on_a_loss_changes_nothing_and_equal_ratios_give_ones():
    plain = [{"a": 1.0, "b": 4.0}, {"a": 0.8, "b": 1.0}]
    wide = [{"a": 1.0, "b": 4e3}, {"a": 0.8, "b": 1e3}]
    s = Signals.of({"a": 1.0, "b": 1.0}, step=2)
    one, other = lived(bound("ab", window=1), plain), lived(bound("ab", window=1), wide)
    torch.testing.assert_close(one(s), other(s))
    even = lived(bound("ab", window=1), [{"a": 1.0, "b": 3.0}, {"a": 0.5, "b": 1.5}])
    torch.testing.assert_close(even(s), torch.ones(2).double())


def test_falling_losses_bound_the_ratio_of_weights():
    found = lived(bound("ab", window=1), [{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 0.0}])
    weights = found(Signals.of({"a": 1.0, "b": 1.0}, step=2))
    assert (weights[0] / weights[1]).item() == pytest.approx(math.exp(1 / 2))
    assert weights.sum().item() == pytest.approx(2.0)


def test_a_task_that_missed_a_window_has_weight_one_and_the_others_their_own():
    steps = [{"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 0.5, "b": 0.9}]
    balancer = lived(bound("abc", window=1), steps)
    weights = balancer(Signals.of({"a": 1.0, "b": 1.0, "c": 1.0}, step=2))
    assert weights[2] == 1.0
    alone = lived(bound("ab", window=1), [{k: v for k, v in s.items() if k != "c"} for s in steps])
    torch.testing.assert_close(weights[:2], alone(Signals.of({"a": 1.0, "b": 1.0}, step=2)))


def test_windows_that_do_not_follow_each_other_make_no_ratio():
    steps = [{"a": 1.0, "b": 1.0}, {"a": 0.9}, {"a": 0.8, "b": 0.1}]
    weights = lived(bound("ab", window=1), steps)(Signals.of({"a": 1.0, "b": 1.0}, step=3))
    assert weights.tolist() == [1.0, 1.0]


def test_a_loss_of_zero_gives_no_ratio_and_a_negative_one_is_refused():
    zero = lived(bound("ab", window=1), [{"a": 0.0, "b": 1.0}, {"a": 0.0, "b": 1.0}])
    assert zero(Signals.of({"a": 0.0, "b": 1.0}, step=2)).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"dwa divides by the losses, and that of task 'b'"):
        lived(bound("ab"), [{"a": 1.0, "b": -0.5}])


def test_settings_are_checked():
    with pytest.raises(ValueError, match="temperature must be positive"):
        DWA(temperature=0.0)
    with pytest.raises(ValueError, match="window at least 1"):
        DWA(window=0)
