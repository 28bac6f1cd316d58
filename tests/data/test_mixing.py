from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from plait.data import (
    ByTask,
    DataSpec,
    Rows,
    SideBySide,
    SplitSpec,
    TableSpec,
    TaskSpec,
    auto_batch,
    feed_for,
    load,
)
from plait.settings import Training

SIZES = {"small": 20, "middle": 80, "big": 320}


def dataset(order=("small", "middle", "big")):
    n = 400
    labels = {}
    for name, size in SIZES.items():
        rows = np.random.default_rng(len(name)).permutation(n)[:size]
        labels[name] = np.full(n, np.nan)
        labels[name][rows] = np.arange(size) % 2
    columns = {
        "x": np.arange(float(n)),
        "split": ["train"] * n,
        **{name: labels[name] for name in order},
    }
    data = DataSpec(tables={"t": TableSpec(source=columns)}, split=SplitSpec(kind="column"))
    # A column split without valid rows gives up a tenth of train, which these tests do not want.
    return load(data, {name: TaskSpec() for name in order}).with_split(all_train=True)


def drawn(batch):
    """The (task, dataset row) pairs of a batch."""
    return [
        (batch.tasks.groups[key].tasks[task], int(batch.ids[row]))
        for key, labels in batch.labels.items()
        for task, row in zip(labels.task.tolist(), labels.rows.tolist(), strict=True)
    ]


def same(one, other):
    return torch.equal(one.ids, other.ids) and drawn(one) == drawn(other)


def feeds(data):
    return {
        "rows": Rows(data, batch=32, seed=1),
        "temperature": ByTask(data, batch=32, seed=1),
        "uniform": ByTask(data, batch=32, seed=1, mixing="uniform"),
        "round_robin": ByTask(data, batch=32, seed=1, mixing="round_robin"),
        "side_by_side": SideBySide(data, steps=16, seed=1),
    }


KINDS = ["rows", "temperature", "uniform", "round_robin", "side_by_side"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_a_function_of_the_step_alone(kind):
    data = dataset()
    straight, other = feeds(data)[kind], feeds(data)[kind]
    batches = [straight.batch(step) for step in range(2 * straight.steps + 3)]
    for step in (2 * straight.steps + 2, 5, straight.steps, 0):
        assert same(other.batch(step), batches[step])


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_declaration_changes_no_deck(kind):
    one, other = feeds(dataset())[kind], feeds(dataset(("big", "small", "middle")))[kind]
    for step in range(one.steps):
        assert sorted(drawn(one.batch(step))) == sorted(drawn(other.batch(step)))


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_and_another_pass_are_dealt_anew(kind):
    data = dataset()
    feed = feeds(data)[kind]
    other = {
        "rows": Rows(data, batch=32, seed=2),
        "side_by_side": SideBySide(data, steps=16, seed=2),
    }.get(kind) or ByTask(data, batch=32, seed=2, mixing=kind)
    first = [drawn(feed.batch(step)) for step in range(feed.steps)]
    assert first != [drawn(other.batch(step)) for step in range(other.steps)]
    assert first != [drawn(feed.batch(step + feed.steps)) for step in range(feed.steps)]


def test_proportional_rows_come_once_a_pass_with_all_their_labels():
    data = dataset()
    feed = Rows(data, batch=50, seed=0)
    sizes = [len(feed.batch(step)) for step in range(feed.steps)]
    assert max(sizes) <= 50
    assert max(sizes) - min(sizes) <= 1
    for turn in range(2):
        seen = Counter()
        for step in range(feed.steps):
            seen.update(drawn(feed.batch(turn * feed.steps + step)))
        assert len(seen) == sum(SIZES.values())
        assert set(seen.values()) == {1}


def test_rows_of_one_task_carry_that_task_only():
    feed = Rows(dataset(), batch=16, seed=0, tasks=["small"])
    seen = Counter(pair for step in range(feed.steps) for pair in drawn(feed.batch(step)))
    assert len(seen) == 20
    assert {name for name, _ in seen} == {"small"}


@pytest.mark.parametrize(
    ("mixing", "temperature", "expected"),
    [
        ("proportional", 2.0, {"small": 20, "middle": 80, "big": 320}),
        ("temperature", 1.0, {"small": 20, "middle": 80, "big": 320}),
        ("temperature", 2.0, {"small": 1, "middle": 2, "big": 4}),
        ("temperature", 1e6, {"small": 1, "middle": 1, "big": 1}),
        ("uniform", 2.0, {"small": 1, "middle": 1, "big": 1}),
    ],
)
def test_shares_follow_the_temperature(mixing, temperature, expected):
    feed = ByTask(dataset(), batch=30, seed=0, mixing=mixing, temperature=temperature)
    total = sum(expected.values())
    assert feed.shares == pytest.approx({name: n / total for name, n in expected.items()}, rel=1e-4)
    seen = Counter()
    for step in range(200):
        batch = feed.batch(step)
        assert abs(len(batch) - 30) <= 3
        assert len(drawn(batch)) == len(batch)
        seen.update(name for name, _ in drawn(batch))
    for name, share in feed.shares.items():
        assert seen[name] == pytest.approx(200 * 30 * share, abs=2)


def test_small_decks_cycle_and_every_card_comes_as_often():
    feed = ByTask(dataset(), batch=30, seed=0, mixing="uniform")
    seen = Counter(pair for step in range(400) for pair in drawn(feed.batch(step)))
    for name, size in SIZES.items():
        counts = [count for (task, _), count in seen.items() if task == name]
        assert len(counts) == size
        assert max(counts) - min(counts) <= 1


def test_round_robin_takes_one_task_a_step_and_goes_on_for_ever():
    feed = ByTask(dataset(), batch=32, seed=0, mixing="round_robin")
    turns = [{name for name, _ in drawn(feed.batch(step))} for step in range(30)]
    assert all(len(names) == 1 for names in turns)
    assert turns[:3] * 10 == turns
    assert set.union(*turns[:3]) == set(SIZES)


def test_fewer_rows_than_tasks_still_give_a_batch():
    feed = ByTask(dataset(), batch=1, seed=0, mixing="uniform")
    assert all(len(feed.batch(step)) >= 1 for step in range(50))


def test_side_by_side_draws_every_task_alike_and_each_row_once_a_pass():
    feed = SideBySide(dataset(), steps=16, seed=0)
    seen = Counter()
    for step in range(feed.steps):
        here = Counter(name for name, _ in drawn(feed.batch(step)))
        for name, size in SIZES.items():
            assert here[name] in (size // 16, -(-size // 16))
        seen.update(drawn(feed.batch(step)))
    assert len(seen) == sum(SIZES.values())
    assert set(seen.values()) == {1}


def test_the_batch_size_found_by_itself():
    assert [auto_batch(n) for n in (10, 160, 400, 4096, 10**6)] == [16, 16, 25, 256, 256]


def test_the_settings_choose_the_feed():
    data, settings = dataset(), Training()
    rows = feed_for(data, settings, seed=0)
    assert isinstance(rows, Rows)
    assert rows.steps >= 16
    assert feed_for(data, replace(settings, batch=100), 0).steps == 4
    assert len(drawn(feed_for(data, settings, 0, tasks=["small"]).batch(0))) <= 16
    for mixing in ("uniform", "round_robin", "temperature"):
        assert isinstance(feed_for(data, replace(settings, mixing=mixing), 0), ByTask)


def test_wrong_settings_and_empty_splits_are_refused():
    data = dataset()
    with pytest.raises(ValueError, match="no mixing 'unifrom'"):
        ByTask(data, batch=8, seed=0, mixing="unifrom")
    with pytest.raises(ValueError, match="temperature must be positive"):
        ByTask(data, batch=8, seed=0, temperature=0)
    with pytest.raises(ValueError, match="no labelled rows to draw from in split 'test'"):
        Rows(data, batch=8, seed=0, split="test")
    with pytest.raises(KeyError, match="did you mean 'small'"):
        SideBySide(data, steps=4, seed=0, tasks=["smal"])
