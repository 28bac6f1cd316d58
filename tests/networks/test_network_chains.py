from __future__ import annotations

import pytest
import torch

from plait.batch import Records
from plait.networks.chains import Chain
from plait.task import Task, TaskSet

TASKS = TaskSet(
    [
        Task(name="buy", after="click"),
        Task(name="price", kind="real"),
        Task(name="click"),
        Task(name="again", after="buy"),
        Task(name="share"),
    ]
)
CHAIN = Chain(TASKS, {name: TASKS.before(name) for name in TASKS.names})


def pairs(records):
    names = TASKS.groups["binary"].tasks
    return [
        (names[t], r) for t, r in zip(records.task.tolist(), records.rows.tolist(), strict=True)
    ]


def test_the_tasks_before_are_asked_for_on_the_same_rows():
    asked = Records(torch.tensor([1, 2, 2, 3]), torch.tensor([4, 0, 4, 7]))
    assert pairs(asked) == [("click", 4), ("again", 0), ("again", 4), ("share", 7)]
    found = CHAIN.wanted({"binary": asked})["binary"]
    assert pairs(found) == [
        ("buy", 0), ("buy", 4), ("click", 0), ("click", 4),
        ("again", 0), ("again", 4), ("share", 7),
    ]  # fmt: skip


def test_each_record_sees_the_log_odds_of_its_chain(monkeypatch):
    seen = []
    monkeypatch.setattr(CHAIN, "outputs", lambda steps: seen.append(steps) or steps[:, 0])
    asked = {"binary": Records(torch.tensor([0, 2, 3]), torch.tensor([1, 5, 0]))}
    wanted = CHAIN.wanted(asked)
    numbers = {pair: float(n) for n, pair in enumerate(pairs(wanted["binary"]))}
    raw = {"binary": torch.arange(float(len(numbers))).unsqueeze(1)}
    found, penalties = CHAIN(raw, wanted, asked, rows=6)
    none = float("inf")
    assert seen[0].tolist() == [
        [numbers["buy", 1], numbers["click", 1], none],
        [numbers["again", 5], numbers["buy", 5], numbers["click", 5]],
        [numbers["share", 0], none, none],
    ]
    assert found["binary"].shape == (3, 1)
    assert penalties == {}


def test_nothing_asked_for_stays_nothing():
    nothing = torch.zeros(0, dtype=torch.long)
    asked = {"binary": Records(nothing, nothing)}
    assert len(CHAIN.wanted(asked)["binary"]) == 0
    assert CHAIN({"binary": torch.zeros(0, 1)}, asked, asked, 3)[0]["binary"].shape == (0, 1)


def test_heads_are_trained_by_what_comes_after():
    assert CHAIN.trainers["click"] == {"click", "buy", "again"}
    assert CHAIN.trainers["again"] == {"again"}
    assert CHAIN.trainers["price"] == {"price"}


def test_a_loss_without_log_odds_is_refused():
    odd = TaskSet([Task(name="a", loss="focal"), Task(name="b", after="a")])
    with pytest.raises(ValueError, match="task 'a' of a chain needs bce"):
        Chain(odd, {"a": (), "b": ("a",)})
