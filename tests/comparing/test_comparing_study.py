from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from studies import ENCODER, TARGETS, plan, table

import plait
from plait.comparing import Progress, Study
from plait.comparing.declared import Declared
from plait.comparing.model import Model
from plait.comparing.plan import Plan
from plait.comparing.running import Bounds, work
from plait.comparing.store import Store
from plait.comparing.strategy import Strategy
from plait.method import Card

LABELS = {"separate", "joint", "experts", "merged", "adapted", "prior", "linear", "forest"}


class Watch(Progress):
    """Remembers which cells were computed."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []
        self.said: list[str] = []

    def begin(self, words: str, key: str = "") -> None:
        self.begun.append(words)

    def say(self, words: str) -> None:
        self.said.append(words)


@dataclass(frozen=True, kw_only=True)
class Broken(Strategy):
    """Fails, or ends its process, when it is run."""

    card: ClassVar[Card] = Card(family="strategy", name="broken", summary="fails")
    baseline: ClassVar[bool] = True
    seeded: ClassVar[bool] = False
    die: bool = False

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:
        if self.die:
            os._exit(9)
        raise RuntimeError("no luck today")


def copy(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to / "copy"))


def test_every_strategy_stands_in_the_leaderboard(study: Study) -> None:
    rows = study.leaderboard()
    assert {row.strategy for row in rows} >= LABELS
    assert study.failures() == []
    separate = next(row for row in rows if row.strategy == "separate")
    assert separate.gain.value == 0
    assert {row.strategy for row in rows if row.baseline} >= {"prior", "linear", "forest"}
    assert "<table" in rows._repr_html_()
    assert sum(row.chosen for row in rows) == 1


def test_results_say_budget_seeds_and_costs(study: Study) -> None:
    results = study.results
    notes = " ".join(results.notes)
    assert "at most 2 passes" in notes
    assert "2 seeds of training" in notes
    cost = {row.strategy: row.cost for row in results.standings}
    assert cost["separate"].parameters > 2 * cost["joint"].parameters
    assert all(c.seconds > 0 and c.latency > 0 and c.memory > 0 for c in cost.values())
    # A merge is charged for its start and its experts.
    key = next(cell.key for place, cell in study.cells().items() if place.label == "merged")
    assert cost["merged"].seconds > study.store.read(key, "cost.json")["seconds"]
    assert {curve.kind for curve in results.curves} >= {"loss", "valid", "weight"}
    assert results.environment["versions"]["torch"]
    assert [task["name"] for task in results.tasks] == list(TARGETS)


def test_seeds_differ_and_baselines_without_randomness_are_computed_once(study: Study) -> None:
    by_label: dict[str, set[str]] = {}
    for place, cell in study.cells().items():
        by_label.setdefault(place.label, set()).add(cell.key)
    assert len(by_label["joint"]) == len(by_label["forest"]) == 2
    assert len(by_label["prior"]) == len(by_label["linear"]) == 1


def test_a_finished_study_computes_nothing_again(run_folder: Path, tmp_path: Path) -> None:
    folder = copy(run_folder, tmp_path)
    watch = Watch()
    Study.open(folder).run(progress=watch)
    assert watch.begun == []


def test_a_run_can_be_moved_and_read_without_its_data(run_folder: Path, tmp_path: Path) -> None:
    folder = copy(run_folder, tmp_path)
    shutil.rmtree(folder / "data")
    (folder / "index.sqlite").unlink()
    moved, here = Study.open(folder), Study.open(run_folder)
    assert str(moved.leaderboard()) == str(here.leaderboard())
    assert moved.best("joint").predict(table(5)).shape == (5, 6)
    for path in folder.rglob("*.json"):
        assert str(run_folder) not in path.read_text("utf-8"), path


def test_a_half_written_and_a_damaged_cell_are_computed_again(
    run_folder: Path, tmp_path: Path
) -> None:
    folder = copy(run_folder, tmp_path)
    study = Study.open(folder)
    keys = {p.label: cell.key for p, cell in study.cells().items() if p.init == 0}
    whole = (folder / "cells" / keys["joint"] / "predictions.parquet").read_bytes()
    (folder / "cells" / keys["joint"]).rename(folder / "cells" / f"{keys['joint']}.1.part")
    (folder / "cells" / f"{keys['joint']}.1.part" / "manifest.json").unlink()
    (folder / "cells" / keys["prior"] / "predictions.parquet").write_bytes(b"nonsense")
    watch = Watch()
    with pytest.warns(UserWarning, match="predictions.parquet.*altered.*computed again"):
        study.run(progress=watch)
    assert sorted(watch.begun) == ["joint seed 0", "prior seed 0"]
    # What was computed again is what was there before, to the byte.
    assert (folder / "cells" / keys["joint"] / "predictions.parquet").read_bytes() == whole


def test_a_failure_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    strategies = {"broken": Broken()}
    watch = Watch()
    study = Study(plan(), strategies, folder=tmp_path, seeds=1)
    study.strategies = {name: study.strategies[name] for name in ("separate", "prior", "broken")}
    study.run(progress=watch)
    (failure,) = study.failures()
    assert (failure.strategy, failure.error) == ("broken", "RuntimeError: no luck today")
    assert any("no luck today" in line for line in watch.said)
    rows = {row.strategy: row for row in study.leaderboard()}
    assert "no luck today" in rows["broken"].failed
    assert rows["prior"].gain.defined


def test_after_the_time_no_cell_is_started_and_what_is_left_is_listed(tmp_path: Path) -> None:
    study = Study(plan(), {"joint": "joint"}, folder=tmp_path, seeds=1)
    study.run(time=0.0, progress=Progress())
    assert len(study.failures()) == len(study.strategies)
    assert all("not started" in failure.error for failure in study.failures())
    with pytest.raises(ValueError, match="no cell has finished"):
        study.leaderboard()


def test_faults_are_found_before_anything_is_computed(tmp_path: Path) -> None:
    strategies = {
        "merged": {"merge": {"start": "pretrained"}},
        "pooled": {"linear": {"pooled": True}},
    }
    study = Study(
        plan(),
        strategies,
        folder=tmp_path / "run",
        tune={"trials": 2, "over": {"learning_rat": [1]}},
    )
    with pytest.raises(ValueError) as error:
        study.run()
    message = str(error.value)
    assert "'merged': merge: start: pretrained needs a pretrained encoder" in message
    assert "'pooled': linear: pooled needs two tasks of one kind" in message
    assert "no training setting 'learning_rat'; did you mean 'learning_rate'?" in message
    assert not (tmp_path / "run").exists()


def test_wrong_arguments_name_the_nearest_right_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no 'inits'; did you mean 'init'"):
        Study(plan(), {}, folder=tmp_path, seeds={"inits": 2})
    with pytest.raises(ValueError, match="no strategy method 'joined'; did you mean 'joint'"):
        Study(plan(), {"a": "joined"}, folder=tmp_path)
    with pytest.raises(ValueError, match="kept for one network per task"):
        Study(plan(), {"separate": "joint"}, folder=tmp_path)


def test_tuning_gives_each_strategy_its_trials_and_counts_their_cost(tmp_path: Path) -> None:
    # A rate of 1e-9 learns nothing, so validation must choose the other.
    tune = {"trials": 3, "over": {"learning_rate": [0.02], "joint.sharing.experts": [2]}}
    strategies = {"joint": {"joint": {"sharing": {"mmoe": {"experts": 3}}}}}
    study = Study(plan(learning_rate=1e-9), strategies, folder=tmp_path, seeds=1, tune=tune)
    study.strategies = {name: study.strategies[name] for name in ("separate", "joint", "prior")}
    study.run(progress=Progress())
    assert len(study.trials("joint")) == 3
    assert len(study.trials("prior")) == 1
    assert study.chosen_trial("joint") != 0
    cell = next(cell for place, cell in study.cells().items() if place.label == "joint")
    assert cell.plan.training.learning_rate == 0.02
    assert plait.method.spell(cell.strategy) == {"joint": {"sharing": {"mmoe": {"experts": 2}}}}
    own = study.store.read(cell.key, "cost.json")["seconds"]
    cost = next(row.cost for row in study.results.standings if row.strategy == "joint")
    assert cost.seconds > own
    assert any("3 trials" in note for note in study.results.notes)
    again = Study.open(tmp_path)
    assert again.cells().keys() == study.cells().keys()
    assert again.chosen_trial("joint") == study.chosen_trial("joint")


def test_all_cells_of_a_tuned_study_are_told_at_the_start(tmp_path: Path) -> None:
    tune = {"trials": 2, "over": {"learning_rate": [0.02]}}
    study = Study(plan(learning_rate=1e-9), {}, folder=tmp_path, seeds=3, tune=tune)
    study.strategies = {name: study.strategies[name] for name in ("separate", "prior")}
    at_first = len(study.planned())
    assert at_first == 5  # two trials, one of them for the first seed; two seeds more; the prior
    seen = []

    class Watch(Progress):
        def show(self) -> None:
            seen.append((self.done, self.total, self.forecast and self.forecast.left()))

    study.run(progress=Watch())
    assert study.chosen_trial("separate") == 1
    assert {total for _, total, _ in seen} == {at_first}
    assert max(done for done, _, _ in seen) == at_first == len(study.wanted())
    assert seen[-1][2] == 0
    assert all(left > 0 for done, _, left in seen if done < at_first)
    names = [study.label_of(cell.key) for cell in study.planned()]
    assert names[:2] == ["separate trial 0", "separate seed 0"]


def test_rows_are_split_anew_for_every_split_seed(tmp_path: Path) -> None:
    study = plait.compare(
        table(), targets=["click", "price"], strategies=["joint"], encoder=ENCODER,
        training={"passes": 1}, seeds={"init": 1, "split": 2}, out=tmp_path, progress=Progress(),
    )  # fmt: skip
    first, second = study.plans
    assert first.fingerprint != second.fingerprint
    assert first.dataset.rows("test").tolist() != second.dataset.rows("test").tolist()
    assert study.failures() == []
    joint = next(row for row in study.leaderboard() if row.strategy == "joint")
    assert joint.seeds == 2


def test_changed_data_are_refused_when_a_run_is_continued(run_folder: Path, tmp_path: Path) -> None:
    folder = copy(run_folder, tmp_path)
    table(160, seed=1).write_parquet(folder / "data" / "table.parquet")
    with pytest.raises(ValueError, match="the data have changed since this run was started"):
        _ = Study.open(folder).plans[0].dataset


def test_workers_share_the_cells(tmp_path: Path, run_folder: Path) -> None:
    folder = copy(run_folder, tmp_path)
    study = Study.open(folder)
    kept = {p.label: c.key for p, c in study.cells().items() if p.init == 0}
    for label in ("prior", "linear", "merged"):
        shutil.rmtree(folder / "cells" / kept[label])
    study.run(workers=2, progress=Progress())
    assert study.failures() == []
    assert all(study.store.finished(key) for key in kept.values())


def test_a_cell_whose_process_died_often_is_not_tried_forever(tmp_path: Path) -> None:
    study = Study(plan(), {}, folder=tmp_path, seeds=1)
    study.strategies = {"prior": study.strategies["prior"]}
    (cell,) = study.wanted()
    for _ in range(3):
        lease = study.store.leases.claim(cell.key)
        assert lease is not None
        lease.end("died")
    work(study, Bounds(), Progress())  # as a worker does that was started in place of the dead
    (failure,) = study.failures()
    assert "died 3 times" in failure.error
    study.run(progress=Progress())  # and a new run tries again
    assert study.failures() == []


def test_workers_need_data_that_they_can_load(tmp_path: Path) -> None:
    study = Study(plan(), {}, folder=tmp_path, seeds=1)
    with pytest.raises(ValueError, match="give tables, not a Dataset"):
        study.run(workers=2, progress=Progress())


@pytest.mark.slow
def test_a_cell_that_kills_its_process_fails_and_the_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    study = plait.compare(
        table(), targets=["click"], strategies={"dies": "test_comparing_study:Broken"},
        encoder=ENCODER, training={"passes": 1}, seeds=1, out=tmp_path, run=False,
    )  # fmt: skip
    study.strategies = {"dies": Broken(die=True), "prior": study.strategies["prior"]}
    study.run(workers=2, progress=Progress())
    (failure,) = study.failures()
    assert failure.strategy == "dies"
    assert "died 3 times" in failure.error


SCRIPT = """
import sys
from studies import ENCODER, table
import plait
plait.compare(table(600), targets=["click", "price"], strategies=["joint"], encoder=ENCODER,
              training={"passes": 100000, "patience": None}, seeds=1, out=sys.argv[1])
"""


def test_sigterm_leaves_finished_cells_and_exits_143(tmp_path: Path) -> None:
    places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        wait_for(lambda: list(tmp_path.glob("cells/*.part/work/**/events.jsonl")), process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) == 143
    study = Study.open(tmp_path)
    finished = study.store.keys()
    assert all(study.store.sound(key) for key in finished)
    assert list(tmp_path.glob("cells/*.part/work/**/checkpoint.json"))


def test_settings_that_name_no_task_are_refused_before_anything_runs(tmp_path: Path) -> None:
    strategies = {
        "a": {"joint": {"balancing": {"famo": {"minimum": {"clik": 1.0}}}}},
        "b": {"merge": {"tall_masks": {"method": {"average": {"weights": {"prize": 1.0}}}}}},
        "c": {"joint": {"sharing": {"cgc": {"experts": {"click": 2}}}}},
        "d": {"joint": {"balancing": {"stch": {"reference": {"click": 0.0}}}}},
    }
    with pytest.raises(ValueError, match="'a': famo: minimum: no task 'clik'; did you") as caught:
        plait.compare(
            table(60), targets=["click", "price"], strategies=strategies, encoder=ENCODER,
            out=tmp_path,
        )  # fmt: skip
    assert "'b': average: weights: no task 'prize'; did you mean 'price'" in str(caught.value)
    assert "'c'" not in str(caught.value)
    assert "'d': stch: reference: given by task, and lacks price" in str(caught.value)
    assert not (tmp_path / "study.json").exists()


@pytest.mark.parametrize(
    ("home", "name"), [(Declared, "load"), (Study, "check"), (Study, "write"), (Store, "tidy")]
)
def test_sigterm_is_heard_before_the_first_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: type, name: str
) -> None:
    def struck(*arguments: object, **named: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **named)

    real = getattr(home, name)
    monkeypatch.setattr(home, name, struck)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit) as left:
            plait.compare(
                table(60), targets=["click"], strategies=["joint"], encoder=ENCODER, out=tmp_path
            )
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left.value.code == 143
    assert not list(tmp_path.glob("cells/*"))


def wait_for(found, process: subprocess.Popen, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_estimate_is_of_the_right_order(tmp_path: Path) -> None:
    study = Study(plan(passes=20), {"joint": "joint"}, folder=tmp_path, seeds=1)
    study.strategies = {"joint": study.strategies["joint"]}
    expected = study.estimate()
    start = time.process_time()
    study.run(progress=Progress())
    spent = time.process_time() - start
    assert 0.1 * spent < expected < 10 * spent + 1


def test_study_json_is_plain_and_has_the_recipe(run_folder: Path) -> None:
    told = json.loads((run_folder / "study.json").read_text("utf-8"))
    assert told["strategies"]["adapted"] == {"adapt": {"lora": {"rank": 2}}}
    assert told["strategies"]["merged"] == "merge"
    lock = json.loads((run_folder / "plait.lock.json").read_text("utf-8"))
    assert lock["threads"] >= 1
    assert lock["data"] == [told["tables"][0]["fingerprint"]]


@contextmanager
def here(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def test_relative_folders_work(tmp_path: Path) -> None:
    with here(tmp_path):
        table(80).write_csv("rows.csv")
        study = plait.compare(
            "rows.csv", targets=["click"], strategies=["joint"], encoder=ENCODER,
            training={"passes": 1}, seeds=1, out="run", progress=Progress(),
        )  # fmt: skip
        assert study.failures() == []
    again = Study.open(tmp_path / "run")
    assert len(again.plans[0].dataset) == 80
