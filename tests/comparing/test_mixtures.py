"""The maps of merges in a report: how much of each model, where, and what was kept."""

from __future__ import annotations

import re
from dataclasses import replace

import results_fixture as fixture
from plait.comparing import report
from plait.comparing.report.mixtures import kept, mixtures
from plait.comparing.results import Mixture, Results


def mixture(rows: dict[str, list[float]], **more: object) -> Mixture:
    made = Mixture(strategy="way", seed="0", models=["a", "b"], rows=rows, kept="what was tuned")
    return replace(made, **more)


def results(*found: Mixture) -> Results:
    return replace(fixture.demo(), mixtures=found)


def squares(svg: str) -> list[tuple[str, str]]:
    found = re.findall(r'class="shade-([a-z0-9-]+)"[^>]*><title>([^<]*)</title>', svg)
    return [(shade, hover) for shade, hover in found]


def test_a_square_is_a_models_coefficient_at_a_tensor():
    (drawn,) = mixtures(results(mixture({"one": [0.31, 0.0], "two": [-0.8, 0.1]})))
    assert squares(drawn.svg) == [
        ("help-2", "one, a: 0.31"), ("level", "one, b: 0.00"),
        ("harm-3", "two, a: −0.80"), ("help-1", "two, b: 0.10"),
    ]  # fmt: skip
    assert drawn.note == "1 a; 2 b."


def test_many_tensors_are_put_together_in_their_order():
    rows = {f"t{i}": [i / 40, 0.0] for i in range(40)}
    (drawn,) = mixtures(results(mixture(rows)))
    assert "40 tensors in 16 groups" in drawn.note
    assert squares(drawn.svg)[0] == ("level", "t0 +2, a: 0.03")


def test_the_first_seed_is_drawn_and_all_are_told():
    one, two = mixture({"w": [1.0, 1.0]}), mixture({"w": [0.0, 0.0]}, seed="1", kept="the start")
    (drawn,) = mixtures(results(one, two))
    assert squares(drawn.svg)[0] == ("help-3", "w, a: 1.00")
    assert kept(results(one, two)) == ["way, seed 0: what was tuned", "way, seed 1: the start"]


def test_the_page_says_where_the_start_was_kept():
    found = results(mixture({"w": [0.3, 0.3]}, kept="the start: tuning made it no better"))
    page = report.html(found)
    assert 'id="mixtures"' in page
    assert "way, seed 0: the start: tuning made it no better" in page
