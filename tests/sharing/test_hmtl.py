from __future__ import annotations

import pytest
import torch
from on_tokens import LENGTHS, TASKS, batch, by_task, many, moved, network
from written_out import network as on_numbers

from plait.networks.positions import at
from plait.sharing import Hmtl
from plait.task import Task, TaskSet

UNDER = {"ner": "pos", "mood": "ner", "price": "ner"}  # two on top, side by side


def lstm(x, module):
    """A recurrent network over tokens [L, d], as it is written: [L, hidden]."""
    (w, u, b, c), size = module.parameters(), module.hidden_size
    h, cell, found = torch.zeros(size).double(), torch.zeros(size).double(), []
    for token in x:
        i, f, g, o = (w @ token + b + u @ h + c).split(size)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(cell)
        found.append(h)
    return torch.stack(found)


def encode(x, module):
    for ways in module.layers:
        forth, back = ways
        x = torch.cat([lstm(x, forth), lstm(x.flip(0), back).flip(0)], 1)
    return x


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2])
def test_features_are_the_papers_one_token_at_a_time(depth):
    net, given = moved(network(Hmtl(hidden=3, depth=depth, under=UNDER))), batch()
    with at("token"):
        tokens = net.encoder(given.parts).view(4, 5, -1)
    found = net(given.parts, given.labels).features
    for row, length in enumerate(LENGTHS):
        e, states = tokens[row, :length], {}
        for name in ("pos", "ner", "mood", "price"):
            low = UNDER.get(name)
            x = torch.cat([e, states[low]], 1) if low else e
            states[name] = encode(x, net.trunk.layers[name])
        for key in ("binary", "real"):
            name = TASKS.groups[key].tasks[0]
            mine = found[key].records[row]
            torch.testing.assert_close(mine, states[name].mean(0), rtol=0, atol=1e-12)
        start = sum(LENGTHS[:row])
        for number, name in enumerate(("pos", "ner")):
            first = number * sum(LENGTHS) + start
            mine = found["tokens-3"].records[first : first + length]
            torch.testing.assert_close(mine, states[name], rtol=0, atol=1e-12)


@torch.no_grad()
def test_padding_changes_nothing():
    net = network(Hmtl(hidden=3, under=UNDER))
    short, long = by_task(net, batch()), by_task(net, batch(longest=9))
    torch.testing.assert_close(short["mood"], long["mood"], rtol=0, atol=1e-12)
    torch.testing.assert_close(short["ner"], long["ner"][:, :5], equal_nan=True)


def test_a_loss_trains_what_is_below_and_nothing_above():
    net, given = network(Hmtl(hidden=3, under=UNDER)), batch()
    reach = net.reach()
    for name, below in (
        ("pos", {"pos"}),
        ("ner", {"pos", "ner"}),
        ("mood", {"pos", "ner", "mood"}),
    ):
        net.zero_grad()
        by_task(net, given, only=name)[name].nansum().backward()
        trained = {
            n for n in TASKS.names if next(net.trunk.layers[n].parameters()).grad is not None
        }
        assert trained == below
        said = {n for n in TASKS.names for p, who in reach.items()
                if p.startswith(f"trunk.layers.{n}.") and name in who}  # fmt: skip
        assert said == below


@torch.no_grad()
def test_without_what_is_above_the_lower_tasks_are_the_same_and_it_does_not_run():
    whole, given = network(Hmtl(hidden=3, under=UNDER)), batch()
    low = TaskSet([TASKS["pos"], TASKS["ner"]])
    part = network(Hmtl(hidden=3, under={"ner": "pos"}), low)
    ran = []
    for name, layer in whole.trunk.layers.items():
        layer.register_forward_hook(lambda *_, name=name: ran.append(name))
    one = by_task(whole, given, only="ner")["ner"]
    assert ran == ["pos", "ner"]
    torch.testing.assert_close(one, by_task(part, given, only="ner")["ner"], equal_nan=True)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_parameters_are_the_formulas(count):
    tasks = many(count)
    under = {f"t{i}": f"t{i - 1}" for i in range(1, count)}
    net = network(Hmtl(hidden=3, depth=2, under=under), tasks)
    first = [8 if t == 0 else 8 + 6 for t in range(count)]
    expected = sum(2 * 12 * (i + 3 + 2) + 2 * 12 * (6 + 3 + 2) for i in first)
    assert sum(p.numel() for p in net.trunk.layers.parameters()) == expected


def test_tasks_stand_on_those_they_come_after():
    tasks = TaskSet([Task(name="click"), Task(name="buy", after="click")])
    assert network(Hmtl(hidden=2), tasks).trunk.below == {"click": "", "buy": "click"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, "hidden must be at least 1"),
        ({}, "no task stands on another; say which: under: {pos: mood}"),
        ({"under": {"ner": "pos", "pos": "ner"}}, "in a ring: pos, ner"),
        ({"under": {"ner": "poss"}}, "poss"),
    ],
)
def test_impossible_orders_are_refused(settings, message):
    with pytest.raises((ValueError, KeyError), match=message):
        network(Hmtl(**settings))


def test_an_encoder_without_tokens_is_refused():
    with pytest.raises(ValueError, match="gives no tokens; take encoder"):
        on_numbers(Hmtl(under={"t1": "t0"}), many(2))
