from __future__ import annotations

import pytest
import torch
from adapter_nets import TASKS, bert, filled, states, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.editing import add_task, drop_task
from plait.adapting.lora import Lora
from plait.batch import Records
from plait.networks import Network
from plait.sharing import Mmoe
from plait.task import Task, TaskSet

pytest.importorskip("transformers")

LAST = Task(name="last", kind="real")


def outputs(network, value, names):
    """Raw outputs of the named tasks on every text, each asked for beside the others."""
    asked = {}
    for key, group in network.tasks.groups.items():
        mine = [name for name in group.tasks if name in names]
        if mine:
            task = torch.tensor([group.position[n] for n in mine]).repeat_interleave(len(value))
            asked[key] = Records(task, torch.arange(len(value)).repeat(len(mine)))
    raw = network({"a": {"text.review": value}}, asked).raw
    found = {}
    for key, records in asked.items():
        for name in names:
            if network.tasks[name].group == key:
                found[name] = raw[key][records.task == network.tasks.groups[key].position[name]]
    return found


def test_others_hear_nothing_of_a_task_that_comes_or_goes(tmp_path):
    network, value = bert(Lora(rank=2)).eval(), texts(5, 3, 4)
    rest = ("type", "a/b")
    before = outputs(network, value, rest)
    drop_task(network, "NR.AR")
    assert network.tasks.names == rest
    after = outputs(network, value, rest)
    assert all(torch.equal(before[name], after[name]) for name in rest)
    add_task(network, LAST)
    later = outputs(network, value, rest)
    assert all(torch.equal(before[name], later[name]) for name in rest)
    assert outputs(network, value, ["last"])["last"].shape == (3, 1)
    network.save_pretrained(tmp_path)
    again = Network.from_pretrained(tmp_path).eval()
    assert again.tasks.names == (*rest, "last")
    for name, raw in outputs(network, value, again.tasks.names).items():
        assert torch.equal(raw, outputs(again, value, again.tasks.names)[name])


def test_a_task_added_starts_as_one_that_was_there_from_the_beginning():
    small, whole = bert(), bert(tasks=TaskSet([*TASKS, LAST]))
    grown = build_adapted(small, Lora(rank=2), 3)
    filled(trunk_of(grown).banks)
    add_task(grown, LAST, seed=3)
    built = build_adapted(whole, Lora(rank=2), 3)
    for name, parameter in trunk_of(grown).banks.named_parameters():
        assert torch.equal(parameter[3], trunk_of(built).banks.get_parameter(name)[3])
    assert parameter.plait_tasks == (*TASKS.names, "last")
    add_task(small_head := build_adapted(small, Lora(rank=2), 0), LAST)
    assert torch.equal(small_head.heads.bank("real").weight, whole.heads.bank("real").weight)


def test_training_goes_on_after_a_task_was_added():
    network = bert(Lora(rank=2))
    add_task(network, LAST)
    filled(trunk_of(network).banks)
    outputs(network, texts(5, 3), ["last"])["last"].sum().backward()
    for parameter in trunk_of(network).banks.parameters():
        assert parameter.grad[3].any()
        assert not parameter.grad[:3].any()


def test_what_cannot_be_added_or_dropped_is_told():
    network = bert(Lora(rank=2))
    with pytest.raises(ValueError, match="has a task 'type' already"):
        add_task(network, Task(name="type"))
    with pytest.raises(KeyError, match="did you mean 'type'"):
        drop_task(network, "tipe")
    drop_task(network, "type")
    drop_task(network, "a/b")
    with pytest.raises(ValueError, match=r"'NR\.AR' is the network's last task"):
        drop_task(network, "NR.AR")
    with pytest.raises(ValueError, match="no adapters"):
        drop_task(bert(), "type")
    add_task(network, LAST)
    drop_task(network, "NR.AR")
    with pytest.raises(KeyError, match=r"no task of this network is of the group 'binary'.* last"):
        states(network, texts(3), [0])
    add_task(network, Task(name="next"))
    assert states(network, texts(3), [0]).shape == (1, 16)


def test_a_frozen_network_with_parts_per_task_takes_no_new_one():
    from adapter_nets import TEXT, TINY

    from plait.networks import build_network

    encoder = {"text": {"transformer": {"config": TINY}}, "trunk": {"mlp": {"depth": 0}}}
    start = build_network(
        inputs=TEXT, tasks=TASKS, encoder=encoder, sharing=Mmoe(experts=2, width=4), seed=0
    )
    network = build_adapted(start, Lora(rank=2), 0)
    with pytest.raises(ValueError, match="parts per task of its own"):
        add_task(network, LAST)
