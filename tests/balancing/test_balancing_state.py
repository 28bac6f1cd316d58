"""State by task name beyond one number each: vectors, pairs, and balancers around balancers."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals, Wrapper
from plait.balancing.famo import Famo
from plait.balancing.graddrop import GradDrop
from plait.balancing.pcgrad import PCGrad
from plait.balancing.uncertainty import Uncertainty
from plait.method import Card


class Tracker(Balancer):
    """Follows gradients [P], windows of losses [3], and pairs of cosines in two layers."""

    card = Card(family="balancing", name="tracker", summary="for tests only")
    rung = Rung.JACOBIAN
    vectors: ClassVar = {"tracked": 0.0, "window": float("nan")}
    pairs: ClassVar = {"seen": 1.0}

    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        super().advance(s, after)
        assert s.jacobian is not None
        self.remember("tracked", s, self.recall("tracked", s, s.jacobian.shape[1]) + s.jacobian)
        window = self.recall("window", s, 3)
        self.remember("window", s, torch.cat([window[:, 1:], s.losses[:, None]], 1))
        pairs = s.losses[:, None] - 2 * s.losses
        self.remember("seen", s, self.recall("seen", s, 2) + pairs[..., None])


def step(names: str, number: int = 1) -> Signals:
    losses = {name: float(ord(name) + number) for name in names}
    rows = torch.tensor([[float(ord(name)), number, 1.0] for name in names])
    return Signals.of(losses, jacobian=rows)


def lived(order: str = "abc") -> Tracker:
    balancer = Tracker()
    balancer.bind(order)
    balancer.advance(step("abc", 1))
    balancer.advance(step("ca", 2))
    return balancer


def test_vectors_and_pairs_take_shape_from_what_is_remembered():
    balancer = lived()
    assert balancer.tracked.shape == (3, 3)
    assert balancer.tracked.dtype == torch.float32
    assert balancer.tracked[:, 2].tolist() == [2, 1, 2]
    assert balancer.window[1].isnan().tolist() == [True, True, False]
    assert balancer.seen.shape == (3, 3, 2)
    a, b, c = 97, 98, 99
    assert balancer.seen[0, 1, 0] == 1 + (a + 1) - 2 * (b + 1)
    assert balancer.seen[0, 2, 0] == 1 + (a + 1) - 2 * (c + 1) + (a + 2) - 2 * (c + 2)


@pytest.mark.parametrize("order", ["abc", "cab", ""])
def test_a_state_of_any_shape_loads_in_any_order(order):
    balancer, other = lived(), Tracker()
    if order:
        other.bind(order)
    other.load_state_dict(balancer.state_dict())
    other.bind("abc")
    for name in ("tracked", "window", "seen"):
        torch.testing.assert_close(
            getattr(other, name), getattr(balancer, name), rtol=0, atol=0, equal_nan=True
        )
    assert set(balancer.state_dict()) >= {"tracked/a", "seen/b", "window/c"}


def test_the_order_of_binding_does_not_matter():
    one, two = lived("abc").state_dict(), lived("bca").state_dict()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=0, equal_nan=True)


def test_a_task_that_joins_starts_from_the_start_and_one_that_was_absent_stays():
    balancer = lived()
    before = balancer.state_dict()
    balancer.bind("dcba")
    assert balancer.recall("seen", step("d"), 2).tolist() == [[[1, 1]]]
    assert balancer.recall("tracked", step("d"), 3).tolist() == [[0, 0, 0]]
    balancer.bind("abc")
    for name, value in balancer.state_dict().items():
        torch.testing.assert_close(before[name], value, rtol=0, atol=0, equal_nan=True)


def test_a_state_of_another_network_is_refused():
    with pytest.raises(ValueError, match=r"holds \(3,\) numbers for each task.*\(5,\)"):
        lived().recall("tracked", step("a"), 5)


class Halved(Wrapper):
    """Half of the inner weights, and a count of its own."""

    card = Card(family="balancing", name="halved", summary="for tests only")
    memory: ClassVar = {"times": 0.0}

    def __init__(self, *, balancer: Balancer | str = "pcgrad") -> None:
        super().__init__(balancer)

    def forward(self, s: Signals) -> Tensor:
        weights: Tensor = self.balancer(s) / 2
        return weights

    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        super().advance(s, after)
        self.remember("times", s, self.recall("times", s) + 1)


def test_a_wrapper_asks_for_what_the_inner_one_asks_for():
    assert Halved(balancer=PCGrad()).rung is Rung.GRAM
    assert not Halved(balancer=GradDrop()).weights_heads
    assert Halved(balancer=Famo()).second_look
    assert Halved(balancer="equal").rung is Rung.LOSSES


def test_a_wrapper_carries_the_inner_state():
    balancer = Halved(balancer=Uncertainty())
    balancer.bind("ab")
    for _ in range(3):
        balancer.advance(Signals.of({"a": 1.0, "b": 5.0}))
    state = balancer.state_dict()
    assert {"times/a", "balancer.log_variance/b"} <= set(state)
    other = Halved(balancer=Uncertainty())
    other.load_state_dict(state)
    other.bind("ba")
    s = Signals.of({"a": 1.0, "b": 5.0})
    assert torch.equal(other(s), balancer(s))
    clean = balancer.fresh()
    assert clean.balancer is not balancer.balancer
    assert not clean.balancer.tasks
