"""Who uses which experts: a map for each mixture of an architecture, and what has gone wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from plait.comparing.report.maps import FEW, GROUPS, ROWS, Row, drawn
from plait.comparing.report.plots import MOST
from plait.comparing.report.svg import Panel
from plait.comparing.results import Results, Usage
from plait.metrics.base import Floats

WAYS = 4  # strategies whose experts are mapped
COLUMNS = 16  # experts that can be read; more are put together by whose they are
SHARES = (0.05, 0.2, 0.5)  # from which share of a gate a square is shaded more
SAID = 12  # sentences about what has gone wrong
WHOSE = ("its own", "of others", "shared")


def experts(results: Results) -> list[Panel]:
    """A map of each mixture of a few strategies, by their first seed: seeds number experts anew."""
    found = []
    for way in list(dict.fromkeys(use.strategy for use in results.usages))[:WAYS]:
        own = [use for use in results.usages if use.strategy == way]
        first = [use for use in own if use.seed == own[0].seed]
        for level, use in enumerate(first, start=1):
            found.append(_map(way if len(first) == 1 else f"{way}, level {level}", use))
    return found[:MOST]


def wrong(results: Results) -> list[str]:
    """What has gone wrong with experts, a sentence for each strategy, seed and expert or task."""
    told = [
        f"{use.strategy}, seed {use.seed}: {sentence}"
        for use in results.usages
        for sentence in use.failures
    ]
    more = len(told) - SAID
    return told if more <= 0 else [*told[:SAID], f"and {more} more"]


def _map(title: str, use: Usage) -> Panel:
    load = np.array([[math.nan if v is None else v for v in row] for row in use.load], float)
    columns, notes = list(use.experts), []
    if len(columns) > COLUMNS:
        load, columns = _by_owner(load, use), list(WHOSE)
        notes.append(f"{len(use.experts)} experts put together by whose they are.")
    names, groups = list(use.tasks), [[at] for at in range(len(use.tasks))]
    if len(names) > ROWS:
        # By what they take of what is not shared: those that go their own way stand together.
        shared = np.array([owner is None for owner in use.owners])
        whole = np.array([[v or 0.0 for v in row] for row in use.load])
        order = np.argsort(whole[:, shared].sum(1), kind="stable")
        groups = [part.tolist() for part in np.array_split(order, GROUPS)]
        notes.append(f"{len(names)} tasks in {GROUPS} groups, those first that share least.")
    rows = []
    for group in groups:
        name = names[group[0]] if len(group) == 1 else f"{names[group[0]]} +{len(group) - 1}"
        line = [_mean(load[group, at]) for at in range(len(columns))]
        hovers = [f"{name}, {columns[at]}: {_percent(v)}" for at, v in enumerate(line)]
        figures = [_percent(v)[:-2] for v in line] if len(columns) <= FEW else []
        figures = ["" if v is None else f for v, f in zip(line, figures, strict=False)]
        rows.append(Row(name, [_shade(v) for v in line], hovers=hovers, figures=figures))
    notes.insert(0, "; ".join(f"{at} {name}" for at, name in enumerate(columns, start=1)) + ".")
    words = f"The share of each task's gate that goes to each expert under {title}"
    return Panel(title, drawn(rows, words, head=len(columns)), " ".join(notes))


def _by_owner(load: Floats, use: Usage) -> Floats:
    """[T, 3]: what each task takes of its own, of others' and of shared experts."""
    found = np.full((len(use.tasks), len(WHOSE)), np.nan)
    for row, task in enumerate(use.tasks):
        kinds = [2 if owner is None else int(owner != task) for owner in use.owners]
        for column in range(len(WHOSE)):
            mine = load[row, [kind == column for kind in kinds]]
            mine = mine[np.isfinite(mine)]
            if len(mine):
                found[row, column] = mine.sum()
    return found


def _mean(values: Sequence[float] | Floats) -> float | None:
    known = [float(value) for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else None


def _shade(share: float | None) -> int | None:
    return None if share is None else sum(share >= step for step in SHARES)


def _percent(share: float | None) -> str:
    return "not open to it" if share is None else f"{100 * share:.0f} %"
