from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from training_toys import Deck, make_network

from plait.losses import LOSSES
from plait.networks import Network
from plait.task import Task, TaskSet
from plait.training.measuring import Alignment, Layout, losses_of


def by_hand(network: Network, deck: Deck, weighted: bool) -> dict[str, float]:
    batch = deck.batch(0)
    outputs = network(batch.parts, batch.labels)
    found = {}
    for task in batch.tasks:
        labels = batch.labels[task.group]
        mine = labels.task == batch.tasks.groups[task.group].position[task.name]
        raw = outputs.raw[task.group][mine]
        weight = (
            labels.rows[mine].double() + 1 if weighted else torch.ones(int(mine.sum())).double()
        )
        loss = LOSSES[task.loss].per_row(raw, labels.target[mine])
        found[task.name] = ((weight * loss).sum() / weight.sum()).item()
    return found


@pytest.mark.parametrize("weighted", [False, True])
def test_a_tasks_loss_is_the_weighted_mean_over_its_own_labels(network, deck, weighted):
    batch = deck.batch(0)
    if weighted:
        labels = {k: replace(v, weight=v.rows.double() + 1) for k, v in batch.labels.items()}
        batch = replace(batch, labels=labels)
    losses, outputs = losses_of(network, batch)
    assert set(outputs.raw) == set(batch.labels)
    wanted = by_hand(network, deck, weighted)
    assert set(losses.tasks) == set(wanted)
    for name, value in zip(losses.tasks, losses.value.tolist(), strict=True):
        assert value == pytest.approx(wanted[name], rel=1e-12), name


def test_losses_of_pieces_add_up_to_those_of_the_whole(network, deck):
    batch = deck.batch(1)
    units = Layout(deck.tasks).units(batch)
    whole = losses_of(network, batch)[0].value
    for pieces in (2, 3, 8):
        parts = [losses_of(network, piece, units)[0].value for piece in batch.split(pieces)]
        torch.testing.assert_close(torch.stack(parts).sum(0), whole, rtol=1e-12, atol=0)


def test_absent_tasks_have_no_loss_and_a_weightless_label_is_no_label(network, deck, tasks):
    batch = deck.batch(0)
    assert losses_of(network, batch.only({"real.1"}))[0].tasks == ("real.1",)
    labels = batch.labels["binary"]
    weight = (labels.task != 1).double()
    batch = replace(batch, labels={**batch.labels, "binary": replace(labels, weight=weight)})
    assert "binary.2" not in losses_of(network, batch)[0].tasks


def test_gaussian_tasks_and_preferences_are_told(deck):
    tasks = deck.tasks.replace("counts.4", preference=3.0)
    losses, _ = losses_of(make_network(tasks), replace(Deck(tasks).batch(0)))
    told = dict(zip(losses.tasks, losses.gaussian.tolist(), strict=True))
    assert [name for name, yes in told.items() if yes] == ["real.1"]
    assert dict(zip(losses.tasks, losses.preferences.tolist(), strict=True))["counts.4"] == 3.0


def test_tasks_in_another_order_or_fewer_give_the_same_losses(network, deck, tasks):
    turned = TaskSet(reversed(tasks))
    few = tasks.subset(["binary.2", "real.1"])
    wanted, _ = losses_of(network, deck.batch(2))
    values = dict(zip(wanted.tasks, wanted.value.tolist(), strict=True))
    for other in (turned, few):
        losses, _ = losses_of(make_network(other), deck.batch(2))
        assert set(losses.tasks) == set(other.names)
        for name, value in zip(losses.tasks, losses.value.tolist(), strict=True):
            assert value == pytest.approx(values[name], rel=1e-12)


def test_records_stay_sorted_by_task_when_renumbered(deck, tasks):
    turned = TaskSet(reversed(tasks))
    batch = Alignment(tasks, turned)(deck.batch(0))
    for labels in batch.labels.values():
        assert (labels.task.diff() >= 0).all()
    for name in tasks.names:
        assert torch.equal(batch.task(name).rows, deck.batch(0).task(name).rows)


def test_a_task_of_another_kind_in_the_network_is_refused(deck, tasks):
    other = TaskSet([Task(name="real.1", kind="counts")])
    with pytest.raises(ValueError, match=r"'real.1' is real in the data and counts in the network"):
        Alignment(tasks, other)
