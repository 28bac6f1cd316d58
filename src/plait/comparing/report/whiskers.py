"""Dots with whiskers, small enough for a table row; and the heat map's shades."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from plait.comparing.report.numbers import short, step_of
from plait.comparing.results import Interval

_LINE = Markup('<line class="{}" x1="{}%" x2="{}%" y1="{}" y2="{}"/>')
_ARROW = Markup('<svg class="past" x="{}%" y="8"><path d="{}"/></svg>')
_LEFT, _RIGHT = "M0 0l7-4.5v9z", "M0 0l-7-4.5v9z"


@dataclass(frozen=True)
class Scale:
    """A range of gains in per cent; what lies outside is drawn as an arrow at the edge."""

    low: float
    high: float

    @classmethod
    def of(cls, main: Iterable[Interval], rest: Iterable[Interval] = ()) -> Scale:
        """The range that shows ``main`` whole, and as much of ``rest`` as leaves it readable."""
        ends = [end for interval in main for end in _ends(interval)]
        low, high = min([0.0, *ends]), max([0.0, *ends])
        span = max(high - low, 1e-9 if ends else 1.0)
        others = [end for interval in rest for end in _ends(interval)]
        low = max(min([low, *others]), low - span * 0.5)
        high = min(max([high, *others]), high + span * 0.5)
        if high - low < 1e-6:
            low, high = -1.0, 1.0
        pad = (high - low) * 0.06
        return cls(low - pad, high + pad)

    def place(self, value: float) -> float:
        """A value's place in per cent of the width."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def ticks(self) -> list[float]:
        """Round numbers, zero among them."""
        step = step_of(self.high - self.low, 4)
        first, last = int(self.low / step), int(self.high / step)
        return [step * number for number in range(first, last + 1)]


def _ends(interval: Interval) -> list[float]:
    return [end for end in (interval.value, interval.low, interval.high) if end is not None]


def whisker(interval: Interval, scale: Scale, *, plain: bool = False) -> Markup:
    """An inline SVG: a dot on its interval, the zero line behind; empty where undefined.

    A dot is filled where the interval excludes zero. The figures stand beside it as text, so it is
    hidden from screen readers.
    """
    if interval.value is None:
        return Markup("")
    zero, at = scale.place(0.0), scale.place(interval.value)
    drawn = [_LINE.format("zero", zero, zero, 0, 16)]
    if interval.low is not None and interval.high is not None:
        low, high = (min(max(scale.place(end), 0), 100) for end in (interval.low, interval.high))
        if high > low:
            drawn.append(_LINE.format("reach", low, high, 8, 8))
    if at < 0:
        drawn.append(_ARROW.format(0, _LEFT))
    elif at > 100:
        drawn.append(_ARROW.format(100, _RIGHT))
    else:
        drawn.append(Markup('<circle cx="{}%" cy="8" r="4"/>').format(at))
    tone = verdict(interval) + (" plain" if plain else "")
    return Markup('<svg class="whisker {}" aria-hidden="true">{}</svg>').format(
        tone, Markup("").join(drawn)
    )


def axis(scale: Scale) -> Markup:
    """The tick labels above a column of whiskers."""
    labels = Markup("").join(
        Markup('<text x="{}%" y="11">{}</text>').format(scale.place(tick), short(tick))
        for tick in scale.ticks()
        if 3 < scale.place(tick) < 97
    )
    return Markup('<svg class="axis" aria-hidden="true">{}</svg>').format(labels)


def verdict(interval: Interval) -> str:
    """``help`` or ``harm`` beyond noise, ``noise``, or ``none`` where undefined."""
    if interval.value is None:
        return "none"
    if not interval.excludes_zero:
        return "noise"
    return "help" if interval.value > 0 else "harm"


@dataclass(frozen=True)
class Shades:
    """Three shades of help and three of harm, stepped at round gains."""

    unit: float

    @classmethod
    def of(cls, gains: Iterable[Interval]) -> Shades:
        """Shades for these gains: a tenth of them or fewer pass the darkest step by far."""
        sizes = sorted(abs(gain.value) for gain in gains if gain.value)
        top = sizes[int(0.8 * (len(sizes) - 1))] if sizes else 1.0
        return cls(step_of(top, 2))

    def shade(self, gain: Interval) -> str:
        """The class of a cell; within noise it has no shade at all."""
        mark = verdict(gain)
        if mark not in ("help", "harm") or gain.value is None:
            return mark
        size = abs(gain.value)
        return f"{mark} {mark}-{1 + (size >= self.unit) + (size >= 2 * self.unit)}"
