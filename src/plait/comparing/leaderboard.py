"""The leaderboard: strategies best first, ties shown as ties, the cheapest of the tied chosen.

Two things are kept apart. *Figures* (gain, rank, ties, harm) are measured on the test rows. The
*choice* is made on the validation rows by :func:`choose`, so that nothing is chosen on test data;
the figures of what was chosen are therefore not flattered by the choice.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from plait.comparing import words
from plait.comparing.ranking import Ranking
from plait.comparing.results import Cost, Standing

if TYPE_CHECKING:
    from rich.table import Table

COSTS = ("active", "parameters", "seconds", "latency")
EQUAL = 3.0  # per cent of Δm within which two ways are as good as each other


@dataclass(frozen=True, kw_only=True)
class Contender:
    """What is known of a strategy besides its predictions; ``failed`` says why it has none."""

    strategy: str
    words: str = ""
    recipe: Any = None
    baseline: bool = False
    cost: Cost = Cost()
    failed: str = ""


def choose(valid: Ranking, costs: Mapping[str, Cost], among: Collection[str]) -> str | None:
    """The cheapest of those tied with the best on the validation rows, None where none has a gain.

    Best is the highest Δm; tied with it is what differs from it by an interval that contains 0.
    Few validation rows tie almost everything, so what lies more than 3 % below the best by its
    value is not taken, however little is known of it. Cheapest is by parameters active for a row,
    then parameters stored, seconds of training and latency; a figure that was not measured for all
    the tied is passed over.
    """
    best = best_of(valid, among)
    if best is None:
        return None
    ties = [name for name in tied(valid, best, among) if _near(valid, name, best)]
    compared = [
        figure for figure in COSTS if all(getattr(costs[name], figure) is not None for name in ties)
    ]
    return min(ties, key=lambda name: (*(getattr(costs[name], f) for f in compared), name))


def best_of(ranking: Ranking, among: Collection[str]) -> str | None:
    """The strategy with the highest Δm, None where none is defined."""
    values = {name: ranking.gain[name].value for name in ranking.strategies if name in among}
    gains = {name: value for name, value in values.items() if value is not None}
    return min(gains, key=lambda name: (-gains[name], name)) if gains else None


def tied(ranking: Ranking, best: str, among: Collection[str]) -> list[str]:
    """The best, and those whose paired difference to it has an interval that contains 0."""
    found = [best]
    for name in ranking.strategies:
        if name != best and name in among and ranking.gain[name].defined:
            apart = ranking.difference(name, best)
            if apart.defined and not apart.excludes_zero:
                found.append(name)
    return found


def _near(ranking: Ranking, name: str, best: str) -> bool:
    apart = ranking.difference(name, best).value if name != best else 0.0
    return apart is not None and apart >= -EQUAL


def standings(contenders: Sequence[Contender], test: Ranking, valid: Ranking) -> list[Standing]:
    """All strategies, best on the test rows first; those without figures at the end, with reasons.

    ``tied`` and the figures are of the test rows, ``chosen`` is the choice on the validation rows
    among all that have figures on both. Raises ``ValueError`` for a strategy without a contender.
    """
    known = {contender.strategy: contender for contender in contenders}
    for name in test.strategies:
        if name not in known:
            raise ValueError(f"strategy {name!r} has predictions and no contender")
    ranked = [name for name in test.strategies if test.gain[name].defined]
    both = [name for name in ranked if name in valid.strategies]
    chosen = choose(valid, {name: known[name].cost for name in both}, both)
    best = best_of(test, ranked)
    ties = tied(test, best, ranked) if best else []
    rows = [
        _standing(contender, test, tie=contender.strategy in ties and len(ties) > 1,
                  chosen=contender.strategy == chosen)
        for contender in contenders
    ]  # fmt: skip
    return sorted(rows, key=_place(test))


def _place(test: Ranking) -> Any:
    """Failed last; the others by gain, where there is none by score, then by name."""
    from plait.metrics import METRICS

    sign = -1 if test.metric and METRICS[test.metric].higher else 1

    def place(row: Standing) -> tuple[bool, bool, float, float, str]:
        gain, score = row.gain.value, row.score.value
        return (bool(row.failed), gain is None, -(gain or 0.0), sign * (score or 0.0), row.strategy)

    return place


def _standing(contender: Contender, test: Ranking, *, tie: bool, chosen: bool) -> Standing:
    name = contender.strategy
    plain = {"strategy": name, "words": contender.words, "recipe": contender.recipe,
             "baseline": contender.baseline, "cost": contender.cost}  # fmt: skip
    if contender.failed or name not in test.strategies:
        reason = contender.failed or "no predictions"
        return Standing(**plain, seeds=test.seeds.get(name, 0), failed=reason)
    missing = test.incomplete.get(name, ())
    scores = test.of(name)
    return Standing(
        **plain,
        seeds=test.seeds[name],
        gain=test.gain[name],
        gain_metrics=test.gain_metrics[name],
        metric=test.metric,
        score=test.score[name],
        tied=tie,
        chosen=chosen,
        harmed=tuple(task for task, score in scores.items() if score.harmed),
        helped=tuple(task for task, score in scores.items() if score.helped),
        failed=f"no predictions for {words.listed(missing)}" if missing else "",
    )


class Leaderboard(Sequence[Standing]):
    """Standings as a table: plain in ``str``, on a terminal through rich, in a notebook as HTML.

    →  chosen on the validation rows     =  tied with the best
    """

    def __init__(self, standings: Sequence[Standing]) -> None:
        self.standings = tuple(standings)

    def __getitem__(self, at: Any) -> Any:
        return self.standings[at]

    def __len__(self) -> int:
        return len(self.standings)

    def __iter__(self) -> Iterator[Standing]:
        return iter(self.standings)

    @property
    def columns(self) -> list[str]:
        """The heads of the columns; the score only where all tasks share a metric."""
        metric = next((s.metric for s in self.standings if s.metric), "")
        score = [f"mean {metric}"] if metric else []
        return ["", "strategy", "gain (Δm)", *score, "helped", "harmed", "size", "training",
                "latency"]  # fmt: skip

    def rows(self) -> list[list[str]]:
        """The cells of the table as text, control characters taken out."""
        metric = len(self.columns) == 9
        return [_row(standing, score=metric) for standing in self.standings]

    @property
    def legend(self) -> str:
        """What the marks and columns mean."""
        return (
            "→ chosen on the validation rows: the cheapest tied with the best there, within 3 %. "
            "= tied with the best: the difference lies inside the noise. "
            "Gain: change against separate models in per cent, higher is better, averaged over "
            "tasks, with its 95 % interval. Helped, harmed: tasks beyond noise. "
            "Size: parameters stored."
        )

    def __str__(self) -> str:
        table = [self.columns, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
        lines.insert(1, "  ".join("─" * width for width in widths))
        return "\n".join([*lines, "", *textwrap.wrap(self.legend, 100)])

    __repr__ = __str__

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", caption=self.legend, caption_justify="left")
        for at, name in enumerate(self.columns):
            table.add_column(name, overflow="fold", no_wrap=at in {0, 2})
        for standing, row in zip(self.standings, self.rows(), strict=True):
            style = "bold" if standing.chosen else "dim" if standing.failed else ""
            table.add_row(*(Text(cell, style=style) for cell in row))
        return table

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows()
        )
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"<p>{html.escape(self.legend)}</p>"
        )

    def to_json(self) -> list[dict[str, Any]]:
        """The standings as plain data."""
        return [asdict(standing) for standing in self.standings]


def _row(standing: Standing, *, score: bool) -> list[str]:
    mark = ("→" if standing.chosen else "") + ("=" if standing.tied else "")
    name = words.plain(standing.strategy) + (" (baseline)" if standing.baseline else "")
    cost = standing.cost
    latency = words.duration(cost.latency)
    costs = [words.count(cost.parameters), words.duration(cost.seconds),
             f"{latency} a row" if latency else ""]  # fmt: skip
    if standing.failed:
        reason = f"failed: {words.plain(standing.failed)}"
        return ["✗", name, reason, *([""] if score else []), "", "", *costs]
    shown = [words.figure(standing.score.value)] if score else []
    return [mark, name, words.gain(standing.gain), *shown, _counted(standing.helped),
            _counted(standing.harmed), *costs]  # fmt: skip


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)}: {words.listed(names)}" if names else "0"
