from __future__ import annotations

import pytest
import torch
from written_out import DIRECT, assert_features, batch_for, expert, network, size, some_tasks

from plait.batch import Batch, Labels
from plait.networks import build_network
from plait.sharing import Hard, Ltb, branches
from plait.sharing.base import gumbel
from plait.task import Task, TaskSet
from plait.testing.toys import toy_inputs


def stirred(sharing, tasks):
    net = network(sharing, tasks)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for theta in net.trunk.theta():
            theta.copy_(torch.randn(theta.shape, generator=generator))
    return net


def written_out(trunk, x, routes):
    """{task: features} of one row, as the paper writes it; ``routes`` [N_l, N_{l−1}] by level."""
    first, *levels = trunk.levels
    y = [expert(first, j, x) for j in range(len(first.units))]
    for level, z in zip(levels, routes, strict=True):
        read = [sum(z[j, i] * y[i] for i in range(len(y))) for j in range(len(z))]
        y = [expert(level, j, each) for j, each in enumerate(read)]
    return dict(zip(trunk.tasks.names, y, strict=True))


def one_hot(scores):
    return torch.nn.functional.one_hot(scores.argmax(1), scores.shape[1]).to(scores)


@pytest.mark.parametrize(
    ("count", "settings"),
    [(3, {}), (3, {"depth": 2}), (2, {"nodes": 1}), (1, {"nodes": 3}), (40, {"depth": 4})],
)
def test_evaluation_is_the_most_probable_tree(count, settings):
    tasks = some_tasks(count)
    net = stirred(Ltb(width=5, **settings), tasks).eval()
    batch = batch_for(tasks, missing=0.4, rows=3)
    routes = [one_hot(theta) for theta in net.trunk.theta()]
    rows = [written_out(net.trunk, x, routes) for x in batch.parts["table"]["numeric"]]
    assert_features(net, batch, lambda task, row: rows[row][task])


@pytest.mark.parametrize("count", [3, 40])
def test_training_draws_one_tree_a_step(count):
    tasks = some_tasks(count)
    net = stirred(Ltb(width=5), tasks).train()
    batch = batch_for(tasks, missing=0.2, rows=3)
    torch.manual_seed(7)
    base = int(torch.randint(2**62, ()))
    routes = [
        one_hot(theta + gumbel(theta, names, base, number))
        for number, (theta, names) in enumerate(
            zip(net.trunk.theta(), (range(4), tasks.names), strict=True)
        )
    ]
    rows = [written_out(net.trunk, x, routes) for x in batch.parts["table"]["numeric"]]
    torch.manual_seed(7)
    assert_features(net, batch, lambda task, row: rows[row][task])


def test_the_share_of_draws_is_the_softmax_of_theta():
    theta = torch.tensor([[0.0, 1.0, -1.0], [1.0, 1.0, 1.0]])
    counts = sum(one_hot(theta + gumbel(theta, "ab", seed)) for seed in range(3000))
    torch.testing.assert_close(counts / 3000, theta.softmax(1), atol=0.03, rtol=0)


def test_theta_gets_the_gradient_of_the_softmax_at_the_temperature_of_the_step():
    tasks = some_tasks(2)
    net, batch = stirred(Ltb(width=5, depth=2, warmth=4.0), tasks).train(), batch_for(tasks)
    net.advance(24)
    x = batch.parts["table"]["numeric"]
    torch.manual_seed(1)
    base = int(torch.randint(2**62, ()))
    torch.manual_seed(1)
    features = net(batch.parts, batch.labels).features
    total = sum(each.records.square().sum() for each in features.values())
    (found,) = torch.autograd.grad(total, net.trunk.theta())

    noisy = net.trunk.theta()[0] + gumbel(net.trunk.theta()[0], tasks.names, base, 0)
    z = one_hot(noisy).detach().requires_grad_()
    rows = [written_out(net.trunk, each, [z]) for each in x]
    again = 0.0
    for key, labels in batch.labels.items():
        for place, row in zip(labels.task, labels.rows, strict=True):
            again = again + rows[int(row)][tasks.groups[key].tasks[place]].square().sum()
    (upstream,) = torch.autograd.grad(again, z)
    soft = (noisy / (4.0 / 25**0.5)).softmax(1)
    expected = torch.autograd.grad(soft, net.trunk.theta(), upstream)
    torch.testing.assert_close(found, expected[0])


def test_serving_is_the_tree_built_by_hand_bit_for_bit():
    tasks = some_tasks(3)
    net, batch = stirred(Ltb(width=5, nodes=3), tasks).eval(), batch_for(tasks, missing=0.0)
    x, paths = batch.parts["table"]["numeric"], branches(net)
    features = net(batch.parts, batch.labels).features
    for key, group in tasks.groups.items():
        for place, name in enumerate(group.tasks):
            state = x
            for level, node in zip(net.trunk.levels, paths[name], strict=True):
                (layer,) = level.layers
                state = torch.nn.functional.linear(state, layer.weight[node], layer.bias[node])
                state = state.relu()
            mine = features[key].records[batch.labels[key].task == place]
            torch.testing.assert_close(mine, state, rtol=0, atol=1e-15)


def test_nodes_that_no_task_leads_back_to_do_not_run():
    tasks = some_tasks(4)
    net, batch = stirred(Ltb(width=5, nodes=6), tasks).eval(), batch_for(tasks)
    before = net(batch.parts, batch.labels).raw
    used = {path[0] for path in branches(net).values()}
    unused = [node for node in range(6) if node not in used]
    assert unused
    with torch.no_grad():
        net.trunk.levels[0].layers[0].weight[unused] = torch.nan
    after = net(batch.parts, batch.labels).raw
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_temperature_does_not_fall_below_its_least_and_is_saved():
    net = network(Ltb(width=5), some_tasks(2))
    net.advance(10**6)
    twin = network(Ltb(width=5), some_tasks(2))
    twin.load_state_dict(net.state_dict())
    assert int(twin.trunk.step) == 10**6


def test_branches_are_told_for_this_architecture_only():
    with pytest.raises(TypeError, match="only a network with sharing ltb"):
        branches(network(Hard(), some_tasks(2)))


@pytest.mark.parametrize(("count", "nodes", "depth"), [(3, 4, 3), (40, 2, 4), (1, 3, 2)])
def test_parameters_are_the_formulas(count, nodes, depth):
    net = network(Ltb(nodes=nodes, depth=depth, width=5), some_tasks(count))
    weights = nodes * 5 * 5 + ((depth - 2) * nodes + count) * 6 * 5
    assert size(net) == weights + (depth - 2) * nodes**2 + count * nodes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nodes": 0}, "nodes must be at least 1"),
        ({"depth": 1}, "depth must be at least 2"),
        ({"warmth": 0.0}, "warmth must be at least 0.1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Ltb(**settings)


def two_groups(rows=128):
    """Tasks a0…a2 depend on the first three inputs alone, b0…b2 on the other three."""
    tasks = TaskSet(Task(name=f"{group}{i}", kind="real") for group in "ab" for i in range(3))
    draw = torch.Generator().manual_seed(0)
    x, targets = torch.randn(rows, 6, generator=draw), []
    for own in (x[:, :3], x[:, 3:]):
        h = torch.tanh(own @ torch.randn(3, 4, generator=draw))
        signals = h @ torch.randn(4, 3, generator=draw)
        targets += ((signals - signals.mean(0)) / signals.std(0)).unbind(1)
    every = torch.arange(rows)
    place = torch.arange(6).repeat_interleave(rows)
    labels = Labels(place, every.repeat(6), torch.cat(targets))
    return Batch(parts={"table": {"numeric": x}}, labels={"real": labels}, tasks=tasks, ids=every)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_tasks_find_the_nodes_that_read_their_features(seed):
    batch = two_groups()
    net = build_network(
        inputs=toy_inputs(6), tasks=batch.tasks, encoder=DIRECT,
        sharing=Ltb(nodes=4, depth=2, width=8), seed=seed,
    )  # fmt: skip
    with torch.no_grad():
        first = net.trunk.levels[0].layers[0].weight
        first[:2, :, 3:] = 0
        first[2:, :, :3] = 0
    first.requires_grad_(False)  # or nodes would come to read what their tasks need
    optimizer = torch.optim.Adam((p for p in net.parameters() if p.requires_grad), lr=0.01)
    torch.manual_seed(seed)
    for step in range(400):
        net.advance(step)
        optimizer.zero_grad()
        raw = net(batch.parts, batch.labels).raw["real"][:, 0]
        (raw - batch.labels["real"].target).square().mean().backward()
        optimizer.step()
    found = {name: path[0] // 2 for name, path in branches(net).items()}
    assert found == {"a0": 0, "a1": 0, "a2": 0, "b0": 1, "b1": 1, "b2": 1}
