from __future__ import annotations

import pytest
import torch
from written_out import assert_features, batch_for, expert, network, size, some_tasks

from plait.sharing import CrossStitch, Sluice


def written_out(trunk, x, K):
    """{task: features} of one row, as the paper writes it."""
    names = trunk.tasks.names
    state, layers = [x for _ in names], []
    for layer, unit in zip(trunk.layers, trunk.exchanges, strict=True):
        h = [expert(layer, t, state[t]).chunk(K) for t in range(len(names))]
        mixed = [
            [
                sum(
                    unit.alpha[t * K + k, j * K + i] * h[j][i]
                    for j in range(len(names))
                    for i in range(K)
                )
                for k in range(K)
            ]
            for t in range(len(names))
        ]
        state = [torch.cat(pieces) for pieces in mixed]
        layers.append(state)
    return {
        name: sum(trunk.beta.weight[t, number] * own[t] for number, own in enumerate(layers))
        for t, name in enumerate(names)
    }


def stirred(sharing, tasks):
    net = network(sharing, tasks)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (net.trunk.beta.weight, *(u.alpha for u in net.trunk.exchanges)):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


@pytest.mark.parametrize(
    ("count", "settings"),
    [
        (3, {}), (2, {"subspaces": 3, "depth": 3}), (1, {}), (3, {"subspaces": 1}),
        (20, {"depth": 1}),
    ],
)  # fmt: skip
def test_features_are_the_papers(count, settings):
    tasks = some_tasks(count)
    net = stirred(Sluice(width=6, **settings), tasks)
    batch = batch_for(tasks, missing=0.4, rows=2)
    K = settings.get("subspaces", 2)
    rows = [written_out(net.trunk, x, K) for x in batch.parts["table"]["numeric"]]
    assert_features(net, batch, lambda task, row: rows[row][task])


def test_one_subspace_and_the_last_layer_is_a_cross_stitch():
    tasks = some_tasks(3)
    ours = network(Sluice(width=5, subspaces=1, last=1.0), tasks)
    theirs = network(CrossStitch(width=5), tasks)
    batch = batch_for(tasks)
    one, two = (net(batch.parts, batch.labels).raw for net in (ours, theirs))
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=1e-12)


def test_it_starts_near_separate_towers_and_the_last_layer():
    trunk = network(Sluice(width=6, depth=3, own=0.8, last=0.7), some_tasks(2)).trunk
    alpha = trunk.exchanges[0].alpha
    torch.testing.assert_close(alpha.diag(), torch.full((4,), 0.8, dtype=torch.float64))
    torch.testing.assert_close(alpha.sum(1), torch.ones(4, dtype=torch.float64))
    expected = torch.tensor([0.15, 0.15, 0.7], dtype=torch.float64).expand(2, 3)
    torch.testing.assert_close(trunk.beta.weight, expected, rtol=0, atol=1e-7)


def test_the_penalty_is_what_subspaces_have_in_common():
    tasks = some_tasks(2)
    net, batch = network(Sluice(width=6, subspaces=3, orthogonal=0.5), tasks), batch_for(tasks)
    expected = 0.0
    for layer in net.trunk.layers:
        for weight in layer.layers[0].weight:
            pieces = weight.chunk(3)
            for k in range(3):
                for i in range(k + 1, 3):
                    for one in pieces[k]:
                        for two in pieces[i]:
                            expected = expected + (one @ two) ** 2
    found = net(batch.parts, batch.labels).penalties
    torch.testing.assert_close(found["orthogonal"], 0.5 * expected)
    assert net.eval()(batch.parts, batch.labels).penalties == {}
    with torch.no_grad():  # subspaces that read different inputs
        first = network(Sluice(width=4, depth=1, orthogonal=1.0), tasks)
        weight = first.trunk.layers[0].layers[0].weight
        weight[:, :2, 2:], weight[:, 2:, :2] = 0.0, 0.0
    assert first(batch.parts, batch.labels).penalties["orthogonal"] == 0


def test_a_task_owns_the_weights_of_its_layers():
    tasks = some_tasks(3)
    net = network(Sluice(width=6), tasks)
    batch = batch_for(tasks, rows=10).only({"t1"})
    net(batch.parts, batch.labels).raw["real"].sum().backward()
    assert net.trunk.beta.weight.grad.any(1).tolist() == [False, True, False]
    assert net.trunk.layers[0].layers[0].weight.grad.flatten(1).any(1).all()


@pytest.mark.parametrize(("depth", "K"), [(1, 1), (3, 2)])
def test_parameters_are_the_formulas(depth, K):
    net = network(Sluice(width=6, depth=depth, subspaces=K), some_tasks(4))
    towers = 4 * (5 * 6 + (depth - 1) * 7 * 6)
    assert size(net) == towers + depth * (4 * K) ** 2 + 4 * depth


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 0}, "depth must be at least 1"),
        ({"width": 7}, r"width must be a multiple of subspaces \(2\), got 7"),
        ({"orthogonal": -1}, "orthogonal must be at least 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sluice(**settings)
