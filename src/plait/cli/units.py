"""Times and shares as people write them on a command line."""

from __future__ import annotations

import re

_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)(s|min|m|h|d)?")


def seconds(text: str) -> float:
    """``90``, ``90s``, ``30m``, ``1.5h``, ``1h30m`` in seconds.

    Raises ``ValueError``.
    """
    plain = text.replace(" ", "").lower()
    parts = _TIME.findall(plain)
    bare = len(parts) > 1 and any(not unit for _, unit in parts)
    if not parts or "".join(number + unit for number, unit in parts) != plain or bare:
        raise ValueError(f"no time {text!r}; write 90s, 30m or 1h30m")
    total = sum(float(number) * _SECONDS[unit or "s"] for number, unit in parts)
    if not total > 0:
        raise ValueError(f"a time must be above 0; got {text!r}")
    return total


def share(text: str) -> float:
    """``10%`` or ``0.1`` as a fraction.

    Raises ``ValueError``.
    """
    plain = text.strip()
    try:
        value = float(plain[:-1]) / 100 if plain.endswith("%") else float(plain)
    except ValueError:
        raise ValueError(f"no share {text!r}; write 10% or 0.1") from None
    if not 0 < value <= 1:
        raise ValueError(f"a share lies above 0 and at most at 100%; got {text!r}")
    return value
