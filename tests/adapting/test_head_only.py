from __future__ import annotations

import torch

from plait.adapting import build_adapted
from plait.adapting.head_only import HeadOnly
from plait.networks import build_network
from plait.sharing import Hard
from plait.testing.toys import toy_batch, toy_inputs, toy_tasks

TASKS = toy_tasks()


def test_training_the_heads_is_a_regression_on_fixed_features():
    start = build_network(
        inputs=toy_inputs(), tasks=TASKS, encoder={}, sharing=Hard(), seed=0
    ).double()
    network = build_adapted(start, HeadOnly(), 0)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in network.named_parameters() if name.startswith("heads.")}
    batch = toy_batch(TASKS, rows=400, dtype=torch.float64)
    labels = batch.task("real.1")
    x = start.trunk(batch.parts, {"real": labels})[0]["real"].records.detach()
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    best = torch.linalg.lstsq(x, labels.target[:, None], driver="gelsd").solution
    bank = network.heads.bank("real")
    with torch.no_grad():
        bank.weight[0], bank.bias[0] = best[:-1].T, best[-1]
    raw = network(batch.parts, {"real": labels}).raw["real"]
    (raw[:, 0] - labels.target).square().sum().backward()
    assert float(bank.weight.grad.abs().max()) < 1e-8
    assert all(p.grad is None for p in network.trunk.parameters())
