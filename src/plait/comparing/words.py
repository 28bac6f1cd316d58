"""Figures, sizes, times and lists of names as people read them."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

from plait.comparing.results import Interval

SHOWN = 3  # names told of a long list

_FRACTIONS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 6: "a sixth", 7: "a seventh",
              8: "an eighth", 9: "a ninth", 10: "a tenth", 20: "a twentieth"}  # fmt: skip


def plain(text: object) -> str:
    r"""The text on one line, without control and direction marks: names come from data.

    >>> plain("bad\x1b[31m name\n")
    'bad[31m name'
    """
    spaced = " ".join(str(text).split())
    return "".join(c for c in spaced if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co"})


def listed(names: Collection[str], most: int = SHOWN) -> str:
    """Names in a sentence; a long list is cut and the rest counted.

    >>> listed(["a", "b", "c"]), listed([f"t{i}" for i in range(130)])
    ('a, b and c', 't0, t1, t2 and 127 more')
    """
    shown = [plain(name) for name in names]
    if len(shown) > most + 1:
        return f"{', '.join(shown[:most])} and {len(shown) - most} more"
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def percent(value: float) -> str:
    """A signed change in per cent: ``+3.2 %``, ``−0.4 %``."""
    return f"{value:+z.{0 if abs(value) >= 99.5 else 1}f} %".replace("-", "−")


def gain(interval: Interval) -> str:
    """A gain with its interval: ``+3.2 % [+1.1, +5.4]``.

    >>> gain(Interval(3.21, 1.1, 5.4))
    '+3.2 % [+1.1, +5.4]'
    """
    if interval.value is None:
        return "undefined"
    if interval.low is None or interval.high is None or interval.low == interval.high:
        return percent(interval.value)
    low, high = (percent(end).removesuffix(" %") for end in (interval.low, interval.high))
    return f"{percent(interval.value)} [{low}, {high}]"


def figure(value: float | None) -> str:
    """A metric in three or four digits."""
    if value is None:
        return "undefined"
    digits = f"{value:.3f}" if 1e-3 <= abs(value) < 10 or value == 0 else f"{value:.4g}"
    return digits.replace("-", "−")


def count(value: float | None) -> str:
    """A number of parameters: ``812``, ``12.3 k``, ``22.7 M``.

    >>> count(999_960)
    '1 M'
    """
    return "" if value is None else _scaled(value, ((1e9, " G"), (1e6, " M"), (1e3, " k")))


def duration(seconds: float | None) -> str:
    """``0.4 s``, ``12 s``, ``3 min``, ``1 h 20 min``; below a tenth of a second in ms or µs."""
    if seconds is None:
        return ""
    if seconds < 0.1:
        return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return _minutes(round(seconds / 60))


def clock(seconds: float) -> str:
    """A time as it passes, to the second: ``0 s``, ``7 s``, ``1 min 40 s``, ``1 h 23 min``.

    >>> clock(7.4), clock(100), clock(5000)
    ('7 s', '1 min 40 s', '1 h 23 min')
    """
    minutes, whole = divmod(round(seconds), 60)
    if not minutes:
        return f"{whole} s"
    return f"{minutes} min {whole} s" if whole and minutes < 60 else _minutes(minutes)


def size(ratio: float) -> str:
    """A size against another: ``a fifth of the size``, ``1.4 times the size``.

    >>> size(0.21), size(0.63), size(1.0), size(1.4)
    ('a fifth of the size', '63 % of the size', 'the same size', '1.4 times the size')
    """
    if 0.97 <= ratio <= 1.03:
        return "the same size"
    if ratio > 1:
        return f"{ratio:.3g} times the size"
    for below, words in _FRACTIONS.items():
        if abs(ratio * below - 1) <= 0.08:
            return f"{words} of the size"
    return f"{100 * ratio:.2g} % of the size"


def _minutes(count: int) -> str:
    hours, minutes = divmod(count, 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    for scale, unit in units:
        if value >= 0.9995 * scale:  # what rounds to the next unit is told in it
            return f"{value / scale:.3g}{unit}"
    return f"{value:.0f}"
