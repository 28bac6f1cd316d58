from __future__ import annotations

import copy

import pytest
import torch
from adapter_nets import attached, filled, net, routed
from torch import nn

from plait.adapting.lora import Lora
from plait.adapting.smora import Smora


def wide(size: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(size, size)).double()


def by_hand(bank, x, active, block, alpha):
    """One token's correction, rank by rank."""
    scores = torch.stack(
        [1 / (1 + torch.exp(-bank.router[i // block] @ x)) + bank.bias[i] for i in range(6)]
    )
    chosen = sorted(range(6), key=lambda i: -scores[i].item())[:active]
    total = sum(scores[i] for i in chosen)
    each = [scores[i] / total * bank.up[:, i] * (bank.down[i] @ x) for i in chosen]
    return alpha * sum(each)


@pytest.mark.parametrize(("active", "block"), [(2, 1), (4, 2)])
def test_equals_the_formula_token_by_token(active, block):
    base = wide()
    plain = copy.deepcopy(base)
    adapter = Smora(rank=6, active=active, block=block, alpha=3.0)
    banks, routing = attached(adapter, base)
    bank = filled(banks)["0"].eval()
    bank.bias += 0.01 * (torch.arange(6) // block - 1)
    x = torch.randn(3, 4, 8, dtype=torch.float64)
    found = routed(base, banks, routing, x, torch.tensor([0, 2, 1]))
    for row in range(3):
        for place in range(4):
            h = x[row, place]
            wanted = plain[0](h) + by_hand(bank, h, active, block, 3.0)
            torch.testing.assert_close(found[row, place], wanted, rtol=0, atol=1e-12)


def test_indifferent_gates_are_a_lora():
    base, low = net(), net()
    banks, routing = attached(Smora(rank=3, active=3, alpha=6.0), base)
    own, own_routing = attached(Lora(rank=3, alpha=6.0), low)
    filled(banks).eval()
    for place, bank in banks.items():
        bank.router.data.zero_()
        own[place].down.data.copy_(bank.down.expand_as(own[place].down))
        own[place].up.data.copy_(bank.up.expand_as(own[place].up))
    x, task = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    found = routed(base, banks, routing, x, task), routed(low, own, own_routing, x, task)
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_the_bias_moves_against_how_often_a_rank_is_chosen():
    base = wide()
    banks, routing = attached(Smora(rank=6, active=2, balance=0.25), base)
    bank = filled(banks)["0"]
    x = torch.randn(50, 8, dtype=torch.float64)
    scores = (x @ bank.router.T).sigmoid()
    counts = torch.bincount(scores.topk(2).indices.flatten(), minlength=6).double()
    bank.eval()
    routed(base, banks, routing, x, torch.zeros(50).long())
    assert not bank.bias.any()
    bank.train()
    routed(base, banks, routing, x, torch.zeros(50).long())
    assert torch.equal(bank.bias, 0.25 * (50 * 2 / 6 - counts).sign())


def test_the_bias_evens_out_the_counts():
    base = wide()
    banks, routing = attached(Smora(rank=8, active=2, balance=0.01), base)
    bank = filled(banks, std=1.0)["0"].train()
    x = torch.randn(400, 8, dtype=torch.float64) + 0.5

    def spread() -> float:
        counts = (bank.gates(x, bank.bias) != 0).sum(0).double()
        return float(counts.std() / counts.mean())

    before = spread()
    for _ in range(200):
        routed(base, banks, routing, x, torch.zeros(400).long())
    assert spread() < before / 4


def test_a_forward_in_parts_or_recomputed_moves_the_bias_once():
    x, task = torch.randn(40, 8, dtype=torch.float64), torch.zeros(40).long()
    found = []
    for parts in ([slice(0, 40)], [slice(0, 13), slice(13, 40)], [slice(0, 40)] * 2):
        base = wide()
        banks, routing = attached(Smora(rank=6, active=2, balance=0.1), base)
        bank = filled(banks)["0"].train()
        with routing.to(task, {bank: bank.once(torch.ones(3).bool())}):
            for part in parts:
                with routing.among(torch.arange(40)[part]):
                    base(x[part])
        found.append(bank.bias.clone())
    assert found[0].any()
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 4, "active": 5}, "active must be from 1 to the rank 4"),
        ({"rank": 4, "active": 2, "block": 4}, "block must divide rank and active"),
        ({"balance": -1.0}, "balance must not be negative"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ValueError, match=said):
        Smora(**settings)
