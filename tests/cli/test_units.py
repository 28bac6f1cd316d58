"""Times and shares as people write them."""

from __future__ import annotations

import pytest

from plait.cli.units import seconds, share


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("90", 90),
        ("90s", 90),
        ("30m", 1800),
        ("1.5h", 5400),
        ("1h30m", 5400),
        ("2 min", 120),
        ("1d", 86400),
    ],
)
def test_times(text: str, wanted: float) -> None:
    assert seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "m", "30x", "0", "-5m", "1h30", "30m later"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        seconds(text)


@pytest.mark.parametrize(("text", "wanted"), [("10%", 0.1), ("0.25", 0.25), ("100 %", 1), ("1", 1)])
def test_shares(text: str, wanted: float) -> None:
    assert share(text) == pytest.approx(wanted)


@pytest.mark.parametrize("text", ["", "0", "0%", "120%", "-1", "ten", "10"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ValueError, match="share"):
        share(text)
