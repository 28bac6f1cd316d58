"""Weights kept between steps: which steps ask, what they cost, and what a newcomer changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import plait
from plait.balancing.base import Rung, Signals
from plait.balancing.equal import Equal
from plait.balancing.every import Every
from plait.balancing.graddrop import GradDrop
from plait.balancing.pcgrad import PCGrad

OPPOSED = torch.tensor([[1.0, -0.5], [-0.5, 4.0]], dtype=torch.float64)


def seen(names: str, step: int, gram: torch.Tensor | None = None) -> Signals:
    return Signals.of(dict.fromkeys(names, 1.0), step=step, gram=gram)


def test_only_some_steps_ask_and_the_others_keep_the_weights():
    balancer = Every(balancer=PCGrad(), steps=3)
    balancer.bind("ab")
    asked = []
    for step in range(7):
        due = balancer.asks(("a", "b"), step) is Rung.GRAM
        s = seen("ab", step, OPPOSED * (1 + step) if due else None)
        weights = balancer(s)
        balancer.advance(s)
        asked.append(due)
        torch.testing.assert_close(weights, PCGrad()(seen("ab", 0, OPPOSED)))
    assert asked == [True, False, False, True, False, False, True]
    assert int(balancer.balancer.updates) == 3


def test_a_task_without_a_weight_makes_the_step_ask():
    balancer = Every(steps=10)
    balancer.bind("ab")
    balancer.advance(seen("a", 0, OPPOSED[:1, :1]))
    assert balancer.asks(("a",), 1) is Rung.LOSSES
    assert balancer.asks(("a", "b"), 1) is Rung.GRAM


def test_a_kept_step_gives_raw_heads_as_an_asked_one_does():
    torch.manual_seed(0)
    trunk = nn.Linear(3, 4).double()
    heads = nn.ModuleDict({name: nn.Linear(4, 1).double() for name in "ab"})
    x = torch.randn(8, 3, dtype=torch.float64)
    balancer = Every(steps=2)
    found = []
    for _ in range(2):
        trunk.zero_grad()
        heads.zero_grad()
        h = trunk(x)
        losses = {"a": heads["a"](h).mean(), "b": (-2 * heads["b"](h) + h.sum()).mean()}
        plait.backward(losses, trunk.parameters(), balancer)
        found.append([p.grad.clone() for p in [*trunk.parameters(), *heads.parameters()]])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("inner", [Equal, GradDrop])
def test_what_gains_nothing_is_refused(inner):
    with pytest.raises(ValueError, match="one weight from the Gramian"):
        Every(balancer=inner())
