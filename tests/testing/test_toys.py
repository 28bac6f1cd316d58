from __future__ import annotations

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.testing.toys import (
    Quadratics,
    ToyNetwork,
    labelled_again,
    toy_batch,
    toy_frame,
    toy_tasks,
)


@settings(deadline=None, max_examples=25)
@given(cosine=st.floats(-0.45, 0.99), tasks=st.integers(2, 3), seed=st.integers(0, 9))
def test_gradients_have_the_cosines_that_were_asked_for(cosine, tasks, seed):
    problem = Quadratics.with_cosine(cosine, tasks=tasks, seed=seed)
    wanted = torch.full((tasks, tasks), cosine, dtype=torch.float64).fill_diagonal_(1.0)
    assert torch.allclose(problem.cosines(), wanted, atol=1e-9)


def test_gradients_have_the_norms_that_were_asked_for():
    cosines = torch.tensor([[1.0, 0.2, -0.5], [0.2, 1.0, 0.0], [-0.5, 0.0, 1.0]])
    problem = Quadratics.with_cosines(cosines, norms=[1.0, 10.0, 0.1], size=5)
    assert torch.allclose(problem.gradients.norm(dim=1), torch.tensor([1.0, 10.0, 0.1]).double())
    assert torch.allclose(problem.cosines(), cosines.double(), atol=1e-7)


def test_the_gradients_are_those_of_the_losses():
    problem = Quadratics.random(3)
    point = problem.origin()
    for row, loss in zip(problem.gradients, problem.losses(point), strict=True):
        (found,) = torch.autograd.grad(loss, point, retain_graph=True)
        assert torch.allclose(found, row)
    assert (problem.losses(point) > 0).all()


def test_permuting_and_scaling_keep_names_and_rows_together():
    problem = Quadratics.random(3)
    turned = problem.permuted([2, 0, 1])
    assert turned.tasks == ("t2", "t0", "t1")
    assert torch.equal(turned.gradients[0], problem.gradients[2])
    assert torch.equal(turned.losses(turned.origin())[1], problem.losses(problem.origin())[0])
    assert torch.equal(problem.scaled(3.0).gradients, 3 * problem.gradients)


def test_a_tasks_labels_do_not_depend_on_the_other_tasks():
    tasks = toy_tasks(("binary", "real", "classes", "ordinal", "counts"))
    few = tasks.subset(["classes.2", "counts.4"])
    one, two = toy_batch(tasks), toy_batch(few)
    for name in few.names:
        assert torch.equal(one.task(name).rows, two.task(name).rows)
        assert torch.equal(one.task(name).target, two.task(name).target)


def test_toy_batches_have_sorted_records_valid_targets_and_missing_labels():
    tasks = toy_tasks(("binary", "real", "classes", "ordinal", "counts", "binary"))
    batch = toy_batch(tasks, rows=60, missing=0.4)
    assert batch.present == tasks.names
    for key, labels in batch.labels.items():
        assert (labels.task.diff() >= 0).all()
        kind = tasks.groups[key].kind
        if kind in ("classes", "ordinal"):
            assert set(labels.target.tolist()) <= {0, 1, 2}
        if kind == "counts":
            assert (labels.target >= 0).all()
    assert all(0 < len(batch.task(name)) < 60 for name in tasks.names)


def test_labels_can_be_taken_away():
    tasks = toy_tasks()
    batch = toy_batch(tasks)
    keep = torch.arange(len(batch.task("binary.2"))) % 2 == 0
    fewer = labelled_again(batch, "binary.2", keep)
    assert torch.equal(fewer.task("binary.2").rows, batch.task("binary.2").rows[keep])
    assert torch.equal(fewer.task("binary.0").rows, batch.task("binary.0").rows)


def test_the_toy_network_gives_a_loss_for_every_task_with_a_label():
    tasks = toy_tasks()
    network = ToyNetwork(tasks)
    losses = network.losses(toy_batch(tasks).only({"real.1", "counts.4"}))
    assert set(losses) == {"real.1", "counts.4"}
    assert all(loss.requires_grad for loss in losses.values())


def test_the_toy_table_has_all_kinds_and_missing_labels():
    table = toy_frame(300)
    assert table.equals(toy_frame(300))
    assert table["id"].n_unique() == 300
    for target in ("ripe", "grade", "stars", "price", "sold"):
        assert 0.1 < table[target].null_count() / 300 < 0.3
    assert table["grade"].n_unique() == 4  # three classes and missing
    assert table["price"].dtype == pl.Float64
    assert set(table["ripe"].drop_nulls()) == {0, 1}
    assert toy_frame(10, seed=1)["x0"].to_list() != toy_frame(10)["x0"].to_list()


@pytest.mark.parametrize("missing", [0.0, 1.0])
def test_none_or_all_labels_can_be_missing(missing):
    batch = toy_batch(toy_tasks(), missing=missing)
    assert len(batch.present) == (5 if missing == 0 else 0)
