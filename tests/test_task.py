from __future__ import annotations

import json

import pytest

from plait import kinds
from plait.losses import LOSSES, loss_of
from plait.task import KINDS, Task, TaskSet, kind_of


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("regression", "real"),
        ("multiclass", "classes"),
        ("MultiLabel", "binary"),
        ("binary classification", "binary"),
        ("rating", "ordinal"),
        ("poisson", "counts"),
        ("real", "real"),
    ],
)
def test_the_words_people_know_stand_for_our_kinds(word, kind):
    assert kind_of(word).name == kind
    assert Task(name="a", kind=word, classes=("x", "y")).kind == kind


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(ValueError, match="no kind 'binery'; did you mean 'binary'"):
        kind_of("binery")


def test_no_word_stands_for_two_kinds():
    words = [word for kind in KINDS.values() for word in (kind.name, *kind.hints)]
    assert len(words) == len(set(words))


def test_every_kind_has_its_losses_and_every_loss_a_kind():
    for kind in KINDS.values():
        for name in (kind.loss, *kind.losses):
            assert loss_of(name, kind.name) is LOSSES[name]
    assert {*kinds.LOSSES} == {*LOSSES}


@pytest.mark.parametrize(
    ("task", "outputs", "group"),
    [
        (Task(name="a"), 1, "binary"),
        (Task(name="a", kind="classes", classes=("x", "y", "z")), 3, "classes-3"),
        (Task(name="a", kind="ordinal", classes=("1", "2", "3", "4")), 3, "ordinal-4"),
        (Task(name="a", kind="real"), 1, "real"),
        (Task(name="a", kind="real", loss="huber"), 1, "real:huber"),
        (Task(name="a", kind="counts"), 1, "counts"),
    ],
)
def test_a_task_knows_its_head_and_its_group(task, outputs, group):
    assert (task.outputs, task.group) == (outputs, group)


def test_a_task_survives_json():
    task = Task(name="NR.AR", kind="real", center=3.5, scale=2.0, loss="huber", preference=0.5)
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_a_set_keeps_its_order_and_groups_by_head():
    tasks = TaskSet([Task(name="b"), Task(name="r", kind="real"), Task(name="a")])
    assert tasks.names == ("b", "r", "a")
    assert tasks.groups["binary"].tasks == ("b", "a")
    assert tasks.groups["binary"].position == {"b": 0, "a": 1}
    assert list(tasks.groups) == ["binary", "real"]
    assert tasks["r"] is tasks[1]
    assert "r" in tasks
    assert "x" not in tasks
    assert tasks[0] in tasks


def test_a_subset_keeps_the_order_of_the_set_and_refuses_strangers():
    tasks = TaskSet([Task(name="a"), Task(name="b"), Task(name="c")])
    assert tasks.subset(["c", "a"]).names == ("a", "c")
    with pytest.raises(KeyError, match="no task 'd'"):
        tasks.subset(["d"])


def test_replace_changes_one_task():
    tasks = TaskSet([Task(name="a"), Task(name="b")])
    changed = tasks.replace("b", preference=2.0)
    assert [task.preference for task in changed] == [1.0, 2.0]
    assert changed != tasks
    assert changed.replace("b", preference=1.0) == tasks
    assert hash(changed.replace("b", preference=1.0)) == hash(tasks)


def test_a_set_is_refused_when_empty_or_with_a_name_twice():
    with pytest.raises(ValueError, match="at least one task"):
        TaskSet([])
    with pytest.raises(ValueError, match="given twice: a"):
        TaskSet([Task(name="a"), Task(name="b"), Task(name="a")])


def test_a_long_set_is_shown_short():
    shown = repr(TaskSet(Task(name=f"t{i}") for i in range(139)))
    assert shown == "TaskSet(139 tasks: t0, t1, t2, t3, t4, t5, …)"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "classes", "classes": ("x",)}, "task 'a': kind classes needs two or more"),
        ({"kind": "ordinal"}, "task 'a': kind ordinal needs two or more classes"),
        ({"kind": "real", "scale": 0.0}, "task 'a': scale must be positive, got 0.0"),
        ({"kind": "real", "scale": float("nan")}, "scale must be positive, got nan"),
    ],
)
def test_a_task_that_cannot_be_is_refused_by_name(settings, said):
    with pytest.raises(ValueError, match=said):
        Task(name="a", **settings)


def test_a_chain_is_told_from_its_start_and_begins_anew_in_a_subset():
    tasks = TaskSet([Task(name="c", after="b"), Task(name="a"), Task(name="b", after="a")])
    assert [tasks.before(name) for name in "abc"] == [(), ("a",), ("a", "b")]
    assert tasks.subset(["a", "c"]).before("c") == ()
    assert Task.from_json(tasks["c"].to_json()) == tasks["c"]
