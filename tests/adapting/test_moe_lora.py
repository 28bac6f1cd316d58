from __future__ import annotations

import copy

import pytest
import torch
from adapter_nets import attached, filled, net, routed
from torch import nn

from plait.adapting.lora import Lora
from plait.adapting.moe_lora import MoeLora


def wide() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7)).double()


def test_equals_the_formula_row_by_row():
    base = wide()
    plain = copy.deepcopy(base)
    banks, routing = attached(MoeLora(rank=6, experts=3, width=4, alpha=9.0), base)
    bank = filled(banks)["0"]
    x, task = torch.randn(4, 2, 6, dtype=torch.float64), [2, 0, 1, 0]
    found = routed(base, banks, routing, x, torch.tensor(task))
    for row, t in enumerate(task):
        power = [torch.exp(bank.gate[e] @ bank.own.embedding[t]) for e in range(3)]
        wanted = plain(x[row])
        for e in range(3):
            wanted = (
                wanted + 9.0 / 6 * power[e] / sum(power) * x[row] @ bank.down[e].T @ bank.up[e].T
            )
        torch.testing.assert_close(found[row], wanted, rtol=0, atol=1e-12)


def test_even_gates_are_a_lora_of_the_whole_rank_and_a_fraction_of_the_scale():
    base, low = wide(), wide()
    banks, routing = attached(MoeLora(rank=6, experts=3, alpha=9.0), base)
    own, own_routing = attached(Lora(rank=6, alpha=3.0), low)
    bank = filled(banks)["0"]
    bank.gate.data.zero_()
    own["0"].down.data.copy_(torch.cat(list(bank.down)).expand(3, 6, 6))
    own["0"].up.data.copy_(torch.cat(list(bank.up), 1).expand(3, 7, 6))
    x, task = torch.randn(3, 6, dtype=torch.float64), torch.tensor([0, 1, 2])
    found = routed(base, banks, routing, x, task), routed(low, own, own_routing, x, task)
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_one_open_gate_is_that_expert_alone():
    base = wide()
    plain = copy.deepcopy(base)
    banks, routing = attached(MoeLora(rank=4, experts=2, width=1, alpha=4.0), base)
    bank = filled(banks)["0"]
    bank.gate.data.copy_(torch.tensor([[0.0], [1e4]]))
    bank.own.embedding.data.fill_(1.0)
    x = torch.randn(3, 6, dtype=torch.float64)
    found = routed(base, banks, routing, x, torch.tensor([0, 1, 2]))
    wanted = plain(x) + x @ bank.down[1].T @ bank.up[1].T
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_each_tasks_mixture_is_exported_as_lora():
    base, low = net(), net()
    adapter = MoeLora(rank=2, experts=2, alpha=6.0)
    banks, routing = attached(adapter, base)
    own, own_routing = attached(Lora(rank=2), low)
    filled(banks)
    for place, bank in banks.items():
        for t in range(3):
            own[place].take(t, bank.exported(t), adapter.peft_config(banks, t)["lora_alpha"] / 2)
    x, task = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    found = routed(base, banks, routing, x, task), routed(low, own, own_routing, x, task)
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 6, "experts": 4}, "4 experts do not divide the rank 6"),
        ({"experts": 0}, "experts must be at least 1"),
        ({"width": 0}, "width must be at least 1"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ValueError, match=said):
        MoeLora(**settings)
