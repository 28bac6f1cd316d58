from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from plait.data import DataSpec, TableSpec, TaskSpec, load

N = 300


def assays(tasks=12, seed=0):
    random = np.random.default_rng(seed)
    labels = (random.random((N, tasks)) < 0.4).astype(float)
    labels[random.random(labels.shape) < 0.3] = np.nan
    columns = {f"x{i}": random.normal(size=N) for i in range(3)}
    columns |= {f"t{i}": labels[:, i] for i in range(tasks)}
    columns |= {"real": np.where(random.random(N) < 0.5, random.normal(5, 3, N), np.nan)}
    columns |= {"w": random.random(N)}
    return columns


def dataset(columns=None):
    data = DataSpec(tables={"t": TableSpec(source=columns or assays())})
    return load(data, {"t": TaskSpec(columns="t*"), "real": TaskSpec(weight="w")})


def records_of(batch):
    """{(dataset row, task): (target, weight)}"""
    found = {}
    for key, labels in batch.labels.items():
        names = batch.tasks.groups[key].tasks
        weight = torch.ones(len(labels)) if labels.weight is None else labels.weight
        for task, row, target, w in zip(
            labels.task.tolist(),
            labels.rows.tolist(),
            labels.target.tolist(),
            weight.tolist(),
            strict=True,
        ):
            found[int(batch.ids[row]), names[task]] = (target, w)
    return found


def test_a_batch_has_exactly_the_labels_of_its_rows():
    columns = assays()
    data = dataset(columns)
    rows = torch.tensor([5, 250, 17, 0, 99])
    found = records_of(data.batch(rows))
    expected = {
        (row, name): columns[name][row]
        for row in rows.tolist()
        for name in data.tasks.names
        if not np.isnan(columns[name][row])
    }
    assert set(found) == set(expected)
    for (row, name), value in expected.items():
        target, weight = found[row, name]
        task = data.tasks[name]
        assert target * task.scale + task.center == pytest.approx(value, abs=1e-5)
        assert weight == pytest.approx(columns["w"][row] if name == "real" else 1.0)


def test_records_are_sorted_by_task_and_rows_keep_their_order():
    batch = dataset().batch(torch.tensor([9, 3, 200]))
    assert batch.ids.tolist() == [9, 3, 200]
    for labels in batch.labels.values():
        assert (labels.task.diff() >= 0).all()
    one = batch.task("t3")
    assert (one.rows.diff() > 0).all()


def test_a_batch_of_some_tasks_has_no_record_of_the_others():
    data = dataset()
    whole = data.batch(torch.arange(50))
    some = data.batch(torch.arange(50), tasks=["t2", "real"])
    assert set(some.present) == {"t2", "real"}
    expected = {key: value for key, value in records_of(whole).items() if key[1] in ("t2", "real")}
    assert records_of(some) == expected
    assert some.tasks == data.tasks


def test_rows_labels_counts_and_truth_agree():
    columns = assays()
    data = dataset(columns)
    for split in ("train", "valid", "test"):
        counts = data.counts(split)
        for name in ("t0", "t11", "real"):
            rows = data.rows(split, name)
            labels = data.labels(name, split)
            truth_rows, truth, weight = data.truth(name, split)
            assert counts[name] == len(rows) == len(labels) == len(truth)
            assert torch.equal(rows, labels.rows)
            assert np.array_equal(truth_rows, rows.numpy())
            assert np.array_equal(truth, columns[name][truth_rows])
            assert (weight is None) == (name != "real")
    every = torch.cat([data.rows("train", name) for name in data.tasks.names]).unique()
    assert torch.equal(every, data.rows("train"))
    with pytest.raises(ValueError, match="no split 'trian'"):
        data.rows("trian")


def test_the_summary_names_kind_counts_and_metric():
    row = dataset().summary()[-1]
    assert row["name"] == "real"
    assert row["kind"] == "real"
    assert row["metric"] == "rmse"
    assert row["train"] == dataset().counts("train")["real"]


def tables(rows=40):
    random = np.random.default_rng(0)
    text = pl.DataFrame({"text": [f"word{i} here" for i in range(rows)], "a": [0, 1] * (rows // 2)})
    pairs = pl.DataFrame(
        {
            "one": [f"p{i} x" for i in range(rows)],
            "two": ["y z"] * rows,
            "b": [0, 1, 2, 0] * (rows // 4),
        }
    )
    numbers = pl.DataFrame({"u": random.normal(size=rows), "c": random.normal(size=rows)})
    return {
        "pairs": TableSpec(source=pairs, inputs={"text": ["one", "two"]}),
        "numbers": TableSpec(source=numbers),
        "text": TableSpec(source=text, inputs={"text": "text"}),
    }


def several():
    specs = {"a": TaskSpec(), "b": TaskSpec(kind="classes"), "c": TaskSpec(kind="real")}
    return load(DataSpec(tables=tables()), specs)


def test_tables_with_the_same_inputs_share_a_part():
    data = several()
    assert data.tables == ("pairs", "numbers", "text")
    rows = torch.tensor([100, 3, 50, 110, 4])  # text, pairs, numbers, text, pairs
    batch = data.batch(rows)
    assert batch.ids.tolist() == [100, 3, 110, 4, 50]
    assert {name: len(next(iter(part.values()))) for name, part in batch.parts.items()} == {
        "text.text": 4,
        "numeric": 1,
    }
    assert {(row, name) for row, name in records_of(batch)} == {
        (100, "a"), (110, "a"), (3, "b"), (4, "b"), (50, "c"),
    }  # fmt: skip


def test_a_row_reads_the_same_in_any_batch():
    data = several()
    alone = data.batch(torch.tensor([110])).parts["text.text"]["text.text"][0]
    beside = data.batch(torch.tensor([3, 110])).parts["text.text"]["text.text"][1]
    assert alone[alone > 0].tolist() == beside[beside > 0].tolist()
    assert alone.dtype == torch.long


def test_drawn_records_bring_a_row_each():
    data = several()
    places = {
        data.tasks[name].group: data.places(name, "train")[:3].repeat(2) for name in ("a", "b", "c")
    }
    batch = data.drawn(places)
    assert len(batch) == 18
    found = {}
    for key, labels in batch.labels.items():
        for task, row in zip(labels.task.tolist(), labels.rows.tolist(), strict=True):
            found.setdefault(batch.tasks.groups[key].tasks[task], []).append(int(batch.ids[row]))
    for name, rows in found.items():
        assert sorted(rows) == sorted(data.rows("train", name)[:3].tolist() * 2)


def test_features_take_the_place_of_the_text_they_were_made_of():
    data = several()
    features = torch.arange(len(data) * 2).view(-1, 2).float()
    wide = data.extra_inputs({"features.text": features})
    batch = wide.batch(torch.tensor([100, 50, 3]))
    assert set(batch.parts) == {"features.text", "numeric"}
    assert torch.equal(batch.parts["features.text"]["features.text"], features[[100, 3]])
    assert wide.inputs["features.text"].width == 2
    assert "text.text" in wide.inputs
    assert "features.text" not in data.inputs
    with pytest.raises(ValueError, match=r"features.text: 3 rows of features for 120 rows"):
        data.extra_inputs({"features.text": features[:3]})


def test_the_fingerprint_follows_the_contents():
    columns = assays()
    one = dataset(columns).fingerprint
    assert dataset({**columns}).fingerprint == one
    for name in ("x1", "t3", "w", "real"):
        changed = {**columns, name: columns[name].copy()}
        labelled = np.flatnonzero(~np.isnan(columns["real"]))
        changed[name][labelled[0]] += 1 if name != "t3" else 0
        if name == "t3":
            changed[name][0] = np.nan if columns[name][0] == columns[name][0] else 1.0
        assert dataset(changed).fingerprint != one, name


def test_results_on_other_units_of_intervals_are_other_results():
    columns = assays() | {"user": np.arange(N) // 3}

    def fingerprint(by):
        table = TableSpec(source=columns, ignore=["user"])
        tasks = {"real": TaskSpec(weight="w")}
        return load(DataSpec(tables={"t": table}, intervals=by), tasks).fingerprint

    assert fingerprint("user") != fingerprint(None)
    assert fingerprint("user") == fingerprint("user")


def test_refitting_on_all_rows_makes_every_row_a_training_row():
    data = dataset()
    every = data.with_split(all_train=True)
    assert (every.split == 0).all()
    total = sum(data.counts(split)["real"] for split in ("train", "valid", "test"))
    assert every.counts("train")["real"] == total
    assert every.tasks["real"].center != data.tasks["real"].center
    assert data.with_split(all_train=False).fingerprint == data.fingerprint


def test_ids_are_the_users_or_row_numbers():
    assert dataset().ids[:2].tolist() == ["0", "1"]
    assert several().ids[[0, 41]].tolist() == ["pairs:0", "numbers:1"]
    named = pl.DataFrame({"id": ["b", "cafe\u0301"] * 1, "x": [1.0, 2.0], "y": [0, 1]})
    named = pl.concat([named] + [
        pl.DataFrame({"id": [f"m{i}"], "x": [float(i)], "y": [i % 2]}) for i in range(20)
    ])  # fmt: skip
    data = load(DataSpec(tables={"t": TableSpec(source=named)}, id="id"), {"y": TaskSpec()})
    assert data.ids[:2].tolist() == ["b", "caf\u00e9"]
