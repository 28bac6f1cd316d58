from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from training_toys import BALANCERS, Deck, furthest, make_network

from plait.balancing.equal import Equal
from plait.batch import Batch
from plait.losses import LOSSES
from plait.networks import Network
from plait.testing import Subject, properties
from plait.testing.laws import hold
from plait.training.procedures.base import Ground, Problem
from plait.training.procedures.loss_reweighting import LossReweighting
from plait.training.procedures.plain import Plain

SHAPES = ("linear_upper", "quadratic", "extremes", "upper")


def filled(
    network: Network, batch: Batch, procedure, make=Equal, pieces: int = 1
) -> dict[str, torch.Tensor]:
    network.zero_grad()
    balancer = make()
    balancer.bind(network.tasks.names)
    ground = Ground(network, seed=1, micro_batches=pieces)
    procedure.gradients(Problem(ground, batch, 0), balancer)
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def by_record(network: Network, batch: Batch) -> dict[str, torch.Tensor]:
    """Every task's losses of its records [N], with their graph."""
    outputs, found = network(batch.parts, batch.labels), {}
    for key, labels in batch.labels.items():
        group = network.tasks.groups[key]
        loss = LOSSES[network.tasks[group.tasks[0]].loss]
        values = loss.per_row(outputs.raw[key], labels.target)
        for place, name in enumerate(group.tasks):
            found[name] = values[labels.task == place]
    return found


def weights(losses: torch.Tensor, shape: str, delta: float, r: float) -> torch.Tensor:
    """The README's, written out for one list of losses."""
    low, high = losses.min(), losses.max()
    h = 2 * delta * losses / (high - low) - delta * (high + low) / (high - low)
    f = {
        "linear_upper": torch.minimum(h + delta, torch.full_like(h, delta)),
        "quadratic": 1 - h**2 / delta**2,
        "extremes": h.abs(),
        "upper": (h + delta) / 2,
    }[shape]
    return torch.softmax(f / r, 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("delta", "r"), [(1.0, 1.0), (2.0, 0.3)])
def test_equals_the_authors_rule_in_each_task(tasks, shape, delta, r):
    network, batch = make_network(tasks), Deck(tasks).batch(0)
    method = LossReweighting(shape=shape, delta=delta, temperature=r, warm_up=0)
    found = filled(network, batch, method)
    network.zero_grad()
    total = sum(
        weights(losses.detach(), shape, delta, r) @ losses
        for losses in by_record(network, batch).values()
    )
    total.backward()
    wanted = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert furthest(found, wanted) < 1e-12
    assert furthest(found, filled(network, batch, Plain())) > 1e-3


def of_weights(network: Network, batch: Batch, **given: float) -> dict[str, torch.Tensor]:
    """The weights of every task's records, which sum to one."""
    method = LossReweighting(warm_up=0, **given)
    found = method.reweighted(Problem(Ground(network), batch, 0))
    named = {name: found.task(name).weight for name in batch.present}
    return {name: weight / weight.sum() for name, weight in named.items()}


def test_weights_keep_their_sum_and_their_bounds(network, deck):
    batch = deck.batch(0)
    kept = LossReweighting(warm_up=0).reweighted(Problem(Ground(network), batch, 0))
    for name in batch.present:
        weight = kept.task(name).weight
        assert weight.sum().item() == pytest.approx(len(weight))
    for r in (0.2, 1.0):
        for weight in of_weights(network, batch, temperature=r).values():
            assert (weight.max() / weight.min()).log().item() <= 1 / r + 1e-9
    losses = by_record(network, batch)
    for name, weight in of_weights(network, batch).items():
        upper = losses[name] >= (losses[name].min() + losses[name].max()) / 2
        torch.testing.assert_close(weight[upper], weight.max().expand(int(upper.sum())))
    for weight in of_weights(network, batch, temperature=1e9).values():
        torch.testing.assert_close(weight, torch.full_like(weight, 1 / len(weight)))


def test_labels_that_weigh_nothing_take_no_part_and_double_ones_count_twice(network, deck):
    batch = deck.batch(0)
    key = next(iter(batch.labels))
    labels = batch.labels[key]
    plain = of_weights(network, batch)
    double = torch.full((len(labels),), 2.0)
    doubled = replace(batch, labels={**batch.labels, key: replace(labels, weight=double)})
    for name, weight in of_weights(network, doubled).items():
        torch.testing.assert_close(weight, plain[name])
    mask = torch.ones(len(labels))
    mask[0] = 0
    without = replace(batch, labels={**batch.labels, key: labels.select(mask > 0)})
    muted = replace(batch, labels={**batch.labels, key: replace(labels, weight=mask)})
    name = network.tasks.groups[key].tasks[int(labels.task[0])]
    found, wanted = of_weights(network, muted)[name], of_weights(network, without)[name]
    assert found[0] == 0
    torch.testing.assert_close(found[1:], wanted)


def test_losses_that_are_alike_weigh_the_same(network, deck):
    one = deck.batch(0).rows(torch.tensor([3]))
    for weight in of_weights(network, one).values():
        assert weight.tolist() == [1.0]


@pytest.mark.parametrize("make", BALANCERS)
def test_is_the_plain_step_in_the_warm_up_and_works_around_every_balancer(tasks, make):
    network, batch = make_network(tasks), Deck(tasks).batch(0)
    plain = filled(network, batch, Plain(), make)
    assert furthest(filled(network, batch, LossReweighting(warm_up=1), make), plain) == 0.0
    now = LossReweighting(warm_up=0)
    assert furthest(filled(network, batch, now, make), plain) > 1e-4
    cut = filled(network, batch, now, make, pieces=4)
    assert furthest(filled(network, batch, now, make), cut) < 1e-10


def test_wraps_another_procedure(tasks):
    network, batch = make_network(tasks), Deck(tasks).batch(0)
    flat = LossReweighting(warm_up=0, procedure="task_sam")
    assert furthest(filled(network, batch, flat), filled(network, batch, Plain())) > 1e-4


# What it tells is the weighted losses, by its own word.
LAWS = [
    law
    for law in properties(Subject(LossReweighting, {"warm_up": 0, "temperature": 0.2}))
    if law.name != "losses_are_those_of_the_start"
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_the_contract_holds_past_the_warm_up(law):
    hold(Subject(LossReweighting, {"warm_up": 0, "temperature": 0.2}), law)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="shape must be one of"):
        LossReweighting(shape="square")
    with pytest.raises(ValueError, match="must be positive"):
        LossReweighting(temperature=0.0)
