from __future__ import annotations

import pytest
import torch

from plait.batch import Records
from plait.method import resolve
from plait.networks import build_network, extended
from plait.networks.base import task_slices
from plait.task import Task, TaskSet
from plait.testing.toy_networks import GROUNDS, dressed
from plait.testing.toys import toy_batch, toy_tasks
from plait.training import losses_of

NEW = [Task(name="late", kind="real"), Task(name="later", kind="ordinal", classes=("1", "2", "3"))]
OPEN = ["hard", "mmoe", "cgc", "moore", "mtan", "medusa", "m3vit", "enforced_routing"]


def made(sharing, tasks=None):
    method = resolve("sharing", sharing)
    inputs, encoder = GROUNDS[method.place]
    return build_network(
        inputs=inputs, tasks=tasks or toy_tasks(), encoder=encoder, sharing=method, seed=1
    ).eval()


@torch.no_grad()
def outputs(network, names):
    """What the named tasks get, asked for together."""
    batch, found = dressed(toy_batch(toy_tasks())), {}
    rows, asked = torch.arange(len(batch)), {}
    for key, group in network.tasks.groups.items():
        places = [place for name, place in group.position.items() if name in names]
        if places:
            task = torch.tensor(places).repeat_interleave(len(rows))
            asked[key] = Records(task, rows.repeat(len(places)))
    for key, raw in network(batch.parts, asked).raw.items():
        own = [name for name in network.tasks.groups[key].tasks if name in names]
        found |= dict(zip(own, raw.unflatten(0, (len(own), len(rows))), strict=True))
    return found


@pytest.mark.parametrize("sharing", OPEN)
def test_no_output_moves_by_one_bit_when_tasks_are_added_and_trained(sharing):
    network = made(sharing)
    names = network.tasks.names
    before = outputs(network, names)
    more = extended(network, NEW)
    assert more.tasks.names == (*names, "late", "later")
    start = outputs(more, ("late", "later"))
    tasks = TaskSet([*toy_tasks(), *NEW])
    batch = dressed(toy_batch(tasks)).only({"late", "later"})
    optimizer = torch.optim.SGD([p for p in more.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        losses_of(more, batch)[0].value.sum().backward()
        optimizer.step()
    after = outputs(more, names)
    assert all(torch.equal(before[name], after[name]) for name in names)
    trained = outputs(more, ("late", "later"))
    assert all(not torch.equal(start[name], trained[name]) for name in start)
    assert all(torch.equal(before[name], own) for name, own in outputs(network, names).items())


def test_only_what_has_a_part_of_the_new_tasks_trains():
    more = extended(made("mmoe"), NEW)
    for name, parameter in more.named_parameters():
        assert parameter.requires_grad == (task_slices(parameter) is not None), name
    for name, parameter in made("mmoe").named_parameters():
        assert parameter.requires_grad, name


def test_new_parts_start_as_in_a_network_built_with_them():
    more, whole = extended(made("mmoe"), NEW), made("mmoe", TaskSet([*toy_tasks(), *NEW]))
    one, two = (outputs(network, ("late", "later")) for network in (more, whole))
    for name, own in one.items():
        torch.testing.assert_close(own, two[name])
    priors = {"late": torch.tensor([2.5])}
    moved = outputs(extended(made("mmoe"), NEW, priors=priors), ("late",))["late"]
    torch.testing.assert_close(moved, one["late"] + 2.5)


def test_an_extended_network_is_stored_as_any_other(tmp_path):
    more = extended(made("hard"), NEW)
    more.save_pretrained(tmp_path)
    again = type(more).from_pretrained(tmp_path).eval()
    one, two = outputs(more, more.tasks.names), outputs(again, more.tasks.names)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_cannot_take_tasks_later_says_why():
    with pytest.raises(ValueError, match=r"has a task 'real\.1' already"):
        extended(made("hard"), [Task(name="real.1", kind="real")])
    with pytest.raises(ValueError, match="cross_stitch cannot take tasks later: every task mixes"):
        extended(made("cross_stitch"), NEW)
