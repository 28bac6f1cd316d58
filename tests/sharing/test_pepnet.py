from __future__ import annotations

import pytest
import torch
from written_out import DIRECT, assert_features, batch_for, expert, network, size, some_tasks

from plait.batch import Input
from plait.networks import build_network
from plait.sharing import Pepnet
from plait.task import Task, TaskSet
from plait.testing.toys import toy_inputs

INPUTS = {
    **toy_inputs(),
    "hashed.user": Input(key="hashed.user", type="hashed", shape=(1,), sizes=(7,)),
    "hashed.shop": Input(key="hashed.shop", type="hashed", shape=(1,), sizes=(5,)),
}
ENCODER = {"hashed": {"embedding": {"width": 3}}, **DIRECT}
BOTH = {"domain": ["shop"], "prior": ["hashed.user", "shop"]}


def made(sharing, tasks):
    return build_network(
        inputs=INPUTS, tasks=tasks, encoder=ENCODER, sharing=sharing, seed=0
    ).double()


def batch_of(tasks, **more):
    batch = batch_for(tasks, **more)
    generator = torch.Generator().manual_seed(1)
    for key, found in INPUTS.items():
        if key.startswith("hashed"):
            codes = torch.randint(found.sizes[0], (len(batch), 1), generator=generator)
            batch.parts["table"][key] = codes
    return batch


def gated(experts, number, v):
    """GU(v) = 2σ(W' ReLU(W v + b) + b')."""
    first, second = experts.layers
    h = torch.relu(first.weight[number] @ v + first.bias[number])
    return 2 / (1 + torch.exp(-(second.weight[number] @ h + second.bias[number])))


def written_out(trunk, x, domain, prior):
    """{task: features} of one row, as the paper writes it."""
    x = gated(trunk.embedding, 0, torch.cat([domain, x])) * x
    found = {}
    for t, task in enumerate(trunk.tasks.names):
        h = x
        for layer, gates in zip(trunk.layers, trunk.gates, strict=True):
            h = expert(layer, t, h) * gated(gates, t, torch.cat([prior, x]))
        found[task] = h
    return found


def embedded(net, batch, names):
    """The tables' vectors of these inputs, row by row."""
    stem = net.trunk.encoder.stems["hashed"]
    found = [torch.zeros(len(batch), 0, dtype=torch.float64)]
    for name in names:
        key = f"hashed.{name}"
        (number, _) = stem.plan[key][0]
        found.append(stem.tables[number].weight[batch.parts["table"][key][:, 0]])
    return torch.cat(found, 1)


@pytest.mark.parametrize(
    ("count", "settings", "domain", "prior"),
    [
        (3, BOTH, ["shop"], ["user", "shop"]),
        (3, {"depth": 3, "prior": ["user"]}, [], ["user"]),
        (1, {}, [], []),
        (40, {"depth": 1}, [], []),
    ],
)
def test_features_are_the_papers(count, settings, domain, prior):
    tasks = some_tasks(count)
    net, batch = made(Pepnet(width=5, **settings), tasks), batch_of(tasks, missing=0.4, rows=3)
    x = net.trunk.encoder(batch.parts)
    told, known = embedded(net, batch, domain), embedded(net, batch, prior)
    rows = [written_out(net.trunk, *row) for row in zip(x, told, known, strict=True)]
    assert_features(net, batch, lambda task, row: rows[row][task])


def test_gates_that_say_nothing_leave_plain_towers():
    tasks = some_tasks(2)
    net, batch = network(Pepnet(width=5), tasks), batch_for(tasks)
    with torch.no_grad():
        for gates in (net.trunk.embedding, *net.trunk.gates):
            for parameter in gates.layers[1].parameters():
                parameter.zero_()

    def plain(task, row):
        h = batch.parts["table"]["numeric"][row]
        for layer in net.trunk.layers:
            h = expert(layer, tasks.position[task], h)
        return h

    assert_features(net, batch, plain)


def test_gates_train_prior_knowledge_and_not_what_they_scale():
    """Without the main path nothing comes back to the encoder; the named inputs are trained."""
    tasks = TaskSet([Task(name="a")])
    net, batch = made(Pepnet(width=5, depth=1, prior=["user"]), tasks), batch_of(tasks)
    with torch.no_grad():
        net.trunk.layers[0].layers[0].weight.zero_()
        net.trunk.layers[0].layers[0].bias.fill_(1.0)
    net(batch.parts, batch.labels).raw["binary"].sum().backward()
    stem = net.trunk.encoder.stems["hashed"]
    (number, _) = stem.plan["hashed.user"][0]
    assert stem.tables[number].weight.grad.any()
    shop = stem.tables[stem.plan["hashed.shop"][0][0]].weight.grad
    assert shop is None or not shop.any()
    assert not net.trunk.embedding.layers[0].weight.grad.any()


def test_parameters_are_the_formulas():
    tasks, d, D, P, w = some_tasks(3), 4 + 6, 3, 6, 5
    trunk = made(Pepnet(width=w, **BOTH), tasks).trunk
    encoder = sum(p.numel() for p in trunk.encoder.parameters())
    expected = (D + d + 1) * d + (d + 1) * d
    for inside in (d, w):
        expected += 3 * ((inside + 1) * w + (P + d + 1) * w + (w + 1) * w)
    assert sum(p.numel() for p in trunk.parameters()) - encoder == expected
    bare = size(network(Pepnet(width=w, depth=1), tasks))
    assert bare == 2 * 5 * 4 + 3 * (5 * w + 5 * w + 6 * w)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 0}, "depth must be at least 1"),
        ({"gamma": 0.0}, "gamma must be at least"),
        ({"prior": ["usr"]}, "prior: no input 'usr'"),
        ({"domain": ["hashed.shp"]}, "domain: no input 'hashed.shp'; did you mean 'hashed.shop'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        made(Pepnet(**settings), some_tasks(2))
