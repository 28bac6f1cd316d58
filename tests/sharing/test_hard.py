from __future__ import annotations

import torch

from plait.batch import Records
from plait.networks import build_network
from plait.sharing import Hard
from plait.testing.toys import toy_batch, toy_inputs, toy_tasks

TASKS = toy_tasks()
SETTINGS = {"inputs": toy_inputs(), "tasks": TASKS, "sharing": Hard(), "seed": 0}


def test_equals_the_formula_by_hand():
    net = build_network(**SETTINGS, encoder={"trunk": {"mlp": {"width": 8, "depth": 1}}}).double()
    batch = toy_batch(TASKS, dtype=torch.float64)
    layer = net.trunk.encoder.trunk.layers[0]
    h = (batch.parts["table"]["numeric"] @ layer.weight.T + layer.bias).relu()
    raw = net(batch.parts, batch.labels).raw
    for key, labels in batch.labels.items():
        bank = net.heads.banks[key]
        for n, (task, row) in enumerate(zip(labels.task, labels.rows, strict=True)):
            expected = bank.weight[task] @ h[row] + bank.bias[task]
            torch.testing.assert_close(raw[key][n], expected, rtol=0, atol=1e-12)


def test_every_task_reads_the_same_features():
    net = build_network(**SETTINGS, encoder={})
    rows = torch.tensor([0, 2, 0, 2])
    asked = {"binary": Records(torch.tensor([0, 0, 1, 1]), rows)}
    found = net(toy_batch(TASKS).parts, asked).features["binary"].records
    assert torch.equal(found[:2], found[2:])


def test_parameters_are_one_encoder_and_the_heads():
    net = build_network(**SETTINGS, encoder={"trunk": {"mlp": {"width": 8, "depth": 2}}})
    assert sum(p.numel() for p in net.shared_parameters()) == (4 + 1) * 8 + (8 + 1) * 8
    outputs = sum(task.outputs for task in TASKS)
    assert sum(p.numel() for p in net.specific_parameters()) == (8 + 1) * outputs
