from __future__ import annotations

import pytest
import torch
from written_out import assert_features, batch_for, expert, network, size, some_tasks

from plait.sharing import CrossStitch


def written_out(trunk, x):
    """{task: features} of one row, as the paper writes it."""
    names = trunk.tasks.names
    state = [x for _ in names]
    for layer, unit in zip(trunk.layers, trunk.exchanges, strict=True):
        h = [expert(layer, t, state[t]) for t in range(len(names))]
        state = [sum(unit.alpha[t, j] * h[j] for j in range(len(names))) for t in range(len(names))]
    return dict(zip(names, state, strict=True))


def stirred(sharing, tasks):
    net = network(sharing, tasks)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for unit in net.trunk.exchanges:
            unit.alpha.copy_(torch.randn(unit.alpha.shape, generator=generator))
    return net


@pytest.mark.parametrize(
    ("count", "settings"),
    [(3, {}), (3, {"by": "channel"}), (2, {"depth": 3}), (1, {}), (40, {"depth": 1})],
)
def test_features_are_the_papers(count, settings):
    tasks = some_tasks(count)
    net = stirred(CrossStitch(width=5, **settings), tasks)
    batch = batch_for(tasks, missing=0.4, rows=3)
    rows = [written_out(net.trunk, x) for x in batch.parts["table"]["numeric"]]
    assert_features(net, batch, lambda task, row: rows[row][task])


def test_the_units_start_near_separate_towers():
    alpha = network(CrossStitch(own=0.7), some_tasks(4)).trunk.exchanges[0].alpha
    torch.testing.assert_close(alpha.diag(), torch.full((4,), 0.7, dtype=torch.float64))
    torch.testing.assert_close(alpha.sum(1), torch.ones(4, dtype=torch.float64))
    assert network(CrossStitch(), some_tasks(1)).trunk.exchanges[0].alpha.item() == 1.0


def test_identity_units_are_separate_towers():
    tasks = some_tasks(3)
    net, batch = network(CrossStitch(width=5, own=1.0), tasks), batch_for(tasks)

    def alone(task, row):
        x = batch.parts["table"]["numeric"][row]
        for layer in net.trunk.layers:
            x = expert(layer, tasks.position[task], x)
        return x

    assert_features(net, batch, alone)


def test_every_task_trains_every_tower():
    tasks = some_tasks(3)
    net, batch = network(CrossStitch(width=6), tasks), batch_for(tasks, rows=16)
    own = batch.only({"t1"})
    net(own.parts, own.labels).raw["real"].sum().backward()
    for layer in net.trunk.layers:
        assert (layer.layers[0].weight.grad.abs().sum((1, 2)) > 0).all()
    assert len(net.shared_parameters()) == 2 * 2 + 2


@pytest.mark.parametrize(("by", "each"), [("layer", 1), ("channel", 5)])
def test_parameters_are_the_formulas(by, each):
    net = network(CrossStitch(width=5, depth=3, by=by), some_tasks(4))
    assert size(net) == 4 * (5 * 5 + 2 * 6 * 5) + 3 * 16 * each


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"depth": 0}, "depth must be at least 1"), ({"by": "unit"}, "by must be layer or channel")],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CrossStitch(**settings)
