from __future__ import annotations

import pytest
import torch
from written_out import assert_features, batch_for, expert, network, size, some_tasks

from plait.sharing import Dbmtl
from plait.task import Task, TaskSet

DIAMOND = {"t3": ["t1", "t2"], "t1": ["t0"], "t2": ["t0"]}
CHAIN = TaskSet(
    [
        Task(name="again", after="buy"),
        Task(name="late", kind="real"),
        Task(name="buy", after="click"),
        Task(name="click"),
    ]
)
FORTY = {f"t{i}": [f"t{i - 1}"] for i in range(1, 40)}


def written_out(trunk, x, parents):
    """{task: r_t} of one row, a layer on what is put side by side."""
    towers, joined, found = {}, trunk.joined, {}
    for stack in trunk.towers.stacks:
        for e, name in enumerate(stack.layers[0].names):
            towers[name] = expert(stack, e, x)

    def made(name):
        if name not in found:
            t = trunk.tasks.position[name]
            blocks, inputs = [joined.own.weight[t]], [towers[name]]
            for parent in parents.get(name, ()):
                blocks.append(joined.parents.weight[joined.pairs.index((name, parent))])
                inputs.append(made(parent))
            h = torch.cat(blocks, 1) @ torch.cat(inputs) + joined.own.bias[t]
            found[name] = torch.relu(h)
        return found[name]

    return {name: made(name) for name in trunk.tasks.names}


@pytest.mark.parametrize(
    ("count", "settings"),
    [
        (5, {"parents": DIAMOND}),
        (4, {"parents": DIAMOND, "depth": 2}),
        (3, {"parents": {}}),
        (1, {}),
        (40, {"parents": FORTY}),
    ],
)
@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_features_are_the_papers(count, settings, missing):
    tasks = some_tasks(count)
    net = network(Dbmtl(width=5, **settings), tasks)
    batch = batch_for(tasks, missing=missing, rows=3)
    parents = settings.get("parents", {})
    rows = [written_out(net.trunk, x, parents) for x in batch.parts["table"]["numeric"]]
    assert_features(net, batch, lambda task, row: rows[row][task])


def test_what_comes_after_reads_what_comes_before():
    net, batch = network(Dbmtl(width=5), CHAIN), batch_for(CHAIN)
    parents = {"buy": ["click"], "again": ["buy"]}
    rows = [written_out(net.trunk, x, parents) for x in batch.parts["table"]["numeric"]]
    assert_features(net, batch, lambda task, row: rows[row][task])


def test_a_task_trains_itself_and_those_before_it():
    tasks = some_tasks(5)
    net = network(Dbmtl(width=6, parents=DIAMOND), tasks)
    batch = batch_for(tasks, rows=20).only({"t1"})
    net(batch.parts, batch.labels).raw["real"].sum().backward()
    hit = set()
    for stack in net.trunk.towers.stacks:
        gradient = stack.layers[0].weight.grad
        if gradient is not None:
            names = stack.layers[0].names
            hit |= {n for n, g in zip(names, gradient, strict=True) if g.any()}
    assert hit == {"t0", "t1"}


def test_what_is_no_ancestor_is_not_computed():
    tasks = some_tasks(5)
    net = network(Dbmtl(width=5, parents=DIAMOND), tasks)
    batch = batch_for(tasks, rows=6).only({"t1"})
    before = net(batch.parts, batch.labels).raw["real"]
    with torch.no_grad():
        for stack in net.trunk.towers.stacks:
            for e, name in enumerate(stack.layers[0].names):
                if name in ("t2", "t3", "t4"):
                    stack.layers[0].weight[e] = torch.nan
    torch.testing.assert_close(net(batch.parts, batch.labels).raw["real"], before, rtol=0, atol=0)


@pytest.mark.parametrize(("count", "depth", "pairs"), [(5, 1, 4), (4, 3, 4)])
def test_parameters_are_the_formulas(count, depth, pairs):
    w = 6
    net = network(Dbmtl(width=w, depth=depth, parents=DIAMOND), some_tasks(count))
    towers = count * (5 * w + (depth - 1) * (w + 1) * w)
    assert size(net) == towers + count * (w + 1) * w + pairs * w * w


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width must be at least 1"),
        ({"parents": {"t9": ["t0"]}}, "parents: no task 't9'"),
        ({"parents": {"t1": ["t0"], "t0": ["t1"]}}, "in a circle, t. → t. → t."),
        ({"parents": {"t1": ["t1"]}}, "in a circle, t1 → t1"),
        ({}, "no task comes after another; say which"),
    ],
)
def test_impossible_graphs_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        network(Dbmtl(**settings), some_tasks(3))
