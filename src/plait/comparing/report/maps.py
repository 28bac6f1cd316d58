"""Heat maps: what each task weighs and how long its gradient is over time, who agrees with whom.

A map is drawn directly as rectangles with the page's shades, neighbours of one shade in one piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from markupsafe import Markup

from plait.comparing.report import numbers
from plait.comparing.report.svg import FONT, WIDTH, Panel, shorten
from plait.comparing.results import Agreement, Curve
from plait.metrics.base import Floats

BINS = 36  # columns of a map over time
FEW = 6  # tasks with room for a figure in each square
ROWS = 16  # rows that can be read; more tasks are put together in groups
GROUPS = 12
HIGH, TALL = 15, 25  # pixels of a row: beside others, and of two or three alone
WIDE = 0.6 * FONT  # a letter of a name that must not reach into its row
FACTORS = (2**0.25, 2.0, 4.0)  # from which factor to the mean a weight is shaded more
COSINES = (0.05, 0.2, 0.5)


@dataclass(frozen=True)
class Row:
    """One row of a map: its name, its shades from −3 to 3 (None: nothing known), its last word.

    ``hovers`` and ``figures`` have a text for each square, shown on hover and inside it.
    """

    name: str
    shades: Sequence[int | None]
    end: str = ""
    hovers: Sequence[str] = ()
    figures: Sequence[str] = ()


def over_time(
    curves: Sequence[Curve], strategy: str, kind: str
) -> tuple[list[str], Floats, tuple[int, int]]:
    """Means over seeds and bins of steps [T, bins], NaN where there is none; first and last step.

    The names are the tasks'. Nothing where the strategy has no such curve.
    """
    own = [curve for curve in curves if curve.strategy == strategy and curve.kind == kind]
    names = list(dict.fromkeys(name for curve in own for name in curve.series))
    steps = sorted({int(step) for curve in own for step in curve.steps})
    if not names or not steps:
        return [], np.zeros((0, 0)), (0, 0)
    bins = min(BINS, len(steps))
    edges = np.linspace(steps[0], steps[-1] + 1, bins + 1)
    total, count = np.zeros((2, len(names), bins))
    place = {name: at for at, name in enumerate(names)}
    for curve in own:
        at = np.clip(np.searchsorted(edges, curve.steps, "right") - 1, 0, bins - 1)
        for name, values in curve.series.items():
            row = np.array([math.nan if v is None else v for v in values], float)
            known = np.isfinite(row)
            np.add.at(total[place[name]], at[known], row[known])
            np.add.at(count[place[name]], at[known], 1)
    mean = np.full(total.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return names, mean, (steps[0], steps[-1])


def weights(curves: Sequence[Curve], strategy: str) -> Panel | None:
    """What each task weighs over time, as a share of the mean; None where it never moves."""
    names, values, span = over_time(curves, strategy, "weight")
    moving = [np.ptp(row[np.isfinite(row)]) > 1e-6 for row in values if np.isfinite(row).any()]
    if not any(moving):
        return None
    return _time_map(strategy, "Task weights", names, relative(values), span)


def norms(curves: Sequence[Curve], strategy: str) -> Panel | None:
    """How long each task's gradient is over time, as a share of the mean; None if not measured."""
    names, values, span = over_time(curves, strategy, "norm")
    if len(names) < 2:
        return None
    return _time_map(strategy, "Gradient norms", names, relative(values), span)


def relative(values: Floats) -> Floats:
    """Each entry [T, bins] by the mean size of its column; NaN stays."""
    known = np.isfinite(values)
    size = np.where(known, np.abs(values), 0.0).sum(0)
    out = np.full(values.shape, np.nan)
    np.divide(values * known.sum(0), size, out=out, where=known & (size > 0))
    return out


def shade_of(factor: float) -> int | None:
    """From −3 (a quarter of the mean or less) over 0 to 3 (four times it or more)."""
    if not math.isfinite(factor):
        return None
    size = math.inf if factor <= 0 else max(factor, 1 / factor)
    level = sum(size >= step for step in FACTORS)
    return level if factor > 1 else -level


def _time_map(
    title: str, what: str, names: Sequence[str], factors: Floats, span: tuple[int, int]
) -> Panel:
    last = np.array([_last(row) for row in factors])
    order = sorted(range(len(names)), key=lambda at: -last[at] if math.isfinite(last[at]) else 1e9)
    rows, note = [], ""
    if len(names) <= ROWS:
        for at in order:
            shades = [shade_of(value) for value in factors[at]]
            rows.append(Row(names[at], shades, _times(last[at])))
    else:
        for group in np.array_split(order, GROUPS):
            mean = _column_means(factors[group])
            shades = [shade_of(value) for value in mean]
            first = order.index(int(group[0])) + 1
            name = f"tasks {first}\u2013{first + len(group) - 1}"
            rows.append(Row(name, shades, _times(_last(mean))))
        note = f"{len(names)} tasks in {GROUPS} groups by their last value, largest first."
    told = ", ".join(f"{row.name} {row.end}" for row in rows[:ROWS])
    words = f"{what} under {title} over steps, as factors of the mean; at the end: {told}"
    svg = drawn(rows, words, foot=(f"step {span[0]:,}", f"{span[1]:,}"), wide=True)
    return Panel(title, svg, note)


def _last(row: Floats) -> float:
    known = row[np.isfinite(row)]
    return float(known[-1]) if len(known) else math.nan


def _column_means(values: Floats) -> Floats:
    known = np.isfinite(values)
    out = np.full(values.shape[1], np.nan)
    total = np.where(known, values, 0.0).sum(0)
    np.divide(total, known.sum(0), out=out, where=known.any(0))
    return out


def _times(factor: float) -> str:
    if not math.isfinite(factor):
        return ""
    return f"×{factor:.2g}".replace("-", numbers.MINUS)


# -- who agrees with whom --------------------------------------------------------------------------


def cosines(agreements: Sequence[Agreement], strategy: str) -> Panel | None:
    """The mean cosine of each pair of tasks, over training and seeds; None if not measured."""
    own = [each for each in agreements if each.strategy == strategy]
    names = list(dict.fromkeys(name for each in own for name in each.tasks))
    if len(names) < 2:
        return None
    mean = _mean_cosines(own, names)
    order = _alike(mean)
    groups = [[at] for at in order]
    note = ""
    if len(names) > ROWS:
        groups = _grouped(mean, order)
        note = (
            f"{len(names)} tasks in {len(groups)} groups of tasks that agree most; a square is the "
            "mean over pairs, the diagonal that within a group."
        )
    labels = [_label([names[at] for at in group]) for group in groups]
    rows = []
    for down, group in enumerate(groups):
        line = [_between(mean, group, other) for other in groups]
        hovers = [f"{labels[down]}, {labels[at]}: {_cosine(v)}" for at, v in enumerate(line)]
        shades = [None if v is None else _cosine_shade(v) for v in line]
        figures = ["" if v is None else _cosine(v) for v in line] if len(groups) <= FEW else ()
        rows.append(Row(f"{down + 1} {labels[down]}", shades, hovers=hovers, figures=figures))
    pairs = mean[np.triu_indices(len(names), 1)]
    pairs = pairs[np.isfinite(pairs)]
    words = f"Mean cosine between the gradients of each pair of tasks under {strategy}" + (
        f": from {pairs.min():.2f} to {pairs.max():.2f}" if len(pairs) else ""
    )
    return Panel(strategy, drawn(rows, words, head=len(rows)), note.replace("-", numbers.MINUS))


def _mean_cosines(own: Iterable[Agreement], names: Sequence[str]) -> Floats:
    place = {name: at for at, name in enumerate(names)}
    total, count = np.zeros((2, len(names), len(names)))
    for each in own:
        at = [place[name] for name in each.tasks]
        values = np.array([[math.nan if v is None else v for v in r] for r in each.cosines], float)
        known = np.isfinite(values)
        total[np.ix_(at, at)] += np.where(known, values, 0.0)
        count[np.ix_(at, at)] += known
    mean = np.full(total.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def _alike(mean: Floats) -> list[int]:
    """An order in which tasks that agree stand together."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(mean) < 3:
        return list(range(len(mean)))
    far = squareform(_distance(mean), checks=False)
    return [int(at) for at in leaves_list(linkage(far, "average", optimal_ordering=True))]


def _grouped(mean: Floats, order: Sequence[int]) -> list[list[int]]:
    """Tasks that agree put together, in the given order."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(_distance(mean), checks=False), "average")
    group = fcluster(tree, GROUPS, "maxclust")
    found: dict[int, list[int]] = {}
    for at in order:
        found.setdefault(int(group[at]), []).append(at)
    return list(found.values())


def _distance(mean: Floats) -> Floats:
    """1 − cosine, symmetric with a zero diagonal; pairs that never met stand at right angles."""
    far = 1 - np.where(np.isfinite(mean), mean, 0.0)
    far = np.asarray((far + far.T) / 2)
    np.fill_diagonal(far, 0.0)
    return far


def _between(mean: Floats, one: Sequence[int], other: Sequence[int]) -> float | None:
    values = mean[np.ix_(one, other)]
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _cosine_shade(value: float) -> int:
    level = sum(abs(value) >= step for step in COSINES)
    return level if value > 0 else -level


def _cosine(value: float | None) -> str:
    return "not measured" if value is None else f"{value:+.2f}".replace("-", numbers.MINUS)


def _label(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{shorten(names[0], 9)} +{len(names) - 1}"


# -- drawing ---------------------------------------------------------------------------------------


def drawn(
    rows: Sequence[Row], words: str, *, foot: tuple[str, str] | None = None, head: int = 0,
    wide: bool = False,
) -> Markup:  # fmt: skip
    """Rows of shades: over time as wide as a panel, or squares under ``head`` numbered columns."""
    left = max(len(shorten(row.name, 16)) for row in rows) * WIDE + 6
    right = WIDTH - (44 if wide else 4)
    columns = len(rows[0].shades)
    square = float(2 * HIGH + 8 if rows[0].figures else HIGH + 4)
    width = (right - left) / columns if wide else min(square, (right - left) / columns)
    high = float(TALL if len(rows) <= 3 else HIGH) if wide else min(width, float(TALL))
    top = 14 if head else 2
    parts = [_text(left + (at + 0.5) * width, top - 4, str(at + 1), "middle") for at in range(head)]
    for down, row in enumerate(rows):
        y = top + down * high
        middle = y + high / 2 + FONT / 3
        parts.append(_text(0, middle, shorten(row.name, 16), "start", ink=True))
        parts += _cells(row, left, y, width, high, alone=bool(head))
        parts += [
            _text(left + (at + 0.5) * width, middle, figure, "middle", ink=True)
            for at, figure in enumerate(row.figures)
            if figure
        ]
        if row.end:
            parts.append(_text(right + 5, middle, row.end, "start"))
    bottom = top + len(rows) * high
    if foot is not None:
        parts.append(_text(left, bottom + FONT + 3, foot[0], "start"))
        parts.append(_text(right, bottom + FONT + 3, foot[1], "end"))
        bottom += FONT + 8
    return Markup(
        '<svg class="plot" role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg>'
    ).format(words, WIDTH, round(bottom + 2), Markup("").join(parts))


def _cells(
    row: Row, left: float, y: float, width: float, high: float, *, alone: bool
) -> list[Markup]:
    key: Callable[[int], object] = (lambda at: at) if alone else row.shades.__getitem__
    found = []
    for _, run in groupby(range(len(row.shades)), key):
        places = list(run)
        shade = row.shades[places[0]]
        if shade is None:
            continue
        kind = "level" if not shade else f"{'help' if shade > 0 else 'harm'}-{abs(shade)}"
        hover = Markup("<title>{}</title>").format(row.hovers[places[0]]) if row.hovers else ""
        found.append(
            Markup('<rect class="shade-{}" x="{}" y="{}" width="{}" height="{}">{}</rect>').format(
                kind,
                _short(left + places[0] * width),
                _short(y),
                _short(len(places) * width - (1 if alone else 0)),
                _short(high - 1),
                hover,
            )
        )
    return found


def _text(x: float, y: float, text: str, anchor: str, *, ink: bool = False) -> Markup:
    return Markup(
        '<text class="fill-{}" x="{}" y="{}" font-size="{}" text-anchor="{}">{}</text>'
    ).format("ink" if ink else "muted", _short(x), _short(y), f"{FONT:g}", anchor, text)


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
