from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from stepping import ground_of, losses_at, stacked, stepped
from training_toys import Deck, furthest, make_network

from plait.balancing.pcgrad import PCGrad
from plait.balancing.uncertainty import Uncertainty
from plait.metrics.fronts import efficient, hypervolume
from plait.networks import Network
from plait.networks.members import Members, members_of
from plait.testing.toys import toy_batch, toy_tasks
from plait.training import EventLog, fit
from plait.training.procedures.base import Problem
from plait.training.procedures.front import front_points
from plait.training.procedures.pamal import Pamal, ranking


def by_hand(losses, points):
    """R, one task and one pair after another."""
    total = torch.zeros(()).double()
    for i in range(points.shape[1]):
        order = sorted(range(len(points)), key=lambda w: -float(points[w, i]))
        pairs = list(pairwise(order))
        wrong = sum(torch.exp(torch.relu(losses[hi, i] - losses[lo, i])) for hi, lo in pairs)
        total = total + torch.log(wrong / len(pairs))
    return total


def test_the_ranking_punishes_the_wrong_order_only():
    draw = torch.Generator().manual_seed(0)
    points = torch.rand(4, 3, generator=draw, dtype=torch.float64)
    losses = torch.randn(4, 3, generator=draw, dtype=torch.float64)
    assert float(ranking(losses, points)) == pytest.approx(
        float(by_hand(losses, points)), rel=1e-12
    )
    assert float(ranking(-points, points)) == 0.0
    assert float(ranking(points, points)) > 0.1


def objective(members, values, batch, points, strength):
    """Σ_a Σ_i a_i L_i(θ(a)) + λR as a function of the members' parameters."""
    names = members.tasks.names
    keys = list(members.members)
    inner = [n for n, _ in members.first.named_parameters()]
    rows = []
    for point in points:
        mixed = {
            n: sum(a * values[f"members.{k}.{n}"] for a, k in zip(point, keys, strict=True))
            for n in inner
        }
        rows.append(stacked(losses_at(members.first, mixed, batch), names))
    losses = torch.stack(rows)
    return (points * losses).sum() + strength * by_hand(losses, points)


@pytest.mark.parametrize("pieces", [1, 3])
def test_every_member_gets_the_gradient_of_the_objective(tasks, pieces):
    method = Pamal(ranking=2.0, draws=4)
    members = method.prepare(make_network(tasks))
    batch = Deck(tasks).batch(0)
    ground = ground_of(members, method, pieces=pieces)
    layout = ground.layout.names
    drawn = method.drawn(Problem(ground, batch, 0))
    points = drawn[:, [layout.index(n) for n in members.tasks.names]]
    assert torch.allclose(points.sum(1), torch.ones(4).double())
    values = {n: p.detach().clone().requires_grad_() for n, p in members.named_parameters()}
    value = objective(members, values, batch, points, 2.0)
    wanted = dict(zip(values, torch.autograd.grad(value, list(values.values())), strict=True))
    _, found = stepped(ground, method, batch)
    assert furthest(wanted, found) < 1e-12


def test_at_a_vertex_it_is_that_member_alone(tasks):
    members = members_of(make_network(tasks))
    batch = Deck(tasks).batch(0)
    for place, member in enumerate(members.members.values()):
        members.point.copy_(torch.eye(len(tasks))[place])
        one, two = members(batch.parts, batch.labels), member(batch.parts, batch.labels)
        for group in one.raw:
            torch.testing.assert_close(one.raw[group], two.raw[group], rtol=1e-12, atol=0)
    members.point.fill_(0.2)
    plain = members.at(members.point)
    assert type(plain) is Network
    torch.testing.assert_close(
        plain(batch.parts, batch.labels).raw["real"], members(batch.parts, batch.labels).raw["real"]
    )


def test_members_start_apart_but_for_what_the_network_had_learnt(tasks):
    network = make_network(tasks)
    learnt = next(p for p in network.heads.parameters() if p.ndim == 2)
    learnt.data += 3.0  # a base rate, or a pretrained weight
    trained = members_of(network).trained()
    for name, first in trained[0].items():
        same = [torch.equal(first, own[name]) for own in trained[1:]]
        assert all(same) == (
            not first.any() or (first.shape == learnt.shape and (first > 2).all())
        ), name
    turned = members_of(make_network(tasks.subset(list(reversed(tasks.names)))))
    one, two = dict(members_of(make_network(tasks)).members), dict(turned.members)
    assert one.keys() == two.keys()
    assert members_of(network) is not network
    assert Pamal().prepare(turned) is turned


def test_members_are_saved_and_read_back(tasks, tmp_path):
    members = members_of(make_network(tasks))
    members.point.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0]))
    members.save_pretrained(tmp_path)
    again = Network.from_pretrained(tmp_path)
    assert isinstance(again, Members)
    batch = Deck(tasks).batch(0)
    one, two = members(batch.parts, batch.labels), again(batch.parts, batch.labels)
    assert all(torch.equal(one.raw[g], two.raw[g]) for g in one.raw)


@pytest.mark.parametrize("make", [Uncertainty, PCGrad])
def test_training_it_gives_a_front_that_trades_tasks_off(make):
    """Two tasks that want the same feature to mean opposite things."""
    tasks = toy_tasks(("real", "real"))
    batch = toy_batch(tasks, rows=64, missing=0.0, dtype=torch.float64)
    deck = Deck(tasks)
    deck.batch = lambda step: batch
    network = make_network(tasks)
    for parameter in network.parameters():
        parameter.data *= 0.3
    log, method = EventLog(), Pamal(draws=2)
    members = method.prepare(network)

    def validate(given):
        with torch.no_grad():
            return {
                n: float(v)
                for n, v in losses_at(given, dict(given.named_parameters()), batch).items()
            }

    fit(members, deck, make(), steps=60, procedure=method, observers=[log], validate=validate)
    (event,) = [e for e in log.events if e["event"] == "front"]
    assert [p["real.0"] for p in event["points"]] == pytest.approx(np.linspace(1, 0, 11))
    assert len(event["losses"]) == len(event["efficient"]) == 11
    assert 0 < event["hypervolume"] < 1
    assert torch.allclose(members.point, torch.full((2,), 0.5).double())
    ends = event["losses"][0], event["losses"][-1]
    assert ends[0]["real.0"] < ends[1]["real.0"]
    assert ends[1]["real.1"] < ends[0]["real.1"]


def test_the_volume_under_a_front():
    """Against inclusion and exclusion for two points, and counting for many."""
    one, two = np.array([0.2, 0.6, 0.5]), np.array([0.7, 0.1, 0.4])
    both = np.prod(1 - one) + np.prod(1 - two) - np.prod(1 - np.maximum(one, two))
    assert hypervolume(np.stack([one, two]), np.ones(3)) == pytest.approx(both, rel=1e-12)
    draw = np.random.default_rng(0)
    points, samples = draw.random((12, 4)), draw.random((200_000, 4))
    share = (points[:, None] <= samples[None]).all(2).any(0).mean()
    assert hypervolume(points, np.ones(4)) == pytest.approx(share, abs=5e-3)
    kept = points[efficient(points)]
    assert hypervolume(kept, np.ones(4)) == pytest.approx(
        hypervolume(points, np.ones(4)), rel=1e-12
    )
    assert hypervolume(points + 2, np.ones(4)) == 0.0


def test_points_of_a_front():
    assert front_points(("a", "b"), 3).tolist() == [[1, 0], [0.5, 0.5], [0, 1]]
    many = front_points(("a", "b", "c"), 9)
    assert many.shape == (9, 3)
    assert many[:4].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1 / 3] * 3]
    assert np.allclose(many.sum(1), 1)


def test_members_must_be_made_before_the_training(tasks):
    with pytest.raises(ValueError, match=r"pamal trains a network of its own.*prepare\(network\)"):
        fit(make_network(tasks), Deck(tasks), steps=1, procedure=Pamal())
    with pytest.raises(ValueError, match="draws must be at least 1"):
        Pamal(draws=0)
    assert math.isfinite(Pamal().concentration)
