"""The maps of experts in a report: whose gate goes where, and what has gone wrong."""

from __future__ import annotations

import re
from dataclasses import replace

import results_fixture as fixture
from plait.comparing import report
from plait.comparing.report.experts import experts, wrong
from plait.comparing.results import Results, Usage


def results(*usages: Usage) -> Results:
    return replace(fixture.demo(), usages=usages)


def use(load: list[list[float | None]], owners: list[str | None], **more: object) -> Usage:
    tasks = [f"t{i}" for i in range(len(load))]
    names = [f"e{i}" for i in range(len(owners))]
    usage = Usage(strategy="way", seed="0", tasks=tasks, experts=names, owners=owners, load=load)
    return replace(usage, **more)


def squares(svg: str) -> list[tuple[str, str]]:
    found = re.findall(r'class="shade-([a-z0-9-]+)"[^>]*><title>([^<]*)</title>', svg)
    return [(shade, hover) for shade, hover in found]


def test_a_square_is_the_share_of_a_tasks_gate():
    (drawn,) = experts(results(use([[0.97, None, 0.03], [None, 0.6, 0.3]], ["t0", "t1", None])))
    assert squares(drawn.svg) == [
        ("help-3", "t0, e0: 97 %"), ("level", "t0, e2: 3 %"),
        ("help-3", "t1, e1: 60 %"), ("help-2", "t1, e2: 30 %"),
    ]  # fmt: skip
    assert drawn.title == "way"
    assert drawn.note == "1 e0; 2 e1; 3 e2."
    assert re.findall(r">(\d+)</text>", drawn.svg) == ["1", "2", "3", "97", "3", "60", "30"]


def test_levels_are_maps_of_their_own_by_the_first_seed():
    first, second = use([[1.0]], [None]), use([[0.5]], [None])
    drawn = experts(results(first, second, replace(first, seed="1"), replace(second, seed="1")))
    assert [each.title for each in drawn] == ["way, level 1", "way, level 2"]


def test_many_experts_are_put_together_by_whose_they_are():
    owners = [f"t{i}" for i in range(20)] + [None, None]
    load = [[0.5 if i == j else 0.01 for j in range(20)] + [0.2, 0.11] for i in range(20)]
    (drawn,) = experts(results(use(load, owners)))
    assert "22 experts put together by whose they are" in drawn.note
    assert "20 tasks in 12 groups" in drawn.note
    assert drawn.note.startswith("1 its own; 2 of others; 3 shared.")
    assert squares(drawn.svg)[:3] == [
        ("help-3", "t0 +1, its own: 50 %"), ("help-1", "t0 +1, of others: 19 %"),
        ("help-2", "t0 +1, shared: 31 %"),
    ]  # fmt: skip


def test_what_has_gone_wrong_is_told_by_strategy_and_seed():
    sick = use([[1.0]], [None], failures=["collapsed: 97% of the outputs of e0 are zero"])
    found = results(sick, replace(sick, seed="1", failures=()))
    assert wrong(found) == ["way, seed 0: collapsed: 97% of the outputs of e0 are zero"]
    page = report.html(found)
    assert "seed 0: collapsed: 97% of the outputs of e0 are zero" in page
    assert "Degraded: one task has a shared expert to itself." in page
    assert "- way, seed 0: collapsed" in report.markdown(found)
    many = wrong(results(replace(sick, failures=["x"] * 30)))
    assert len(many) == 13
    assert many[-1] == "and 18 more"


def test_without_experts_nothing_is_said():
    assert experts(results()) == []
    assert "Who uses which experts" not in report.html(results())
