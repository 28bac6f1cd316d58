from __future__ import annotations

import copy

import pytest
import torch
from adapter_nets import attached, filled, net, routed
from torch import nn

from plait.adapting.lora import Lora
from plait.adapting.mhr import Mhr
from plait.task import Task, TaskSet


def wide(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4)).to(dtype)


def weights_of(bank, t):
    open_ = bank.own.stack("logits")[t].sigmoid()
    return open_ / (open_.sum(-1, keepdim=True) + 1e-12)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("task", [[2, 0, 1, 0], [1, 2]])
def test_equals_the_formula_block_by_block(heads, task):
    base = wide()
    plain = copy.deepcopy(base)
    banks, routing = attached(Mhr(rank=2, skills=3, heads=heads, alpha=4.0), base)
    bank = filled(banks)["0"].eval()
    x = torch.randn(len(task), 3, 6, dtype=torch.float64)
    with routing.to(torch.tensor(task), {bank: bank.once(torch.ones(3).bool())}):
        found = base(x)
    for row, t in enumerate(task):
        z = weights_of(bank, t)
        a = [sum(z[h, e] * bank.down[e, h] for e in range(3)) for h in range(heads)]
        b = [sum(z[h, e] * bank.up[e, h].T for e in range(3)) for h in range(heads)]
        narrow = x[row] @ torch.cat(a, 0)
        wanted = plain(x[row]) + 4.0 / 2 * narrow @ torch.cat(b, 1)
        torch.testing.assert_close(found[row], wanted, rtol=0, atol=1e-12)


def test_one_open_skill_is_that_lora_and_two_are_not_the_sum_of_two():
    base, low = wide(), wide()
    banks, routing = attached(Mhr(rank=2, skills=3, heads=2, alpha=4.0), base)
    bank = filled(banks)["0"].eval()
    own, own_routing = attached(Lora(rank=2, alpha=4.0), low)
    x, task = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    each = []
    for skill in range(3):
        bank.own.logits.data.fill_(-200.0)[:, :, skill] = 200.0
        own["0"].down.data.copy_(bank.down[skill].flatten(0, 1).T)
        own["0"].up.data.copy_(bank.up[skill].flatten(0, 1))
        with own_routing.to(task):
            wanted = low(x)
        each.append(routed(base, banks, routing, x, task))
        torch.testing.assert_close(each[-1], wanted, rtol=0, atol=1e-10)
    bank.own.logits.data.fill_(200.0)[:, :, 2] = -200.0
    both = routed(base, banks, routing, x, task)
    assert not torch.allclose(both, (each[0] + each[1]) / 2, atol=1e-3)


def test_noise_is_drawn_in_training_for_each_task_and_not_for_each_row():
    base = wide()
    banks, routing = attached(Mhr(rank=2, skills=3, heads=1), base)
    filled(banks).train()
    x, task = torch.randn(1, 6, dtype=torch.float64).repeat(6, 1), torch.tensor([0, 0, 1, 1, 2, 2])
    one, two = (routed(base, banks, routing, x, task) for _ in range(2))
    assert torch.equal(one[0::2], one[1::2])
    assert not torch.equal(one, two)
    banks.eval()
    assert torch.equal(routed(base, banks, routing, x, task), routed(base, banks, routing, x, task))


def test_each_tasks_mixture_is_exported_as_lora():
    base = wide()
    plain = copy.deepcopy(base)
    banks, routing = attached(Mhr(rank=2, skills=3, heads=2, alpha=3.0), base)
    bank = filled(banks)["0"].eval()
    x = torch.randn(2, 6, dtype=torch.float64)
    found = routed(base, banks, routing, x, torch.tensor([1, 1]))
    pair = bank.exported(1)
    assert Mhr(rank=2).peft_config(banks, 1)["lora_alpha"] == 3.0
    low = x @ pair["lora_A.weight"].T @ pair["lora_B.weight"].T
    torch.testing.assert_close(found, plain(x) + 3.0 / 2 * low, rtol=0, atol=1e-12)


def test_planted_skills_are_recovered():
    """Six tasks have one of two changes each; their rows find out which go together."""
    torch.manual_seed(0)
    tasks = TaskSet(Task(name=str(i)) for i in range(6))
    plan = torch.tensor([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 1]])
    changes = torch.randn(2, 8, 8) / 2
    base = nn.Sequential(nn.Linear(8, 8))
    plain = copy.deepcopy(base).requires_grad_(False)
    adapter = Mhr(rank=4, skills=2, heads=1, alpha=4.0, noise=False)
    banks, routing = attached(adapter, base, tasks)
    bank = banks["0"]
    low = torch.stack([change[:, :4] @ change[:4] for change in changes])
    fast = torch.optim.Adam(
        [{"params": bank.own.parameters(), "lr": 0.1},
         {"params": [bank.down, bank.up], "lr": 0.01}]
    )  # fmt: skip
    for _ in range(300):
        x, task = torch.randn(60, 8), torch.arange(6).repeat(10)
        own = low[plan[task].argmax(1)]
        target = plain(x) + torch.einsum("boi,bi->bo", own, x)
        with routing.to(task, {bank: bank.once(torch.ones(6).bool())}):
            loss = (base(x) - target).square().mean()
        fast.zero_grad()
        loss.backward()
        fast.step()
    z = torch.stack([weights_of(bank, t)[0] for t in range(6)]).detach()
    groups = z.argmax(1)
    assert groups[:3].unique().numel() == 1
    assert groups[3:].unique().numel() == 1
    assert groups[0] != groups[3]
    assert float(loss.detach()) < 0.1


def test_heads_must_divide_and_settings_are_checked():
    with pytest.raises(ValueError, match="2 heads do not divide the 5 of 0; set heads"):
        attached(Mhr(rank=2, heads=2), net())
    with pytest.raises(ValueError, match="skills must be at least 1"):
        Mhr(skills=0)
    with pytest.raises(ValueError, match="pace must be positive"):
        Mhr(pace=0)


def test_the_tasks_rows_learn_at_their_own_pace():
    from plait.training.optim import decay_groups, paced

    banks, _ = attached(Mhr(rank=2, heads=1, pace=10.0), net())
    groups = paced(decay_groups(banks.parameters(), 0.01), banks, 0.001)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for bank in banks.values():
        assert rates[id(bank.own.logits)] == pytest.approx(0.01)
        assert rates[id(bank.up)] == rates[id(bank.down)] == pytest.approx(0.001)
