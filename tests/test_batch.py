from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.batch import Batch, Input, Labels
from plait.task import Task, TaskSet
from plait.testing.toys import toy_batch, toy_tasks

TASKS = TaskSet([Task(name="a"), Task(name="r", kind="real"), Task(name="b")])


def two_parts() -> Batch:
    """Rows 0-2 in part x, rows 3-4 in part y; task a on 0, 3; b on 1, 3; r on 4."""
    return Batch(
        parts={
            "x": {"numeric": torch.arange(6.0).reshape(3, 2)},
            "y": {"vector": torch.arange(10.0, 14.0).reshape(2, 2)},
        },
        labels={
            "binary": Labels(
                torch.tensor([0, 0, 1, 1]),
                torch.tensor([0, 3, 1, 3]),
                torch.tensor([1.0, 0.0, 0.0, 1.0]),
                weight=torch.tensor([1.0, 2.0, 3.0, 4.0]),
            ),
            "real": Labels(torch.tensor([0]), torch.tensor([4]), torch.tensor([0.5])),
        },
        tasks=TASKS,
        ids=torch.tensor([10, 11, 12, 13, 14]),
    )


def test_a_tasks_view_holds_its_records_only():
    batch = two_parts()
    view = batch.task("b")
    assert view.rows.tolist() == [1, 3]
    assert view.target.tolist() == [0.0, 1.0]
    assert view.weight is not None
    assert view.weight.tolist() == [3.0, 4.0]
    with pytest.raises(KeyError, match="no task 'c'"):
        batch.task("c")


def test_an_absent_task_has_no_record_and_no_units():
    batch = two_parts().only({"a"})
    assert batch.present == ("a",)
    assert len(batch.task("b")) == 0
    assert len(batch.task("r")) == 0
    assert "real" not in batch.units
    assert batch.units["binary"].tolist() == [2, 0]
    assert len(batch) == 5


def test_present_follows_the_order_of_the_set():
    assert two_parts().present == ("a", "r", "b")


def test_restricting_to_rows_renumbers_records_and_parts():
    batch = two_parts().rows(torch.tensor([1, 3]))
    assert batch.ids.tolist() == [11, 13]
    assert batch.parts["x"]["numeric"].tolist() == [[2.0, 3.0]]
    assert batch.parts["y"]["vector"].tolist() == [[10.0, 11.0]]
    assert batch.task("a").rows.tolist() == [1]
    assert batch.task("b").rows.tolist() == [0, 1]
    assert batch.present == ("a", "b")


def test_a_part_without_a_chosen_row_is_gone():
    batch = two_parts().rows(torch.tensor([0, 2]))
    assert set(batch.parts) == {"x"}
    assert batch.present == ("a",)


def test_pairs_are_kept_only_whole():
    pairs = Labels(torch.tensor([0, 0]), torch.tensor([[0, 1], [1, 2]]), torch.ones(2))
    batch = Batch(
        parts={"x": {"numeric": torch.zeros(3, 1)}},
        labels={"binary": pairs},
        tasks=TASKS,
        ids=torch.arange(3),
    )
    kept = batch.rows(torch.tensor([1, 2])).labels["binary"]
    assert kept.rows.tolist() == [[0, 1]]


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 24), pieces=st.integers(1, 9), seed=st.integers(0, 5))
def test_micro_batches_hold_every_row_and_record_once(rows, pieces, seed):
    batch = toy_batch(toy_tasks(), rows=rows, missing=0.4, seed=seed)
    cut = batch.split(pieces)
    assert len(cut) == min(rows, pieces)
    assert all(len(piece) for piece in cut)
    assert torch.cat([piece.ids for piece in cut]).tolist() == batch.ids.tolist()
    for name in batch.tasks.names:
        whole = batch.task(name)
        found = sorted(
            (int(piece.ids[row]), float(target))
            for piece in cut
            for row, target in zip(piece.task(name).rows, piece.task(name).target, strict=True)
        )
        expected = [
            (int(batch.ids[row]), float(y)) for row, y in zip(whole.rows, whole.target, strict=True)
        ]
        assert found == sorted(expected)


def test_moving_a_batch_moves_everything():
    moved = two_parts().to("meta")
    tensors = [moved.ids, *moved.parts["x"].values(), *moved.parts["y"].values()]
    for labels in moved.labels.values():
        tensors += [labels.task, labels.rows, labels.target]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.labels["real"].weight is None


def test_an_inputs_width_is_its_last_dimension():
    assert Input(key="image.scene", type="image", shape=(1, 12, 22)).width == 22
