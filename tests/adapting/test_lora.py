from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from plait.adapting import Lora, Routing
from plait.sites import module_sites
from plait.task import Task, TaskSet
from plait.testing.counting import operations

TASKS = TaskSet(Task(name=name) for name in ("type", "NR.AR", "a/b"))


def attached(net, tasks=TASKS, **settings):
    settings = {"rank": 3, **settings}
    routing = Routing()
    sites = module_sites(net, types=(nn.Linear,))
    return Lora(**settings).attach(sites, tasks, routing), routing


def filled(banks, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in banks.parameters():
        parameter.data.normal_(generator=generator)
    return banks


def net(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


@pytest.mark.parametrize("shape", [(7, 5), (7, 4, 5), (7, 2, 3, 5)])
def test_equals_a_loop_over_rows(shape):
    base = net()
    plain = copy.deepcopy(base)
    banks, routing = attached(base, rank=2, alpha=3.0)
    filled(banks)
    task = torch.tensor([2, 0, 0, 1, 2, 1, 0])
    x = torch.randn(shape, dtype=torch.float64)
    with routing.to(task):
        found = base(x)
    for row, t in enumerate(task):
        h = x[row]
        for place, layer in (("0", plain[0]), ("2", plain[2])):
            bank = banks[place]
            change = 3.0 / 2 * bank.up[t] @ bank.down[t]
            h = h @ (layer.weight + change).T + layer.bias
            h = h.tanh() if place == "0" else h
        torch.testing.assert_close(found[row], h, rtol=0, atol=1e-12)


def test_starts_as_the_base_exactly():
    base = net(torch.float32)
    x = torch.randn(4, 5)
    before = base(x)
    banks, routing = attached(base)
    assert all((bank.up == 0).all() and (bank.down != 0).any() for bank in banks.values())
    with routing.to(torch.tensor([0, 1, 2, 0])):
        assert torch.equal(base(x), before)


def test_equals_pefts_lora_for_one_task():
    peft = pytest.importorskip("peft")
    base = net(torch.float32)
    config = peft.LoraConfig(r=3, lora_alpha=12, lora_dropout=0.0, target_modules=["0", "2"])
    theirs = peft.get_peft_model(copy.deepcopy(base), config)
    several, alone = copy.deepcopy(base), base
    banks, routing = attached(several, rank=3, alpha=12.0)
    only, one_routing = attached(alone, TaskSet([Task(name="one")]), rank=3, alpha=12.0)
    filled(banks)
    for place in ("0", "2"):
        layer = theirs.base_model.model.get_submodule(place)
        for name, own in (("down", layer.lora_A), ("up", layer.lora_B)):
            slices = banks[place].get_parameter(name)
            own["default"].weight.data.copy_(slices[1])
            only[place].get_parameter(name).data.copy_(slices[1:2])
    x = torch.randn(6, 5)
    with routing.to(torch.ones(6).long()), one_routing.to(torch.zeros(6).long()):
        torch.testing.assert_close(several(x), theirs(x))
        assert torch.equal(alone(x), theirs(x))


def test_a_row_depends_on_its_own_tasks_slice_only():
    base = net(torch.float32)
    banks, routing = attached(base)
    filled(banks)
    x, task = torch.randn(4, 5), torch.tensor([0, 1, 1, 2])
    with routing.to(task):
        before = base(x)
        for parameter in banks.parameters():
            parameter.data[1] = float("nan")
        after = base(x)
    assert torch.equal(before[[0, 3]], after[[0, 3]])
    assert after[[1, 2]].isnan().all()


def test_absent_tasks_get_no_gradient():
    base = net(torch.float32)
    banks, routing = attached(base)
    filled(banks)
    with routing.to(torch.tensor([0, 2])):
        base(torch.randn(2, 5)).sum().backward()
    for parameter in banks.parameters():
        assert (parameter.grad[1] == 0).all()
        assert (parameter.grad[[0, 2]].flatten(1).abs().sum(1) > 0).all()


def test_dropout_acts_in_training_only():
    base = net(torch.float32)
    banks, routing = attached(base, dropout=0.5)
    filled(banks)
    x = torch.randn(2, 5)
    with routing.to(torch.tensor([0, 1])):
        banks.train()
        assert not torch.equal(base(x), base(x))
        banks.eval()
        assert torch.equal(base(x), base(x))


def test_folding_a_task_into_the_weights_and_back():
    base = net()
    banks, routing = attached(base, rank=2)
    filled(banks)
    before = {name: p.clone() for name, p in base.named_parameters()}
    x = torch.randn(4, 5, dtype=torch.float64)
    with routing.to(torch.ones(4).long()):
        expected = base(x)
    layers = [base[0], base[2]]
    for layer in layers:
        layer.fold(1)
    torch.testing.assert_close(base(x), expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="unfold it first"):
        layers[0].fold(0)
    for layer in layers:
        layer.unfold()
    assert all(torch.equal(p, before[name]) for name, p in base.named_parameters())
    with pytest.raises(ValueError, match="no task is folded"):
        layers[0].unfold()


def test_parameters_are_the_formulas():
    banks, _ = attached(net(), rank=2)
    assert sum(p.numel() for p in banks.parameters()) == 3 * 2 * ((5 + 6) + (6 + 3))


@pytest.mark.parametrize(
    ("settings", "message"), [({"rank": 0}, "at least 1"), ({"dropout": 1.0}, "dropout must be")]
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Lora(**settings)


def test_only_linear_layers_can_be_adapted():
    base = nn.Sequential(nn.Conv1d(1, 1, 1))
    with pytest.raises(ValueError, match="lora adapts linear layers"):
        Lora().attach(module_sites(base), TASKS, Routing())


def test_the_cost_does_not_grow_with_the_tasks():
    x = torch.randn(64, 16, 128)
    counts = {}
    for count in (4, 64):
        base = nn.Sequential(nn.Linear(128, 128))
        tasks = TaskSet(Task(name=str(i)) for i in range(count))
        _, routing = attached(base, tasks)
        with routing.to(torch.arange(64) % count), torch.no_grad():
            counts[count] = operations(lambda b=base: b(x))
    assert counts[64] == counts[4]


def test_a_rank_above_the_dimension_is_refused():
    with pytest.raises(ValueError, match=r"rank 4 is above .* of 2 \(6 → 3\); give .* at most 3"):
        attached(net(), rank=4)
