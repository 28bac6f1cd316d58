"""What happens over training steps: losses, task weights, and how gradients agree."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.comparing.report import maps, numbers
from plait.comparing.report.plots import LINES, MOST
from plait.comparing.report.svg import (
    DASHES,
    LETTER,
    MARKERS,
    RIGHT,
    SERIES,
    TOKENS,
    Panel,
    panel,
    shorten,
    spread,
)
from plait.comparing.results import Curve, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

POINTS = 90  # points of a line
MAPS = 4  # strategies whose gradients are mapped


@dataclass(frozen=True)
class Line:
    """One line of a panel over steps."""

    label: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    colour: str
    dash: Any = "-"
    marker: str = ""
    width: float = 1.8


def learning(results: Results, tasks: Sequence[str]) -> list[Panel]:
    """Training and validation loss, one panel a task, for ``separate``, the chosen and another."""
    ways = _ways(results, ("loss", "valid"))[:3]
    kept = [c for c in results.curves if c.strategy in ways and c.kind in ("loss", "valid")]
    # With many tasks a study keeps their mean alone, under a name of its own.
    logged = dict.fromkeys(name for curve in kept for name in curve.series)
    shown = ([task for task in tasks if task in logged] or list(logged))[:MOST]
    curves = {
        (way, kind): _mean(kept, way, kind, shown) for way in ways for kind in ("loss", "valid")
    }
    drawn = []
    for task in shown:
        lines = []
        for place, way in enumerate(ways):
            colour = SERIES[place]
            for kind, label in (("loss", ""), ("valid", way)):
                found = curves[way, kind].get(task)
                if found is None:
                    continue
                thin = kind == "loss"
                lines.append(
                    Line(label, *found, colour, DASHES[2] if thin else "-",
                         "" if thin else MARKERS[place], 1.2 if thin else 1.9)
                )  # fmt: skip
        if lines:
            words = f"Loss of {task} over steps: training dotted, validation solid; " + ", ".join(
                f"{line.label} ends at {line.y[-1]:.3g}" for line in lines if line.label
            )
            drawn.append(_line_panel(task, words, "loss per label", lines, log=_uneven(lines)))
    return drawn


def weights(results: Results) -> tuple[list[Panel], list[str]]:
    """Task weights over time, a map for each strategy, and those whose weights never move."""
    ways = _ways(results, ("weight",))
    found = {way: maps.weights(results.curves, way) for way in ways}
    drawn = [panel for panel in found.values() if panel is not None]
    return drawn[:MOST], [way for way, panel in found.items() if panel is None]


def norms(results: Results) -> list[Panel]:
    """The lengths of task gradients over time, a map for each of a few strategies."""
    ways = _ways(results, ("norm",))[:MAPS]
    return [panel for way in ways if (panel := maps.norms(results.curves, way)) is not None]


def agreement(results: Results) -> list[Panel]:
    """Which tasks agree, a map for each of a few strategies."""
    measured = {each.strategy for each in results.agreements}
    ways = [way for way in _ways(results, ("conflict",)) if way in measured][:MAPS]
    return [panel for way in ways if (panel := maps.cosines(results.agreements, way)) is not None]


@dataclass(frozen=True)
class Measure:
    """A measure of how gradients agree: the panel's title, its axis, and what it means."""

    title: str
    axis: str
    means: str
    log: bool = False


MEASURES = {
    "cosine": Measure(
        "Mean cosine between task gradients", "cosine",
        "Above 0 a step for one task helps another on average; near 0 they do not meet.",
    ),
    "share": Measure(
        "Share of task pairs in conflict", "share of pairs",
        "A half is what gradients without any relation have.",
    ),
    "similarity": Measure(
        "Similarity of gradient lengths", "similarity",
        "1: all tasks pull equally hard; near 0 a few tasks decide every plain step.",
    ),
    "condition": Measure(
        "Condition number of the Gramian", "condition number",
        "How unevenly the gradients fill the directions they span; 1 is even and free of conflict.",
        log=True,
    ),
    "curvature": Measure(
        "Curvature bound of the tragic triad", "curvature, in Lipschitz constants",
        "Projecting a conflict away beats a plain long step only where the loss curves more than "
        "this; above 1 it cannot.", log=True,
    ),
}  # fmt: skip


def conflict(results: Results) -> list[Panel]:
    """How gradients of tasks agree over steps: one panel a measure, one line a strategy."""
    ways = _ways(results, ("conflict",))[:LINES]
    means = {way: _mean(results.curves, way, "conflict", points=30) for way in ways}
    found = dict.fromkeys(name for series in means.values() for name in series)
    drawn = []
    for name in [each for each in MEASURES if each in found]:
        told = MEASURES[name]
        lines = [
            Line(way, *means[way][name], SERIES[place], DASHES[place], MARKERS[place])
            for place, way in enumerate(ways) if name in means[way]
        ]  # fmt: skip
        words = f"{told.title} over steps; at the end: " + ", ".join(
            f"{line.label} {line.y[-1]:.3g}" for line in lines
        )
        log = told.log and _uneven(lines)
        panel = _line_panel(told.title, words, told.axis, lines, zero=name == "cosine", log=log)
        drawn.append(replace(panel, note=told.means))
    return drawn


def _ways(results: Results, kinds: Sequence[str]) -> list[str]:
    """Strategies with curves of these kinds: the chosen one, ``separate``, then best first."""
    has = {curve.strategy for curve in results.curves if curve.kind in kinds}
    chosen = [s.strategy for s in results.standings if s.chosen]
    rest = [s.strategy for s in results.standings]
    order = dict.fromkeys([*chosen, "separate", *rest, *sorted(has)])
    return [way for way in order if way in has]


Series = tuple["NDArray[np.float64]", "NDArray[np.float64]"]


def _mean(
    curves: Sequence[Curve],
    strategy: str,
    kind: str,
    names: Collection[str] | None = None,
    points: int = POINTS,
) -> dict[str, Series]:
    """Each name's series as a mean over seeds, thinned to what a panel can show.

    It ends at the last step that every seed reached: beyond, the mean would jump.
    """
    gathered: dict[str, dict[int, list[float]]] = {}
    last: dict[str, int] = {}
    for curve in curves:
        if curve.strategy != strategy or curve.kind != kind:
            continue
        for name in curve.series if names is None else names:
            values = curve.series.get(name, ())
            seen = {
                int(step): float(value)
                for step, value in zip(curve.steps, values, strict=False)
                if value is not None and math.isfinite(value)
            }
            at = gathered.setdefault(name, {})
            for step, value in seen.items():
                at.setdefault(step, []).append(value)
            if values:
                end = max(seen, default=-1)
                last[name] = min(last.get(name, end), end)
    found = {}
    for name, at in gathered.items():
        means = [(step, fmean(at[step])) for step in sorted(at) if step <= last[name]]
        if means:
            found[name] = _thinned(means, points)
    return found


def _thinned(means: Sequence[tuple[int, float]], points: int) -> Series:
    """Neighbours averaged, so that a long run costs no more bytes than a short one."""
    table = np.asarray(means, float)
    starts = np.unique(np.linspace(0, len(table), points + 1).astype(int)[:-1])
    sizes = np.diff([*starts, len(table)])
    x, y = np.add.reduceat(table, starts).T / sizes
    return x, y


def _line_panel(
    title: str, words: str, axis: str, lines: Sequence[Line], *, zero: bool = False,
    log: bool = False,
) -> Panel:  # fmt: skip
    """Lines over steps, with their names and marks beside their ends."""
    named = [line for line in lines if line.label]
    long = max((len(shorten(line.label)) for line in named), default=0)

    def draw(ax: Axes) -> None:
        ax.set(xlabel="training step", yscale="log" if log else "linear")
        ax.set_title(f"{axis}, log scale" if log else axis)
        if zero:
            ax.axhline(0, color=TOKENS["muted"], linewidth=1)
        for line in lines:
            ax.plot(line.x, line.y, color=line.colour, linestyle=line.dash, linewidth=line.width)
            if line.marker:
                ax.plot(line.x[-1:], line.y[-1:], color=line.colour, marker=line.marker,
                        markersize=5, clip_on=False)  # fmt: skip
        ax.locator_params(axis="x", nbins=4)
        ax.autoscale_view()  # before places in pixels are asked for
        if log:
            low, high = ax.get_ylim()
            ticks = numbers.nice(low, high, 4)
            ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.set_yticks([], minor=True)
        else:
            ax.locator_params(axis="y", nbins=5)
        ends = [float(ax.transData.transform((line.x[-1], line.y[-1]))[1]) for line in named]
        edge = float(ax.transAxes.transform((1, 0))[0]) + 13
        bottom, top = (float(ax.transAxes.transform((0, y))[1]) for y in (0, 1))
        for line, place in zip(named, spread(ends, 13, bottom + 2, top - 2), strict=True):
            ax.plot([edge], [place], transform=None, clip_on=False, color=line.colour,
                    marker=line.marker, markersize=5)  # fmt: skip
            ax.text(edge + 7, place - 3.5, shorten(line.label), transform=None, color=line.colour)

    return panel(title, words, draw, right=RIGHT + 12 + LETTER * long)


def _uneven(lines: Sequence[Line]) -> bool:
    """Whether a few large values would flatten all others."""
    values = np.concatenate([line.y for line in lines])
    return bool(values.min() > 0 and values.max() > 6 * np.median(values))
