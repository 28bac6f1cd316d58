from __future__ import annotations

import math

import pytest
import torch
from training_toys import furthest, slices

from plait.training.best import Best


def move(network, value: float) -> dict[str, torch.Tensor]:
    for parameter in network.parameters():
        parameter.data.fill_(value)
    return slices(network)


def test_tasks_are_judged_by_their_mean(network):
    best = Best(network, patience=2, per_task=False)
    move(network, 1.0)
    best.offer(10, {"real.1": 1.0, "binary.0": 3.0})
    kept = move(network, 2.0)
    best.offer(20, {"real.1": 3.0, "binary.0": 0.5})
    move(network, 3.0)
    best.offer(30, {"real.1": 0.1, "binary.0": 9.0})
    assert not best.over()
    best.offer(40, {"real.1": 0.1, "binary.0": 9.0})
    assert best.over()
    best.restore()
    assert best.step == 20
    assert furthest(slices(network), kept) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_network_that_ran_away_is_never_the_best(network, bad):
    best = Best(network, patience=None, per_task=False)
    kept = move(network, 1.0)
    best.offer(1, {"real.1": 5.0, "binary.0": 5.0})
    move(network, 2.0)
    best.offer(2, {"real.1": bad, "binary.0": 0.0})
    best.restore()
    assert furthest(slices(network), kept) == 0


def test_each_task_keeps_its_own_slices(network):
    best = Best(network, patience=1, per_task=True)
    move(network, 1.0)
    best.offer(1, {"real.1": 1.0, "binary.0": 1.0, "binary.2": 1.0})
    move(network, 2.0)
    best.offer(2, {"real.1": 0.5, "binary.0": 2.0, "binary.2": 0.5})
    assert best.resting == {"binary.0"}
    move(network, 3.0)
    best.offer(3, {"real.1": 1.0, "binary.0": 0.0, "binary.2": 0.1})
    assert best.resting == {"binary.0", "real.1"}
    best.restore()
    found = {name.rpartition("/")[2]: float(v.mean()) for name, v in slices(network).items()}
    assert (found["real.1"], found["binary.0"], found["binary.2"]) == (2.0, 1.0, 3.0)


def test_nothing_was_offered(network):
    best = Best(network, patience=1, per_task=False)
    before = slices(network)
    best.offer(1, {})
    best.restore()
    assert best.step is None
    assert not best.over()
    assert furthest(before, slices(network)) == 0
