from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from plait.data import DataSpec, SplitSpec, TableSpec, TaskSpec, load
from plait.method import resolve
from plait.networks import build_network, priors_of
from plait.tabular import MultiTaskEstimator, MultiTaskRegressor
from plait.tabular.fitting import held_out, predicted
from plait.training import Training, train


def test_it_is_the_very_training_of_a_study(quick):
    """The same network comes out of the parts put together by hand."""
    random = np.random.default_rng(3)
    frame = pl.DataFrame(random.normal(size=(60, 3)), schema=["a", "b", "c"])
    y = pl.DataFrame({"one": frame["a"] > 0, "two": 2 * frame["b"]})
    found = MultiTaskEstimator(**quick, balancing="pcgrad", validation_fraction=0).fit(frame, y)
    dataset = load(
        DataSpec(
            tables={"rows": TableSpec(source=frame.hstack(y))},
            split=SplitSpec(fractions=(1.0, 0.0, 0.0)),
        ),
        {"one": TaskSpec(), "two": TaskSpec()},
    )
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    network = build_network(
        inputs=dataset.inputs,
        tasks=dataset.tasks,
        encoder=quick["encoder"],
        sharing=resolve("sharing", "hard"),
        seed=seed,
        priors=priors_of(dataset),
    )
    settings = Training(passes=quick["passes"], learning_rate=quick["learning_rate"])
    train(network, dataset, settings, balancer=resolve("balancing", "pcgrad"), seed=seed)
    for one, two in zip(network.parameters(), found.network_.parameters(), strict=True):
        torch.testing.assert_close(one.double(), two, rtol=0, atol=0)


def test_columns_of_x_and_y_may_have_the_same_names(quick):
    x = np.random.default_rng(0).normal(size=(60, 2))
    names = ["y", "split"]
    X = pl.DataFrame(x, schema=names)
    found = MultiTaskRegressor(**quick).fit(X, X.with_columns(y=-pl.col("y")), np.ones(60))
    assert found.score(X, X.with_columns(y=-pl.col("y"))) > 0.8
    assert found.preparation_.roles["rows"] == {"y": ("y",), "split": ("split",)}


def test_validation_rows_leave_every_class_in_training():
    rows = 300
    y = pl.DataFrame({
        "rare": [1 if i == 7 else 0 for i in range(rows)],
        "few": [1.0 if i in (3, 9) else None for i in range(rows)],
    })  # fmt: skip
    tasks = {"rare": TaskSpec(kind="binary", classes=["0", "1"]), "few": TaskSpec(kind="real")}
    for seed in range(20):
        held = held_out(y, tasks, 0.3, seed)
        assert held.sum() == 90
        assert not held[7]
        assert not (held[3] and held[9])
    assert (held_out(y, tasks, 0.3, 1) != held_out(y, tasks, 0.3, 2)).any()
    assert not held_out(y[:50], tasks, 0.1, 0).any()
    assert not held_out(y, tasks, 0.0, 0).any()


def test_validation_rows_choose_the_pass_that_is_kept(quick):
    random = np.random.default_rng(0)
    X, y = random.normal(size=(150, 5)), random.normal(size=150)
    waiting = MultiTaskRegressor(**{**quick, "passes": 40}, patience=2).fit(X, y)
    assert waiting.run_.stopped == "patience"
    assert waiting.run_.best_step < waiting.run_.step
    patient = MultiTaskRegressor(**quick, validation_fraction=0).fit(X, y)
    assert patient.run_.best_step is None


def test_many_rows_are_predicted_in_pieces(quick, monkeypatch):
    X = np.random.default_rng(0).normal(size=(50, 2))
    found = MultiTaskRegressor(**quick).fit(X, np.column_stack([X, X[:, 0] > 0]))
    whole = found.predict(X)
    monkeypatch.setattr("plait.tabular.fitting.ROWS", 7)
    np.testing.assert_allclose(found.predict(X), whole, rtol=1e-12, atol=1e-12)
    part = found.preparation_.encode(pl.DataFrame(X, schema=["x0", "x1"]))
    assert {len(values) for values in predicted(found.network_, part, 50).values()} == {50}


def test_text_and_types_are_read_as_in_a_study(quick):
    words = ["ripe and sweet", "green and hard"] * 40
    X = pl.DataFrame({"note": [f"{word} {i}" for i, word in enumerate(words)], "zone": [1, 2] * 40})
    y = np.array(["eat", "wait"] * 40)
    encoder = {"text": {"bag": {"width": 8}}, **quick["encoder"]}
    settings = {**quick, "encoder": encoder, "types": {"zone": "categorical"}}
    found = MultiTaskEstimator(**settings).fit(X, y)
    assert {each.type for each in found.preparation_.inputs.values()} == {"text", "categorical"}
    assert found.score(X, y) == pytest.approx(1.0)
