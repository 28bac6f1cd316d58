"""What adapters cost in parameters: how many were trained, and how many a task stores."""

from __future__ import annotations

from dataclasses import dataclass

from plait.comparing import words
from plait.comparing.report import numbers
from plait.comparing.results import Results


@dataclass(frozen=True)
class AdapterRow:
    """One strategy; all but its gain in parameters, written out."""

    strategy: str
    gain: str
    trained: str
    common: str
    stored: str


def adapters(results: Results) -> list[AdapterRow]:
    """Each strategy with adapters by its first seed, those that train least first."""
    first = {size.strategy: size for size in reversed(results.adapters)}
    gains = {standing.strategy: standing.gain for standing in results.standings}
    found = []
    for size in sorted(first.values(), key=lambda each: (each.trained, each.strategy)):
        least, most = words.count(min(size.stored)), words.count(max(size.stored))
        found.append(
            AdapterRow(
                strategy=size.strategy,
                gain=numbers.both(gains[size.strategy], signed=True),
                trained=words.count(size.trained),
                common=words.count(size.common),
                stored=least if least == most else f"{least} to {most}",
            )
        )
    return found
