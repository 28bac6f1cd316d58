from __future__ import annotations

import pytest
import torch
from gradients import jacobian, signals

from plait.balancing.base import Signals
from plait.balancing.ema import Ema
from plait.balancing.per_layer import PerLayer
from plait.method import resolve
from plait.testing.toys import ToyNetwork, toy_batch, toy_tasks
from plait.training import backward


def layered(parts: list[torch.Tensor], **given: object) -> Signals:
    layers = torch.stack([part @ part.T for part in parts])
    return signals(torch.cat(parts, 1), layers=layers, **given)


@pytest.mark.parametrize("inner", ["pcgrad", "mgda", "nash_mtl", "aligned_mtl"])
def test_every_layer_is_weighed_as_if_it_were_all(inner: str):
    parts = [jacobian(3, size, seed) for seed, size in enumerate((4, 9, 5))]
    found = PerLayer(balancer=inner)(layered(parts, step=3))
    for weights, part in zip(found, parts, strict=True):
        wanted = resolve("balancing", inner)(signals(part, step=3))
        torch.testing.assert_close(weights, wanted)
    assert not torch.allclose(found[0], found[1])


def test_the_engine_applies_each_layers_weights_to_it():
    tasks = toy_tasks()
    batch = toy_batch(tasks, dtype=torch.float64)
    network = ToyNetwork(tasks).double()
    told = backward(network.losses(batch), network.shared(), PerLayer(balancer="mgda"))
    found = [p.grad.clone() for p in network.shared()]
    losses = list(network.losses(batch).values())
    rows = [torch.autograd.grad(v, network.shared(), retain_graph=True) for v in losses]
    gradients = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    inner = resolve("balancing", "mgda")
    named = Signals.of(dict.fromkeys(told.tasks, 1.0), gram=gradients @ gradients.T)
    # A toy encoder is one layer: a matrix and its bias.
    torch.testing.assert_close(torch.cat([g.flatten() for g in found]), inner(named) @ gradients)


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        ("equal", "cannot be asked for each layer"),
        ("graddrop", "cannot be asked for each layer"),
        ("gradnorm", "cannot be asked for each layer"),
        ("modo", "cannot be asked for each layer"),
        (Ema(balancer="pcgrad"), "carries a state"),
    ],
)
def test_what_cannot_be_asked_by_layer_is_refused(inner: object, reason: str):
    with pytest.raises(ValueError, match=reason):
        PerLayer(balancer=inner)
