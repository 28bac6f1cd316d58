from __future__ import annotations

import copy

import pytest
import torch
from adapter_nets import attached, filled, net, routed
from torch import nn
from torch.nn import functional as F  # noqa: N812

from plait.adapting.taps import Taps
from plait.networks.routing import following
from plait.task import Task, TaskSet

ONE = TaskSet([Task(name="one")])


def moved(banks):
    """Away from the start; some layers are open and some closed."""
    filled(banks)
    for bank, scores in zip(banks.values(), ([0.2, -0.3, 0.1], [0.05, 0.4, 0.11]), strict=False):
        bank.score.data.copy_(torch.tensor(scores))
    return banks


def weights_by_hand(layer, bank, t):
    weight = layer.weight + (bank.weight[t] if bank.score[t] >= 0.1 else 0.0)
    return weight, layer.bias + bank.bias[t]


@pytest.mark.parametrize("shape", [(5, 5), (5, 2, 5)])
def test_equals_the_formula_row_by_row(shape):
    base = net()
    plain = copy.deepcopy(base)
    banks, routing = attached(Taps(), base)
    moved(banks)
    x, task = torch.randn(shape, dtype=torch.float64), [2, 0, 1, 0, 2]
    found = routed(base, banks, routing, x, torch.tensor(task))
    with following():  # as exporters run it
        followed = routed(base, banks, routing, x, torch.tensor(task))
    for row, t in enumerate(task):
        h = F.linear(x[row], *weights_by_hand(plain[0], banks["0"], t)).tanh()
        h = F.linear(h, *weights_by_hand(plain[2], banks["2"], t))
        torch.testing.assert_close(found[row], h, rtol=0, atol=1e-12)
        torch.testing.assert_close(followed[row], h, rtol=0, atol=1e-12)


def test_images_go_through_convolutions_and_norms_of_their_own():
    torch.manual_seed(0)
    base = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, bias=False), nn.BatchNorm2d(3)).double()
    base[1].running_mean.uniform_(-1, 1)
    plain = copy.deepcopy(base.eval())
    banks, routing = attached(Taps(), base)
    filled(banks)
    x, task = torch.randn(4, 2, 7, 7, dtype=torch.float64), [1, 0, 2, 1]
    found = routed(base, banks, routing, x, torch.tensor(task))
    for row, t in enumerate(task):
        own = copy.deepcopy(plain)
        opened = float(banks["0"].score[t] >= 0.1)
        own[0].weight.data += opened * banks["0"].weight[t].detach()
        own[1].weight.data += banks["1"].weight[t].detach()
        own[1].bias.data += banks["1"].bias[t].detach()
        torch.testing.assert_close(found[row], own(x[[row]])[0], rtol=0, atol=1e-12)


def test_gradients_pass_the_step_to_the_score_and_stop_at_a_closed_change():
    base = net()
    plain = copy.deepcopy(base)
    banks, routing = attached(Taps(), base)
    moved(banks)
    x, target = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    task = torch.tensor([0, 1, 0, 2, 1, 0])
    (routed(base, banks, routing, x, task) - target).square().sum().backward()
    for t in range(3):
        mine = task == t
        pairs = [weights_by_hand(plain[n], banks[str(n)], t) for n in (0, 2)]
        whole = [w.detach().requires_grad_() for w, _ in pairs]
        h = F.linear(F.linear(x[mine], whole[0], pairs[0][1]).tanh(), whole[1], pairs[1][1])
        (h - target[mine]).square().sum().backward()
        for bank, weight in zip(banks.values(), whole, strict=True):
            wanted = (weight.grad * bank.weight[t]).sum()
            torch.testing.assert_close(bank.score.grad[t], wanted, rtol=0, atol=1e-11)
            gate = float(bank.score[t] >= 0.1)
            torch.testing.assert_close(bank.weight.grad[t], gate * weight.grad, rtol=0, atol=1e-11)


def test_without_sparsity_it_is_full_fine_tuning():
    base = net()
    plain = copy.deepcopy(base)
    banks, routing = attached(Taps(sparsity=0.0), base, ONE)
    x, target = torch.randn(8, 5, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)
    scores = [bank.score for bank in banks.values()]
    changes = [p for n, p in banks.named_parameters() if not n.endswith("score")]
    tuned = torch.optim.SGD(changes, lr=0.1), torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(5):
        for optimizer, net_ in zip(tuned, (base, plain), strict=True):
            optimizer.zero_grad()
            with routing.to(torch.zeros(8).long()):
                (net_(x) - target).square().mean().backward()
            optimizer.step()
    with routing.to(torch.zeros(8).long()):
        torch.testing.assert_close(base(x), plain(x), rtol=0, atol=1e-12)
    assert all(score.item() == pytest.approx(0.15) for score in scores)


def test_an_unused_layer_closes_after_the_steps_that_the_formula_says():
    base = net()
    banks, _ = attached(Taps(sparsity=2.0), base)
    present = torch.tensor([True, False, True])
    scores = [bank.score for bank in banks.values()]
    optimizer = torch.optim.SGD(scores, lr=0.01)
    steps = 0
    while all(bank.stored("type") > 30 for bank in (banks["0"],)) and steps < 99:
        optimizer.zero_grad()
        sum(bank.penalty(present) for bank in banks.values()).backward()
        optimizer.step()
        steps += 1
    assert steps == 6  # 0.05 · L / (λ · lr) = 5 brings it to the threshold, one more beneath
    assert banks["0"].stored("type") == 6
    assert banks["0"].stored("NR.AR") == 5 * 6 + 6 + 1  # an absent task pays nothing
    assert banks["0"].stored("a/b") == 6


def test_only_the_layer_that_a_task_needs_stays_open():
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    teacher = copy.deepcopy(base)
    base.requires_grad_(False)
    base[1].weight.data[2:] = 0  # which nothing before it can make up for
    banks, routing = attached(Taps(sparsity=0.05), base, ONE)
    changes = torch.optim.Adam([bank.weight for bank in banks.values()], lr=0.02)
    scores = torch.optim.SGD([bank.score for bank in banks.values()], lr=0.05)
    present, opened = torch.tensor([True]), []
    for _ in range(150):
        x = torch.randn(32, 4)
        changes.zero_grad()
        scores.zero_grad()
        with routing.to(torch.zeros(32).long()):
            loss = (base(x) - teacher(x).detach()).square().mean()
        (loss + sum(bank.penalty(present) for bank in banks.values())).backward()
        changes.step()
        scores.step()
        opened.append([float(bank.stored("one") > 0) for bank in banks.values()])
    unused, needed = torch.tensor(opened[-50:]).mean(0)
    assert unused == 0
    assert needed > 0.6  # the pull closes it at times, and what is lost then opens it at once


def test_the_penalty_waits_for_the_warm_up():
    banks, _ = attached(Taps(warmup=3), net())
    bank, present = banks["0"], torch.ones(3).bool()
    assert bank.penalty(present) is None
    bank.advance(2)
    assert bank.penalty(present) is None
    bank.advance(3)
    torch.testing.assert_close(bank.penalty(present).item(), 3 * 0.15 / 2)


def test_what_cannot_be_adapted_is_refused():
    with pytest.raises(ValueError, match="sparsity must not be negative"):
        Taps(sparsity=-1.0)
    with pytest.raises(ValueError, match=r"not ModuleSite.*Tanh"):
        attached(Taps(sites=["1"]), net())
    with pytest.raises(ValueError, match="no linear layer and no convolution"):
        attached(Taps(), nn.Sequential(nn.LayerNorm(3)))
