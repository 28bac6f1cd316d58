"""State by task name, randomness by name, and the small Adam that trains a balancer's own state."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from plait.balancing.base import Balancer, Signals
from plait.balancing.famo import Famo
from plait.balancing.pcgrad import PCGrad
from plait.balancing.uncertainty import Uncertainty
from plait.method import Card


class Still(Balancer):
    """Learns θ of ½ Σ (θ − L)², and nothing else."""

    card = Card(family="balancing", name="still", summary="for tests only")
    memory: ClassVar = {"theta": 1.5}
    learns = "theta"
    rate = 0.1

    def objective(self, learnt: Tensor, s: Signals, after: Tensor | None) -> Tensor:
        return (learnt - s.losses).square().sum() / 2


def lived(names: list[str], steps: int = 5) -> Still:
    balancer = Still()
    balancer.bind(names)
    for step in range(steps):
        balancer.advance(Signals.of({n: float(ord(n) % 7 + step) for n in names}))
    return balancer


def test_own_state_follows_torchs_adam():
    balancer = Still()
    balancer.bind("ab")
    theta = torch.full((2,), 1.5, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([theta], lr=0.1)
    for step in range(50):
        losses = {"a": 3.0 - step / 20, "b": step * 0.3}
        balancer.advance(Signals.of(losses))
        adam.zero_grad()
        wanted = torch.tensor(list(losses.values()), dtype=torch.float64)
        ((theta - wanted).square().sum() / 2).backward()
        adam.step()
    torch.testing.assert_close(balancer.theta, theta.detach(), rtol=1e-12, atol=0)


def test_state_has_the_tasks_names_and_loads_in_any_order():
    balancer = lived(["a", "b", "c"])
    state = balancer.state_dict()
    assert {"theta/a", "theta/c", "adam_mean/b", "adam_steps/a"} <= set(state)
    other = Still()
    other.bind("cab")
    other.load_state_dict(state)
    assert torch.equal(other.theta, balancer.theta[[2, 0, 1]])
    assert torch.equal(other.adam_square, balancer.adam_square[[2, 0, 1]])
    unbound = Still()
    unbound.load_state_dict(state)
    assert unbound.tasks == ("a", "b", "c")
    assert torch.equal(unbound.theta, balancer.theta)


def test_saved_state_is_a_copy():
    balancer = lived(["a", "b"])
    state = balancer.state_dict()
    before = state["theta/a"].clone()
    balancer.advance(Signals.of({"a": 100.0, "b": 0.0}))
    assert torch.equal(state["theta/a"], before)


def test_state_of_other_tasks_is_refused_by_name():
    other = Still()
    other.bind("abd")
    with pytest.raises(ValueError, match=r"differ in: c, d"):
        other.load_state_dict(lived(["a", "b", "c"]).state_dict())


def test_binding_more_tasks_keeps_what_is_known():
    balancer = lived(["a", "b"])
    known = balancer.theta.clone()
    balancer.bind(["new", "b", "a"])
    assert balancer.theta.tolist() == [1.5, known[1].item(), known[0].item()]
    assert balancer.adam_steps.tolist() == [0, 5, 5]


def test_absent_tasks_keep_state_moments_and_step_count():
    balancer = lived(["a", "b", "c"])
    before = balancer.state_dict()
    balancer.advance(Signals.of({"c": 9.0, "a": 1.0}))
    after = balancer.state_dict()
    for name, value in after.items():
        if "/" in name:
            assert torch.equal(value, before[name]) == name.endswith("/b"), name


def test_updates_are_counted_and_saved():
    balancer = PCGrad()
    balancer.bind("ab")
    for _ in range(3):
        balancer.advance(Signals.of({"a": 1.0, "b": 1.0}))
    again = PCGrad()
    again.load_state_dict(balancer.state_dict())
    assert int(again.updates) == 3


def test_noise_depends_on_seed_step_and_names_and_not_on_order():
    def noise(names: str, **given: int) -> np.ndarray:
        return Signals.of(dict.fromkeys(names, 1.0), **given).noise(pairs=True)

    order = [2, 0, 1]
    assert np.array_equal(noise("cab"), noise("abc")[np.ix_(order, order)])
    assert np.array_equal(noise("ac"), noise("abc")[np.ix_([0, 2], [0, 2])])
    for other in ({"seed": 1}, {"step": 1}):
        assert not np.isclose(noise("abc"), noise("abc", **other)).any()


def test_noise_is_uniform_and_unrelated_between_pairs_and_steps():
    names = {f"task {i}": 1.0 for i in range(60)}
    drawn = np.stack([Signals.of(names, step=step).noise(pairs=True) for step in range(40)])
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert np.allclose(np.quantile(drawn, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.01)
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.01
    above = np.triu_indices(60, 1)
    there, back = drawn[:, *above].ravel(), drawn.transpose(0, 2, 1)[:, *above].ravel()
    assert abs(np.corrcoef(there, back)[0, 1]) < 0.02


@pytest.mark.parametrize("make", [Uncertainty, Famo])
def test_settings_are_checked(make: type[Balancer]):
    with pytest.raises(ValueError, match="positive"):
        make(rate=0.0)
