from __future__ import annotations

import pytest
import torch
from written_out import assert_features, batch_for, expert, network, size, some_tasks

from plait.sharing import CrossStitch, Nddr


def written_out(trunk, x):
    """{task: features} of one row: W_tᵀ on what all towers have, side by side."""
    names = trunk.tasks.names
    state = [x for _ in names]
    for layer, unit in zip(trunk.layers, trunk.exchanges, strict=True):
        every = torch.cat([expert(layer, t, state[t]) for t in range(len(names))])
        own = zip(unit.weight.chunk(len(names)), unit.bias.chunk(len(names)), strict=True)
        state = [torch.relu(weight @ every + bias) for weight, bias in own]
    return dict(zip(names, state, strict=True))


def stirred(sharing, tasks):
    net = network(sharing, tasks)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.trunk.exchanges.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return net


@pytest.mark.parametrize(
    ("count", "settings"), [(3, {}), (2, {"depth": 3}), (1, {}), (40, {"depth": 1})]
)
def test_features_are_the_papers(count, settings):
    tasks = some_tasks(count)
    net = stirred(Nddr(width=5, **settings), tasks)
    batch = batch_for(tasks, missing=0.4, rows=3)
    rows = [written_out(net.trunk, x) for x in batch.parts["table"]["numeric"]]
    assert_features(net, batch, lambda task, row: rows[row][task])


def test_it_starts_as_a_cross_stitch_of_what_is_positive():
    """Blocks that are multiples of the identity mix towers; ReLU leaves their sums alone."""
    tasks = some_tasks(4)
    ours, theirs = (
        network(Nddr(width=5, own=0.7), tasks),
        network(CrossStitch(width=5, own=0.7), tasks),
    )
    batch = batch_for(tasks)
    one, two = (net(batch.parts, batch.labels).raw for net in (ours, theirs))
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=1e-7)


def test_the_own_identity_is_separate_towers():
    tasks = some_tasks(3)
    net, batch = network(Nddr(width=5, own=1.0), tasks), batch_for(tasks)

    def alone(task, row):
        x = batch.parts["table"]["numeric"][row]
        for layer in net.trunk.layers:
            x = expert(layer, tasks.position[task], x)
        return x

    assert_features(net, batch, alone)


def test_every_task_trains_every_tower():
    tasks = some_tasks(3)
    net = network(Nddr(width=6), tasks)
    batch = batch_for(tasks, rows=16).only({"t1"})
    net(batch.parts, batch.labels).raw["real"].sum().backward()
    for layer in net.trunk.layers:
        assert layer.layers[0].weight.grad.flatten(1).any(1).all()


def test_parameters_are_the_formulas():
    net = network(Nddr(width=5, depth=3), some_tasks(4))
    assert size(net) == 4 * (5 * 5 + 2 * 6 * 5) + 3 * 4 * (4 * 5 + 1) * 5


def test_a_depth_of_none_is_refused():
    with pytest.raises(ValueError, match="depth must be at least 1"):
        Nddr(depth=0)
