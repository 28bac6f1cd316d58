from __future__ import annotations

import pytest
import torch

from plait.networks.base import Features
from plait.sharing import base
from plait.sharing.base import Experts, Gates, mix


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_experts_equal_a_loop(depth):
    torch.manual_seed(0)
    experts = Experts(3, 5, 4, depth).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    found = experts(x)
    for e in range(3):
        h = x
        for layer in experts.layers:
            h = (h @ layer.weight[e].T + layer.bias[e]).relu()
        torch.testing.assert_close(found[:, e], h, rtol=0, atol=1e-12)


def test_each_expert_starts_like_a_linear_layer():
    torch.manual_seed(0)
    weight = Experts(40, 16, 32).layers[0].weight
    top = weight.abs().amax(dim=(1, 2))
    assert (top <= 0.25).all()
    assert (top > 0.24).all()


@pytest.mark.parametrize("sizes", [(0, 3, 4, 1), (2, 3, 0, 1), (2, 3, 4, 0)])
def test_experts_need_positive_sizes(sizes):
    with pytest.raises(ValueError, match="at least 1"):
        Experts(*sizes)


@pytest.mark.parametrize("dense", [0, 1e9])
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_mix_equals_a_loop_both_ways(dense, share, monkeypatch):
    monkeypatch.setattr(base, "DENSE", dense)
    generator = torch.Generator().manual_seed(0)
    task, rows = (torch.rand(5, 6, generator=generator) < share).nonzero().unbind(1)
    outputs = torch.randn(6, 3, 4, dtype=torch.float64, requires_grad=True)
    gates = torch.rand(len(rows), 3, dtype=torch.float64, requires_grad=True)
    found = mix(outputs, gates, rows, task)
    expected = torch.stack([gates[n] @ outputs[r] for n, r in enumerate(rows)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(found)
    for ours, theirs in zip(
        torch.autograd.grad((found * weight).sum(), (outputs, gates)),
        torch.autograd.grad((expected * weight).sum(), (outputs, gates)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_mixing_nothing_gives_nothing():
    nothing = torch.zeros(0, dtype=torch.long)
    assert mix(torch.randn(6, 3, 4), torch.zeros(0, 3), nothing, nothing).shape == (0, 4)


def test_experts_of_units_read_their_own_states():
    experts = Experts(["a", "b", "b", "d"], 5, 4, 2, units=[0, 1, 1, 3]).double()
    x = torch.randn(4, 7, 5, dtype=torch.float64)
    whole = experts(x)
    for e, unit in enumerate(experts.units):
        torch.testing.assert_close(whole[:, e], experts(x[unit])[:, e], rtol=0, atol=1e-12)
    some = experts(x[[1, 3]], kept=[1, 3])
    torch.testing.assert_close(some, whole[:, [1, 2, 3]], rtol=0, atol=1e-12)


def test_gates_read_only_what_they_may():
    gates = Gates(["a", "b"], [[0, 2], [1]], [None, "a", "b"], 5).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    found = gates(Features(x))
    assert (found[:, 0, 1] == 0).all()
    assert (found[:, 1] == torch.tensor([0.0, 1.0, 0.0])).all()
    torch.testing.assert_close(found.sum(2), torch.ones(7, 2, dtype=torch.float64))
    records = gates(Features(x, torch.arange(7).repeat(2)), torch.arange(2).repeat_interleave(7))
    torch.testing.assert_close(records, found.transpose(0, 1).flatten(0, 1), rtol=0, atol=1e-12)
    own = gates(Features(torch.stack([x, x])), kept=[0, 1])
    torch.testing.assert_close(own, found, rtol=0, atol=1e-12)
    assert sum(p.numel() for p in gates.parameters()) == 3 * (5 + 1)
