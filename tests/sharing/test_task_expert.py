from __future__ import annotations

import pytest
import torch
from written_out import DIRECT, assert_features, batch_for, expert, gate, network, size, some_tasks

from plait.batch import Batch, Input, Labels
from plait.networks import build_network
from plait.sharing import TaskExpert, expert_use
from plait.task import Task, TaskSet

MLP = {"trunk": {"mlp": {"width": 6, "depth": 3}}}
IMAGE = {"image.i": Input(key="image.i", type="image", shape=(1, 8, 8))}
VIT = {"image": {"vit": {"patch": 4, "width": 6, "heads": 2, "depth": 2}}, **DIRECT}


def remembered(trunk, name, blocks):
    """M_t^L [P, width] of one row, place by place; ``blocks`` are its X_l [P_l, C_l]."""
    t, memory = trunk.tasks.position[name], None
    for layer, x in zip(trunk.layers, blocks, strict=True):
        outputs = [
            [expert(layer.experts, k, at) for k in range(len(layer.experts.units))] for at in x
        ]
        if memory is not None and len(memory) > len(x):
            memory = memory.mean(0, keepdim=True)
        known = x.mean(0) if memory is None else torch.cat([x.mean(0), memory.mean(0)])
        given = list(gate(layer.gates, name, known).values())
        found = []
        for at, own in enumerate(outputs):
            f = sum(g * y for g, y in zip(given, own, strict=False))
            if memory is not None:
                assert len(given) == len(own) + 1
                f = f + given[-1] * memory[at]
            m = torch.relu(layer.update.weight[t] @ f + layer.update.bias[t])
            found.append(m if memory is None else memory[at] + m)
        memory = torch.stack(found)
    return memory


def through(encoder, x):
    """What the linear layers of an MLP give for one row, but the last, and what it gives."""
    found = []
    for layer in encoder.trunk.layers:
        x = layer(x)
        if isinstance(layer, torch.nn.Linear):
            found.append(x[None])
    return [*found[:-1], x[None]]


@pytest.mark.parametrize(("count", "experts"), [(3, 4), (2, 1), (1, 3), (20, 2)])
@pytest.mark.parametrize("missing", [0.0, 0.6])
def test_features_are_the_rebuilt_formulas(count, experts, missing):
    tasks = some_tasks(count)
    net = network(TaskExpert(experts=experts, width=5), tasks, encoder=MLP)
    batch = batch_for(tasks, missing=missing, rows=3)
    rows = [through(net.trunk.encoder, x) for x in batch.parts["table"]["numeric"]]
    assert_features(net, batch, lambda task, row: remembered(net.trunk, task, rows[row]).mean(0))


def test_pixels_have_memories_of_their_own_and_rows_their_mean():
    tasks = TaskSet(
        [
            Task(name="parts", kind="segmentation", classes=("a", "b", "c")),
            Task(name="rate", kind="real"),
        ]
    )
    net = build_network(
        inputs=IMAGE, tasks=tasks, encoder=VIT, sharing=TaskExpert(experts=2, width=5), seed=0
    ).double()
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    records = {
        key: Labels(torch.zeros(2, dtype=torch.long), torch.arange(2), torch.zeros(2))
        for key in tasks.groups
    }
    features = net({"table": {"image.i": images}}, records).features
    vit, tokens = net.trunk.encoder.stems["image"].nets[0], []
    handle = vit.blocks[0].register_forward_hook(lambda _, given, out: tokens.append(out))
    end = vit(images)[0].flatten(2).transpose(1, 2)
    handle.remove()
    pixels, rows = (features[tasks[name].group].records for name in tasks.names)
    for row in range(2):
        x = tokens[0][row]
        found = remembered(net.trunk, "parts", [x, end[row]])
        torch.testing.assert_close(pixels.view(2, 4, -1)[row], found)
        whole = remembered(net.trunk, "rate", [x, end[row].mean(0, keepdim=True)])
        torch.testing.assert_close(rows[row], whole[0])


def test_one_layer_is_read_without_a_memory():
    tasks = some_tasks(3)
    encoder = {"trunk": {"mlp": {"width": 6, "depth": 1}}}
    net, batch = network(TaskExpert(width=5), tasks, encoder=encoder), batch_for(tasks, rows=40)
    (use,) = expert_use(net, batch.parts)
    assert use.owners == (None,) * 5
    torch.testing.assert_close(use.load.sum(1), torch.ones(3, dtype=torch.float64))


def test_the_memory_is_read_as_one_more_expert():
    tasks = some_tasks(3)
    net, batch = network(TaskExpert(width=5), tasks, encoder=MLP), batch_for(tasks, rows=40)
    first, *others = expert_use(net, batch.parts)
    assert len(first.owners) == 5
    assert all(use.owners == (*[None] * 5, "memory") for use in others)


def test_a_task_trains_its_gates_and_updates_only():
    tasks = some_tasks(3)
    net = network(TaskExpert(width=6), tasks, encoder=MLP)
    batch: Batch = batch_for(tasks, rows=20).only({"t1"})
    net(batch.parts, batch.labels).raw["real"].sum().backward()
    for layer in net.trunk.layers:
        used = layer.update.weight.grad.flatten(1).any(1)
        assert used.tolist() == [False, True, False]
        assert layer.experts.layers[0].weight.grad.flatten(1).any(1).all()


def test_parameters_are_the_formulas():
    K, w, T = 4, 5, 3
    net = network(TaskExpert(experts=K, width=w), some_tasks(T), encoder=MLP)
    encoder = sum(p.numel() for p in net.trunk.encoder.parameters())
    expected = 3 * (K * 7 * w + T * (w + 1) * w) + T * (7 * K + 2 * (6 + w + 1) * (K + 1))
    assert size(net) - encoder == expected


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: TaskExpert(experts=0), "experts must be at least 1"),
        (
            lambda: network(TaskExpert(sites=["trunk.layer.0"]), some_tasks(2), encoder=MLP),
            "trunk.layer",
        ),
        (
            lambda: network(TaskExpert(sites=["stems.numeric"]), some_tasks(2), encoder=MLP),
            "stems.numeric is no block of the trunk or of images",
        ),
        (
            lambda: TaskExpert().build(
                lambda who="": None, TaskSet([Task(name="t", kind="tokens", classes=("a", "b"))])
            ),
            "tasks that label tokens",
        ),
    ],
)
def test_blocks_that_are_none_are_refused(made, message):
    with pytest.raises(ValueError, match=message):
        made()
