"""A study whose columns, tasks, classes, cells, strategies and files have hostile names, run."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import checks
import numpy as np
import polars as pl
import pytest
from payloads import RUN

import plait
from browser import dump
from plait.cli import main
from plait.comparing.emit import emit

COLUMN = f'<img src=x onerror="{RUN}">'
TEXT = "=cmd|' /C calc'!A0"
TASKS = (f"</script><script>{RUN}</script>", "\x1b]0;PWNED\x07@SUM(1)", "\\write18{id}_{{ 7*7 }}")
CLASSES = (f"<b onclick={RUN}>yes", "=1+1", "\u202eno\x1b[31m")
LABEL = f'"><svg onload="{RUN}">'
FILE = "=<img src=x onerror=alert(1)>\x1b[2J.parquet"
TITLE = f"{{{{ 7 * 7 }}}}<script>{RUN}</script>"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    random = np.random.default_rng(0)
    x = random.normal(size=240)
    kind = random.integers(0, 3, size=240)
    words = [f"{TEXT} {COLUMN} {number % 7}" for number in range(240)]
    pl.DataFrame(
        {
            COLUMN: x, "id": [f"+{number}" for number in range(240)], TEXT: words,
            TASKS[0]: [CLASSES[one] for one in kind], TASKS[1]: x + random.normal(size=240),
            TASKS[2]: [CLASSES[int(one > 0)] for one in x],
        }
    ).write_parquet(folder / FILE)  # fmt: skip
    path = folder / "study.yaml"
    path.write_text(
        emit(
            {
                "title": TITLE,
                "data": {"table": FILE, "id": "id"},
                "tasks": {
                    TASKS[0]: {"target": TASKS[0], "kind": "classes"},
                    TASKS[1]: {"target": TASKS[1], "kind": "real"},
                    TASKS[2]: {"target": TASKS[2], "kind": "binary", "positive": CLASSES[1]},
                },
                "encoder": {"trunk": {"mlp": {"width": 4, "depth": 1}}},
                "training": {"passes": 1},
                "strategies": {LABEL: {"joint": {}}},
            }
        ),
        "utf-8",
    )
    return path


def told(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints, both streams; it must not fail."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        main.run(list(words))
    signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr()
    assert not left.value.code, said.err
    return said.out + said.err


@pytest.mark.slow
def test_a_run_with_hostile_names_writes_nothing_that_runs(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, model = tmp_path / "run", tmp_path / "model"
    table = str(study.parent / FILE)
    said = told("validate", str(study), capsys=capsys)
    said += told("init", table, "--targets", TASKS[1], "-o", str(tmp_path / "new.yaml"), "--yes",
                 capsys=capsys)  # fmt: skip
    said += told("compare", str(study), "--out", str(run), capsys=capsys)
    said += told("status", str(run), capsys=capsys)
    assert checks.controls(said, "\n\t") == []
    results = told("compare", str(study), "--out", str(run), "--json", capsys=capsys)
    assert checks.controls(results) == []
    assert {row["strategy"] for row in json.loads(results)["standings"]} > {LABEL, "separate"}

    page = (run / "report.html").read_text("utf-8")
    assert checks.markup(page, checks.REPORT, scripts=2) == []
    browsed = dump(run / "report.html")
    assert "data-pwned" not in browsed.split("<body", 1)[0]
    assert "<title>PWNED" not in browsed
    assert checks.markdown(told("report", str(run), "--md", capsys=capsys)) == []
    assert checks.latex(told("report", str(run), "--latex", capsys=capsys)) == []
    assert checks.sheet(told("report", str(run), "--csv", capsys=capsys), columns=8) == []
    board = plait.Study.open(run).leaderboard()
    assert checks.markup(board._repr_html_(), checks.TABLE) == []
    assert checks.controls(str(board)) == []

    said = told("train", str(run), "--strategy", LABEL, "-o", str(model), capsys=capsys)
    out = tmp_path / "out.csv"
    said += told("predict", str(model), table, "-o", str(out), capsys=capsys)
    assert checks.controls(said, "\n\t") == []
    assert checks.markdown((model / "README.md").read_text("utf-8")) == []
    columns = len(pl.read_csv(out).columns)
    assert checks.sheet(out.read_bytes().decode(), columns=columns) == []
