from __future__ import annotations

import torch

from plait.balancing.base import Signals
from plait.balancing.equal import Equal


def test_every_task_counts_one_whatever_its_loss():
    s = Signals.of({"a": 1e-6, "b": 1e6, "c": 0.0})
    assert Equal()(s).tolist() == [1.0, 1.0, 1.0]


def test_has_no_state_of_tasks():
    balancer = Equal()
    balancer.bind("ab")
    balancer.advance(Signals.of({"a": 1.0, "b": 2.0}))
    assert list(balancer.state_dict()) == ["updates"]
    assert torch.equal(balancer(Signals.of({"b": 2.0})), torch.ones(1, dtype=torch.float64))
