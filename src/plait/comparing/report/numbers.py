"""Numbers as a reader takes them in: rounded by their uncertainty, with units people know."""

from __future__ import annotations

import math

from plait.comparing.results import Interval

MINUS = "\u2212"
_MINUTE, _HOUR = 60.0, 3600.0
_TIMES = {  # above a minute, by how many there are in a decade
    7: [_MINUTE * n for n in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40)]
    + [_HOUR * n for n in (1, 1.5, 2, 3, 4, 5, 7, 10, 15, 24, 36, 48)],
    3: [_MINUTE * n for n in (1, 2, 5, 10, 20, 30)] + [_HOUR * n for n in (1, 2, 5, 10, 24, 48)],
    2: [_MINUTE, _MINUTE * 5, _MINUTE * 20, _HOUR, _HOUR * 4, _HOUR * 24, _HOUR * 96],
    1: [_MINUTE, _MINUTE * 10, _HOUR, _HOUR * 10, _HOUR * 100],
}
_TOO_FINE, _TOO_LARGE = 7, 1e7


def decimals(interval: Interval) -> int:
    """Digits after the point that leave two significant digits of uncertainty.

    Three significant digits of the value where it has no interval; negative where tens or hundreds
    are noise.
    """
    value = interval.value or 0.0
    half = half_width(interval)
    if half:
        return 1 - math.floor(math.log10(half))
    return 2 - math.floor(math.log10(abs(value))) if value else 0


def half_width(interval: Interval) -> float:
    """Half the width of the interval; 0 where there is none."""
    if interval.low is None or interval.high is None:
        return 0.0
    half = (interval.high - interval.low) / 2
    return half if math.isfinite(half) and half > 0 else 0.0


def finite(interval: Interval) -> Interval:
    """The interval with None for every figure that is not a finite number."""
    low, high = (_finite(end) for end in (interval.low, interval.high))
    return Interval(_finite(interval.value), low, high)


def rounded(interval: Interval) -> tuple[float | str | None, ...]:
    """Value and bounds, rounded alike, as short as JSON can hold them.

    A number whose last digits are zeros is a text, which keeps them.
    """
    places = decimals(interval)

    def cut(number: float | None) -> float | str | None:
        if number is None:
            return None
        near = round(float(number), places)
        written = f"{near:.{max(places, 0)}f}"
        if written.endswith("0") and "." in written:
            return written
        return int(near) if near == int(near) else near

    return cut(interval.value), cut(interval.low), cut(interval.high)


def figure(interval: Interval, *, signed: bool = False) -> str:
    """The value alone: ``0.781``, ``+9.1``; ``undefined`` where there is none."""
    if interval.value is None:
        return "undefined"
    return _text(interval.value, decimals(interval), signed=signed)


def bounds(interval: Interval, *, signed: bool = False) -> str:
    """The interval alone: ``0.752–0.808``, ``+7.5 to +10.7``; empty where there is none."""
    if interval.low is None or interval.high is None or not half_width(interval):
        return ""
    places = decimals(interval)
    low, high = (_text(end, places, signed=signed) for end in (interval.low, interval.high))
    joint = "\u2013" if not signed and interval.low >= 0 else " to "
    return f"{low}{joint}{high}"


def both(interval: Interval, *, signed: bool = False) -> str:
    """Value and interval in one line: ``+9.1 (+7.5 to +10.7)``."""
    ends = bounds(interval, signed=signed)
    return figure(interval, signed=signed) + (f" ({ends})" if ends else "")


def signed(value: float) -> str:
    """A figure of which nothing is known but its value, to a hundredth: ``+0.52``."""
    return _text(value, 2, signed=True)


def memory(value: float | None) -> str:
    """Bytes: ``410 MB``."""
    if value is None:
        return ""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if value >= size * 0.9995:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e3:.3g} kB"


def short(number: float) -> str:
    """A round number of an axis with its sign: ``+20``."""
    return f"{number:+.6g}".replace("-", MINUS) if number else "0"


def nice(least: float, most: float, wanted: int, *, clock: bool = False) -> list[float]:
    """At most ``wanted`` round numbers of a log axis between two positive ends.

    ``clock`` rounds as clocks do above a minute.
    """
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    inside: list[float] = []
    for steps in ((1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        found = [step * 10.0**power for power in powers for step in steps]
        if clock and most > _MINUTE:
            found = [number for number in found if number < _MINUTE] + _TIMES[len(steps)]
        inside = [number for number in found if least <= number <= most]
        if len(inside) <= wanted:
            break
    return inside[:: max(math.ceil(len(inside) / wanted), 1)]


def step_of(span: float, parts: int) -> float:
    """The round number (1, 2 or 5 times a power of ten) that cuts a span in about ``parts``."""
    rough = span / parts
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= rough * 0.999)


def _text(value: float, places: int, *, signed: bool) -> str:
    sign = "+" if signed and value else ""
    if abs(value) >= _TOO_LARGE or places > _TOO_FINE:
        return f"{value:{sign}.3g}".replace("-", MINUS)
    number = round(float(value), places)
    written = f"{number:{sign if number else ''},.{max(places, 0)}f}"
    return (written if number else written.lstrip("-")).replace("-", MINUS)


def _finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else float(number)
