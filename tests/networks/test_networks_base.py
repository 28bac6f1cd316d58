from __future__ import annotations

import copy

import pytest
import torch

from plait.networks import TaskBank, build_network, seeded, task_slices
from plait.networks.base import escape, uniform
from plait.sharing import Hard
from plait.testing.toys import toy_inputs, toy_tasks


def bank(names, seed=0):
    made = TaskBank(names)
    made.add("weight", 3, 4, start=uniform(4))
    made.reset(seed, "heads")
    return made


def test_adding_and_permuting_tasks_changes_no_tasks_start():
    few = bank(["a", "NR.AR"]).get_parameter("weight")
    many = bank(["type", "NR.AR", "b", "a"]).get_parameter("weight")
    assert torch.equal(few[0], many[3])
    assert torch.equal(few[1], many[1])
    assert not torch.equal(few[0], few[1])


def test_start_depends_on_seed_and_place():
    one = bank(["a"])
    first = one.get_parameter("weight").clone()
    one.reset(1, "heads")
    assert not torch.equal(first, one.get_parameter("weight"))
    one.reset(0, "elsewhere")
    assert not torch.equal(first, one.get_parameter("weight"))
    one.reset(0, "heads")
    assert torch.equal(first, one.get_parameter("weight"))


def test_each_slice_starts_within_its_own_fan_in():
    wide = TaskBank([f"t{i}" for i in range(50)])
    wide.add("weight", 20, 16, start=uniform(16))
    top = wide.get_parameter("weight").abs().amax(dim=(1, 2))
    assert (top <= 0.25).all()
    assert (top > 0.24).all()


@pytest.mark.parametrize("change", [copy.deepcopy, lambda m: m.double(), lambda m: m.to("cpu")])
def test_marks_survive_copies_and_moves(change):
    network = build_network(
        inputs=toy_inputs(), tasks=toy_tasks(), encoder={}, sharing=Hard(), seed=0
    )
    changed = change(network)
    marked = {n: task_slices(p) for n, p in changed.named_parameters() if task_slices(p)}
    assert marked["heads.banks.binary.weight"] == ("binary.0", "binary.2")
    assert len(marked) == 2 * len(network.tasks.groups)


def test_a_bank_refuses_a_parameter_without_the_tasks_dimension():
    with pytest.raises(ValueError, match="bank of 2 slices"):
        TaskBank(["a", "b"]).register_parameter("x", torch.nn.Parameter(torch.zeros(3)))


def test_seeded_keeps_the_global_state():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    with seeded(0, "x"):
        inside = torch.rand(1)
    assert torch.equal(torch.rand(1), expected)
    with seeded(0, "x"):
        assert torch.equal(torch.rand(1), inside)


def test_escaped_names_are_distinct_and_can_name_modules():
    names = ["type", "%type", "a.b", "a%2Eb", "a/b", "größe", "keys", ""]
    escaped = [escape(name) for name in names]
    assert len(set(escaped)) == len(names)
    modules = torch.nn.ModuleDict({name: torch.nn.Linear(1, 1) for name in escaped})
    assert len(modules) == len(names)
