"""How much of each model went into a merge: a map of coefficients by layer, and what was kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plait.comparing.report import numbers
from plait.comparing.report.maps import FEW, ROWS, Row, drawn
from plait.comparing.report.plots import MOST
from plait.comparing.report.svg import Panel
from plait.comparing.results import Mixture, Results
from plait.metrics.base import Floats

STEPS = (0.05, 0.3, 0.7)  # from which coefficient a square is shaded more
SAID = 12  # sentences about what was kept


def mixtures(results: Results) -> list[Panel]:
    """A map for each strategy that mixes models by found coefficients, by its first seed."""
    first: dict[str, Mixture] = {}
    for each in results.mixtures:
        if each.rows:
            first.setdefault(each.strategy, each)
    return [_map(each) for each in first.values()][:MOST]


def kept(results: Results) -> list[str]:
    """What each merge kept of what it tuned, a sentence for each strategy and seed."""
    told = [f"{m.strategy}, seed {m.seed}: {m.kept}" for m in results.mixtures if m.kept]
    more = len(told) - SAID
    return told if more <= 0 else [*told[:SAID], f"and {more} more"]


def _map(mixture: Mixture) -> Panel:
    names = list(mixture.rows)
    values = np.array([mixture.rows[name] for name in names], float)
    notes = []
    groups = [[at] for at in range(len(names))]
    if len(names) > ROWS:
        groups = [part.tolist() for part in np.array_split(np.arange(len(names)), ROWS)]
        notes.append(f"{len(names)} tensors in {ROWS} groups, in the order of the network.")
    rows = [_row(names, values, group, mixture.models) for group in groups]
    notes.insert(0, "; ".join(f"{at} {n}" for at, n in enumerate(mixture.models, start=1)) + ".")
    words = f"The coefficient of each model at each place under {mixture.strategy}"
    return Panel(mixture.strategy, drawn(rows, words, head=len(mixture.models)), " ".join(notes))


def _row(names: Sequence[str], values: Floats, group: Sequence[int], models: Sequence[str]) -> Row:
    name = names[group[0]] if len(group) == 1 else f"{names[group[0]]} +{len(group) - 1}"
    line = [float(value) for value in values[group].mean(0)]
    told = [f"{value:.2f}".replace("-", numbers.MINUS) for value in line]
    hovers = [f"{name}, {model}: {text}" for model, text in zip(models, told, strict=True)]
    return Row(
        name,
        [_shade(value) for value in line],
        hovers=hovers,
        figures=told if len(models) <= FEW else [],
    )


def _shade(value: float) -> int:
    level = sum(abs(value) >= step for step in STEPS)
    return level if value > 0 else -level
