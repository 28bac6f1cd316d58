from __future__ import annotations

import copy

import pytest
import torch
from adapter_nets import attached, filled, net

from plait.adapting.dora import Dora


@pytest.mark.parametrize("task", [[2, 0, 0, 1, 2], [1, 2]])
def test_equals_the_formula_row_by_row(task):
    base = net()
    plain = copy.deepcopy(base)
    banks, routing = attached(Dora(rank=2, alpha=3.0), base)
    filled(banks)
    x = torch.randn(len(task), 4, 5, dtype=torch.float64)
    with routing.to(torch.tensor(task)):
        found = base(x)
    for row, t in enumerate(task):
        h = x[row]
        for place in ("0", "2"):
            layer, bank = plain[int(place)], banks[place]
            v = layer.weight + 3.0 / 2 * bank.up[t] @ bank.down[t]
            w = bank.magnitude[t][:, None] * v / v.norm(dim=1, keepdim=True)
            h = h @ w.T + layer.bias
            h = h.tanh() if place == "0" else h
        torch.testing.assert_close(found[row], h, rtol=0, atol=1e-12)


def test_starts_as_the_base_bit_for_bit():
    base, x = net(torch.float32), torch.randn(4, 5)
    before = base(x)
    _, routing = attached(Dora(rank=2), base)
    with routing.to(torch.tensor([0, 1, 2, 0])):
        assert torch.equal(base(x), before)


def test_the_length_is_a_constant_in_the_backward_pass_and_all_agrees_with_peft():
    peft = pytest.importorskip("peft")
    base = net()
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0", "2"], use_dora=True)
    theirs = peft.get_peft_model(copy.deepcopy(base), config)
    banks, routing = attached(Dora(rank=2, alpha=6.0), base)
    filled(banks)
    layers = {p: theirs.base_model.model.get_submodule(p) for p in ("0", "2")}
    for place, layer in layers.items():
        layer.lora_A["default"].weight.data = banks[place].down[1].detach().clone()
        layer.lora_B["default"].weight.data = banks[place].up[1].detach().clone()
        layer.lora_magnitude_vector["default"].weight.data = (
            banks[place].magnitude[1].detach().clone()
        )
    x = torch.randn(6, 5, dtype=torch.float64)
    with routing.to(torch.ones(6).long()):
        ours = base(x)
    torch.testing.assert_close(ours, theirs(x), rtol=0, atol=1e-12)
    ours.square().sum().backward()
    theirs(x).square().sum().backward()
    for place, layer in layers.items():
        pairs = (
            (banks[place].down, layer.lora_A["default"].weight),
            (banks[place].up, layer.lora_B["default"].weight),
            (banks[place].magnitude, layer.lora_magnitude_vector["default"].weight),
        )
        for own, other in pairs:
            torch.testing.assert_close(own.grad[1], other.grad, rtol=1e-10, atol=1e-10)


def test_a_new_task_starts_with_the_lengths_of_the_weights():
    base = net()
    banks, _ = attached(Dora(rank=2), base)
    filled(banks)
    banks["0"].select(("a/b", "new"))
    norms = base[0].base.weight.norm(dim=1)
    torch.testing.assert_close(banks["0"].magnitude[1], norms, rtol=0, atol=1e-12)
    assert not torch.allclose(banks["0"].magnitude[0], norms)
