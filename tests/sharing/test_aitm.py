from __future__ import annotations

import pytest
import torch
from written_out import assert_features, batch_for, expert, network, size

from plait.sharing import Aitm
from plait.task import Task, TaskSet

TASKS = TaskSet(
    [
        Task(name="buy", after="click"),
        Task(name="late", kind="real"),
        Task(name="click"),
        Task(name="again", after="buy"),
    ]
)
FORTY = TaskSet(Task(name=f"t{i}", after=f"t{i - 1}" if i else "") for i in range(40))


def written_out(trunk, x):
    """{task: z_t} of one row, as the paper writes it."""
    found = {}
    names = sorted(trunk.tasks.names, key=lambda name: len(trunk.tasks.before(name)))
    for name in names:
        q = next(
            expert(stack, stack.layers[0].names.index(name), x)
            for stack in trunk.towers.stacks
            if name in stack.layers[0].names
        )
        found[name] = q
        if before := trunk.tasks.before(name):
            bank, attention = trunk.steps.transfer, trunk.steps.attention
            place = bank.names.index(name)
            p = torch.relu(bank.weight[place] @ found[before[-1]] + bank.bias[place])
            weights, values = [], []
            for u in (q, p):
                key = u @ attention.key[0]
                weights.append(torch.exp((u @ attention.query[0]) @ key / len(u) ** 0.5))
                values.append(u @ attention.value[0])
            total = sum(weights)
            found[name] = sum(w / total * v for w, v in zip(weights, values, strict=True))
    return found


def stirred(sharing, tasks):
    """A network whose attention is away from its small start."""
    net = network(sharing, tasks)
    with torch.no_grad():
        for parameter in net.trunk.steps.attention.parameters():
            parameter.mul_(40)
    return net


@pytest.mark.parametrize(("tasks", "depth"), [(TASKS, 1), (TASKS, 2), (FORTY, 1)])
@pytest.mark.parametrize("missing", [0.0, 0.7])
def test_features_are_the_papers(tasks, depth, missing):
    net = stirred(Aitm(width=5, depth=depth), tasks)
    batch = batch_for(tasks, missing=missing, rows=3)
    rows = [written_out(net.trunk, x) for x in batch.parts["table"]["numeric"]]
    assert_features(net, batch, lambda task, row: rows[row][task])


def test_without_a_query_the_two_are_averaged():
    net, batch = stirred(Aitm(width=5, depth=1), TASKS), batch_for(TASKS)
    with torch.no_grad():
        net.trunk.steps.attention.query.zero_()
        net.trunk.steps.attention.value.copy_(torch.eye(5)[None])
        net.trunk.steps.transfer.weight.zero_()
        net.trunk.steps.transfer.bias.fill_(3.0)
    rows = [written_out(net.trunk, x) for x in batch.parts["table"]["numeric"]]
    own = next(s for s in net.trunk.towers.stacks if "again" in s.layers[0].names)
    place = own.layers[0].names.index("again")
    q = expert(own, place, batch.parts["table"]["numeric"][0])
    torch.testing.assert_close(rows[0]["again"], (q + 3.0) / 2)
    assert_features(net, batch, lambda task, row: rows[row][task])


def test_the_calibrator_is_what_a_later_task_has_too_much():
    net, batch = network(Aitm(width=5, calibrate=0.5), TASKS), batch_for(TASKS, missing=0.4)
    outputs = net(batch.parts, batch.labels)
    every = batch_for(TASKS, missing=0.0)
    p = torch.sigmoid(net(every.parts, every.labels).raw["binary"]).view(3, -1)
    buy, click, again = p
    expected = 0.0
    labels, names = batch.labels["binary"], TASKS.groups["binary"].tasks
    for place, row in zip(labels.task, labels.rows, strict=True):
        if names[place] == "buy":
            expected = expected + (buy[row] - click[row]).clamp(min=0)
        if names[place] == "again":
            expected = expected + (again[row] - buy[row]).clamp(min=0)
    torch.testing.assert_close(outputs.penalties["calibrate"], 0.5 * expected / len(batch))
    assert network(Aitm(calibrate=0), TASKS)(batch.parts, batch.labels).penalties == {}


def test_a_task_trains_the_towers_before_it():
    net, batch = stirred(Aitm(width=6), TASKS), batch_for(TASKS, rows=20)
    own = batch.only({"buy"})
    net(own.parts, own.labels).raw["binary"].sum().backward()
    hit = set()
    for stack in net.trunk.towers.stacks:
        gradient = stack.layers[0].weight.grad
        if gradient is not None:
            names = stack.layers[0].names
            hit |= {n for n, g in zip(names, gradient, strict=True) if g.any()}
    assert hit == {"click", "buy"}


def test_an_order_stands_in_for_after():
    plain = TaskSet(Task(name=task.name, kind=task.kind) for task in TASKS)
    ours = network(Aitm(width=5, order=["click", "buy", "again"]), plain)
    theirs = network(Aitm(width=5), TASKS)
    batch = batch_for(TASKS)
    one, two = (net(batch.parts, batch.labels).raw for net in (ours, theirs))
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=0)


@pytest.mark.parametrize("depth", [1, 3])
def test_parameters_are_the_formulas(depth):
    w, towers = 6, (4 + 1) * 6 + (depth - 1) * (6 + 1) * 6
    assert size(network(Aitm(width=w, depth=depth), TASKS)) == 4 * towers + 2 * 7 * 6 + 3 * 36
    alone = TaskSet([Task(name="only", kind="real")])
    assert size(network(Aitm(width=w, depth=depth), alone)) == towers


@pytest.mark.parametrize(
    ("sharing", "error", "message"),
    [
        (Aitm(order=["clik", "buy"]), KeyError, "no task 'clik'; did you mean 'click'"),
        (Aitm(order=["click", "late"]), ValueError, "task 'late' of a chain needs bce"),
    ],
)
def test_impossible_orders_are_refused(sharing, error, message):
    with pytest.raises(error, match=message):
        network(sharing, TASKS)
