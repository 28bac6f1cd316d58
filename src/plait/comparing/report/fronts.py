"""Fronts: where a strategy learns many networks between its tasks, one loss against another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from plait.comparing.report.plots import MOST
from plait.comparing.report.svg import MARKERS, SERIES, TOKENS, Panel, panel, shorten
from plait.comparing.results import Curve, Results
from plait.metrics.fronts import Floats, dominated, efficient

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAIRS = 3  # panels of one strategy: its strongest trade-offs


def fronts(results: Results) -> list[Panel]:
    """Two tasks' validation losses along each front, one panel a pair, one mark a seed."""
    found = [c for c in results.curves if c.kind == "front" and len(c.series) > 1]
    drawn: list[Panel] = []
    for way in dict.fromkeys(curve.strategy for curve in found):
        mine = [curve for curve in found if curve.strategy == way]
        names = list(mine[0].series)
        tables = [table for curve in mine if len(table := _losses(curve, names)) > 1]
        if tables:
            drawn += [_panel(way, names, tables, pair) for pair in _pairs(tables[0])[:PAIRS]]
    return drawn[:MOST]


def _losses(curve: Curve, names: Sequence[str]) -> Floats:
    """The losses [n, T] at the points where all are known."""
    table = np.array([curve.series[name] for name in names], np.float64).T
    return np.asarray(table[np.isfinite(table).all(1)])


def _pairs(losses: Floats) -> list[tuple[int, int]]:
    """Pairs of tasks, those first of which one gains most where the other loses."""
    order = losses.argsort(0).argsort(0)
    against = np.atleast_2d(np.corrcoef(order.T))
    return sorted(combinations(range(losses.shape[1]), 2), key=lambda pair: against[pair])


def _panel(
    way: str, names: Sequence[str], tables: Sequence[Floats], pair: tuple[int, int]
) -> Panel:
    across, up = (names[place] for place in pair)
    best = [efficient(table) for table in tables]
    shares = [dominated(table) for table in tables]
    known = [share for share in shares if share is not None]
    note = ""
    if known:
        note = (
            f"Hypervolume {np.mean(known):.2f}: the share of the box between zero and the worst "
            "losses that the front beats."
        )
    words = (
        f"Front under {way}: the loss of {up} against that of {across} at {len(tables[0])} points, "
        f"{int(best[0].sum())} of which no other beats in all tasks. {note}"
    )

    def draw(ax: Axes) -> None:
        ax.set(xlabel=f"loss of {shorten(across, 24)}")
        ax.set_title(f"loss of {shorten(up, 24)}")
        for place, (table, kept) in enumerate(zip(tables, best, strict=True)):
            x, y = table[:, pair[0]], table[:, pair[1]]
            colour, marker = SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)]
            if len(names) == 2:  # the points stand in order between two networks
                ax.plot(x, y, color=TOKENS["muted"], linewidth=0.8)
            for some, face in ((~kept, TOKENS["paper"]), (kept, colour)):
                ax.plot(x[some], y[some], linestyle="", marker=marker, markersize=5,
                        color=colour, markerfacecolor=face)  # fmt: skip
        ax.locator_params(axis="both", nbins=5)

    title = way if len(names) == 2 else f"{way}: {across} and {up}"
    return replace(panel(title, words, draw), note=note)
