from __future__ import annotations

import pytest
import torch
from written_out import assert_features, batch_for, expert, network, size, some_tasks

from plait.sharing import Stem, expert_use

MLP = {"trunk": {"mlp": {"width": 6, "depth": 1}}}
FORMS = [
    pytest.param(3, {}, id="equal"),
    pytest.param(3, {"experts": {"t0": 3, "t2": 0}, "shared": 1, "depth": 2}, id="unequal"),
    pytest.param(3, {"gate_depth": 0, "shared": 0}, id="none-shared"),
    pytest.param(1, {"gate_depth": 2}, id="one-task"),
    pytest.param(40, {}, id="forty-tasks"),
]


def encoded(encoder, x, t=None):
    """One row by an encoder, or by the t-th of a stack of them."""
    layer = encoder.trunk.layers[0]
    weight, bias = layer.weight, layer.bias
    if t is not None:
        weight, bias = weight[t], bias[t]
    return torch.relu(weight @ x + bias)


def written_out(trunk, x):
    """{task: features} of one row, as the paper writes it."""
    names = trunk.tasks.names
    shared = encoded(trunk.common_encoder, x)
    own = [encoded(trunk.own_encoders.bank.encoder, x, t) for t in range(len(names))]
    outputs = []
    if trunk.own is not None:
        for e, name in enumerate(trunk.own.layers[0].names):
            outputs.append(expert(trunk.own, e, own[names.index(name)]))
    if trunk.common is not None:
        outputs += [expert(trunk.common, e, shared) for e in range(len(trunk.common.units))]
    found = {}
    for t, name in enumerate(names):
        v = own[t] + shared
        if trunk.hidden is not None:
            v = expert(trunk.hidden, t, v)
        bank = trunk.gates.bank
        mine = [i for i, slice_ in enumerate(bank.slices) if slice_[0] == name]
        logits = torch.stack([bank.weight[i] @ v + bank.bias[i] for i in mine])
        weights = torch.exp(logits) / torch.exp(logits).sum()
        found[name] = sum(w * y for w, y in zip(weights, outputs, strict=True))
    return found


def made(count, **settings):
    return network(Stem(width=5, gate_width=4, **settings), some_tasks(count), encoder=MLP)


@pytest.mark.parametrize(("count", "settings"), FORMS)
def test_features_are_the_papers(count, settings):
    net = made(count, **settings)
    batch = batch_for(net.tasks, missing=0.5, rows=2 if count == 40 else 4)
    rows = [written_out(net.trunk, x) for x in batch.parts["table"]["numeric"]]
    assert_features(net, batch, lambda task, row: rows[row][task])


def test_a_task_trains_its_own_tables_and_experts_only():
    net = made(3)
    batch = batch_for(net.tasks, rows=20).only({"t1"})
    net(batch.parts, batch.labels).raw["real"].sum().backward()
    own = net.trunk.own_encoders.bank.encoder.trunk.layers[0].weight.grad
    experts = net.trunk.own.layers[0].weight.grad
    for gradient in (own, experts):
        assert (gradient.flatten(1).abs().sum(1) > 0).tolist() == [False, True, False]
    assert net.trunk.common_encoder.trunk.layers[0].weight.grad.any()
    gates, bank = net.trunk.gates.bank.weight.grad, net.trunk.gates.bank
    foreign = [i for i, s in enumerate(bank.slices) if s[0] == "t1" and s[1] in ("t0", "t2")]
    assert gates[foreign].flatten(1).any(1).all()  # it learns how much to read of the others


def test_what_is_stopped_is_read_all_the_same():
    net = made(3)
    batch = batch_for(net.tasks, rows=6, missing=0.0)
    before = net(batch.parts, batch.labels).features["real"].records
    with torch.no_grad():
        net.trunk.own.layers[0].bias[0] += 1.0
    after = net(batch.parts, batch.labels).features["real"].records
    assert (before != after).any(1).all()


@pytest.mark.parametrize(("count", "settings"), FORMS)
def test_parameters_are_the_formulas(count, settings):
    net, shared, depth = (
        made(count, **settings),
        settings.get("shared", 2),
        settings.get("depth", 1),
    )
    own = settings.get("experts", 1)
    own = [own] * count if isinstance(own, int) else [own.get(f"t{i}", 1) for i in range(count)]
    d, w, h, layers = 6, 5, 4, settings.get("gate_depth", 1)
    experts = (sum(own) + shared) * ((d + 1) * w + (depth - 1) * (w + 1) * w)
    inside = h if layers else d
    gates = count * (inside + 1) * (sum(own) + shared)
    if layers:
        gates += count * ((d + 1) * h + (layers - 1) * (h + 1) * h)
    assert size(net) == (count + 1) * 5 * 6 + experts + gates


def test_the_use_of_foreign_experts_is_told():
    net = made(3)
    (use,) = expert_use(net, batch_for(net.tasks, rows=32).parts)
    assert use.owners == ("t0", "t1", "t2", None, None)
    assert (use.load > 0).all()


@pytest.mark.parametrize(
    ("sharing", "message"),
    [
        (lambda: Stem(gate_width=0), "gate_width must be at least 1"),
        (lambda: made(2, experts=0, shared=0), "there is no expert"),
        (lambda: made(2, experts={"t5": 1}), "no task 't5'"),
    ],
)
def test_impossible_settings_are_refused(sharing, message):
    with pytest.raises(ValueError, match=message):
        sharing()
