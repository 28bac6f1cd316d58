"""What the cells of a study logged while they trained, as curves and cosines for a report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plait.comparing.results import Agreement, Curve

POINTS = 160  # points of a curve that a report shows
SERIES = 30  # with more tasks than that a curve of losses shows their mean
ROWS = 400  # and one of weights or norms, which a report shows in groups

Event = Mapping[str, Any]
Points = dict[str, dict[int, float | None]]


@dataclass(frozen=True)
class Log:
    """The events of one cell."""

    strategy: str
    seed: str
    events: Sequence[Event]


def curves(log: Log) -> Iterator[Curve]:
    """What a cell logged over its steps, a curve for each kind."""
    for kind, by_name in series_of(log.events).items():
        steps = sorted({step for points in by_name.values() for step in points})
        steps = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, POINTS).astype(int))]
        most = ROWS if kind in ("weight", "norm") else SERIES
        series = _series(by_name, steps, most)
        yield Curve(strategy=log.strategy, seed=log.seed, kind=kind, steps=steps, series=series)


def series_of(events: Iterable[Event]) -> dict[str, Points]:
    """Events by kind (loss, valid, weight, norm, conflict, front), then task or measure, then step.

    The points of a front stand in place of steps.
    """
    found: dict[str, Points] = {}
    for event in events:
        values: dict[str, Mapping[str, Any]] = {}
        match event.get("event"):
            case "step":
                values = {"loss": event.get("losses") or {}, "weight": event.get("weights") or {}}
            case "valid":
                values = {"valid": event.get("losses") or {}}
            case "gradients":
                values = {"norm": event["norms"]}
            case "conflict":
                told = {name: event[name] for name in event if name not in ("event", "step")}
                values = {"conflict": told}
            case "front":
                for place, losses in enumerate(event["losses"]):
                    for name, value in losses.items():
                        found.setdefault("front", {}).setdefault(name, {})[place] = value
        for kind, by_name in values.items():
            for name, value in by_name.items():
                found.setdefault(kind, {}).setdefault(name, {})[event["step"]] = value
    return found


def _series(
    by_name: Mapping[str, Mapping[int, float | None]], steps: Sequence[int], most: int
) -> dict[str, list[float | None]]:
    if len(by_name) <= most:
        return {name: [points.get(step) for step in steps] for name, points in by_name.items()}
    mean: list[float | None] = []
    for step in steps:
        known = [value for points in by_name.values() if (value := points.get(step)) is not None]
        mean.append(float(np.mean(known)) if known else None)
    return {f"mean of {len(by_name)} tasks": mean}


def agreement(log: Log) -> Agreement | None:
    """The mean cosines between a cell's task gradients, None where it did not measure them."""
    told = [event for event in log.events if event.get("event") == "cosines"]
    names = list(dict.fromkeys(name for event in told for name in event["tasks"]))
    if len(names) < 2:
        return None
    place = {name: at for at, name in enumerate(names)}
    total, count = np.zeros((2, len(names), len(names)))
    for event in told:
        at = np.array([place[name] for name in event["tasks"]])
        rows, columns = np.triu_indices(len(at), 1)
        above = np.array([np.nan if v is None else v for v in event["above"]], float)
        known = np.isfinite(above)
        pairs = at[rows[known]], at[columns[known]]
        np.add.at(total, pairs, above[known] * event["looks"])
        np.add.at(count, pairs, event["looks"])
    total, count = total + total.T, count + count.T
    mean = np.full(total.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    cosines = [[None if np.isnan(v) else float(v) for v in row] for row in mean]
    return Agreement(strategy=log.strategy, seed=log.seed, tasks=names, cosines=cosines)
