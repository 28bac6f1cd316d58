from __future__ import annotations

import pytest
import torch
from gradients import jacobian, sampled, signals

from plait.balancing.base import Balancer
from plait.balancing.clip import Clip
from plait.balancing.equal import Equal
from plait.balancing.graddrop import GradDrop
from plait.balancing.modo import MoDo
from plait.balancing.per_layer import PerLayer
from plait.testing.toys import ToyNetwork, toy_batch, toy_tasks
from plait.training import backward


@pytest.mark.parametrize("balancer", ["equal", "pcgrad", "gls", "nash_mtl"])
def test_no_update_is_longer_and_its_way_is_kept(balancer: str):
    rows = jacobian(4, 9, 0, spread=2.0)
    clip = Clip(balancer=balancer, length=0.7)
    s = signals(rows, losses=[0.1, 1.0, 2.0, 5.0])
    free, update = clip.balancer(s) @ rows, clip(s) @ rows
    assert free.norm() > 0.7
    torch.testing.assert_close(update, free * 0.7 / free.norm())


def test_short_updates_are_left_alone():
    s = signals(jacobian(3, 4, 0) * 1e-3)
    assert torch.equal(Clip()(s), Equal()(s))
    assert Clip()(signals(torch.zeros(2, 3))).tolist() == [1.0, 1.0]


def test_clips_an_update_without_weights():
    rows = jacobian(3, 50, 0)
    s = signals(rows, jacobian=rows)
    update = Clip(balancer="graddrop")(s)
    free = GradDrop()(s)
    torch.testing.assert_close(update, free / free.norm())


def test_clips_weights_for_layers_and_for_parts_of_the_batch():
    rows = jacobian(3, 6, 0)
    halves = rows.split(3, dim=1)
    s = signals(rows, layers=torch.stack([half @ half.T for half in halves]))
    answer = Clip(balancer=PerLayer(balancer="imtl_g"), length=0.01)(s)
    assert (answer < 0).any()
    update = torch.cat([w @ half for w, half in zip(answer, halves, strict=True)])
    assert update.norm().item() == pytest.approx(0.01)
    parts = [jacobian(3, 6, 1), jacobian(3, 6, 2)]
    s = sampled(parts)
    modo = Clip(balancer="modo", length=0.01)
    modo.bind(s.tasks)
    answer = modo(s)
    update = sum(w @ part for w, part in zip(answer, parts, strict=True))
    assert update.norm().item() == pytest.approx(0.01)
    assert modo.samples == MoDo().samples


def grads(balancer: Balancer, factor: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
    tasks = toy_tasks()
    network = ToyNetwork(tasks).double()
    losses = network.losses(toy_batch(tasks, dtype=torch.float64))
    losses = {name: value * factor for name, value in losses.items()}
    backward(losses, network.shared(), balancer)
    shared = torch.cat([p.grad.flatten() for p in network.shared()])
    return shared, [p.grad.clone() for p in network.heads.parameters()]


def test_equals_torchs_clip_on_the_shared_parameters():
    shared, heads = grads(Clip(balancer="pcgrad", length=0.5), 30.0)
    free, raw = grads(Clip(balancer="pcgrad", length=1e9), 30.0)
    torch.testing.assert_close(shared, free * (0.5 / free.norm()))
    for one, other in zip(heads, raw, strict=True):
        assert torch.equal(one, other)


def test_what_it_cannot_measure_is_refused():
    with pytest.raises(ValueError, match="gradnorm sees the last layer's gradients only"):
        Clip(balancer="gradnorm")
    with pytest.raises(ValueError, match="length must be positive"):
        Clip(length=0.0)
