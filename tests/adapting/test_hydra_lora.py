from __future__ import annotations

import copy

import pytest
import torch
from adapter_nets import attached, filled, net

from plait.adapting.hydra_lora import HydraLora
from plait.adapting.lora import Lora


def test_equals_the_formula_token_by_token():
    base = net()
    plain = copy.deepcopy(base)
    banks, routing = attached(HydraLora(rank=2, experts=3, alpha=6.0), base)
    filled(banks)
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    with routing.to(torch.tensor([0, 2])):
        found = base(x)
    for row in range(2):
        for place in range(3):
            h = x[row, place]
            for number in (0, 2):
                bank, layer = banks[str(number)], plain[number]
                gates = (bank.router @ h).softmax(0)
                mixed = sum(gates[e] * bank.up[e] @ (bank.down @ h) for e in range(3))
                h = layer(h) + 6.0 / 2 * mixed
                h = h.tanh() if number == 0 else h
            torch.testing.assert_close(found[row, place], h, rtol=0, atol=1e-12)


@pytest.mark.parametrize("experts", [1, 4])
def test_an_indifferent_router_is_lora_with_the_mean_of_the_ways_up(experts):
    x, found = torch.randn(4, 5, dtype=torch.float64), []
    hydra, low = net(), net()
    banks, routing = attached(HydraLora(rank=2, experts=experts), hydra)
    own, own_routing = attached(Lora(rank=2), low)
    filled(banks)
    for place, bank in banks.items():
        bank.router.data.zero_()
        own[place].down.data.copy_(bank.down.expand_as(own[place].down))
        own[place].up.data.copy_(bank.up.mean(0).expand_as(own[place].up))
    with routing.to(torch.zeros(4).long()), own_routing.to(torch.zeros(4).long()):
        found = hydra(x), low(x)
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_the_router_has_at_least_single_precision():
    base = net(torch.bfloat16)
    banks, _ = attached(HydraLora(rank=2, experts=3), base)
    x = torch.randn(7, 5).bfloat16()
    gates = banks["0"].gates(x)
    wanted = (x.float() @ banks["0"].router.float().T).softmax(-1).bfloat16()
    assert gates.dtype == torch.bfloat16
    assert torch.equal(gates, wanted)


def test_there_is_an_expert():
    with pytest.raises(ValueError, match="experts must be at least 1"):
        HydraLora(experts=0)
