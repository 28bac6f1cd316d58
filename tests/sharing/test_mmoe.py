from __future__ import annotations

import pytest
import torch
from torch import nn
from written_out import DIRECT, expert

from plait.batch import Records
from plait.networks import build_network
from plait.sharing import Hard, Mmoe
from plait.task import Task, TaskSet
from plait.testing.counting import operations
from plait.testing.toys import toy_batch, toy_inputs, toy_tasks

TASKS = toy_tasks()


def network(tasks=TASKS, seed=0, encoder=DIRECT, **settings):
    sharing = Mmoe(**{"experts": 3, "width": 5, **settings})
    return build_network(
        inputs=toy_inputs(), tasks=tasks, encoder=encoder, sharing=sharing, seed=seed
    )


def maps(net):
    """The gates' maps [T, E, d], which share the network's memory."""
    return net.trunk.gate.bank.weight.view(len(net.tasks), 3, -1)


@pytest.mark.parametrize("tower", [0, 6])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("missing", [0.0, 0.8])
def test_equals_the_formula_by_loops(tower, depth, missing):
    net = network(tower=tower, depth=depth).double()
    batch = toy_batch(TASKS, missing=missing, dtype=torch.float64)
    x, trunk = batch.parts["table"]["numeric"], net.trunk
    features = net(batch.parts, batch.labels).features
    for key, labels in batch.labels.items():
        for n, (position, row) in enumerate(zip(labels.task, labels.rows, strict=True)):
            t = TASKS.position[TASKS.groups[key].tasks[position]]
            outputs = [expert(trunk.experts, e, x[row]) for e in range(3)]
            gate = torch.exp(maps(net)[t] @ x[row])
            mixed = sum(g * h for g, h in zip(gate / gate.sum(), outputs, strict=True))
            if tower:
                mixed = (trunk.tower.weight[t] @ mixed + trunk.tower.bias[t]).relu()
            torch.testing.assert_close(features[key].records[n], mixed, rtol=0, atol=1e-12)


def test_permuting_experts_with_their_gates_changes_nothing():
    net, batch = network().double(), toy_batch(TASKS, dtype=torch.float64)
    before = net(batch.parts, batch.labels).raw
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        for parameter in net.trunk.experts.parameters():
            parameter.copy_(parameter[order].clone())
        maps(net).copy_(maps(net)[:, order].clone())
    for key, raw in net(batch.parts, batch.labels).raw.items():
        torch.testing.assert_close(raw, before[key], rtol=0, atol=1e-12)


def test_equal_experts_are_that_expert():
    net, batch = network().double(), toy_batch(TASKS, dtype=torch.float64)
    with torch.no_grad():
        for parameter in net.trunk.experts.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter).clone())
    h = net.trunk.experts(batch.parts["table"]["numeric"])[:, 0]
    for key, found in net(batch.parts, batch.labels).features.items():
        rows = batch.labels[key].rows
        torch.testing.assert_close(found.records, h[rows], rtol=0, atol=1e-12)


def test_one_expert_is_a_shared_bottom():
    batch = toy_batch(TASKS)
    mixture = network(experts=1)
    bottom = build_network(
        inputs=toy_inputs(), tasks=TASKS, sharing=Hard(), seed=0,
        encoder={"trunk": {"mlp": {"width": 5, "depth": 1}}},
    )  # fmt: skip
    with torch.no_grad():
        layer = bottom.trunk.encoder.trunk.layers[0]
        layer.weight.copy_(mixture.trunk.experts.layers[0].weight[0])
        layer.bias.copy_(mixture.trunk.experts.layers[0].bias[0])
    ours, theirs = mixture(batch.parts, batch.labels).raw, bottom(batch.parts, batch.labels).raw
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key])


def test_permuting_tasks_permutes_the_outputs():
    turned = TaskSet(reversed(TASKS))
    ours, theirs = network(), network(turned)
    first, second = toy_batch(TASKS), toy_batch(turned)
    raw, other = ours(first.parts, first.labels).raw, theirs(second.parts, second.labels).raw
    for name in TASKS.names:
        key = TASKS[name].group
        mine = first.labels[key].task == TASKS.groups[key].position[name]
        its = second.labels[key].task == turned.groups[key].position[name]
        torch.testing.assert_close(raw[key][mine], other[key][its])


@pytest.mark.parametrize(("experts", "width", "depth", "tower"), [(3, 5, 1, 0), (4, 6, 3, 2)])
def test_the_number_of_parameters_is_the_formulas(experts, width, depth, tower):
    net = network(experts=experts, width=width, depth=depth, tower=tower)
    d, T = 4, len(TASKS)
    expected = experts * ((d + 1) * width + (depth - 1) * (width + 1) * width) + T * d * experts
    expected += T * (width + 1) * tower
    assert sum(p.numel() for p in net.trunk.parameters()) == expected


def test_a_task_trains_the_experts_and_its_own_gate_only():
    net, batch = network(tower=2), toy_batch(TASKS)
    own = batch.only({"binary.2"})
    net(own.parts, own.labels).raw["binary"].sum().backward()
    assert (net.trunk.experts.layers[0].weight.grad.abs().sum((1, 2)) > 0).all()
    for bank in (net.trunk.gate.bank, net.trunk.tower):
        used = bank.weight.grad.abs().flatten(1).sum(1) > 0
        assert {name for name, hit in zip(bank.names, used, strict=True) if hit} == {"binary.2"}


def test_costs_less_than_a_loop_over_tasks():
    tasks = TaskSet(Task(name=f"t{i}") for i in range(32))
    net = network(tasks, experts=8, width=64, encoder=DIRECT)
    batch = toy_batch(tasks, rows=64, missing=0.0)
    experts = nn.ModuleList(nn.Linear(4, 64) for _ in range(8))
    gates = nn.ModuleList(nn.Linear(4, 8, bias=False) for _ in tasks)
    heads = nn.ModuleList(nn.Linear(64, 1) for _ in tasks)
    x = batch.parts["table"]["numeric"]
    asked = {"binary": Records(batch.labels["binary"].task, batch.labels["binary"].rows)}

    def ours():
        net(batch.parts, asked).raw["binary"].square().mean().backward()

    def loop():
        outputs = torch.stack([expert(x).relu() for expert in experts], 1)
        found = [
            head((gate(x).softmax(1).unsqueeze(2) * outputs).sum(1))
            for gate, head in zip(gates, heads, strict=True)
        ]
        torch.cat(found).square().mean().backward()

    assert operations(ours) < 0.2 * operations(loop)


@pytest.mark.parametrize("settings", [{"experts": 0}, {"width": 0}, {"depth": 0}, {"tower": -1}])
def test_impossible_sizes_are_refused(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        Mmoe(**settings)
