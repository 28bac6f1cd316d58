"""The report: what a reader finds in it, how large it is, and that no name in it can run."""

from __future__ import annotations

import base64
import csv as sheets
import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import matplotlib as mpl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import results_fixture as fixture
from plait.comparing import report
from plait.comparing.report import numbers, tables
from plait.comparing.report.clean import visible
from plait.comparing.report.glance import glance
from plait.comparing.report.plots import MOST
from plait.comparing.report.svg import spread
from plait.comparing.report.whiskers import Scale
from plait.comparing.results import (
    UNDEFINED,
    Answer,
    Curve,
    Interval,
    Results,
    Standing,
    TaskScore,
)

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """A page as a browser's parser sees it: elements, their attributes, and text by section."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._section, self._open = "answer", ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open = tag
        if tag == "section":
            self._section = dict(attrs).get("id") or "answer"

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open == "script":
            self.scripts.append(data)
        elif self._open == "style":
            self.styles.append(data)
        else:
            self.sections[self._section] = self.sections.get(self._section, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def data_of(page: Page) -> dict:
    return json.loads(page.scripts[0])


@pytest.fixture(scope="module")
def studies() -> dict[str, Results]:
    return {
        "demo": fixture.demo(), "assays": fixture.wide(12), "many": fixture.wide(600),
        "damaged": fixture.damaged(), "hostile": fixture.hostile(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def sources(studies) -> dict[str, str]:
    return {name: report.html(results) for name, results in studies.items()}


@pytest.fixture(scope="module")
def pages(sources) -> dict[str, Page]:
    return {name: Page(source) for name, source in sources.items()}


NAMES = pytest.mark.parametrize("name", ["demo", "assays", "many", "damaged", "hostile"])


# -- what a reader finds ---------------------------------------------------------------------------


def test_the_answer_comes_first_and_the_rest_in_reading_order(pages):
    assert list(pages["demo"].sections) == [
        "answer", "leaderboard", "tasks", "help", "cost", "learning", "weights", "conflict",
        "experts", "data", "recipe", "environment", "notes", "words",
    ]  # fmt: skip
    answer = pages["demo"].sections["answer"]
    for words in ("One model is as good, at a quarter", "Use uncertainty", "tied with pcgrad"):
        assert words in answer


def test_the_leaderboard_has_a_row_for_every_strategy_and_says_what_to_use(studies, pages):
    board = pages["demo"].sections["leaderboard"]
    for standing in studies["demo"].standings:
        assert standing.strategy in board
        assert standing.words in board
    assert board.count("use this") == 1
    assert board.count("plain baseline") == 3
    assert "+9.1" in board
    assert "+7.5 to +10.7" in board
    assert "104 k" in board
    assert re.search(r"▼ 1\s+sum", board)  # negative transfer by name
    chosen = [a for a in pages["demo"].all("tr") if "chosen" in (a.get("class") or "")]
    assert len(chosen) == 1


def test_ties_are_shown_as_ties(pages):
    tied = [a for a in pages["demo"].all("abbr") if a.get("aria-label") == "tied with the best"]
    assert len(tied) == 2


def test_failures_are_rows_of_their_own_and_undefined_says_why(pages):
    page = pages["damaged"]
    board = page.sections["leaderboard"]
    assert board.count("Failed.") == 2
    assert "3 of 3 cells needed more than 2 GB" in board
    assert "0, 1, 2" in board  # equal failures of several seeds in one line
    reasons = {a["title"] for a in page.all("abbr") if "undefined" in (a.get("class") or "")}
    assert "the test rows hold one class only" in reasons
    assert "nan" not in board.lower().split()
    shown = data_of(page)
    assert shown["verdicts"][0][shown["tasks"].index("larger")] == "?"
    assert shown["gains"][0][9:12] == [None, None, None]


def test_sections_without_anything_to_show_are_left_out(pages):
    assert not {"learning", "weights", "conflict"} & set(pages["damaged"].sections)


def test_a_study_of_nothing_is_still_a_page():
    answer = Answer(form="unclear", headline="Too little data.", use="")
    bare = Results(title="", answer=answer, standings=(), scores=(), failures=(), tasks=())
    assert "Too little data." in report.html(bare)
    assert "Too little data." in report.markdown(bare)
    assert report.csv(bare).count("\n") == 1
    assert r"\toprule" in report.latex(bare)


def test_figures_without_intervals_costs_or_other_strategies_are_drawn(studies):
    gain = Interval(3.0)
    way = Standing(strategy="joint", words="w", recipe="joint", baseline=False, seeds=1, gain=gain)
    score = TaskScore(strategy="joint", task="a", metrics={"r2": Interval(0.5)}, gain=gain)
    page = Page(report.html(replace(
        studies["damaged"], standings=[way], scores=[score], tasks=(), failures=(), warnings=()
    )))  # fmt: skip
    assert "+3.00" in page.sections["leaderboard"]
    assert "R²" in page.sections["tasks"]
    assert "cost" not in page.sections


def test_words_are_defined_where_they_stand_and_in_the_glossary(pages):
    page = pages["assays"]
    anchors = {a["id"] for a in page.all("div") if a.get("id", "") and "word-" in a["id"]}
    terms = [a for a in page.all("a") if a.get("class") == "term"]
    assert terms
    assert {a["href"].removeprefix("#") for a in terms} <= anchors
    assert any("random positive row" in (a.get("title") or "") for a in page.all("abbr"))
    assert "random positive row" in page.sections["words"]
    assert "Negative transfer" in Page(report.html(replace(
        fixture.damaged(), definitions={"harmed": "Negative transfer of our own."}
    ))).sections["words"]  # fmt: skip


def test_metrics_where_less_is_better_say_so(pages):
    demo = data_of(pages["demo"])
    assert demo["lower"][demo["metrics"].index("RMSE")]
    assert not demo["lower"][demo["metrics"].index("accuracy")]


def test_help_and_harm_is_told_by_sign_and_mark_not_by_colour_alone(pages):
    words = pages["demo"].sections["help"]
    assert "▲ +20" in words
    assert "▼ −13" in words
    cells = [a["class"] for a in pages["demo"].all("td") if "cell" in (a.get("class") or "")]
    assert Counter(kind.split()[1] for kind in cells)["noise"] == 7  # bare figures, no shade


def test_pictures_are_bounded_and_what_is_left_out_is_said(pages):
    page = pages["many"]
    for section in ("help", "learning"):
        assert "of 600 tasks helped and harmed most" in page.sections[section] or (
            "The 40 tasks helped and harmed most; 560 more" in page.sections[section]
        )
    plots = [a for a in page.all("svg") if a.get("class") == "plot"]
    assert len(plots) <= 4 * MOST
    assert page.sections["learning"].count("training step") == MOST


def test_the_tasks_picked_are_helped_and_harmed_in_turn(studies):
    picked = tables.heat(tables.Tables(studies["many"]))
    marks = Counter(cell.mark for row in picked.cells for cell in row[:1])
    assert marks["▲"] >= 15
    assert marks["▼"] >= 10


def test_where_strategies_are_many_the_front_is_named_and_tasks_stand_across(studies):
    demo = studies["demo"]
    model = next(s for s in demo.standings if s.strategy == "pcgrad")
    names = [f"copy_{number}" for number in range(20)]
    cost = replace(model.cost, seconds=1e6)  # none is on the front
    standings = [replace(model, strategy=name, chosen=False, cost=cost) for name in names]
    scores = [replace(s, strategy=n) for n in names for s in demo.scores if s.strategy == "pcgrad"]
    results = replace(demo, standings=[*demo.standings, *standings], scores=[*demo.scores, *scores])
    page = Page(report.html(results))
    assert "Named are separate, and those that none beats in both." in page.sections["cost"]
    assert "Named are" not in Page(report.html(studies["demo"])).sections["cost"]
    drawn = report.html(results).split("<h2>Quality against cost</h2>")[1].split("</svg>")[0]
    told = re.sub(r"<title>.*?</title>|aria-label=.[^\"]*", "", drawn, flags=re.DOTALL)
    assert "separate" in told
    assert "copy_3" not in told
    found = tables.heat(tables.Tables(results))
    assert found.turned
    assert set(found.across) == {score.task for score in results.scores}


def test_a_mean_over_tasks_is_drawn_where_a_study_kept_nothing_else(studies):
    mean = [
        Curve(strategy="joint", seed="0", kind=kind, steps=[0, 1, 2],
              series={"mean of 600 tasks": [3.0, 2.0, 1.0]})
        for kind in ("loss", "valid")
    ]  # fmt: skip
    page = Page(report.html(replace(studies["assays"], curves=mean)))
    assert "mean of 600 tasks" in page.sections["learning"]
    assert "helped and harmed most" not in page.sections["learning"]


def test_a_curve_ends_where_the_first_seed_stops_and_skips_what_is_not_a_number(studies):
    short = {"a": [4.0, float("nan"), None, 3.0]}
    long = {"a": [2.0, 1.0, 7.0, 9.0]}
    curves = [
        Curve(strategy="joint", seed=str(seed), kind="valid", steps=steps, series=series)
        for seed, steps, series in ((0, [0, 10, 15, 20], short), (1, [0, 10, 20, 30], long))
    ]
    page = Page(report.html(replace(studies["assays"], curves=curves)))
    words = next(a["aria-label"] for a in page.all("svg") if "Loss of a" in a.get("aria-label", ""))
    assert "joint ends at 5" in words  # 3 and 7 at step 20, the last that both reached


def test_a_front_is_drawn_with_the_share_that_it_beats(studies):
    losses = {"a": [0.2, 0.5, 1.0, 1.0], "b": [1.0, 0.5, 0.2, None]}
    one = Curve(strategy="joint", seed="0", kind="front", steps=[0, 1, 2, 3], series=losses)
    page = Page(report.html(replace(studies["assays"], curves=[one])))
    assert "Fronts" in page.sections["fronts"]
    assert "Hypervolume 0.25" in page.sections["fronts"]  # the others are on the box's edges
    words = next(a["aria-label"] for a in page.all("svg") if "Front" in a.get("aria-label", ""))
    assert "the loss of b against that of a at 3 points, 3 of which no other beats" in words
    three = replace(one, series={**losses, "c": [3.0, 2.0, 1.0, 1.0]})
    page = Page(report.html(replace(studies["assays"], curves=[three])))
    assert page.sections["fronts"].count("joint:") == 3
    assert "fronts" not in Page(report.html(replace(studies["assays"], curves=[]))).sections


def test_an_interval_far_outside_the_scale_is_an_arrow_at_its_edge():
    scale = Scale.of([Interval(1.0, -2.0, 3.0)], [Interval(-500.0, -510.0, -490.0)])
    assert scale.place(-500.0) < 0
    assert 0 < scale.place(-2.0) < scale.place(0.0) < scale.place(3.0) < 100


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "written"),
    [
        (Interval(0.78123, 0.7521, 0.8081), "0.781 (0.752–0.808)"),
        (Interval(10.1934, 10.05, 10.33), "10.19 (10.05–10.33)"),
        (Interval(-0.2, -0.31, 0.09), "−0.20 (−0.31 to 0.09)"),
        (Interval(1_234_567.0, 1_233_000.0, 1_236_000.0), "1,234,600 (1,233,000–1,236,000)"),
        (Interval(0.123456), "0.123"),
        (Interval(0.0, 0.0, 0.0), "0"),
        (Interval(3e-12, 2e-12, 4e-12), "3e−12 (2e−12–4e−12)"),
        (UNDEFINED, "undefined"),
    ],
)
def test_numbers_are_rounded_by_their_uncertainty(interval, written):
    assert numbers.both(interval) == written


def test_gains_carry_their_sign():
    assert numbers.both(Interval(9.075, 7.47, 10.68), signed=True) == "+9.1 (+7.5 to +10.7)"
    assert numbers.figure(Interval(-0.004, -1.0, 1.0), signed=True) == "0.0"


@given(
    st.floats(-1e6, 1e6), st.floats(1e-6, 1e5), st.floats(1e-6, 1e5)
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_rounding_keeps_value_and_bounds_within_a_tenth_of_the_uncertainty(value, under, over):
    interval = Interval(value, value - under, value + over)
    for exact, cut in zip(
        (interval.value, interval.low, interval.high), numbers.rounded(interval), strict=True
    ):
        assert abs(exact - float(cut)) <= 0.05 * (under + over) / 2 + 1e-9


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9))
@settings(deadline=None, max_examples=60)
def test_labels_are_spread_apart_in_their_order(places):
    moved = spread(places, 10, 0, 100)
    gap = min(10, 100 / max(len(places) - 1, 1))
    order = sorted(range(len(places)), key=lambda i: places[i])
    steps = [moved[b] - moved[a] for a, b in pairwise(order)]
    assert all(step >= gap - 1e-6 for step in steps)
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in moved)


# -- one file that needs nothing -------------------------------------------------------------------


@NAMES
def test_the_page_is_one_small_file_that_loads_nothing(name, sources, pages):
    source, page = sources[name], pages[name]
    assert len(source.encode()) < 2_000_000
    for _, attributes in page.elements:
        assert "src" not in attributes or attributes["src"].startswith("data:image/")
        assert (attributes.get("href") or "#").startswith("#")
    assert not page.all("link")
    assert "@import" not in source
    assert "url(" not in "".join(page.styles)
    assert "http" not in "".join(page.scripts[1:]).replace("http://www.w3.org/2000/svg", "")


def test_figures_beyond_the_budget_are_left_out_and_it_is_said(studies, monkeypatch):
    looked_up = tables.Tables(studies["many"])
    whole, nothing = tables.task_data(looked_up)
    assert whole["every"]
    assert nothing == ""
    monkeypatch.setattr(tables, "DATA_BUDGET", 200_000)
    ranked, said = tables.task_data(looked_up)
    assert len(ranked["tasks"]) == 600
    assert len(ranked["figures"][0]) == 1
    assert "the CSV has the others" in said
    monkeypatch.setattr(tables, "DATA_BUDGET", 50_000)
    few, said = tables.task_data(looked_up)
    assert 50 < len(few["tasks"]) < 600
    assert len(json.dumps(few, separators=(",", ":"))) < 60_000
    assert f"The {len(few['tasks'])} of 600 tasks" in said


def test_pictures_beyond_the_budget_are_left_out_and_it_is_said(studies):
    large = "data:image/png;base64," + "A" * 600_000
    page = Page(report.html(replace(studies["demo"], pictures=[fixture.picture(0), large])))
    assert len(page.all("img")) == 1
    assert "1 picture left out" in page.sections["data"]


def test_drawing_leaves_the_settings_of_matplotlib_alone(studies):
    before = dict(mpl.rcParams)
    report.html(studies["damaged"])
    assert dict(mpl.rcParams) == before


def test_the_same_results_give_the_same_tables(studies):
    assert report.markdown(studies["demo"]) == report.markdown(fixture.demo())
    assert report.csv(studies["assays"]) == report.csv(fixture.wide(12))


# -- hostile names ---------------------------------------------------------------------------------

ALLOWED = """
html head meta title style body header p span button main section h1 h2 h3 ul li dl dt dd div nav a
abbr b i table thead tbody tr th td small svg text line path use defs clippath g rect circle form
label input select option details summary figure figcaption img pre code script
"""


@NAMES
def test_no_name_becomes_an_element_or_a_handler(name, pages):
    page = pages[name]
    assert {tag for tag, _ in page.elements} <= set(ALLOWED.split())
    assert len(page.all("script")) == 2
    for _, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on") or key == "style"]
    ids = Counter(a["id"] for _, a in page.elements if a.get("id"))
    assert max(ids.values()) == 1


@NAMES
def test_only_the_reports_own_script_and_style_may_run(name, pages):
    page = pages[name]
    meta = next(a for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    policy = dict(part.strip().split(" ", 1) for part in meta["content"].split(";"))

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == digest(page.scripts[1])
    assert policy["style-src"] == digest("".join(page.styles))
    assert policy["img-src"] == "data:"
    assert page.all("script")[0]["type"] == "application/json"


def test_pictures_cannot_bring_scripts(pages):
    kinds = Counter(a["src"].split(";")[0] for a in pages["hostile"].all("img"))
    assert kinds == {"data:image/png": 2, "data:image/svg+xml": 1}


def test_names_are_shown_as_they_are(pages):
    text = "".join(pages["hostile"].sections.values())
    for payload in fixture.PAYLOADS[:8]:
        assert payload in text
    assert "{{ 7 * 7 }}" in text  # no template sees a name


def test_characters_that_hide_or_reorder_are_written_out():
    assert visible("a\x00b\x1b[31m\u202ec\ud800") == "a\\x00b\\x1b[31m\\u202ec\\ud800"
    assert visible("名前 🙂 عربى") == "名前 🙂 عربى"
    assert visible("a\ufffe\uffff\ufdd0") == "a\\ufffe\\uffff\\ufdd0"  # XML has no such characters


def test_mathematics_in_names_is_not_typeset(studies):
    tasks = [{**t, "name": t["name"].replace("left", "$x^2$")} for t in studies["demo"].tasks]
    curves = [
        replace(c, series={n.replace("left", "$x^2$"): v for n, v in c.series.items()})
        for c in studies["demo"].curves
    ]
    page = Page(report.html(replace(studies["demo"], tasks=tasks, curves=curves)))
    assert "$x^2$" in page.sections["weights"]


# -- text, papers, sheets --------------------------------------------------------------------------


def md_tables(text: str) -> list[list[int]]:
    """The number of cells of each row, table by table."""
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    return [[len(re.findall(r"(?<!\\)\|", row)) for row in block] for block in blocks]


@NAMES
def test_markdown_tables_keep_their_shape(name, studies):
    text = report.markdown(studies[name])
    shapes = md_tables(text)
    assert len(shapes) == 3
    assert all(len(set(rows)) == 1 for rows in shapes)
    before_recipe = text.split("## Recipe")[0]
    assert "<" not in before_recipe
    assert not re.search(r"^\s*[-+=]{1}1", before_recipe, re.MULTILINE)


def test_markdown_says_what_the_page_says(studies):
    text = report.markdown(studies["demo"])
    assert text.startswith("# Pairs of handwritten digits\n\n**One model is as good")
    assert "| ★ | uncertainty | +9.1 (+7.5 to +10.7) |" in text
    assert "−12.6 (−15.0 to −10.1) ▼" in text
    assert "```yaml\ndata:\n  table: scenes.npz" in text
    assert "failed: out of memory" in report.markdown(studies["damaged"])
    assert "The 40 of 600 tasks helped and harmed most" in report.markdown(studies["many"])


def test_a_recipe_cannot_end_its_fence(studies):
    text = report.markdown(replace(studies["demo"], recipe="a: 1\n```\n# not a heading\n"))
    assert text.rstrip().endswith("````")
    assert "\n````yaml\n" in text


@NAMES
def test_latex_is_balanced_and_every_row_complete(name, studies):
    text = report.latex(studies[name])
    body = re.sub(r"^%.*$", "", text, flags=re.MULTILINE)
    plain = re.sub(r"\\[\\{}%&$#_]", "", body)
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    for special in ("#", "_", "^", "~", "%"):
        assert special not in plain
    tabular = re.findall(
        r"begin\{(?:tabular|longtable)\}\{([lr]+)\}(.*?)\\end\{(?:tabular|longtable)\}",
        body,
        re.DOTALL,
    )
    assert len(tabular) == 3
    for columns, rows in tabular:
        cells = [
            len(re.findall(r"(?<!\\)&", row)) + 1
            for row in rows.splitlines() if row.endswith(r"\\") and "caption" not in row
        ]  # fmt: skip
        assert set(cells) == {len(columns)}
        assert not re.search(r"\\\\\s*[\[*]", rows)


def test_many_tasks_run_over_pages_in_latex(studies):
    assert report.latex(studies["many"]).count(r"\begin{longtable}") == 2
    assert "longtable}{" not in report.latex(studies["demo"])


def rows_of(text: str) -> list[dict[str, str]]:
    return list(sheets.DictReader(io.StringIO(text)))


def test_csv_holds_every_figure_in_full(studies):
    results = studies["damaged"]
    rows = rows_of(report.csv(results))
    found = {(r["strategy"], r["task"], r["metric"]): r for r in rows}
    assert len(found) == len(rows)
    for score in results.scores:
        for name, figure in score.metrics.items():
            row = found[score.strategy, score.task, name]
            if figure.defined:
                assert [float(row[k]) for k in ("value", "low", "high")] == [
                    figure.value, figure.low, figure.high,
                ]  # fmt: skip
            else:
                assert (row["value"], row["reason"]) == ("", score.reason)
    assert found["joint", "sum", "gain (Δm), %"]["verdict"] == "harmed"
    assert found["mmoe", "", ""]["reason"].startswith("failed: out of memory")


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_text_in_a_sheet_is_a_formula(first, studies):
    score = replace(
        studies["demo"].scores[0], strategy=first + "1", task=first + "2", reason=first + "3",
        metrics={first + "4": UNDEFINED}, gain=Interval(-3.5, -4.5, -2.5),
    )  # fmt: skip
    rows = list(sheets.reader(io.StringIO(report.csv(replace(studies["demo"], scores=[score])))))
    cells = [cell for row in rows for cell in row]
    assert {f"'{first}{n}" for n in range(1, 5)} <= set(cells)
    assert "-3.5" in cells  # numbers stay numbers
    assert not [c for c in cells if c.startswith(first) and not re.fullmatch(r"-?[\d.]+", c)]


def test_hostile_text_can_be_encoded(studies):
    for write in report.FORMATS.values():
        write(studies["hostile"]).encode("utf-8")


# -- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "kind", "start"),
    [
        ("report.html", None, "<!doctype html>"), ("r.md", None, "# Pairs"),
        ("r.tex", None, "% Needs"), ("r.csv", None, "strategy,task,"),
        ("anything.txt", "markdown", "# Pairs"), ("other.txt", "tex", "% Needs"),
    ],
)  # fmt: skip
def test_a_report_is_written_by_its_ending_or_format(file, kind, start, studies, tmp_path):
    path = report.write(studies["demo"], tmp_path / "folder" / file, kind)
    assert path.read_text("utf-8").lstrip().startswith(start)
    assert [p.name for p in path.parent.iterdir()] == [file]


def test_an_unknown_format_names_the_nearest_and_writes_nothing(studies, tmp_path):
    with pytest.raises(ValueError, match=r"no report format 'mardown'.*did you mean 'markdown'"):
        report.write(studies["demo"], tmp_path / "r.txt", "mardown")
    with pytest.raises(ValueError, match=r"no report format 'pdf'.*valid: csv, htm"):
        report.write(studies["demo"], tmp_path / "r.pdf")
    assert not list(tmp_path.iterdir())


# -- the picture beside the answer -----------------------------------------------------------------


def test_the_answer_shows_what_the_strategy_to_use_does_to_each_task(pages):
    answer = " ".join(pages["demo"].sections["answer"].split())
    assert "Gain under uncertainty against separate models, %" in answer
    for words in ("left+18.8", "right+19.6", "sum−2.9", "2 within noise, of 4 tasks"):
        assert words in answer


def test_of_many_tasks_the_most_helped_and_harmed_are_shown(studies):
    looked_up = tables.Tables(studies["many"])
    seen = glance(looked_up)
    gains = [looked_up.gain("joint", task).value for task, *_ in seen.rows]
    every = sorted((looked_up.gain("joint", task).value for task in looked_up.tasks), reverse=True)
    assert gains == every[:4] + every[-4:]
    assert sum(number for _, number in seen.counts) == 600
    assert dict(seen.counts)["harm"] == len(studies["many"].answer.separate)


def test_where_separate_models_or_nothing_is_to_be_used_there_is_no_picture(studies):
    assert glance(tables.Tables(studies["damaged"])) is None
    rows = [replace(s, chosen=s.strategy == "separate") for s in studies["demo"].standings]
    assert glance(tables.Tables(replace(studies["demo"], standings=rows))) is None
