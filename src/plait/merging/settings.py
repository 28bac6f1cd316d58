"""Settings that differ by tensor: a number, a list along the depth, or filters with values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from plait.weights.sites import Site

_UNKNOWN = "{!r} is no setting: a number, a list of numbers, or a list of filters and values"


def of_site(setting: Any, site: Site, layers: int) -> float | None:
    """The value of a setting for a tensor of a model with so many blocks; see :func:`evaluate`."""
    place = 0.0 if site.depth is None else 1.0 if layers == 1 else site.depth / max(layers - 1, 1)
    return evaluate(setting, site.name, place)


def evaluate(setting: Any, name: str, place: float) -> float | None:
    """The value of a setting for a tensor at a depth from 0 to 1; None where no filter fits."""
    match setting:
        case bool() | int() | float():
            return float(setting)
        case [{"value": _}, *_]:
            for rule in setting:
                part = rule.get("filter")
                if part is None or part == "*" or part in name:
                    return evaluate(rule["value"], name, place)
            return None
        case [*knots] if knots and all(type(knot) in (int, float) for knot in knots):
            low = min(int(place * (len(knots) - 1)), len(knots) - 1)
            high = min(low + 1, len(knots) - 1)
            share = place * (len(knots) - 1) - low
            return float((1 - share) * knots[low] + share * knots[high])
    raise ValueError(_UNKNOWN.format(setting))


def numbers(setting: Any) -> Iterator[float]:
    """All numbers of a setting; ``ValueError`` for what is none."""
    match setting:
        case bool() | int() | float():
            yield float(setting)
        case [{"value": _}, *_]:
            for rule in setting:
                yield from numbers(rule["value"])
        case [*knots] if knots and all(type(knot) in (int, float) for knot in knots):
            yield from map(float, knots)
        case _:
            raise ValueError(_UNKNOWN.format(setting))
