"""``plait validate``: everything of a study and its data is checked without loading torch."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plait.cli import main

STUDY = """\
data: {table: rows.csv, id: key, split: {random: [0.6, 0.2, 0.2]}}
tasks:
  click: {kind: binary, metrics: [auroc, accuracy]}
  price: {kind: real, loss: huber, where: click == 1}
  mark: {by: shop, kind: real}
encoder: {text: bag, trunk: {mlp: {width: 8}}}
training: {passes: 2}
track: {tensorboard: logs}
strategies:
  joint: {sharing: {cgc: {experts: {click: 2}}}}
  merged: {merge: {ties: {keep: KEEP}}}
  fair:
    joint:
      balancing:
        famo:
          minimum: {NAME: 0.1, click: 0, "mark[north]": 0, "mark[OTHER]": 0}
tune: {trials: 2, over: {learning_rate: [0.001, 0.01]}}
"""
LOADED = """
import sys
from plait.cli import main
try:
    main.run(["validate", sys.argv[1]])
except SystemExit as end:
    assert "torch" not in sys.modules, "torch is loaded"
    raise
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random, rows = np.random.default_rng(0), 200
    pl.DataFrame(
        {
            "key": [f"k{row}" for row in range(rows)],
            "age": random.normal(size=rows).round(3),
            "city": random.choice(["Rome", "Oslo"], rows),
            "said": [f"a short remark on number {row} of the list" for row in range(rows)],
            "shop": random.choice(["north", "south"], rows),
            "click": random.integers(0, 2, rows),
            "price": random.normal(size=rows).round(3),
            "mark": random.normal(size=rows).round(3),
        }
    ).write_csv(tmp_path / "rows.csv")
    return tmp_path


def validate(
    folder: Path, keep: str = "0.2", name: str = "price", other: str = "south"
) -> tuple[int, str, str]:
    study = folder / "study.yaml"
    study.write_text(STUDY.replace("KEEP", keep).replace("NAME", name).replace("OTHER", other))
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(study)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, " ".join(done.stderr.split())


def test_a_study_with_everything_is_checked_without_torch(folder: Path) -> None:
    code, out, err = validate(folder)
    assert code == 0, err
    assert "is fine: 4 tasks, 3 strategies" in out


def test_a_setting_by_task_that_lacks_one_found_in_the_data_is_told(folder: Path) -> None:
    code, _, err = validate(folder, other="north*")  # no such shop
    assert code == 1
    assert "minimum.mark[north*]: no task 'mark[north*]'; did you mean 'mark[north]'?" in err
    study = folder / "study.yaml"
    study.write_text(study.read_text().replace(', "mark[north*]": 0', ""))
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(study)], capture_output=True, text=True, check=False
    )
    said = "study.yaml:16: strategies.fair.joint.balancing.famo.minimum: given by task, and lacks"
    assert f"{said} mark[south]" in " ".join(done.stderr.split())


def test_what_a_class_refuses_is_told_beside_the_rest(folder: Path) -> None:
    code, _, err = validate(folder, keep="7", name="prize")
    assert code == 1
    assert "study.yaml:11: strategies.merged.merge.ties.keep: merging 'ties': " in err
    assert "study.yaml:16: strategies.fair.joint.balancing.famo.minimum.prize: no task" in err
    assert "did you mean 'price'?" in err


def test_names_that_only_the_data_tell_are_held_against_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = folder / "study.yaml"
    text = STUDY.replace("KEEP", "0.2").replace("NAME", "price")
    for name, code in (("south", 0), ("west", 1)):
        study.write_text(text.replace("OTHER", name))
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as left:
            main.run(["validate", str(study)])
        signal.signal(signal.SIGTERM, before)
        said = " ".join(capsys.readouterr().err.split())
        assert (left.value.code or 0) == code, said
    assert "study.yaml:16: strategies.fair.joint.balancing.famo.minimum.mark[west]: no task" in said
    assert "did you mean 'mark[north]'?" in said or "did you mean 'mark[south]'?" in said
