"""The leaderboard: best first, ties and the choice on the right rows, safe to show anywhere."""

from __future__ import annotations

import io
import json

import pytest
from planted import binary, cells, real
from rich.console import Console

from plait.comparing.leaderboard import Contender, Leaderboard, best_of, choose, standings, tied
from plait.comparing.results import UNDEFINED, Cost, Interval, Standing
from plait.comparing.statistics import rank
from plait.task import TaskSet

FAST = 300
TASKS = binary("a", "b")
NOISE = {"separate": 1.0, "joint": 0.4, "merge": 0.4, "forest": 1.6}
COSTS = {
    "separate": Cost(parameters=2000, active=2000, seconds=10, latency=0.002),
    "joint": Cost(parameters=1000, active=1000, seconds=20, latency=0.001),
    "merge": Cost(parameters=1000, active=1000, seconds=5, latency=0.001),
    "forest": Cost(parameters=90_000, active=900, seconds=1, latency=0.01),
}


def ranking(noise=NOISE, *, tasks=TASKS, seed=0, **kwargs):
    return rank(cells(tasks, noise, seed=seed, **kwargs), tasks, replicates=FAST)


def contenders(noise=NOISE, **failed):
    made = [
        Contender(strategy=name, words=f"words of {name}", recipe={name: {}},
                  baseline=name == "forest", cost=COSTS.get(name, Cost()))
        for name in noise
    ]  # fmt: skip
    return made + [Contender(strategy=name, failed=why) for name, why in failed.items()]


@pytest.fixture(scope="module")
def board():
    return standings(contenders(broken="out of memory"), ranking(), ranking(seed=1))


def test_best_first_and_failures_last_with_their_reason(board):
    assert {row.strategy for row in board[:2]} == {"joint", "merge"}
    assert [row.strategy for row in board[2:]] == ["separate", "forest", "broken"]
    assert board[-1].failed == "out of memory"
    assert board[-1].gain == UNDEFINED
    gains = [row.gain.value for row in board[:-1]]
    assert gains == sorted(gains, reverse=True)


def test_rows_carry_what_was_measured(board):
    test = ranking()
    by_name = {row.strategy: row for row in board}
    row = by_name["forest"]
    assert row.baseline
    assert (row.words, row.recipe, row.cost) == ("words of forest", {"forest": {}}, COSTS["forest"])
    assert row.gain == test.gain["forest"]
    assert row.gain_metrics == test.gain_metrics["forest"]
    assert (row.metric, row.score, row.seeds) == ("auroc", test.score["forest"], 2)
    assert row.harmed == ("a", "b")
    assert by_name["joint"].helped == ("a", "b")


def test_ties_are_those_whose_difference_to_the_best_lies_inside_the_noise(board):
    assert {row.strategy for row in board if row.tied} == {"joint", "merge"}
    clear = {"separate": 1.0, "joint": 0.4, "merge": 2.0}
    alone = standings(contenders(clear), ranking(clear), ranking(clear, seed=1))
    assert not any(row.tied for row in alone)
    test = ranking()
    for name in ("joint", "merge"):
        assert set(tied(test, name, test.strategies)) == {"joint", "merge"}


def test_the_cheapest_of_the_tied_is_chosen():
    valid = ranking(seed=1)
    both = ("joint", "merge")
    assert choose(valid, COSTS, both) == "merge"  # same size, less training
    smaller = COSTS | {"joint": Cost(parameters=1000, active=900, seconds=99)}
    assert choose(valid, smaller, both) == "joint"  # active parameters come first
    unmeasured = COSTS | {"joint": Cost(seconds=1)}
    assert choose(valid, unmeasured, both) == "joint"  # only what is known of both counts
    assert choose(valid, COSTS, ["forest", "separate"]) == "separate"  # cheap, but not tied
    assert choose(valid, COSTS, []) is None


def test_the_choice_is_made_on_validation_and_the_figures_are_of_the_test():
    good = {"separate": 1.0, "joint": 0.4, "merge": 2.0}
    other = {"separate": 1.0, "joint": 2.0, "merge": 0.4}
    board = standings(contenders(good), ranking(good), ranking(other, seed=1))
    assert board[0].strategy == "joint"
    assert [row.strategy for row in board if row.chosen] == ["merge"]
    assert board[-1].strategy == "merge"


def test_nothing_is_chosen_without_validation_rows():
    valid = rank([], TASKS)
    board = standings(contenders(), ranking(), valid)
    assert not any(row.chosen for row in board)
    assert any(row.tied for row in board)


def test_a_strategy_without_all_tasks_is_told_and_not_ranked():
    made = cells(TASKS, NOISE)
    for cell in made:
        if cell.strategy == "joint":
            del cell.predictions["b"]
    test = rank(made, TASKS, replicates=FAST)
    board = standings(contenders(), test, ranking(seed=1))
    assert board[-1].strategy == "joint"
    assert board[-1].failed == "no predictions for b"
    assert (board[-1].chosen, board[-1].tied) == (False, False)


def test_without_the_reference_rows_are_sorted_by_score():
    noise = {"joint": 1.5, "merge": 0.3}
    board = standings(contenders(noise, a="no memory"), ranking(noise), ranking(noise, seed=1))
    assert [row.strategy for row in board] == ["merge", "joint", "a"]
    assert not any(row.chosen or row.tied for row in board)
    tasks = real("a", "b")
    test = ranking(noise, tasks=tasks)
    board = standings(contenders(noise, a="no memory"), test, test)
    assert [row.strategy for row in board] == ["merge", "joint", "a"]  # a lower error is better
    assert best_of(ranking(noise), noise) is None


def test_a_strategy_needs_a_contender():
    with pytest.raises(ValueError, match="'forest' has predictions and no contender"):
        standings(contenders()[:-1], ranking(), ranking())


def row(name, **kwargs):
    plain = {"words": "", "recipe": None, "baseline": False, "seeds": 1}
    return Standing(strategy=name, **(plain | kwargs))


def test_the_table_reads_as_text(board):
    text = str(Leaderboard(board))
    lines = text.splitlines()
    assert lines[0].split("  ")[0].strip() == ""
    assert "gain (Δm)" in lines[0]
    assert "mean auroc" in lines[0]
    merge = next(line for line in lines if " merge " in line)
    assert merge.startswith("→=")
    assert "2: a and b" in merge
    assert "1 k" in merge
    assert "5.0 s" in merge
    assert "1 ms a row" in merge
    forest = next(line for line in lines if "forest (baseline)" in line)
    assert "−" in forest
    broken = next(line for line in lines if "broken" in line)
    assert broken.startswith("✗")
    assert "failed: out of memory" in broken
    assert "→ chosen on the validation rows" in text
    assert max(map(len, lines)) < 130


def test_the_score_is_a_column_only_where_tasks_share_a_metric():
    assert "mean auroc" in Leaderboard([row("x", metric="auroc")]).columns
    mixed = Leaderboard([row("x", gain=Interval(1.0, 0.5, 1.5)), row("y", failed="no")])
    assert len(mixed.columns) == len(mixed.rows()[0]) == len(mixed.rows()[1]) == 8
    tasks = TaskSet([*binary("a"), *real("b")])
    test = ranking({"separate": 1.0}, tasks=tasks)
    assert "mean" not in str(Leaderboard(standings(contenders({"separate": 1}), test, test)))


def test_many_names_are_shortened():
    text = str(
        Leaderboard(
            [row("x", gain=Interval(1.0, 0.5, 1.5), harmed=tuple(f"t{i}" for i in range(130)))]
        )
    )
    assert "130: t0, t1, t2 and 127 more" in text


HOSTILE = "<script>alert(1)</script>\x1b[31m\x07[bold]name[/bold]"


def test_names_from_data_can_do_nothing_in_a_page_or_a_terminal():
    board = Leaderboard([
        row(HOSTILE, gain=Interval(1.0, 0.5, 1.5), harmed=(HOSTILE,)),
        row("y", failed=HOSTILE),
    ])  # fmt: skip
    page = board._repr_html_()
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 3
    assert "\x1b" not in str(board) + page
    out = io.StringIO()
    Console(file=out, width=300).print(board)
    shown = out.getvalue()
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[bold]name[/bold]" in shown  # shown as it is, not read as markup


def test_it_is_a_sequence_and_plain_data(board):
    table = Leaderboard(board)
    assert len(table) == 5
    assert table[0] is board[0]
    assert [one.strategy for one in table] == [one.strategy for one in board]
    data = json.loads(json.dumps(table.to_json()))
    assert data[0]["gain"]["value"] == board[0].gain.value
    assert data[-1]["failed"] == "out of memory"
    assert data[0]["cost"]["parameters"] == 1000
