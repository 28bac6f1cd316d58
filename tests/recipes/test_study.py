"""Studies: every form of the plan is read, every mistake located, everything written back."""

# A mistake and its message stand on one line.
# ruff: noqa: E501

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.data import DataSpec, SplitSpec, TableSpec, TaskSpec
from plait.recipes import RecipeError, StudySpec, loads, read, write
from plait.training import Training

HEAD = "data: {table: x.csv}\ntasks: [a]\n"

FULL = """\
data:
  table: assays.parquet
  id: mol_id
  split: {random: [0.8, 0.1, 0.1], seed: 0}
tasks: {assays: {columns: ["NR-*", "SR-*"], kind: binary}}     # one task per column
encoder: {text: bag, trunk: {mlp: {width: 256, depth: 2}}}      # optional
training: {passes: 20, batch: 256}                             # optional
strategies:
  separate: {}
  joint: {}
  projected: {joint: {balancing: pcgrad}}
  experts: {joint: {sharing: {mmoe: {experts: 8}}, balancing: uncertainty}}
  merged: {merge: {task_arithmetic: {scale: 0.2}}}
seeds: {init: 3, split: 1}
"""


def mistakes(text: str) -> list[str]:
    """What is wrong with a study, a line each."""
    with pytest.raises(RecipeError) as caught:
        loads(text)
    return list(caught.value.mistakes)


def test_the_study_of_the_plan() -> None:
    spec = loads(FULL)
    assert spec.data == DataSpec(
        tables={"table": TableSpec(source="assays.parquet")}, id="mol_id", split=SplitSpec()
    )
    assert spec.tasks == {"assays": TaskSpec(columns=("NR-*", "SR-*"), kind="binary")}
    assert spec.training == Training(passes=20, batch=256)
    assert spec.encoder == {"text": "bag", "trunk": {"mlp": {"width": 256, "depth": 2}}}
    assert spec.seeds == {"init": 3, "split": 1}
    assert spec.strategies["separate"] == "separate"
    assert spec.strategies["projected"] == {"joint": {"balancing": "pcgrad"}}
    assert spec.strategies["experts"] == {
        "joint": {"sharing": {"mmoe": {"experts": 8}}, "balancing": "uncertainty"}
    }


def test_several_tables_with_roles() -> None:
    spec = loads(
        "data:\n  tables:\n"
        "    rte: {path: rte.parquet, inputs: {text: [text, text_b]}}\n"
        "    sst: {path: sst.parquet, inputs: {text: text}}\n"
        "    cr: cr.csv\n"
        "tasks:\n"
        "  entailment: {table: rte, target: label, kind: binary}\n"
        "  sentiment: {table: sst, target: label, kind: binary}\n"
        "encoder: {text: {transformer: {pretrained: path/or/name}}}\n"
    )
    assert spec.data.tables["rte"].inputs == {"text": ("text", "text_b")}
    assert spec.data.tables["sst"].inputs == {"text": "text"}
    assert spec.data.tables["cr"] == TableSpec(source="cr.csv")
    assert spec.tasks["entailment"] == TaskSpec(table="rte", target="label", kind="binary")


def test_tasks_named_by_a_column() -> None:
    spec = loads(
        "data: {table: school.parquet}\n"
        "tasks: {exam: {by: school, target: exam_score, kind: real, unseen: refuse}}"
    )
    assert spec.tasks["exam"] == TaskSpec(by="school", target="exam_score", kind="real")


@pytest.mark.parametrize(
    ("tasks", "wanted"),
    [
        ("[a, 7]", {"a": TaskSpec(target="a"), "7": TaskSpec(target="7")}),
        ("{a: binary, b: regression}",
         {"a": TaskSpec(target="a", kind="binary"), "b": TaskSpec(target="b", kind="real")}),
        ("{a: , b: {}}", {"a": TaskSpec(target="a"), "b": TaskSpec(target="b")}),
        ("{a: {columns: x_*}}", {"a": TaskSpec(columns=("x_*",))}),
        ("{a: {classes: [1, yes, 007], kind: ordinal}}",
         {"a": TaskSpec(target="a", kind="ordinal", classes=("1", "yes", "007"))}),
    ],
)  # fmt: skip
def test_forms_of_tasks(tasks: str, wanted: dict[str, TaskSpec]) -> None:
    assert loads(f"data: x.csv\ntasks: {tasks}").tasks == wanted


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        ("{random: [0.7, 0.1, 0.2], seed: 3}", SplitSpec(fractions=(0.7, 0.1, 0.2), seed=3)),
        ("{stratified: [0.8, 0.1, 0.1], by: y}", SplitSpec(kind="stratified", by="y")),
        ("{grouped: [0.8, 0.1, 0.1], by: user}", SplitSpec(kind="grouped", by="user")),
        ("{time: [0.8, 0.1, 0.1], by: date}", SplitSpec(kind="time", by="date")),
        ("{column: fold, names: {0: train, 1: valid, 2: test}}",
         SplitSpec(kind="column", by="fold", names={"0": "train", "1": "valid", "2": "test"})),
    ],
)  # fmt: skip
def test_forms_of_splits(split: str, wanted: SplitSpec) -> None:
    assert loads(f"data: {{table: x.csv, split: {split}}}\ntasks: [a]").data.split == wanted


@pytest.mark.parametrize(
    ("strategies", "wanted"),
    [
        ("[separate, joint]", {"separate": "separate", "joint": "joint"}),
        ("{joint: , separate: {}}", {"joint": "joint", "separate": "separate"}),
        ("{a: joint}", {"a": "joint"}),
        ("{a: {joint: {}}, b: {joint: }}", {"a": "joint", "b": "joint"}),
        ("{joint: {balancing: {pcgrad: {}}}}", {"joint": {"joint": {"balancing": "pcgrad"}}}),
        ("{joint: {joint: {balancing: pcgrad}}}", {"joint": {"joint": {"balancing": "pcgrad"}}}),
        ("{separate: joint}", {"separate": "joint"}),
        (
            "{experts: {joint: {balancing: pcgrad}}}",
            {"experts": {"joint": {"balancing": "pcgrad"}}},
        ),
        ("{a: {merge: average}}", {"a": {"merge": {"average": {}}}}),
        ("{merge: average}", {"merge": {"merge": {"average": {}}}}),
        ("{a: {merge: {average: {}}}}", {"a": {"merge": {"average": {}}}}),
        ("{a: {merge: {method: average}}}", {"a": {"merge": {"method": "average"}}}),
    ],
)
def test_forms_of_strategies(strategies: str, wanted: dict[str, Any]) -> None:
    assert loads(f"{HEAD}strategies: {strategies}").strategies == wanted


def test_seeds_and_intervals() -> None:
    assert loads(HEAD + "seeds: 5").seeds == {"init": 5}
    assert loads(HEAD + "intervals: {by: user}").data.intervals == "user"


def test_three_mistakes_are_reported_in_one_pass() -> None:
    text = FULL.replace("mmoe", "mnoe").replace("passes", "pases").replace("binary", "binray")
    kind, passes, sharing = mistakes(text)
    assert kind == (
        "study.yaml:5: tasks.assays.kind: no kind 'binray'; did you mean 'binary'? "
        "(accepted: binary, classes, ordinal, real, counts, tokens, segmentation, depth, normals, "
        "boundaries)"
    )
    assert passes.startswith(
        "study.yaml:7: training.pases: training has no key 'pases'; did you mean 'passes'? "
        "(accepted: passes, batch, "
    )
    assert sharing.startswith(
        "study.yaml:12: strategies.experts.joint.sharing: no sharing method 'mnoe'; did you mean "
        "'mmoe'? (accepted: "
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("tasks: [a]", ":1: a study needs data"),
        ("data: x.csv", ":1: a study needs tasks"),
        ("[1]", ":1: a study is written {title, data, tasks, …}; got [1]"),
        ("data: x.csv\ntasks: []", ":2: tasks: the list is empty"),
        ("data: x.csv\ntasks: {}", ":2: tasks: a study needs at least one task"),
        ("data: x.csv\ntasks: [a, a]", ":2: tasks: given twice: a"),
        ("data: {tabel: x.csv}\ntasks: [a]", "data.tabel: data has no key 'tabel'; did you mean 'table'"),
        ("data: {id: x}\ntasks: [a]", "data: data needs table: path, or tables"),
        ("data: {table: x, tables: {}}\ntasks: [a]", "either table or tables"),
        ("data: {tables: {x: {inputs: {}}}}\ntasks: [a]", "table 'x' needs path"),
        ("data: {tables: {x: a.csv}, types: {}}\ntasks: [a]", "types belongs to a table"),
        ("data: {table: x, types: {c: numerik}}\ntasks: [a]", "no type 'numerik'; did you mean 'numeric'"),
        ("data: {table: x, split: {randm: [1]}}\ntasks: [a]", "did you mean 'random'"),
        ("data: {table: x, split: {random: [1, 2]}}\ntasks: [a]", "three fractions"),
        ("data: {table: x, split: {random: [0.5, 0.4, 0.2]}}\ntasks: [a]", "add up to 1"),
        ("data: {table: x, split: {grouped: [0.8, 0.1, 0.1]}}\ntasks: [a]", "needs by"),
        ("data: {table: x, split: {random: [0.8, 0.1, 0.1], by: y}}\ntasks: [a]", "takes no by"),
        ("data: {table: x, split: {column: s, names: {a: dev}}}\ntasks: [a]", "no part of a split 'dev'"),
        ("data: {table: x, split: {random: [0.8, 0.1, 0.1], seed: -1}}\ntasks: [a]", "at least 0"),
        ("data: x\ntasks: {a: {targt: y}}", "tasks.a.targt: task 'a' has no key 'targt'; did you mean 'target'"),
        ("data: x\ntasks: {a: {table: t}}", "no table 't'"),
        ("data: x\ntasks: {a: {columns: c, target: y}}", "columns make one task each"),
        ("data: x\ntasks: {a: {unseen: refuse}}", "unseen is about the values of by"),
        ("data: x\ntasks: {a: {by: s, unseen: drop}}", "no answer to unseen values 'drop'"),
        ("data: x\ntasks: {a: {kind: real, classes: [x, y]}}", "kind real has no classes"),
        ("data: x\ntasks: {a: {kind: real, positive: x}}", "positive makes a binary task"),
        ("data: x\ntasks: {a: {kind: real, loss: bce}}", "loss 'bce' does not fit kind 'real'"),
        ("data: x\ntasks: {a: {loss: huberr}}", "no loss 'huberr'; did you mean 'huber'"),
        ("data: x\ntasks: {a: {metrics: [aurok]}}", "tasks.a.metrics[0]: no metric 'aurok'; did you mean 'auroc'"),
        ("data: x\ntasks: {a: {kind: real, metrics: [auroc]}}", "does not fit kind real"),
        ("data: x\ntasks: {a: {preference: -1}}", "a number, at least 0"),
        ("data: x\ntasks: {a: [b]}", "task 'a' is written"),
        (HEAD + "trainig: {}", ":3: trainig: a study has no key 'trainig'; did you mean 'training'"),
        (HEAD + "training: {passes: eight}", "training.passes: must be a whole number, at least 1; got 'eight'"),
        (HEAD + "training: {passes: 0}", "at least 1; got 0"),
        (HEAD + "training: {learning_rate: true}", "training.learning_rate: must be a number, above 0; got true"),
        (HEAD + "training: {learning_rate: .nan}", "got nan"),
        (HEAD + "training: {batch: atuo}", "must be a whole number, at least 1 or 'auto'; got 'atuo'"),
        (HEAD + "training: {schedule: cosin}", "'cosine' or 'constant'"),
        (HEAD + "encoder: {txt: bag}", "did you mean 'text'"),
        (HEAD + "encoder: {text: bga}", "encoder.text: no text encoder 'bga'; did you mean 'bag'"),
        (HEAD + "encoder: {trunk: {mlp: {widht: 3}}}", "encoder.trunk.mlp.widht: trunk encoder 'mlp' has no key"),
        (HEAD + "encoder: {trunk: {mlp: {width: wide}}}", "must be a whole number"),
        (HEAD + "encoder: {module: mine}", "must be package.module:Class"),
        (HEAD + "seeds: {inti: 3}", "did you mean 'init'"),
        (HEAD + "seeds: 0", "at least 1; got 0"),
        (HEAD + "seeds: {init: true}", "got true"),
        (HEAD + "intervals: {bye: user}", "did you mean 'by'"),
        (HEAD + "tune: {trails: 3}", "did you mean 'trials'"),
        (HEAD + "tune: {trials: few}", "at least 1; got 'few'"),
        (HEAD + "tune: {over: {learning_raet: [1]}}", "no training setting 'learning_raet'; did you mean 'learning_rate'"),
        (HEAD + "tune: {over: {learning_rate: 3}}", "the values of 'learning_rate' are a list"),
        (HEAD + "tune: {over: {jiont.balancing: [pcgrad]}}", "no strategy 'jiont'; did you mean 'joint'"),
        (HEAD + "strategies: {jiont: {}}", "strategies.jiont: "),
        (HEAD + "strategies: {experts: {jiont: {}}}", "no strategy method 'jiont'; did you mean 'joint'"),
        (HEAD + "strategies: {a: jiont}", "strategies.a: no strategy method 'jiont'; did you mean 'joint'"),
        (HEAD + "strategies: {a: {joint: {balncing: pcgrad}}}", "strategies.a.joint.balncing: "),
        (HEAD + "strategies: {joint: {balncing: pcgrad}}", "did you mean 'balancing'"),
        (HEAD + "strategies: {a: {joint: {balancing: pcgard}}}", "did you mean 'pcgrad'"),
        (HEAD + "strategies: {a: {joint: {}, separate: {}}}", "got 2 names: joint, separate"),
        (HEAD + "strategies: {a: {joint: 3}}", "strategies.a.joint: the settings of"),
        (HEAD + "strategies: {a: {joint: {sharing: {mmoe: {experts: eight}}}}}",
         "strategies.a.joint.sharing.mmoe.experts: must be a whole number; got 'eight'"),
        (HEAD + "strategies: {a: {boosting: {learning_rate: 0}}}", "strategies.a.boosting.learning_rate: strategy 'boosting': learning_rate must be positive"),
        (HEAD + "strategies: {a: {'no.such:Method': {}}}", "cannot load 'no.such:Method'"),
        (HEAD + "strategies: [joint, joint]", "given twice"),
        (HEAD + "strategies: 3", "strategies is written"),
    ],
)  # fmt: skip
def test_mistakes(text: str, wanted: str) -> None:
    found = mistakes(text)
    assert len(found) == 1, found
    assert wanted in found[0]


def test_lines_of_deep_mistakes() -> None:
    text = (
        HEAD + "strategies:\n  a:\n    joint:\n      sharing:\n        mmoe:\n          expert: 2\n"
    )
    assert mistakes(text)[0].startswith("study.yaml:8: strategies.a.joint.sharing.mmoe.expert: ")


@pytest.mark.parametrize("key", ["data", "tasks", "training", "strategies", "seeds", "title"])
def test_any_misspelt_key_of_a_study_is_refused(key: str) -> None:
    text = FULL if key != "title" else FULL + "title: x\n"
    wrong = text.replace(f"{key}:", f"{key[:-1]}x:", 1)
    assert any(f"{key[:-1]}x" in line for line in mistakes(wrong))


def test_variables_are_expanded_in_paths_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("title: ${A}\ndata: {table: '${A}/${B:-b}/x.csv'}\ntasks: [a]")
    monkeypatch.delenv("A", raising=False)
    with pytest.raises(RecipeError, match=r"study.yaml:2: data.table: .* A is not set"):
        read(path)
    monkeypatch.setenv("A", "/data")
    spec = read(path)
    assert spec.title == "${A}"
    assert spec.data.tables["table"].source == "${A}/${B:-b}/x.csv"
    assert spec.located(tmp_path).data.tables["table"].source == "/data/b/x.csv"


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    spec = loads("data: {tables: {a: rows/*.csv}}\ntasks: [y]").located(tmp_path)
    assert spec.data.tables["a"].source == str(tmp_path / "rows" / "*.csv")


def test_what_is_at_its_default_is_not_written() -> None:
    assert write(loads("data: x.csv\ntasks: [a]")) == "data: {table: x.csv}\ntasks:\n  a: {}\n"


# Round trip ---------------------------------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=9)
NAMES = st.one_of(
    WORDS, st.sampled_from(["no", "007", "1e3", "~", "2020-01-01", "a: b", "*x", "#"])
)
TABLES = st.builds(
    TableSpec,
    source=NAMES.filter(lambda word: "${" not in word),
    inputs=st.one_of(
        st.none(),
        st.lists(NAMES, min_size=1, max_size=2).map(tuple),
        st.dictionaries(
            NAMES, st.one_of(NAMES, st.lists(NAMES, min_size=1, max_size=2).map(tuple)), max_size=2
        ),
    ),
    types=st.dictionaries(NAMES, st.sampled_from(["numeric", "text", "ignored"]), max_size=2),
    ignore=st.lists(NAMES, min_size=1, max_size=2).map(tuple) | st.just(()),
)
FRACTIONS = st.sampled_from([(0.8, 0.1, 0.1), (0.7, 0.0, 0.3)])
SPLITS = st.one_of(
    st.none(),
    st.builds(SplitSpec, fractions=FRACTIONS, seed=st.integers(0, 9)),
    st.builds(SplitSpec, kind=st.sampled_from(["grouped", "time"]), fractions=FRACTIONS, by=NAMES),
    st.builds(
        SplitSpec, kind=st.just("column"), by=NAMES,
        names=st.dictionaries(NAMES, st.sampled_from(["train", "test"]), max_size=2),
    ),
)  # fmt: skip
TASKS = st.one_of(
    st.builds(
        TaskSpec, target=NAMES, kind=st.sampled_from([None, "real", "binary"]),
        by=st.none() | NAMES, weight=st.none() | NAMES, group=st.none() | NAMES,
        preference=st.floats(0, 1e6),
    ),
    st.builds(TaskSpec, columns=st.lists(NAMES, min_size=1, max_size=2).map(tuple)),
)  # fmt: skip
STRATEGIES = st.sampled_from(
    [
        "joint", "separate", {"joint": {"balancing": "pcgrad"}},
        {"joint": {"sharing": {"mmoe": {"experts": 3}}, "balancing": "uncertainty"}},
    ]
)  # fmt: skip
STUDIES = st.builds(
    StudySpec,
    data=st.builds(
        DataSpec, tables=st.dictionaries(NAMES, TABLES, min_size=1, max_size=2),
        id=st.none() | NAMES, split=SPLITS, intervals=st.none() | NAMES,
    ),
    tasks=st.dictionaries(NAMES, TASKS, min_size=1, max_size=3),
    title=NAMES | st.just(""),
    encoder=st.sampled_from([{}, {"text": "bag"}, {"trunk": {"mlp": {"width": 8, "dropout": 0.1}}}]),
    training=st.builds(
        Training, passes=st.integers(1, 99), batch=st.just("auto") | st.integers(1, 99),
        learning_rate=st.floats(1e-9, 1), clip=st.none() | st.floats(1e-3, 9),
    ),
    strategies=st.dictionaries(NAMES | st.sampled_from(["joint", "separate"]), STRATEGIES, max_size=3),
    tune=st.sampled_from([None, {"trials": 4, "over": {"learning_rate": {"low": 1e-4, "high": 0.1}}}]),
    seeds=st.sampled_from([{}, {"init": 3}, {"init": 2, "split": 4}]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(spec=STUDIES)
def test_what_is_written_is_read_back(spec: StudySpec) -> None:
    assert loads(write(spec)) == spec


def test_words_of_other_tools_are_understood_as_a_hint():
    text = HEAD + "training: {lr: 0.1, epochs: 3, batch_size: 8}"
    with pytest.raises(RecipeError) as error:
        loads(text)
    for word in ("learning_rate", "passes", "batch"):
        assert f"did you mean '{word}'" in str(error.value)


def test_trackers_have_folders_beside_the_study(tmp_path):
    spec = loads(HEAD + "track: {tensorboard: logs}")
    assert spec.located(tmp_path).track == {"tensorboard": str(tmp_path / "logs")}
    assert loads(write(spec)) == spec
    with pytest.raises(RecipeError, match="did you mean 'tensorboard'"):
        loads(HEAD + "track: {tensorbord: logs}")
