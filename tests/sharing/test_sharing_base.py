from __future__ import annotations

import pytest
import torch

from plait.sharing import base
from plait.sharing.base import Experts, gate_use, mix


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_experts_equal_a_loop(depth):
    torch.manual_seed(0)
    experts = Experts(3, 5, 4, depth).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    found = experts(x)
    for e in range(3):
        h = x
        for weight, bias in zip(experts.weights, experts.biases, strict=True):
            h = (h @ weight[e].T + bias[e]).relu()
        torch.testing.assert_close(found[:, e], h, rtol=0, atol=1e-12)


def test_each_expert_starts_like_a_linear_layer():
    torch.manual_seed(0)
    weight = Experts(40, 16, 32).weights[0]
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


def test_gate_use_tells_load_and_entropy():
    gates = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    use = gate_use(gates, torch.tensor([0, 2, 0]), 3)
    assert use.load[0].tolist() == use.load[2].tolist() == [0.5, 0.5]
    torch.testing.assert_close(
        use.entropy[[0, 2]], torch.tensor([0.0, 2.0]).log1p() * torch.tensor([1.0, 0.6309297])
    )
    assert use.load[1].isnan().all()
