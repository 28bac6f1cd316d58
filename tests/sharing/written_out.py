"""What the literal transcriptions of papers read: a network's experts and gates one by one."""

from __future__ import annotations

import torch

from plait.networks import build_network
from plait.task import Task, TaskSet
from plait.testing.toys import toy_batch, toy_inputs

DIRECT = {"trunk": {"mlp": {"depth": 0}}}  # the architecture reads the inputs, as in the papers


def some_tasks(count):
    return TaskSet(Task(name=f"t{i}", kind=("binary", "real")[i % 2]) for i in range(count))


def network(sharing, tasks, encoder=DIRECT, seed=0):
    net = build_network(
        inputs=toy_inputs(), tasks=tasks, encoder=encoder, sharing=sharing, seed=seed
    )
    return net.double()


def batch_for(tasks, **more):
    return toy_batch(tasks, **{"rows": 5, "dtype": torch.float64, **more})


def expert(experts, number, x):
    """One expert on one row."""
    for layer in experts.layers:
        x = torch.relu(layer.weight[number] @ x + layer.bias[number])
    return x


def gate(gates, reader, x):
    """What one reader gives to each expert it reads on one row: {(owner, number): weight}."""
    found = {}
    for place, (name, owner, number) in enumerate(gates.bank.slices):
        if name == reader:
            bias = gates.bank.bias[place] if gates.biased else 0.0
            found[owner, number] = torch.exp(gates.bank.weight[place] @ x + bias)
    total = sum(found.values())
    return {key: value / total for key, value in found.items()}


def assert_features(net, batch, expected):
    """The features of every record equal ``expected(task, row)``."""
    features = net(batch.parts, batch.labels).features
    seen = 0
    for key, labels in batch.labels.items():
        names, records = net.tasks.groups[key].tasks, features[key].records
        for n, (place, row) in enumerate(zip(labels.task, labels.rows, strict=True)):
            wanted = expected(names[place], int(row))
            torch.testing.assert_close(records[n], wanted, rtol=0, atol=1e-12)
            seen += 1
    assert seen


def size(net):
    return sum(p.numel() for p in net.trunk.parameters())
