from __future__ import annotations

import copy

import pytest
import torch
from adapter_nets import attached, filled, net, routed

from plait.adapting.lora import Lora
from plait.adapting.mtl_lora import MtlLora


@pytest.mark.parametrize("task", [[2, 0, 1, 0], [2, 1]])
def test_equals_the_formula_row_by_row(task):
    base = net()
    plain = copy.deepcopy(base)
    adapter = MtlLora(rank=2, ups=4, temperature=0.5, alpha=6.0)
    banks, routing = attached(adapter, base)
    filled(banks)
    x = torch.randn(len(task), 3, 5, dtype=torch.float64)
    found = routed(base, banks, routing, x, torch.tensor(task))
    for row, t in enumerate(task):
        h = x[row]
        for number in (0, 2):
            bank, layer = banks[str(number)], plain[number]
            power = [torch.exp(w / 0.5) for w in bank.own.mix[t]]
            up = sum(p * bank.up[i] for i, p in enumerate(power)) / sum(power)
            h = layer(h) + 6.0 / 2 * (up @ (bank.own.turn[t] @ (bank.down @ h.T))).T
            h = h.tanh() if number == 0 else h
        torch.testing.assert_close(found[row], h, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("ups", "temperature"), [(1, 0.1), (3, 1e12)])
def test_without_turns_and_with_even_shares_it_is_lora_with_the_mean_way_up(ups, temperature):
    base, low = net(), net()
    banks, routing = attached(MtlLora(rank=2, ups=ups, temperature=temperature), base)
    own, own_routing = attached(Lora(rank=2), low)
    filled(banks)
    for place, bank in banks.items():
        bank.own.turn.data.copy_(torch.eye(2))
        own[place].down.data.copy_(bank.down.expand_as(own[place].down))
        own[place].up.data.copy_(bank.up.mean(0).expand_as(own[place].up))
    x, task = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    found = routed(base, banks, routing, x, task), routed(low, own, own_routing, x, task)
    torch.testing.assert_close(*found, rtol=0, atol=1e-10)


def test_each_tasks_part_is_exported_as_lora():
    base, low = net(), net()
    adapter = MtlLora(rank=2, alpha=6.0)
    banks, routing = attached(adapter, base)
    own, own_routing = attached(Lora(rank=2, alpha=6.0), low)
    filled(banks)
    for place, bank in banks.items():
        for t in range(3):
            own[place].take(t, bank.exported(t), adapter.peft_config(banks, t)["lora_alpha"] / 2)
    x, task = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    found = routed(base, banks, routing, x, task), routed(low, own, own_routing, x, task)
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_it_starts_as_published():
    banks, _ = attached(MtlLora(rank=3, ups=4), net())
    bank = banks["0"]
    assert torch.equal(bank.own.turn.data, torch.eye(3).double().expand(3, 3, 3))
    assert not bank.up.any()
    assert 0 < bank.down.abs().max() <= 5**-0.5
    assert 0 < bank.own.mix.abs().max() <= 4**-0.5


def test_dropout_acts_on_what_the_adapter_reads():
    base = net()
    plain = copy.deepcopy(base)
    banks, routing = attached(MtlLora(rank=2, dropout=0.5), base)
    filled(banks).train()
    x, task = torch.randn(2, 5, dtype=torch.float64), torch.tensor([0, 1])
    one, two = (routed(base, banks, routing, x, task) for _ in range(2))
    assert not torch.equal(one, two)
    for bank in banks.values():
        bank.up.data.zero_()
    assert torch.equal(routed(base, banks, routing, x, task), plain(x))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ups": 0}, "ups must be"),
        ({"temperature": 0.0}, "temperature must"),
        ({"rank": 0}, "rank"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ValueError, match=said):
        MtlLora(**settings)
