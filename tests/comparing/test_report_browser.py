"""The report in Chromium, at the width of a phone: what its script does, and that no name runs."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

import results_fixture as fixture
from browser import dump
from plait.comparing import report
from plait.comparing.results import Results

DRIVER = """<!doctype html><meta charset="utf-8"><pre id="out">{}</pre>
<iframe id="demo" src="demo.html" width="375" height="800"></iframe>
<iframe id="many" src="many.html" width="375" height="800"></iframe>
<iframe id="hostile" src="hostile.html" width="375" height="800"></iframe>
<script>
onload = () => setTimeout(() => {
  const said = {};
  const page = (name) => document.getElementById(name).contentDocument;
  const wide = (d) => d.documentElement.scrollWidth - d.documentElement.clientWidth;
  for (const name of ["demo", "many", "hostile"]) {
    said[name] = { wide: wide(page(name)), title: page(name).title,
      rows: page(name).querySelectorAll("#every tbody tr").length };
  }
  const texts = (d, selector) => [...d.querySelectorAll(selector)].map((e) => e.textContent.trim());
  const change = (d, id, value, event) => {
    d.getElementById(id).value = value;
    d.getElementById(id).dispatchEvent(new Event(event));
  };
  const names = (d) => texts(d, "#every tbody th span.name");
  const demo = page("demo");
  const walker = demo.createTreeWalker(demo.querySelector("#every tbody"), NodeFilter.SHOW_TEXT);
  said.demo.text = [];
  while (walker.nextNode()) said.demo.text.push(walker.currentNode.textContent.trim());
  change(demo, "verdict", "+", "change");
  said.demo.helped = names(demo);
  change(demo, "verdict", "", "change");
  change(demo, "way", "1", "change");
  said.demo.other = texts(demo, "#every .value b");
  change(demo, "way", "all", "change");
  said.demo.all = names(demo).length;
  const color = () => demo.defaultView.getComputedStyle(demo.body).backgroundColor;
  said.demo.colors = [color()];
  for (let i = 0; i < 3; i++) {
    demo.getElementById("theme").click();
    said.demo.colors.push(color());
  }
  const many = page("many");
  said.many.first = Number(texts(many, "#every .value b")[0].replace("\\u2212", "-"));
  many.querySelector('[data-sort="gain"] button').click();
  said.many.last = Number(texts(many, "#every .value b")[0].replace("\\u2212", "-"));
  said.many.sorted = many.querySelector('[data-sort="gain"]').getAttribute("aria-sort");
  change(many, "find", "ASSAY_059", "input");
  said.many.found = names(many);
  change(many, "find", "", "input");
  many.getElementById("more").click();
  said.many.more = names(many).length;
  said.many.shown = texts(many, "#shown")[0];
  said.hostile.elements = ["script", "iframe", "img[onerror]", "[onload]", "#every img"].map(
    (selector) => page("hostile").querySelectorAll(selector).length);
  document.getElementById("out").textContent = JSON.stringify(said);
}, 300);
</script>"""


@pytest.fixture(scope="module")
def studies() -> dict[str, Results]:
    return {"demo": fixture.demo(), "many": fixture.wide(600), "hostile": fixture.hostile()}


@pytest.fixture(scope="module")
def sources(studies) -> dict[str, str]:
    return {name: report.html(results) for name, results in studies.items()}


@pytest.fixture(scope="module")
def browsed(sources, tmp_path_factory) -> dict:
    """What a browser makes of the pages."""
    folder: Path = tmp_path_factory.mktemp("browser")
    for name, source in sources.items():
        (folder / f"{name}.html").write_text(source, "utf-8")
    (folder / "driver.html").write_text(DRIVER, "utf-8")
    found = re.search(r'<pre id="out">(.*?)</pre>', dump(folder / "driver.html"), re.DOTALL)
    assert found
    return json.loads(html.unescape(found[1]))


def test_nothing_runs_and_nothing_is_built_from_a_name(browsed, studies):
    assert browsed["hostile"]["title"].startswith(studies["hostile"].title[:20])
    assert browsed["hostile"]["title"] != "PWNED"
    assert browsed["hostile"]["elements"] == [2, 0, 0, 0, 0]
    assert browsed["hostile"]["rows"] == 4


def test_the_page_fits_a_phone(browsed):
    assert [browsed[name]["wide"] for name in ("demo", "many", "hostile")] == [0, 0, 0]


def test_the_script_shows_what_the_page_showed_without_it(browsed, sources):
    body = sources["demo"].split('id="every"')[1].split("</thead>")[1].split("</tbody>")[0]
    plain = [text.strip() for text in re.split(r"<[^>]+>", body)]
    assert [t for t in browsed["demo"]["text"] if t] == [text for text in plain if text]


def test_tasks_can_be_filtered_and_another_strategy_shown(browsed, studies):
    assert browsed["demo"]["helped"] == ["left", "right"]
    assert browsed["demo"]["other"] == ["+16.1", "+17.7", "−7.8", "+0.9"]  # pcgrad
    assert browsed["demo"]["all"] == 36
    assert browsed["many"]["rows"] == 50
    assert browsed["many"]["found"]
    assert {name[:9] for name in browsed["many"]["found"]} == {"assay_059"}


def test_tasks_can_be_sorted_and_more_be_shown(browsed):
    gains = [s.gain.value for s in fixture.wide(600).scores if s.strategy == "joint"]
    assert browsed["many"]["first"] == pytest.approx(min(gains), abs=0.06)
    assert browsed["many"]["last"] == pytest.approx(max(gains), abs=0.06)
    assert browsed["many"]["sorted"] == "descending"
    assert browsed["many"]["more"] == 550
    assert browsed["many"]["shown"] == "Showing 550 of 600 tasks."


def test_the_theme_can_be_turned(browsed):
    auto, light, dark, again = browsed["demo"]["colors"]
    assert light == "rgb(255, 255, 255)"
    assert dark == "rgb(20, 24, 27)"
    assert again == auto
