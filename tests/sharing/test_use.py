from __future__ import annotations

import json
from dataclasses import replace

import on_tokens
import pytest
import torch
from written_out import batch_for, network, some_tasks

from plait.sharing import AdaTT, Cgc, Hard, Mmoe, Ple, expert_use

TASKS = some_tasks(3)


def use_of(net, rows=64):
    return expert_use(net, batch_for(TASKS, rows=rows).parts)


def biased(net, changes):
    """Gates that follow these biases alone: {(task, owner, number): bias}."""
    bank = net.trunk.levels[-1].gates.bank
    with torch.no_grad():
        bank.weight.zero_()
        bank.bias.zero_()
        for slice_, value in changes.items():
            bank.bias[bank.slices.index(slice_)] = value
    return net


def test_even_gates_are_told_as_even():
    (use,) = use_of(biased(network(Cgc(width=8), TASKS), {}))
    assert use.owners == ("t0", "t1", "t2", None, None)
    third = 1 / 3
    expected = [[third, 0, 0, third, third], [0, third, 0, third, third]]
    torch.testing.assert_close(use.load[:2], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(use.entropy, torch.full((3,), 3.0, dtype=torch.float64).log())
    assert use.failures() == []


def test_a_gate_that_settled_has_no_entropy():
    net = network(Mmoe(experts=3, width=8), TASKS)
    with torch.no_grad():
        net.trunk.gate.bank.weight.zero_()
        net.trunk.gate.bank.weight[3:6] = torch.tensor([[0.0], [1e6], [-1e6]]) * torch.eye(4)[0]
    (use,) = use_of(net)
    torch.testing.assert_close(use.load[0], torch.full((3,), 1 / 3, dtype=torch.float64))
    assert use.entropy[1] < 1e-3 < use.entropy[0]


def test_a_silent_expert_has_collapsed():
    net = network(Ple(width=8, levels=2), TASKS)
    with torch.no_grad():
        net.trunk.levels[0].own.layers[0].bias[1] = -1e3
    first, last = use_of(net)
    assert (first.place, last.place) == ("trunk.levels.0", "trunk.levels.1")
    assert first.silent[1] == 1.0
    assert first.failures() == ["collapsed: 100% of the outputs of expert 1 of t1 are zero"]


def test_a_shared_expert_for_one_task_has_degraded():
    away = {(task, None, 1): -20.0 for task in ("t0", "t2")}
    (use,) = use_of(biased(network(Cgc(width=8), TASKS), away))
    assert use.failures() == ["degraded: shared expert 2 is read by t1 alone"]


def test_own_experts_that_are_not_read_are_underfit():
    (use,) = use_of(biased(network(Cgc(width=8, experts=2), TASKS), {
        ("t2", "t2", 0): -9.0, ("t2", "t2", 1): -9.0,
    }))  # fmt: skip
    assert use.failures() == [
        "underfit: t2 gives 0.0% of its gate to its own experts",
        "dead: expert 1 of t2 is read by no task",
        "dead: expert 2 of t2 is read by no task",
    ]


def test_what_a_cell_stores_is_plain_and_says_what_is_not_open():
    (use,) = use_of(biased(network(Cgc(width=8), TASKS), {}))
    told = json.loads(json.dumps(use.to_json(), allow_nan=False))
    assert told["experts"][:1] + told["experts"][-1:] == ["expert 1 of t0", "shared expert 2"]
    assert told["owners"] == ["t0", "t1", "t2", None, None]
    assert told["load"][0] == [0.3333, None, None, 0.3333, 0.3333]
    unknown = replace(use, silent=torch.full((5,), torch.nan)).to_json()
    assert unknown["silent"] == [None] * 5


@pytest.mark.parametrize(
    ("sharing", "places"), [(Hard(), 0), (AdaTT(levels=3), 3), (Ple(levels=2), 2)]
)
def test_each_mixture_is_told_once_and_the_network_stays_as_it_was(sharing, places):
    net = network(sharing, TASKS).train()
    found = use_of(net, rows=7)
    assert len(found) == places
    assert all(use.load.shape == (3, len(use.owners)) for use in found)
    for use in found:
        torch.testing.assert_close(use.load.sum(1), torch.ones(3, dtype=torch.float64))
        assert use.to_json()["tasks"] == ["t0", "t1", "t2"]
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


def test_experts_that_run_for_rows_and_for_tokens_are_told_once():
    net = on_tokens.network(Mmoe(experts=3, width=8))
    with torch.no_grad():
        net.trunk.experts.layers[0].bias[2] = -1e3
    (use,) = expert_use(net, on_tokens.batch().parts)
    assert use.silent.shape == (3,)
    assert use.failures() == ["collapsed: 100% of the outputs of shared expert 3 are zero"]
