"""Hostile names in every field: no script, no formula, no escape sequence, in any output.

The short version takes every family of payloads once through every kind of output; the campaign
(slow) takes every payload through every field and prints what it counted.
"""

from __future__ import annotations

import html
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checks
import polars as pl
import pytest
from payloads import FAMILIES, PAYLOADS
from poisoning import clean, fields_of, poisoned

from browser import dump
from plait.cli import compare, console, standings, tables
from plait.comparing import card as model_card
from plait.comparing import report
from plait.comparing.emit import emit
from plait.comparing.leaderboard import Leaderboard
from plait.comparing.results import Results
from plait.recipes.document import RecipeError, parse
from plait.recipes.study import loads

TURNS = range(0, len(PAYLOADS), 29)  # the short version: every family in most fields


@pytest.fixture(scope="module")
def study() -> Results:
    return clean()


def written(
    results: Results, page: str, capsys: pytest.CaptureFixture[str]
) -> dict[str, list[str]]:
    """What is wrong with each output of some results; ``page`` is their report."""
    board = Leaderboard(results.standings)
    console.dump(compare.plain(results, Path("run"), Path("run/report.html")))
    dumped = capsys.readouterr().out
    standings.show(results)
    shown = capsys.readouterr()
    return {
        "report": checks.markup(page, checks.REPORT, scripts=2)
        + checks.controls(page, "\n\t")
        + (["too large"] if len(page.encode()) > 2_000_000 else []),
        "notebook": checks.markup(board._repr_html_(), checks.TABLE)
        + checks.controls(board._repr_html_()),
        "terminal": checks.controls(shown.out + shown.err + str(board)),
        "json": checks.controls(dumped) + ([] if json.loads(dumped) else ["empty"]),
        "markdown": checks.markdown(report.markdown(results)),
        "latex": checks.latex(report.latex(results)),
        "csv": checks.sheet(report.csv(results), columns=8),
    }


@pytest.mark.parametrize("turn", TURNS)
def test_no_name_does_anything_in_any_output(
    turn: int, study: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    results = poisoned(study, PAYLOADS, turn)
    found = written(results, report.html(results), capsys)
    assert {output: wrong for output, wrong in found.items() if wrong} == {}


def test_there_are_two_hundred_payloads_and_all_fields_are_reached(study: Results) -> None:
    assert len(set(PAYLOADS)) == len(PAYLOADS) >= 200
    names = fields_of(study)
    assert {"left", "joint", "accuracy", "cosine"} <= set(names)
    told = poisoned(study, PAYLOADS, 0)
    assert not {name for name in names if len(name) > 3} & set(fields_of(told))


# -- model cards, tables, study files, errors ------------------------------------------------------


def card(names: tuple[str, ...]) -> str:
    """The card of a model whose title, words, columns, tasks, facts, … have these names."""
    first, *_, last = names
    model: Any = SimpleNamespace(
        cost=lambda: SimpleNamespace(parameters=12.0), sort="network",
        evidence={"adapters": {"trained": 9, "common": 3, "stored": dict.fromkeys(names, 3)}},
        tasks=[SimpleNamespace(name=name, kind="binary", classes=names) for name in names],
    )  # fmt: skip
    preparation: Any = SimpleNamespace(roles={"table": {name: [name] for name in names}})
    figure = [0.5, 0.4, 0.6]
    study = {
        "chosen": True, "seeds": 3, "gain": figure, "facts": names, "warnings": names,
        "notes": names, "recipe": "\n".join(names),
        "answer": {"headline": first, "use": last, "reasons": names},
        "scores": [
            {"task": name, "reason": name, "gain": figure, "metrics": {name: figure}}
            for name in names
        ],
    }  # fmt: skip
    about = {"title": first, "words": last, "label": first, "data": last, "study": study}
    return model_card.card(model, preparation, about, dict.fromkeys(names, "ab12"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_card_shows_names_as_text(family: str) -> None:
    for payload in FAMILIES[family]:
        assert checks.markdown(card((payload, "plain", payload + " again"))) == [], repr(payload)


@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_in_a_sheet_hold_no_formula(family: str, tmp_path: Path) -> None:
    cells = [text.encode("utf-8", "replace").decode() for text in FAMILIES[family]]
    frame = pl.DataFrame({cell: [cell, cells[0]] for cell in dict.fromkeys(cells)})
    tables.write(frame, tmp_path / "out.csv")
    text = (tmp_path / "out.csv").read_bytes().decode()
    assert checks.sheet(text, columns=frame.width) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_names_survive_a_study_file_and_do_not_steer_it(family: str) -> None:
    for payload in FAMILIES[family]:
        plain = payload.encode("utf-8", "replace").decode()
        value = {"title": plain, "tasks": {plain: {"target": plain, "classes": [plain, "b"]}}}
        text = emit(value)
        assert parse(text).value == value
        assert checks.controls(text) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_errors_that_quote_a_name_do_not_steer_the_terminal(
    family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for payload in FAMILIES[family]:
        plain = payload.encode("utf-8", "replace").decode()
        study = {"data": "x.csv", "tasks": {plain: plain}, "strategies": {plain: {plain: {}}}}
        with pytest.raises(RecipeError) as caught:
            loads(emit(study), name=f"{plain}.yaml")
        console.fail(caught.value)
        console.warn(payload)
        console.say(payload)
        console.show(console.table(["name"], [[payload]]))
        said = capsys.readouterr()
        assert checks.controls(said.out + said.err, "\n\t") == [], repr(payload)


# -- in a browser ----------------------------------------------------------------------------------

DRIVER = """<!doctype html><meta charset="utf-8"><pre id="out"></pre>{frames}<script>
onload = () => setTimeout(() => {{
  const said = [];
  for (const frame of document.querySelectorAll("iframe")) {{
    const page = frame.contentDocument;
    for (const type of ["click", "mouseover", "focus", "blur", "toggle", "animationstart"])
      page.querySelectorAll("*").forEach((one) => one.dispatchEvent(new Event(type)));
    const handlers = [...page.querySelectorAll("*")].filter((one) =>
      [...one.attributes].some((a) => a.name.startsWith("on") || /^\\s*javascript:/i.test(a.value)
        && ["href", "src", "action", "formaction", "data"].includes(a.name)));
    said.push({{
      ran: page.documentElement.dataset.pwned === "1" || page.title === "PWNED",
      away: page.location.href !== frame.src, handlers: handlers.length,
      scripts: page.querySelectorAll("script").length,
      tables: page.querySelectorAll("table").length,
      foreign: page.querySelectorAll(
        "iframe,object,embed,base,link,video,audio,math,marquee").length,
    }});
  }}
  document.getElementById("out").textContent = JSON.stringify(said);
}}, 400);
</script>"""


def browsed(pages: list[str], folder: Path) -> list[dict[str, Any]]:
    """What Chromium makes of some pages after a click, a focus and more on everything in them."""
    folder.mkdir(parents=True)
    for number, page in enumerate(pages):
        (folder / f"{number}.html").write_text(page, "utf-8")
    frames = "".join(f'<iframe src="{number}.html"></iframe>' for number in range(len(pages)))
    (folder / "driver.html").write_text(DRIVER.format(frames=frames), "utf-8")
    whole = dump(folder / "driver.html", milliseconds=6000, seconds=300)
    found = re.search(r'<pre id="out">(.*?)</pre>', whole, re.DOTALL)
    assert found
    said: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    assert len(said) == len(pages)
    return said


def unguarded(page: str) -> str:
    """The page without its content policy: escaping alone must do."""
    bare, count = re.subn(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page)
    assert count == 1
    return bare


def wrong_in(said: dict[str, Any]) -> bool:
    bad = said["ran"] or said["away"] or said["handlers"] or said["foreign"]
    return bool(bad) or said["scripts"] != 2 or said["tables"] < 3


def test_the_browser_would_tell_if_a_script_ran(study: Results, tmp_path: Path) -> None:
    """The canary sings: a page with a payload that was not escaped is found out."""
    page = unguarded(report.html(study))
    sick = [page.replace("</main>", f"{payload}</main>") for payload in (PAYLOADS[0], PAYLOADS[32])]
    guarded = report.html(study).replace("</main>", f"{PAYLOADS[0]}</main>")
    said = browsed([*sick, guarded], tmp_path / "pages")
    assert [one["ran"] for one in said] == [True, True, False]
    assert all(wrong_in(one) for one in said)


def test_nothing_runs_in_a_browser(study: Results, tmp_path: Path) -> None:
    pages = [report.html(poisoned(study, PAYLOADS, turn)) for turn in (0, 40, 80)]
    pages += [unguarded(page) for page in pages]
    said = browsed(pages, tmp_path / "pages")
    assert [one for one in said if wrong_in(one)] == []


@pytest.mark.slow
def test_every_payload_in_every_field(
    study: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The campaign: as many turns as payloads, every output, and every page in a browser."""
    fields, found, ran, batch = len(fields_of(study)), [], 0, []
    outputs = 0
    for turn in range(len(PAYLOADS)):
        results = poisoned(study, PAYLOADS, turn)
        page = report.html(results)
        told = written(results, page, capsys)
        outputs += len(told)
        found += [f"turn {turn}, {name}: {wrong[:3]}" for name, wrong in told.items() if wrong]
        batch.append(unguarded(page))
        if len(batch) == 15 or turn == len(PAYLOADS) - 1:
            said = browsed(batch, tmp_path / str(turn))
            ran += sum(map(wrong_in, said))
            batch = []
    with capsys.disabled():
        sys.stdout.write(
            f"\n{len(PAYLOADS)} payloads x {fields} fields of results, {outputs:,} outputs read, "
            f"{len(PAYLOADS)} pages in Chromium without their policy: {len(found)} outputs wrong, "
            f"{ran} pages where something ran\n"
        )
    assert (found[:10], ran) == ([], 0)
