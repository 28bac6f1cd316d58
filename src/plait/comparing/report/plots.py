"""Quality against cost, and the gains of many tasks at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from plait.comparing import words
from plait.comparing.report import numbers
from plait.comparing.report.svg import (
    BOTTOM,
    LEFT,
    LETTER,
    TOKENS,
    WIDTH,
    Panel,
    panel,
    shorten,
)
from plait.comparing.report.whiskers import Scale
from plait.comparing.results import Results, Standing, TaskScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 12  # panels of one kind; more would not be looked at
LINES = 6  # named lines in one panel
LISTED = 12  # figures read out for a picture
CROWD = 16  # strategies that can all be named in a picture of cost

Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels


# -- quality against cost --------------------------------------------------------------------------


Point = tuple[Standing, float]


def costs(results: Results) -> list[Panel]:
    """Gain against training time, size and latency, for every strategy that has both."""
    kinds: tuple[tuple[str, str, Callable[[Standing], float | None], Callable[[float], str]], ...]
    kinds = (
        ("training time", "training time", lambda s: s.cost.seconds, words.duration),
        ("size", "parameters", lambda s: s.cost.parameters, words.count),
        ("latency", "time for one row, all tasks", lambda s: s.cost.latency, words.duration),
    )
    drawn = []
    for title, axis, cost, write in kinds:
        points = [
            (standing, float(value))
            for standing in results.standings
            if not standing.failed and standing.gain.value is not None
            and (value := cost(standing)) is not None and value > 0
        ]  # fmt: skip
        if len(points) < 2:
            continue
        inside, outside = _near(points)
        told = [f"{s.strategy} {numbers.figure(s.gain, signed=True)} % at {write(value)}"
                 for s, value in points[:LISTED]]  # fmt: skip
        found = panel(
            f"Gain against {title}", f"Scatter of gain against {axis}: {'; '.join(told)}",
            _cost_plot(inside, axis, write),
        )  # fmt: skip
        unit = " parameters" if title == "size" else ""
        far = [f"{s.strategy} ({numbers.figure(s.gain, signed=True)} %, {write(value)}{unit})"
               for s, value in outside]  # fmt: skip
        notes = [f"Outside: {', '.join(far)}."] if far else []
        if len(inside) > CROWD:
            notes.append("Named are separate, and those that none beats in both.")
        drawn.append(replace(found, note=" ".join(notes)))
    return drawn


def _named(points: Sequence[Point]) -> list[Point]:
    """All where they are few; else the chosen one, ``separate``, and the front of gain and cost."""
    if len(points) <= CROWD:
        return list(points)

    def beaten(one: Point) -> bool:
        gain, cost = one[0].gain.value or 0.0, one[1]
        return any((s.gain.value or 0.0) > gain and value < cost for s, value in points)

    return [
        one for one in points if one[0].chosen or one[0].strategy == "separate" or not beaten(one)
    ]


def _near(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """The points of one picture, and plain baselines so far off that they would flatten it."""
    networks = [point for point in points if not point[0].baseline] or list(points)
    scale = Scale.of(s.gain for s, _ in networks)
    margin = (scale.high - scale.low) / 2
    least, most = min(v for _, v in networks) / 30, max(v for _, v in networks) * 30

    def near(point: Point) -> bool:
        gain, cost = point[0].gain.value or 0.0, point[1]
        return scale.low - margin <= gain <= scale.high + margin and least <= cost <= most

    inside = [point for point in points if not point[0].baseline or near(point)]
    return inside, [point for point in points if point not in inside]


def _cost_plot(
    points: Sequence[Point], axis: str, write: Callable[[float], str]
) -> Callable[[Axes], None]:
    scale = Scale.of(standing.gain for standing, _ in points)

    def draw(ax: Axes) -> None:
        values = [value for _, value in points]
        widen = max(max(values) / min(values), 1.5) ** 0.12
        least, most = min(values) / widen, max(values) * widen
        ax.set(xscale="log", xlim=(least, most), ylim=(scale.low, scale.high), xlabel=axis)
        title = ax.set_title("gain (Δm), %").get_text()
        ticks = numbers.nice(least, most, 4, clock=write is words.duration)
        ax.set_xticks(ticks, [write(tick) for tick in ticks])
        ax.set_xticks([], minor=True)
        ax.set_yticks(scale.ticks(), [numbers.short(tick) for tick in scale.ticks()])
        ax.axhline(0, color=TOKENS["muted"], linewidth=1)
        (left, zero), (right, _) = (ax.transData.transform((x, 0)) for x in (least, most))
        above = ax.transAxes.transform((0, 1))[1]
        taken = [(left, zero - 1, right, zero + 1)]
        taken.append((left, above, left + LETTER * len(title), above + 20))
        named = _named(points)
        for standing, value in points:
            if (standing, value) not in named:
                mark = "s" if standing.baseline else "o"
                ax.plot(
                    [value], [standing.gain.value or 0.0], mark, color=TOKENS["muted"], markersize=4
                )
        taken += [box for standing, value in named for box in _point(ax, standing, value)]
        _label(ax, named, taken)

    return draw


def _point(ax: Axes, standing: Standing, cost: float) -> Iterator[Box]:
    """Draw one strategy; yield the room that its dot and its whisker take, in pixels."""
    gain = standing.gain
    assert gain.value is not None
    colour = _colour(standing)
    ends = (gain.value if end is None else end for end in (gain.low, gain.high))
    low, high = ends
    ax.plot([cost, cost], [low, high], color=colour, linewidth=1.5)
    face = TOKENS["paper"] if standing.baseline else colour
    ax.plot([cost], [gain.value], marker="s" if standing.baseline else "o", color=colour,
            markersize=9 if standing.chosen else 6.5, markerfacecolor=face,
            markeredgewidth=1.5, clip_on=False)  # fmt: skip
    (x, bottom), (_, y), (_, top) = (
        ax.transData.transform((cost, end)) for end in (low, gain.value, high)
    )
    yield (x - 5, y - 5, x + 5, y + 5)
    yield (x - 1, bottom, x + 1, top)


def _colour(standing: Standing) -> str:
    return TOKENS["c1" if standing.chosen else "muted" if standing.baseline else "ink"]


def _label(ax: Axes, points: Sequence[Point], taken: list[Box]) -> None:
    """Names beside their points: the chosen one first, each in the first free place."""
    for standing, cost in sorted(points, key=lambda point: not point[0].chosen):
        x, y = ax.transData.transform((cost, standing.gain.value or 0.0))
        name = shorten(standing.strategy, 16)
        long = LETTER * len(name)
        boxes = []
        for rise in (-5, 6, -16, 17, -27, 28, -38, 39):
            gap = 9 if rise == -5 else 4
            boxes.append((x + gap, y + rise, x + gap + long, y + rise + 11))
            boxes.append((x - gap - long, y + rise, x - gap, y + rise + 11))
        inside = [
            box for box in boxes if box[0] > LEFT and box[2] < WIDTH - 2 and box[1] > BOTTOM - 4
        ]
        free = [box for box in inside if not any(_meet(box, other) for other in taken)]
        box = (free or inside or boxes)[0]
        taken.append(box)
        left = box[0] < x  # the end beside the point is placed exactly, the other by a guess
        side, level = box[2] if left else box[0], box[1] + 1.5
        colour = _colour(standing)
        ax.text(side, level, name, transform=None, ha="right" if left else "left", color=colour)
        if abs(box[1] + 5 - y) > 14:  # a label that had to move is led back to its dot
            under = box[3] - 1 if box[3] < y else box[1]
            ax.plot([side, x], [under, y], transform=None, clip_on=False, color=colour,
                    linewidth=0.6)  # fmt: skip


def _meet(one: Box, two: Box) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


# -- gains of many tasks ---------------------------------------------------------------------------


def sorted_gains(results: Results, by_strategy: Mapping[str, Sequence[TaskScore]]) -> list[Panel]:
    """For each strategy the gains of all tasks, sorted, with their intervals as a band."""
    ways = [s for s in results.standings if not s.failed and s.strategy != "separate"]
    ways = [s for s in ways if any(x.gain.defined for x in by_strategy.get(s.strategy, ()))]
    ways = sorted(ways, key=lambda s: (not s.chosen, s.baseline))[:LINES]
    shown = [x.gain for s in ways for x in by_strategy[s.strategy] if x.gain.value is not None]
    ends = [end for gain in shown for end in (gain.low, gain.high, gain.value) if end is not None]
    if not ends:
        return []
    low, high = (float(cut) for cut in np.quantile(ends, (0.005, 0.995)))
    limits = (min(low, 0.0) * 1.1 - 0.1, max(high, 0.0) * 1.1 + 0.1)
    drawn = []
    for standing in ways:
        scores = [x for x in by_strategy[standing.strategy] if x.gain.value is not None]
        scores.sort(key=lambda score: score.gain.value or 0.0)
        helped, harmed = sum(x.helped for x in scores), sum(x.harmed for x in scores)
        words = (
            f"Gains of {len(scores)} tasks under {standing.strategy}, sorted: "
            f"{helped} helped and {harmed} harmed beyond noise."
        )
        drawn.append(panel(standing.strategy, words, _gain_plot(scores, limits)))
    return drawn


def _gain_plot(scores: Sequence[TaskScore], limits: tuple[float, float]) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        place = np.arange(1, len(scores) + 1)
        value = np.array([s.gain.value for s in scores], float)
        low = np.array([_or_nan(s.gain.low) for s in scores])
        high = np.array([_or_nan(s.gain.high) for s in scores])
        ax.set(xlim=(0, len(scores) + 1), ylim=limits)
        ax.set_xlabel("tasks, from most harmed to most helped")
        ax.set_title("gain, %")
        ax.yaxis.set_major_formatter(lambda number, _: numbers.short(number))
        ax.locator_params(axis="both", nbins=5)
        ax.fill_between(place, low, high, color=TOKENS["muted"], alpha=0.25, linewidth=0)
        ax.axhline(0, color=TOKENS["muted"], linewidth=1)
        ax.plot(place, value, color=TOKENS["ink"], linewidth=1.6)
        length = (limits[1] - limits[0]) * 0.06
        for harm, mark in ((True, "▼ {} harmed"), (False, "▲ {} helped")):
            at = [p for p, s in zip(place, scores, strict=True) if (s.harmed if harm else s.helped)]
            edge, end = (limits[0], limits[0] + length) if harm else (limits[1], limits[1] - length)
            colour = TOKENS["harm" if harm else "help"]
            xs = [x for p in at for x in (float(p), float(p), math.nan)]
            ax.plot(xs, [edge, end, math.nan] * len(at), color=colour, linewidth=1)
            ax.text(
                0.98 if harm else 0.02, 0.09 if harm else 0.85, mark.format(len(at)),
                transform=ax.transAxes, color=colour, ha="right" if harm else "left",
            )  # fmt: skip

    return draw


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number
