from __future__ import annotations

import copy

import pytest
import torch
from adapter_nets import attached, filled, net, routed

from plait.adapting.c_poly import CPoly
from plait.adapting.lora import Lora
from plait.adapting.mhr import Mhr


@pytest.mark.parametrize("task", [[2, 0, 1, 0], [2, 1]])
def test_equals_the_formula_row_by_row(task):
    base = net()
    plain = copy.deepcopy(base)
    banks, routing = attached(CPoly(rank=2, skills=3, own=2, alpha=5.0), base)
    filled(banks).eval()
    x = torch.randn(len(task), 3, 5, dtype=torch.float64)
    found = routed(base, banks, routing, x, torch.tensor(task))
    for row, t in enumerate(task):
        h = x[row]
        for number in (0, 2):
            bank, layer = banks[str(number)], plain[number]
            own, open_ = bank.tasks, 1 / (1 + torch.exp(-bank.tasks.logits[t]))
            total = open_.sum() + 1e-12
            a = sum(open_[e] / total * bank.down[e] for e in range(3))
            b = sum(open_[e] / total * bank.up[e] for e in range(3))
            change = b @ a
            for j in range(2):
                part = slice(2 * j, 2 * j + 2)
                change = change + own.weights[t, j] * own.up[t][:, part] @ own.down[t][part]
            h = layer(h) + 5.0 / 2 * h @ change.T
            h = h.tanh() if number == 0 else h
        torch.testing.assert_close(found[row], h, rtol=0, atol=1e-12)


def test_without_skills_of_their_own_tasks_have_polytropon():
    base, other = net(), net()
    banks, routing = attached(CPoly(rank=2, skills=3, own=0), base)
    poly, poly_routing = attached(Mhr(rank=2, skills=3, heads=1), other)
    filled(banks).eval()
    for place, bank in banks.items():
        mine = poly[place].eval()
        mine.own.logits.data.copy_(bank.tasks.logits.unsqueeze(1))
        mine.down.data.copy_(bank.down.transpose(1, 2).unsqueeze(1))
        mine.up.data.copy_(bank.up.unsqueeze(1))
    x, task = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    found = routed(base, banks, routing, x, task), routed(other, poly, poly_routing, x, task)
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_without_common_skills_it_is_a_lora_for_each_task():
    base, low = net(), net()
    banks, routing = attached(CPoly(rank=2, skills=3, own=1, alpha=4.0), base)
    own, own_routing = attached(Lora(rank=2, alpha=4.0), low)
    filled(banks).eval()
    for place, bank in banks.items():
        bank.up.data.zero_()
        bank.tasks.weights.data.fill_(1.0)
        own[place].down.data.copy_(bank.tasks.down)
        own[place].up.data.copy_(bank.tasks.up)
    x, task = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    found = routed(base, banks, routing, x, task), routed(low, own, own_routing, x, task)
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_each_tasks_skills_are_exported_as_one_lora():
    base, low = net(), net()
    adapter = CPoly(rank=1, skills=3, own=1, alpha=3.0)
    banks, routing = attached(adapter, base)
    own, own_routing = attached(Lora(rank=2), low)
    filled(banks).eval()
    for place, bank in banks.items():
        for t in range(3):
            config = adapter.peft_config(banks, t)
            own[place].take(t, bank.exported(t), config["lora_alpha"] / config["r"])
    x, task = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    found = routed(base, banks, routing, x, task), routed(low, own, own_routing, x, task)
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_noise_is_drawn_in_training_for_each_task_and_not_for_each_row():
    base = net()
    banks, routing = attached(CPoly(rank=2, skills=3), base)
    filled(banks).train()
    x, task = torch.randn(1, 5, dtype=torch.float64).repeat(4, 1), torch.tensor([0, 0, 1, 1])
    one, two = (routed(base, banks, routing, x, task) for _ in range(2))
    assert torch.equal(one[0::2], one[1::2])
    assert not torch.equal(one, two)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"skills": 0}, "skills must be"), ({"own": -1}, "own not"), ({"pace": 0.0}, "pace must")],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ValueError, match=said):
        CPoly(**settings)
