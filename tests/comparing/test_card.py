from __future__ import annotations

import re
from pathlib import Path

from plait.comparing import Study
from plait.comparing.card import line
from plait.weights.files import digest

HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))",
    "![x](http://evil/x.png)", "a | b", "`code`", "**bold**", "# title", "two\nlines", "\x1b[2J",
    "---", "```", "\u202egnp.exe", "http://evil", "www.evil.example", "@all", "a\x00b", "~~x~~",
]  # fmt: skip


def test_the_card_says_what_was_found(study: Study, tmp_path: Path) -> None:
    folder = study.best().save(tmp_path / "model")
    text = (folder / "README.md").read_text("utf-8")
    assert text.startswith('---\nlibrary_name: plait\ntags: ["plait", "multi-task-learning"]\n')
    assert "license: unknown" in text
    label = next(row.strategy for row in study.results.standings if row.chosen)
    assert f"Strategy {label}: the study chose it." in text
    assert study.results.answer.headline.split(":")[0] in text
    score = next(s for s in study.results.scores if s.strategy == label and s.task == "price")
    found = score.metrics["rmse"]
    assert f"| price | rmse | {found.value:.4g} [{found.low:.4g}, {found.high:.4g}] |" in text
    assert "The licence of the data is unknown to plait" in text
    assert "351 labels" in text
    assert "strategies:" in text
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in ("README.md", "manifest.json"):
            assert digest(path) in text


def test_a_strategy_asked_for_says_so(study: Study, tmp_path: Path) -> None:
    folder = study.best("prior").save(tmp_path / "model")
    assert "Strategy prior: it was asked for by name." in (folder / "README.md").read_text("utf-8")


def test_a_refitted_model_says_on_what_it_was_measured(study: Study, tmp_path: Path) -> None:
    study.refit(tmp_path / "model", "linear")
    text = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "then trained on all labelled rows, so that no row is left to measure it on" in text
    assert "| price | rmse |" in text


def test_names_are_shown_as_text_and_no_more(study: Study, tmp_path: Path) -> None:
    for name in HOSTILE:
        shown = line(name)
        assert not re.search(r"[\x00-\x1f\x7f\u202e<>]", shown)
        assert not re.search(r"(?<!\\)[|`*\[\]]", shown)
        assert "://" not in shown
        assert "www." not in shown
        assert "@" not in shown
    assert len(line("x" * 5000)) <= 200


def test_a_recipe_cannot_leave_its_fence(study: Study, tmp_path: Path) -> None:
    predictor = study.best("joint")
    predictor.about["study"]["recipe"] = "a: b\n```\n<script>\n````\x1b[2J\n"
    predictor.about["study"]["facts"] = [*HOSTILE, "- a list"]
    folder = predictor.save(tmp_path / "model")
    text = (folder / "README.md").read_text("utf-8")
    assert "\n`````yaml\na: b\n```\n<script>\n````" in text
    before, _, rest = text.partition("`````yaml")
    assert "<script" not in before + rest.partition("\n`````\n")[2]
    assert "\x1b" not in text
