from __future__ import annotations

import pytest
import torch

from plait.batch import Records
from plait.networks import Network, build_network, priors_of, task_slices
from plait.sharing import Hard, Mmoe
from plait.task import Task, TaskSet
from plait.testing.toys import toy_batch, toy_inputs, toy_tasks

TASKS = toy_tasks()
SMALL = {"trunk": {"mlp": {"width": 16, "depth": 2}}}


def network(tasks=TASKS, sharing=None, seed=0, **changes):
    settings = {"inputs": toy_inputs(), "encoder": SMALL, **changes}
    return build_network(tasks=tasks, sharing=sharing or Hard(), seed=seed, **settings)


@pytest.mark.parametrize("sharing", [Hard(), Mmoe(experts=3, width=8, tower=5)])
def test_adding_and_permuting_tasks_changes_no_tasks_output(sharing):
    few = TaskSet([TASKS["real.1"], TASKS["binary.0"]])
    ours, theirs = network(few, sharing), network(TASKS, sharing)
    rows = torch.arange(6)
    parts = toy_batch(TASKS, rows=6).parts
    for name in few.names:
        outputs = [
            net(parts, {
                few[name].group: Records(
                    torch.full((6,), net.tasks.groups[few[name].group].position[name]), rows
                )
            }).raw[few[name].group]
            for net in (ours, theirs)
        ]  # fmt: skip
        torch.testing.assert_close(*outputs, rtol=0, atol=0)


def test_seeds_differ_and_repeat():
    one, again, other = (network(seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["heads.banks.binary.weight"], other["heads.banks.binary.weight"])
    first = "trunk.encoder.trunk.layers.0.weight"
    assert not torch.equal(one[first], other[first])


def test_building_keeps_the_global_randomness():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    network()
    assert torch.equal(torch.rand(2), expected)


def test_any_subset_of_tasks_gives_the_same_outputs():
    net, batch = network(), toy_batch(TASKS)
    whole = net(batch.parts, batch.labels).raw
    for name in TASKS.names:
        own = batch.only({name})
        key = TASKS[name].group
        which = batch.labels[key].task == TASKS.groups[key].position[name]
        torch.testing.assert_close(net(own.parts, own.labels).raw[key], whole[key][which])


def test_reach_says_who_trains_what():
    net = network(sharing=Mmoe(experts=2, width=8))
    reach = net.reach()
    assert reach.keys() == dict(net.named_parameters()).keys()
    assert reach["trunk.experts.layers.0.weight"] == frozenset(TASKS.names)
    assert reach["heads.banks.binary.weight"] == {"binary.0", "binary.2"}


@pytest.mark.parametrize("sharing", [Hard(), Mmoe(experts=2, width=8, tower=3)])
def test_shared_and_specific_split_the_trainable_parameters(sharing):
    net = network(sharing=sharing)
    shared, specific = net.shared_parameters(), net.specific_parameters()
    assert {id(p) for p in [*shared, *specific]} == {id(p) for p in net.parameters()}
    assert len(shared) + len(specific) == len(list(net.parameters()))
    assert all(task_slices(p) is None for p in shared)
    assert all(task_slices(p) for p in specific)
    shared[0].requires_grad_(False)
    assert len(net.shared_parameters()) == len(shared) - 1


def test_last_shared_is_the_layer_below_what_is_per_task():
    hard = network()
    layer = hard.trunk.encoder.trunk.layers[2]
    assert [id(p) for p in hard.last_shared()] == [id(layer.weight), id(layer.bias)]
    mmoe = network(sharing=Mmoe(experts=2, width=8, depth=2))
    last = mmoe.trunk.experts.layers[1]
    assert [id(p) for p in mmoe.last_shared()] == [id(last.weight), id(last.bias)]


def test_last_shared_passes_over_what_is_frozen():
    net = network()
    layers = net.trunk.encoder.trunk.layers
    layers[2].requires_grad_(False)
    assert [id(p) for p in net.last_shared()] == [id(layers[0].weight), id(layers[0].bias)]


def test_with_one_task_the_trunk_counts_as_shared():
    """So that what weighs gradients there works for one task as for many."""
    alone = network(TaskSet([TASKS["real.1"]]))
    heads = {id(p) for p in alone.heads.parameters()}
    assert {id(p) for p in alone.specific_parameters()} == heads
    assert {id(p) for p in alone.shared_parameters()} == {id(p) for p in alone.parameters()} - heads
    assert alone.last_shared() == []


def test_predictions_are_in_the_users_units():
    tasks = TaskSet(
        [
            Task(name="price", kind="real", center=100.0, scale=20.0),
            Task(name="mass", kind="real", center=-1.0, scale=0.5),
            Task(name="click"),
            Task(name="colour", kind="classes", classes=("r", "g", "b")),
            Task(name="stars", kind="ordinal", classes=("1", "2", "3")),
            Task(name="visits", kind="counts"),
        ]
    )
    net = network(tasks)
    rows = torch.arange(5)
    asked = {
        key: Records(torch.arange(len(g.tasks)).repeat_interleave(5), rows.repeat(len(g.tasks)))
        for key, g in tasks.groups.items()
    }
    parts = toy_batch(tasks, rows=5).parts
    raw = net(parts, asked).raw
    found = net.predict(parts, asked)
    torch.testing.assert_close(found["real"][:5], raw["real"][:5, 0] * 20 + 100)
    torch.testing.assert_close(found["real"][5:], raw["real"][5:, 0] * 0.5 - 1)
    torch.testing.assert_close(found["binary"], raw["binary"][:, 0].sigmoid())
    torch.testing.assert_close(found["classes-3"], raw["classes-3"].softmax(1))
    torch.testing.assert_close(found["ordinal-3"].sum(1), torch.ones(5))
    torch.testing.assert_close(found["counts"], raw["counts"][:, 0].exp())
    assert not found["real"].requires_grad


def test_predict_evaluates_and_leaves_the_mode():
    net = network(encoder={"trunk": {"mlp": {"width": 16, "dropout": 0.5}}})
    net.train()
    net.heads.eval()
    batch = toy_batch(TASKS)
    first = net.predict(batch.parts, batch.labels)
    again = net.predict(batch.parts, batch.labels)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert net.trunk.training
    assert not net.heads.training


def test_priors_start_the_heads():
    class Source:
        tasks = TASKS

        def labels(self, task, split):
            return toy_batch(TASKS).task(task)

    priors = priors_of(Source())
    net = network(priors=priors)
    bias = net.heads.banks["binary"].get_parameter("bias")[0, 0].sigmoid()
    assert bias.item() == pytest.approx(priors["binary.0"][1].item())


def test_one_row_and_one_record():
    net = network()
    batch = toy_batch(TASKS, rows=1, missing=0.0)
    assert net(batch.parts, batch.labels).raw["classes-3"].shape == (1, 3)


def test_a_label_without_a_row_equals_the_row_removed():
    net = network().double()
    batch = toy_batch(TASKS, dtype=torch.float64)
    net(batch.parts, batch.labels).raw["binary"].square().sum().backward()
    first = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    rows = torch.unique(batch.labels["binary"].rows)
    fewer = batch.rows(rows)
    net(fewer.parts, fewer.labels).raw["binary"].square().sum().backward()
    for name, parameter in net.named_parameters():
        if name in first:
            torch.testing.assert_close(parameter.grad, first[name], rtol=0, atol=1e-12)


def test_network_needs_no_sharing_package():
    assert isinstance(network(), Network)
