from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from plait.data import DataError, DataSpec, SplitSpec, TableSpec, TaskSpec, load

N = 120
SPLIT = (["train"] * 4 + ["valid", "test"]) * (N // 6)


def table(**more):
    random = np.random.default_rng(0)
    return pl.DataFrame({"x": random.normal(size=N), "split": SPLIT, **more})


def one(frame, spec, **more):
    return load(DataSpec(tables={"t": TableSpec(source=frame)}, **more), {"y": spec})


def every(dataset, task="y"):
    found = {}
    for split in ("train", "valid", "test"):
        rows, truth, _ = dataset.truth(task, split)
        found |= dict(zip(rows.tolist(), truth.tolist(), strict=True))
    return found


CLICK = (np.arange(N) // 7) % 2
LABEL = (np.arange(N) // 3) % 2


def write(frame, kind, folder):
    if kind == "frame":
        return frame
    if kind == "arrays":
        return {name: frame[name].to_numpy() for name in frame.columns}
    if kind == "datasets":
        return pytest.importorskip("datasets").Dataset.from_polars(frame)
    path = folder / f"t.{kind}"
    if kind == "csv":
        frame.write_csv(path)
    elif kind == "parquet":
        frame.write_parquet(path)
    else:
        texts = [name for name, dtype in frame.schema.items() if dtype == pl.String]
        arrays = {name: frame[name].to_numpy() for name in frame.columns}
        np.savez(path, **{**arrays, **{name: arrays[name].astype(str) for name in texts}})
    return path


@pytest.mark.parametrize("kind", ["frame", "arrays", "csv", "parquet", "npz", "datasets"])
def test_where_and_missing_are_honoured_in_every_source(kind, tmp_path):
    label = np.where(np.arange(N) % 5 == 0, -1, LABEL)
    source = write(table(click=CLICK, y=label), kind, tmp_path)
    dataset = one(source, TaskSpec(where="click == 1", missing=[-1]))
    wanted = {row: int(label[row]) for row in range(N) if CLICK[row] == 1 and label[row] >= 0}
    assert dataset.tasks["y"].kind == "binary"
    assert every(dataset) == wanted


def test_words_that_mean_no_label_leave_a_csv_column_of_numbers(tmp_path):
    values = [str(round(row * 0.3, 2)) if row % 9 else "?" for row in range(N)]
    path = tmp_path / "t.csv"
    table(y=values).write_csv(path)
    dataset = one(path, TaskSpec(missing=["?"]))
    assert dataset.tasks["y"].kind == "real"
    assert len(every(dataset)) == N - len(range(0, N, 9))


def replicates():
    ids = [f"m{row // 3}" for row in range(N)]
    split = [SPLIT[row // 3] for row in range(N)]
    return {"mol": ids, "split": split}


def test_the_mean_of_a_real_target_stands_on_the_first_row_of_an_id():
    values = np.arange(N, dtype=float)
    frame = table(y=values).with_columns(**{k: pl.Series(v) for k, v in replicates().items()})
    dataset = one(frame, TaskSpec(kind="real", repeats="mean"), id="mol")
    assert every(dataset) == {row: row + 1.0 for row in range(0, N, 3)}
    first = one(frame, TaskSpec(kind="real", repeats="first"), id="mol")
    assert every(first) == {row: float(row) for row in range(0, N, 3)}
    assert any("labels of 40 repeated ids became their means" in fact for fact in dataset.facts)


def test_classes_take_the_majority_and_of_equals_the_first():
    ids = [f"m{row // 4}" for row in range(N)]
    split = [SPLIT[row // 4] for row in range(N)]
    values = ["babaxcaab"[row % 4 + 5 * (row // 4 % 2 == 0)] for row in range(N)]
    frame = table(y=values, mol=ids).with_columns(split=pl.Series(split))
    dataset = one(frame, TaskSpec(repeats="mean"), id="mol")
    names = dataset.tasks["y"].classes
    found = {row: names[int(code)] for row, code in every(dataset).items()}
    assert found == {row: "b" if (row // 4) % 2 else "a" for row in range(0, N, 4)}


def test_long_format_may_repeat_an_id_once_for_each_task():
    ids = [f"m{row // 2}" for row in range(N)]
    split = [SPLIT[row // 2] for row in range(N)]
    one_, two = (
        [row if row % 2 else None for row in range(N)],
        [None if row % 2 else row * 2 for row in range(N)],
    )
    frame = pl.DataFrame({"x": np.arange(N) / 7, "mol": ids, "split": split, "a": one_, "b": two})
    data = DataSpec(tables={"t": TableSpec(source=frame)}, id="mol")
    dataset = load(data, {"a": TaskSpec(kind="real"), "b": TaskSpec(kind="real")})
    assert sum(dataset.counts(split)["a"] for split in ("train", "valid", "test")) == N // 2
    assert len(set(dataset.units.tolist())) == N // 2  # ids are the units of the intervals


def test_a_random_split_keeps_repeated_ids_together():
    frame = table(y=LABEL, mol=[f"m{row // 3}" for row in range(N)]).drop("split")
    dataset = one(frame, TaskSpec(repeats="first"), id="mol", split=SplitSpec(seed=3))
    parts = dataset.split.reshape(-1, 3)
    assert bool((parts == parts[:, :1]).all())


def test_the_first_ten_contradictory_ids_are_listed():
    ids = [f"m{row // 2}" for row in range(N)]
    frame = table(y=np.arange(N) % 2, mol=ids)
    with pytest.raises(DataError) as error:
        one(frame, TaskSpec(), id="mol")
    assert "60 of them with contradictory labels: m0, m1, m2" in str(error.value)
    assert "m9 and 50 more; keep one row" in str(error.value)


def test_tasks_of_many_without_a_test_label_are_skipped_where_declared():
    label = np.where(np.array(SPLIT) == "test", None, LABEL)
    frame = table(a_1=LABEL, a_2=pl.Series(label.tolist()))
    data = DataSpec(tables={"t": TableSpec(source=frame)})
    with pytest.raises(DataError, match=r"no test row has a label of a_2.*unseen: skip"):
        load(data, {"a": TaskSpec(columns="a_*")})
    dataset = load(data, {"a": TaskSpec(columns="a_*", unseen="skip")})
    assert dataset.tasks.names == ("a_1",)
    assert dataset.declared == {"a": ("a_1",)}
