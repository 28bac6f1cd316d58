from __future__ import annotations

import math

import pytest
import torch
from written_out import assert_features, batch_for, expert, network, size, some_tasks

from plait.sharing import DSelectK, expert_use


def smooth(z, gamma):
    if z <= -gamma / 2:
        return 0.0
    if z >= gamma / 2:
        return 1.0
    return -2 * z**3 / gamma**3 + 3 * z / (2 * gamma) + 0.5


def selected(trunk, sharing, t, x):
    """[k][E] and [k] of one row, as the paper writes it, bit by bit."""
    bank, bits = trunk.selectors.bank, math.ceil(math.log2(sharing.experts))
    z, w = bank.z[t].detach(), bank.w[t].detach()
    if sharing.by == "row":
        z, w = z @ x + bank.z_bias[t].detach(), w @ x + bank.w_bias[t].detach()
    outputs = []
    for i in range(sharing.chosen):
        row = []
        for e in range(sharing.experts):
            product = 1.0
            for b, letter in enumerate(f"{e:0{bits}b}"):
                s = smooth(float(z[i * bits + b]), sharing.gamma)
                product *= s if letter == "1" else 1 - s
            row.append(product)
        outputs.append(row)
    return outputs, torch.softmax(w, 0).tolist()


def stirred(sharing, tasks, spread=0.4):
    net = network(sharing, tasks)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.trunk.selectors.parameters():
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(spread * draw)
    return net


@pytest.mark.parametrize("by", ["task", "row"])
@pytest.mark.parametrize(
    ("count", "settings"),
    [(3, {"experts": 8}), (3, {"experts": 5, "chosen": 3, "gamma": 0.5}),
     (1, {"experts": 2, "chosen": 1}), (40, {"experts": 4})],
)  # fmt: skip
def test_features_are_the_papers(by, count, settings):
    tasks, sharing = some_tasks(count), DSelectK(width=4, by=by, **settings)
    net = stirred(sharing, tasks)
    batch = batch_for(tasks, missing=0.4, rows=3)

    def literal(task, row):
        x = batch.parts["table"]["numeric"][row]
        outputs, weights = selected(net.trunk, sharing, tasks.position[task], x)
        total = 0.0
        for e in range(sharing.experts):
            share = sum(w * r[e] for w, r in zip(weights, outputs, strict=True))
            total = total + share * expert(net.trunk.experts, e, x)
        return total

    assert_features(net, batch, literal)


def test_numbers_past_the_step_choose_exactly():
    tasks = some_tasks(3)
    net = stirred(DSelectK(experts=8, chosen=2), tasks, spread=50.0)
    (use,) = expert_use(net, batch_for(tasks).parts)
    assert ((use.load > 0).sum(1) <= 2).all()
    torch.testing.assert_close(use.load.sum(1), torch.ones(3, dtype=torch.float64))


def test_selectors_start_even_and_within_the_step():
    tasks = some_tasks(2)
    net = network(DSelectK(experts=8), tasks)
    assert net.trunk.selectors.bank.z.abs().max() <= 0.01
    with torch.no_grad():
        net.trunk.selectors.bank.z.zero_()
    (use,) = expert_use(net, batch_for(tasks).parts)
    torch.testing.assert_close(use.load, torch.full((2, 8), 1 / 8, dtype=torch.float64))


@pytest.mark.parametrize("by", ["task", "row"])
def test_penalties_are_those_of_all_tasks_that_are_there(by):
    tasks = some_tasks(3)
    sharing = DSelectK(experts=5, entropy=0.3, by=by)
    net, batch = stirred(sharing, tasks, spread=0.1), batch_for(tasks, missing=0.3, rows=6)
    batch = batch.only({"t0", "t2"})
    found = net(batch.parts, batch.labels).penalties["selectors"]
    expected = 0.0
    for t in (0, 2):
        rows = batch.task(f"t{t}").rows.tolist()
        for row in rows:
            x = batch.parts["table"]["numeric"][row]
            for r in selected(net.trunk, sharing, t, x)[0]:
                cost = 0.3 * -sum(v * math.log(v + 1e-6) for v in r) + 1 / sum(r)
                expected += cost / (len(batch) if by == "row" else len(rows))
    assert found.item() == pytest.approx(expected, abs=1e-9)
    assert net.eval()(batch.parts, batch.labels).penalties == {}


def test_powers_of_two_without_entropy_have_no_penalty():
    tasks = some_tasks(2)
    batch = batch_for(tasks)
    assert network(DSelectK(experts=8), tasks)(batch.parts, batch.labels).penalties == {}
    assert "selectors" in network(DSelectK(experts=6), tasks)(batch.parts, batch.labels).penalties


@pytest.mark.parametrize(("by", "times"), [("task", 1), ("row", 5)])
def test_parameters_are_the_formulas(by, times):
    net = network(DSelectK(experts=6, chosen=3, width=5, depth=2, by=by), some_tasks(4))
    assert size(net) == 6 * (5 * 5 + 6 * 5) + 4 * 3 * (3 + 1) * times


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": 1}, "experts must be at least 2"),
        ({"experts": 2, "chosen": 3}, r"chosen must be at most experts \(2\), got 3"),
        ({"by": "rows"}, "by must be task or row"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DSelectK(**settings)
