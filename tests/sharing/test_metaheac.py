from __future__ import annotations

import pytest
import torch
from written_out import assert_features, batch_for, expert, network, size, some_tasks

from plait.sharing import Metaheac, expert_use

SMALL = {"width": 5, "size": 3, "hidden": 6}


def weights(gate, vector, x):
    """softmax of one hidden layer on [e_t; x]."""
    bank = gate.bank
    whole = torch.cat([bank.vector[0], bank.row[0]], 1)
    h = torch.relu(whole @ torch.cat([vector, x]) + bank.bias[0])
    logits = bank.weight[0] @ h + bank.weight_bias[0]
    return torch.exp(logits) / torch.exp(logits).sum()


def written_out(trunk, x):
    """{task: features} of one row, as the paper writes it."""
    found = {}
    for t, name in enumerate(trunk.tasks.names):
        vector = trunk.vectors.vector[t]
        g = weights(trunk.first.gate, vector, x)
        h = sum(g[e] * expert(trunk.first.experts, e, x) for e in range(len(g)))
        c = weights(trunk.second.gate, vector, x)
        found[name] = sum(c[k] * expert(trunk.second.experts, k, h) for k in range(len(c)))
    return found


@pytest.mark.parametrize(
    ("count", "settings"),
    [(3, {}), (2, {"experts": 1, "critics": 1}), (1, {"depth": 1}), (40, {"experts": 3})],
)
@pytest.mark.parametrize("missing", [0.0, 0.6])
def test_features_are_the_papers(count, settings, missing):
    tasks = some_tasks(count)
    net = network(Metaheac(**SMALL, **settings), tasks)
    batch = batch_for(tasks, missing=missing, rows=3)
    rows = [written_out(net.trunk, x) for x in batch.parts["table"]["numeric"]]
    assert_features(net, batch, lambda task, row: rows[row][task])


def test_tasks_with_one_vector_have_the_same_features():
    tasks = some_tasks(3)
    net, batch = network(Metaheac(**SMALL), tasks), batch_for(tasks, missing=0.0)
    with torch.no_grad():
        net.trunk.vectors.vector.copy_(net.trunk.vectors.vector[:1].clone().expand(3, -1))
    features = net(batch.parts, batch.labels).features
    one, three = features["binary"].records.chunk(2)
    torch.testing.assert_close(one, three)
    torch.testing.assert_close(one, features["real"].records)


def test_equal_critics_are_that_critic():
    tasks = some_tasks(2)
    net, batch = network(Metaheac(**SMALL), tasks), batch_for(tasks)
    with torch.no_grad():
        for gated in (net.trunk.first, net.trunk.second):
            for parameter in gated.experts.parameters():
                parameter.copy_(parameter[:1].clone().expand_as(parameter))

    def alone(task, row):
        h = expert(net.trunk.first.experts, 0, batch.parts["table"]["numeric"][row])
        return expert(net.trunk.second.experts, 0, h)

    assert_features(net, batch, alone)


def test_a_task_owns_its_vector_and_nothing_else():
    tasks = some_tasks(3)
    net = network(Metaheac(**SMALL), tasks)
    batch = batch_for(tasks, rows=10).only({"t1"})
    net(batch.parts, batch.labels).raw["real"].sum().backward()
    assert net.trunk.vectors.vector.grad.any(1).tolist() == [False, True, False]
    own = [n for n, tasks in net.trunk.reach().items() if len(tasks) < 3]
    assert own == []
    assert [use.place for use in expert_use(net, batch.parts)] == ["trunk.first", "trunk.second"]


def test_parameters_are_the_formulas():
    E, C, w, k, h, d, T = 4, 3, 5, 3, 6, 4, 7
    net = network(Metaheac(**SMALL, experts=E, critics=C, depth=3), some_tasks(T))
    expected = E * ((d + 1) * w + 2 * (w + 1) * w) + C * (w + 1) * w + T * k
    assert size(net) == expected + 2 * (k + d + 1) * h + (h + 1) * (E + C)


@pytest.mark.parametrize("settings", [{"critics": 0}, {"size": 0}, {"hidden": 0}])
def test_impossible_sizes_are_refused(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        Metaheac(**settings)
