from __future__ import annotations

import copy

import pytest
import torch
from adapter_nets import bert, states, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.full import Full
from plait.testing.laws import Subject
from plait.testing.networks import gradients, loss_sum
from plait.testing.toy_networks import double_batch, start_of
from plait.testing.toys import toy_tasks


def start():
    return start_of(Subject(Full), toy_tasks())


def test_gradients_are_those_of_the_network_itself():
    network, batch = start(), double_batch(toy_tasks())
    adapted = build_adapted(network, Full(), 0)
    wanted, found = gradients(network, batch), gradients(adapted, batch)
    for name, value in wanted.items():
        name = name.replace("trunk.", "trunk.base.", 1)
        torch.testing.assert_close(found.pop(name), value, rtol=0, atol=1e-12)
    assert not found


def test_every_weight_trains_and_the_network_given_is_kept():
    network, batch = start(), double_batch(toy_tasks())
    before = copy.deepcopy(network.state_dict())
    adapted = build_adapted(network, Full(), 0)
    optimizer = torch.optim.SGD(adapted.parameters(), lr=1e-3)
    loss_sum(adapted, batch).backward()
    optimizer.step()
    moved = adapted.state_dict()
    for name, value in before.items():
        assert torch.equal(network.state_dict()[name], value)
        if name.endswith(("weight", "bias")):
            assert not torch.equal(moved[name.replace("trunk.", "trunk.base.", 1)], value), name


def test_a_transformer_that_was_frozen_trains_in_training_mode():
    pytest.importorskip("transformers")
    network = build_adapted(bert(), Full(), 0).train()
    stem = network.trunk.get_submodule("base.encoder.stems.text")
    assert stem.model.training
    assert not stem.reads_features  # what was computed before training says nothing any more
    assert all(p.requires_grad for p in stem.parameters())
    torch.manual_seed(0)
    value = texts(5, 4)
    assert not torch.equal(states(network, value, [0, 1]), states(network, value, [0, 1]))
    network.eval()
    assert torch.equal(states(network, value, [0, 1]), states(network, value, [0, 1]))


def test_checkpointed_blocks_give_the_same_gradients():
    pytest.importorskip("transformers")
    found = []
    for checkpointing in (False, True):
        network = build_adapted(bert(checkpointing=checkpointing), Full(), 0).double().train()
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        states(network, texts(5, 4), [0, 1]).square().sum().backward()
        found.append({n: p.grad for n, p in trunk_of(network).named_parameters()})
    plain, recomputed = found
    for name, grad in plain.items():
        torch.testing.assert_close(grad, recomputed[name], rtol=0, atol=1e-10)
