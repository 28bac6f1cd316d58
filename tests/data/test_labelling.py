from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from plait.data import DataError, DataSpec, SplitSpec, TableSpec, TaskSpec, load
from plait.data.targets import guess_kind

N = 120
SPLIT = pl.Series("split", (["train"] * 8 + ["valid", "test"]) * (N // 10))


def frame(**columns):
    x = np.random.default_rng(0).normal(size=N)
    return pl.DataFrame({"x": x, "split": SPLIT, **columns})


def one(table, spec=None, **more):
    return load(DataSpec(tables={"t": TableSpec(source=table)}, **more), {"y": spec or TaskSpec()})


def cycle(*values):
    # Steps of 7, so that every value is found in every part of the split.
    return [values[(i * 7 // 10 + i) % len(values)] for i in range(N)]


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        ([True, False], "binary", ("false", "true")),
        ([0, 1], "binary", ("0", "1")),
        ([0.0, 1.0, None], "binary", ("0", "1")),
        (["no", "yes"], "binary", ("no", "yes")),
        (["yes", "zero"], "binary", ("zero", "yes")),
        (["a", "c", "b"], "classes", ("a", "b", "c")),
        ([0, 1, 2], "classes", ("0", "1", "2")),
        ([2.0, 10.0, 1.0], "real", ()),
        ([1.0, 2.0, 3.0, 4.0, None], "classes", ("1", "2", "3", "4")),
        ([0.5, 1.0, 2.5], "real", ()),
        (list(range(40)), "real", ()),
        ([100, 200, 300], "real", ()),
    ],
)
def test_kinds_are_guessed_and_when_in_doubt_real(values, kind, classes):
    dataset = one(frame(y=cycle(*values)))
    assert dataset.tasks["y"].kind == kind
    assert dataset.tasks["y"].classes == classes


def test_words_that_never_repeat_are_no_target():
    with pytest.raises(DataError, match="neither numbers nor classes"):
        guess_kind(pl.Series([f"w{i}" for i in range(50)]), "t: task 'y'")


def test_hints_stand_for_kinds_and_unknown_ones_are_refused():
    table = frame(y=cycle(1, 2, 3))
    assert one(table, TaskSpec(kind="regression")).tasks["y"].kind == "real"
    assert one(table, TaskSpec(kind="rating")).tasks["y"].kind == "ordinal"
    with pytest.raises(DataError, match="no kind 'regresion'"):
        one(table, TaskSpec(kind="regresion"))


def test_classes_are_numbered_in_natural_order():
    dataset = one(frame(y=cycle("10", "9", "2")), TaskSpec(kind="classes"))
    assert dataset.tasks["y"].classes == ("2", "9", "10")
    rows, truth, weight = dataset.truth("y", "train")
    assert weight is None
    names = np.array(dataset.tasks["y"].classes)[truth]
    assert names.tolist() == [cycle("10", "9", "2")[row] for row in rows]


def test_a_class_unknown_in_train_is_an_error_unless_declared():
    values = cycle("a", "b", "c")
    values[9] = "d"  # a test row
    with pytest.raises(
        DataError, match="row 10: task 'y': 'y' is 'd', which is in no training row"
    ):
        one(frame(y=values))
    declared = one(frame(y=values), TaskSpec(kind="classes", classes=["a", "b", "c", "d"]))
    assert declared.tasks["y"].classes == ("a", "b", "c", "d")
    with pytest.raises(
        DataError, match=r"row 10: task 'y': 'y' is 'd', which is not among its classes"
    ):
        one(frame(y=values), TaskSpec(kind="classes", classes=["a", "b", "c"]))


def test_real_targets_are_standardised_on_train_and_given_back_in_their_units():
    values = np.linspace(-5, 30, N)
    dataset = one(frame(y=values))
    train = values[SPLIT.to_numpy() == "train"]
    task = dataset.tasks["y"]
    assert (task.center, task.scale) == pytest.approx((train.mean(), train.std()))
    labels = dataset.labels("y", "train")
    assert float(labels.target.mean()) == pytest.approx(0, abs=1e-6)
    assert float(labels.target.std(correction=0)) == pytest.approx(1, abs=1e-6)
    rows, truth, _ = dataset.truth("y", "test")
    assert np.array_equal(truth, values[rows])


@pytest.mark.parametrize(
    ("values", "spec", "said"),
    [
        ([0, 1, 2], TaskSpec(kind="binary"), "binary, but 'y' has 3 values"),
        (
            [3, -1],
            TaskSpec(kind="counts"),
            "'y' is -1, but kind counts needs a whole number from 0",
        ),
        ([3.0, 1.5], TaskSpec(kind="counts"), "'y' is 1.5, but kind counts"),
        ([1.0, float("inf")], TaskSpec(kind="real"), "'y' is inf, but kind real needs a number"),
        (["a", "b"], TaskSpec(kind="real"), "'y' is 'a', but kind real"),
        ([None], TaskSpec(kind="real"), "no label in the training rows"),
        (["a"], TaskSpec(kind="classes"), "every training row has the value 'a'"),
        ([0, 1], TaskSpec(loss="huber"), "loss 'huber' does not fit"),
        ([0, 1], TaskSpec(metrics=["auroq"]), "no metric 'auroq'; did you mean 'auroc'"),
        ([0, 1], TaskSpec(metrics=["gauc"]), "metric 'gauc' needs group"),
        ([0, 1], TaskSpec(metrics=["calibration"]), "is best at 1, so that it cannot rank"),
        ([0, 1], TaskSpec(target="z"), "no column 'z' for task 'y'"),
        ([0, 1], TaskSpec(table="u"), "no table 'u'"),
        ([0, 1], TaskSpec(positive="2"), "no row has the positive value '2'"),
        ([0, 1], TaskSpec(columns="assay_*"), "no column matches 'assay_*'"),
        ([0, 1], TaskSpec(columns="y", target="y"), "give columns, or target"),
        ([0, 1], TaskSpec(weight="v"), "no column 'v' for weight of task 'y'"),
        ([0, 1], TaskSpec(by="v"), "no column 'v' for by of task 'y'"),
    ],
)
def test_labels_that_cannot_be_used_say_why(values, spec, said):
    with pytest.raises(DataError) as error:
        one(frame(y=cycle(*values)), spec)
    assert said in str(error.value)


def test_one_value_against_all_others():
    dataset = one(frame(y=cycle("single", "married", "widowed")), TaskSpec(positive="married"))
    assert dataset.tasks["y"].classes == ("not married", "married")
    _, truth, _ = dataset.truth("y", "train")
    assert truth.mean() == pytest.approx(1 / 3, abs=0.05)


def test_columns_by_pattern_make_one_task_each_and_missing_labels_no_record():
    table = frame(**{f"assay_{i}": cycle(0, 1, None) for i in range(5)}, other=cycle(1, 2))
    data = DataSpec(tables={"t": TableSpec(source=table)})
    dataset = load(data, {"assays": TaskSpec(columns="assay_*"), "other": TaskSpec()})
    assert dataset.declared["assays"] == tuple(f"assay_{i}" for i in range(5))
    assert len(dataset.tasks) == 6
    assert dataset.counts("train")["assay_0"] == sum(
        value is not None and part == "train"
        for value, part in zip(cycle(0, 1, None), SPLIT, strict=True)
    )
    assert set(dataset.preparation.roles["t"]) == {"x"}


def test_tasks_named_by_a_column():
    table = frame(school=cycle(10, 9, 2), y=np.arange(float(N)))
    dataset = one(table, TaskSpec(by="school"))
    assert dataset.tasks.names == ("y[2]", "y[9]", "y[10]")
    rows, truth, _ = dataset.truth("y[9]", "train")
    assert np.array_equal(truth, rows)
    assert {cycle(10, 9, 2)[row] for row in rows} == {9}
    assert dataset.tasks["y[2]"].center != dataset.tasks["y[9]"].center
    assert "school" not in dataset.preparation.roles["t"]


def test_a_task_without_training_rows_is_refused_or_skipped():
    school = cycle("a", "b")
    school[8] = "new"  # a valid row
    table = frame(school=school, y=np.arange(float(N)))
    with pytest.raises(DataError, match="row 9: school 'new' has no training row"):
        one(table, TaskSpec(by="school"))
    dataset = one(table, TaskSpec(by="school", unseen="skip"))
    assert dataset.tasks.names == ("y[a]", "y[b]")
    assert any("skipped: new" in fact for fact in dataset.facts)


def test_long_format_shares_classes_and_allows_an_id_once_a_task():
    rows = [(f"m{i}", assay, float(i % 2)) for i in range(60) for assay in ("a", "b")]
    table = pl.DataFrame(rows, schema=["mol", "assay", "y"], orient="row").with_columns(
        x=pl.int_range(120) * 0.5,
        y=pl.when(pl.col("assay") == "b").then(0.0).otherwise("y"),
    )
    dataset = one(table, TaskSpec(by="assay"), id="mol")
    assert dataset.tasks["y[b]"].classes == ("0", "1")
    part = dict(zip(dataset.ids, dataset.split.tolist(), strict=True))
    assert [part[mol] for mol in dataset.ids] == dataset.split.tolist()
    assert any("All training labels are the same for y[b]" in text for text in dataset.warnings)


def test_weights_and_groups_belong_to_their_records():
    weight = np.linspace(0, 2, N)
    table = frame(y=cycle(0, 1), w=weight, query=cycle("q1", "q2", "q3"))
    dataset = one(table, TaskSpec(weight="w", group="query"))
    labels = dataset.labels("y", "train")
    assert np.allclose(labels.weight.numpy(), weight[labels.rows.numpy()])
    assert len(set(labels.group.tolist())) == 3
    assert set(dataset.preparation.roles["t"]) == {"x"}
    with pytest.raises(DataError, match=r"row 4: task .y.: weight .w. is -1.0"):
        one(frame(y=cycle(0, 1), w=[1.0, 1, 1, -1] * 30), TaskSpec(weight="w"))


def test_a_row_may_be_nobodys_but_not_all():
    table = frame(y=cycle(0, 1), z=cycle(1, 0), user=cycle("b", None, "a"))
    tasks = {"y": TaskSpec(group="user"), "z": TaskSpec()}
    data = load(DataSpec(tables={"t": TableSpec(source=table)}), tasks)
    rows = data.rows("train", "y").numpy()
    own = table["user"].gather(rows).to_list()
    assert data.whose("y", "train").tolist() == [{"a": 0, "b": 1, None: -1}[user] for user in own]
    assert data.whose("z", "train") is None
    with pytest.raises(DataError, match="task 'y': group 'user' is empty"):
        one(frame(y=cycle(0, 1), user=cycle(None)), TaskSpec(group="user"))


def test_repeated_ids_are_refused_and_contradictions_listed():
    ids = [f"m{i}" for i in range(N)]
    ids[7] = "m3"
    with pytest.raises(DataError, match=r"row 4: task 'y': 1 id appears more than once: m3"):
        one(frame(y=cycle(0, 1)).with_columns(y=pl.lit(1), name=pl.Series(ids)), id="name")
    answers = [1] * N
    answers[7] = 0
    with pytest.raises(DataError, match="1 of them with contradictory labels: m3"):
        one(frame(y=answers, name=ids), id="name")
    with pytest.raises(DataError, match="no column 'nam' for the ids; did you mean 'name'"):
        one(frame(y=cycle(0, 1), name=ids), id="nam")


def test_a_column_in_several_tables_asks_which():
    table = frame(y=cycle(0, 1))
    data = DataSpec(tables={"a": TableSpec(source=table), "b": TableSpec(source=table)})
    with pytest.raises(DataError, match=r"in several tables \(a, b\); say which: table: a"):
        load(data, {"y": TaskSpec()})


def test_class_names_of_a_datasets_object_are_kept():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "x": datasets.Value("float32"),
            "split": datasets.Value("string"),
            "y": datasets.ClassLabel(names=["neg", "neu", "pos"]),
        }
    )
    rows = {"x": list(range(N)), "split": SPLIT.to_list(), "y": cycle(0, 1, 2)}
    dataset = one(datasets.Dataset.from_dict(rows, features=features))
    assert dataset.tasks["y"].classes == ("neg", "neu", "pos")
    assert dataset.truth("y", "train")[1][:3].tolist() == cycle(0, 1, 2)[:3]


def test_the_order_of_rows_changes_no_task():
    table = frame(y=np.arange(float(N)), z=cycle("a", "b", "c"))
    specs = {"y": TaskSpec(), "z": TaskSpec()}
    data = DataSpec(tables={"t": TableSpec(source=table)}, split=SplitSpec(kind="column"))
    flipped = DataSpec(
        tables={"t": TableSpec(source=table.reverse())}, split=SplitSpec(kind="column")
    )
    assert load(data, specs).tasks == load(flipped, specs).tasks
