from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from written_out import assert_features, batch_for, gate, network, size, some_tasks

from plait.balancing.equal import Equal
from plait.sharing import Home, Ple, expert_use
from plait.task import Task, TaskSet
from plait.testing.updates import StoppedError
from plait.training import fit

WATCH = {"watch": ["t0", "t2"], "react": ["t1"]}
FORMS = [
    pytest.param(3, {"categories": WATCH}, id="given"),
    pytest.param(3, {"categories": WATCH, "experts": 2, "shared": 1, "depth": 2}, id="deeper"),
    pytest.param(4, {"shared": 3, "rank": 1}, id="by-kind"),
    pytest.param(1, {"experts": 2}, id="one-task"),
    pytest.param(40, {}, id="forty-tasks"),
]


def stirred(sharing, tasks):
    """A network whose norms and their statistics are away from their start."""
    net, generator = network(sharing, tasks), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in (*net.named_parameters(), *net.named_buffers()):
            if name.split(".")[-1] in ("scale", "shift", "mean", "variance"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return net


def featured(gates, unit, v):
    """v ⊙ 2σ(v B A)."""
    down, up = gates.bank.down[unit], gates.bank.up[unit]
    return v * 2 / (1 + torch.exp(-(v @ down @ up)))


def normed(experts, norm, e, x):
    """swish(norm(expert_e(x))) of one row in evaluation."""
    for number, layer in enumerate(experts.layers):
        x = layer.weight[e] @ (torch.relu(x) if number else x) + layer.bias[e]
    bank = norm.bank
    x = (x - bank.mean[e]) / torch.sqrt(bank.variance[e] + 1e-5) * bank.scale[e] + bank.shift[e]
    return x / (1 + torch.exp(-x))


def own_share(selves, unit, x):
    logits = [
        w @ x + b for w, b in zip(selves.bank.weight[unit], selves.bank.bias[unit], strict=True)
    ]
    if len(logits) == 1:
        return [torch.sigmoid(logits[0])]
    total = sum(torch.exp(logit) for logit in logits)
    return [torch.exp(logit) / total for logit in logits]


def added(weights, outputs, owner, shares):
    """Σ of the gate's part and of the unit's own experts."""
    found = sum(weight * outputs[key] for key, weight in weights.items())
    return found + sum(share * outputs[owner, e] for e, share in enumerate(shares))


def written_out(trunk, v, category_of):
    """{task: features} of one row, as the paper writes it."""
    meta, last = trunk.meta, trunk.last
    units = list(meta.features.bank.names)
    x = {unit: featured(meta.features, u, v) for u, unit in enumerate(units)}
    outputs = {
        (owner, number): normed(meta.experts, meta.norm, e, x[owner])
        for e, (owner, _, number) in enumerate(meta.experts.layers[0].slices)
    }
    z = {}
    for u, unit in enumerate(units):
        given = gate(meta.shared_gate if unit is None else meta.gates, unit, x[unit])
        assert {owner for owner, _ in given} == ({*units} if unit is None else {unit, None})
        z[unit] = added(given, outputs, unit, own_share(meta.selves, u, x[unit]))
    common = {unit: featured(last.features, u, z[unit]) for u, unit in enumerate(units)}
    shared = {
        (owner, number): normed(last.common, last.norm, e, common[owner])
        for e, (owner, _, number) in enumerate(last.common.layers[0].slices)
    }
    found = {}
    for t, task in enumerate(trunk.tasks.names):
        own = featured(last.own_features, t, z[category_of[task]])
        outputs = shared | {
            (task, number): normed(last.own, last.own_norm, e, own)
            for e, (owner, _, number) in enumerate(last.own.layers[0].slices)
            if owner == task
        }
        given = gate(last.gates, task, torch.cat([own, common[None]]))
        assert {owner for owner, _ in given} == {task, category_of[task], None}
        found[task] = added(given, outputs, task, own_share(last.selves, t, own))
    return found


def categories(settings, tasks):
    if "categories" in settings:
        return {name: c for c, some in settings["categories"].items() for name in some}
    return {task.name: f"{task.kind} tasks" for task in tasks}


@pytest.mark.parametrize(("count", "settings"), FORMS)
def test_features_are_the_papers(count, settings):
    tasks = some_tasks(count)
    net = stirred(Home(width=5, **settings), tasks).eval()
    batch = batch_for(tasks, missing=0.5, rows=2 if count == 40 else 4)
    which = categories(settings, tasks)
    rows = [written_out(net.trunk, x, which) for x in batch.parts["table"]["numeric"]]
    assert_features(net, batch, lambda task, row: rows[row][task])


def test_training_norms_by_the_batch_and_remembers_it():
    tasks = some_tasks(3)
    net, batch = network(Home(width=5, categories=WATCH), tasks), batch_for(tasks, rows=30)
    meta = net.trunk.meta
    given = meta.experts(meta.features(net.trunk.encoder(batch.parts)))
    features = net(batch.parts, batch.labels).features
    torch.testing.assert_close(meta.norm.bank.mean, 0.1 * given.mean(0))
    torch.testing.assert_close(meta.norm.bank.variance, 0.9 + 0.1 * given.var(0))
    spread = (given - given.mean(0)) / torch.sqrt(given.var(0, unbiased=False) + 1e-5)
    torch.testing.assert_close(meta.norm(given), torch.nn.functional.silu(spread))
    net.eval()
    again = net(batch.parts, batch.labels).features
    assert not torch.allclose(again["real"].records, features["real"].records)


def test_a_batch_of_one_row_is_normed_by_what_is_remembered():
    tasks = some_tasks(3)
    net, batch = network(Home(width=5), tasks), batch_for(tasks, rows=1, missing=0.0)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    one = net(batch.parts, batch.labels).raw["real"]
    torch.testing.assert_close(one, net.eval()(batch.parts, batch.labels).raw["real"])
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())


def test_statistics_of_absent_tasks_rest():
    tasks = some_tasks(3)
    net, batch = network(Home(width=5), tasks), batch_for(tasks, rows=20)
    some = batch.only({"t1"})
    net(some.parts, some.labels)
    moved = net.trunk.last.own_norm.bank.mean.abs().sum(1) > 0
    assert moved.tolist() == [False, True, False]


def test_without_the_second_map_features_pass_as_they_are():
    tasks = some_tasks(3)
    net, batch = network(Home(width=5), tasks).eval(), batch_for(tasks)
    with torch.no_grad():
        net.trunk.meta.features.bank.up.zero_()
    x = batch.parts["table"]["numeric"]
    torch.testing.assert_close(net.trunk.meta.features(x)[0], x, rtol=0, atol=0)


def test_experts_keep_speaking_where_relu_falls_silent():
    tasks = some_tasks(3)
    batch = batch_for(tasks, rows=64)
    homes, ples = network(Home(width=8), tasks), network(Ple(width=8), tasks)
    for net in (homes, ples):  # a bias far below: the collapse that the paper found
        experts = net.trunk.last.common if net is homes else net.trunk.levels[-1].common
        with torch.no_grad():
            experts.layers[0].bias -= 20.0
    homes(batch.parts, batch.labels)
    for _ in range(60):  # the statistics that evaluation uses follow
        homes(batch.parts, batch.labels)
    assert not [f for use in expert_use(homes, batch.parts) for f in use.failures()]
    assert any("collapsed" in f for use in expert_use(ples, batch.parts) for f in use.failures())


def test_a_category_trains_nothing_of_another():
    tasks = some_tasks(3)
    net = network(Home(width=6, categories=WATCH), tasks)
    batch = batch_for(tasks, rows=30).only({"t1"})
    net(batch.parts, batch.labels).raw["real"].sum().backward()
    for bank in (net.trunk.last.common.layers[0], net.trunk.last.features.bank):
        name = "weight" if hasattr(bank, "weight") else "down"
        used = bank.get_parameter(name).grad.abs().flatten(1).sum(1) > 0
        hit = {n for n, there in zip(bank.names, used, strict=True) if there}
        assert hit == {"react", None}


@pytest.mark.parametrize(("count", "settings"), FORMS)
def test_parameters_are_the_formulas(count, settings):
    tasks = some_tasks(count)
    C = len({*categories(settings, tasks).values()})
    m, n = settings.get("experts", 1), settings.get("shared", 2)
    depth, rank, d, w, T = settings.get("depth", 1), settings.get("rank", 8), 4, 5, count

    def each(inside):
        return (inside + 1) * w + (depth - 1) * (w + 1) * w + 2 * w

    first = (C + 1) * (n * each(d) + 2 * d * rank + n * (d + 1))
    first += (d + 1) * (2 * C * n + (C + 1) * n)
    second = (T * m + (C + 1) * n) * each(w) + (T + C + 1) * 2 * w * rank
    second += T * (2 * w + 1) * (m + 2 * n) + T * m * (w + 1)
    assert size(network(Home(width=w, **settings), tasks)) == first + second


class Feed:
    """Batches whose rows do not depend on the order of the tasks."""

    steps = 4

    def __init__(self, tasks):
        self.tasks = tasks

    def batch(self, step):
        return batch_for(self.tasks, seed=step, dtype=torch.float32, missing=0.0)


def test_statistics_are_taken_up_by_their_tasks_in_any_order(tmp_path):
    tasks = TaskSet(Task(name=f"t{i}") for i in range(3))
    turned = TaskSet(reversed(list(tasks)))

    def trained(tasks, folder, stop=None):
        def leave(problem, signals):
            if problem.step == stop:
                raise StoppedError

        net = network(Home(width=4, rank=2), tasks).float()
        with suppress(StoppedError):
            fit(
                net, Feed(tasks), Equal(), steps=6, seed=0, checkpoint=folder, checkpoint_every=1,
                observers=[leave],
            )  # fmt: skip
        bank = net.trunk.last.own_norm.bank
        return dict(zip(bank.names, bank.variance, strict=True))

    whole = trained(tasks, tmp_path / "whole")
    trained(tasks, tmp_path / "stopped", stop=3)
    for name, variance in trained(turned, tmp_path / "stopped").items():
        torch.testing.assert_close(variance, whole[name], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole["t0"], whole["t2"], atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"categories": {"watch": ["t0", "t1"]}}, "task 't2' is in none of them"),
        ({"categories": {"watch": ["t0", "t1", "t9"]}}, "no task 't9'"),
        ({"categories": {"a": ["t0", "t1"], "b": ["t1", "t2"]}}, "'t1' is in a and in b"),
        ({"categories": {"t0": ["t0", "t1", "t2"]}}, "'t0' is a task; name the category"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        network(Home(**settings), some_tasks(3))
