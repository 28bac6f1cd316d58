from __future__ import annotations

import copy

import pytest
import torch
from adapter_nets import attached, filled, net

from plait.adapting.lora import Lora
from plait.adapting.rs_lora import RsLora
from plait.task import Task, TaskSet

ONE = TaskSet([Task(name="one")])


def test_is_lora_with_alpha_times_the_root_of_the_rank():
    x, task = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 1, 2])
    found = []
    for adapter in (RsLora(rank=3, alpha=8.0), Lora(rank=3, alpha=8.0 * 3**0.5)):
        base = net()
        banks, routing = attached(adapter, base)
        filled(banks)
        with routing.to(task):
            found.append(base(x))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)


def test_equals_pefts_exactly_for_one_task():
    peft = pytest.importorskip("peft")
    base = net(torch.float32)
    config = peft.LoraConfig(r=3, lora_alpha=12, target_modules=["0", "2"], use_rslora=True)
    theirs = peft.get_peft_model(copy.deepcopy(base), config)
    banks, routing = attached(RsLora(rank=3, alpha=12.0), base, ONE)
    filled(banks)
    for place in ("0", "2"):
        layer = theirs.base_model.model.get_submodule(place)
        layer.lora_A["default"].weight.data.copy_(banks[place].down[0])
        layer.lora_B["default"].weight.data.copy_(banks[place].up[0])
    x = torch.randn(6, 5)
    with routing.to(torch.zeros(6).long()):
        assert torch.equal(base(x), theirs(x))
