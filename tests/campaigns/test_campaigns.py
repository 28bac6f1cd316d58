"""A short version of every campaign; ``make test-campaigns`` runs them whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and asks /proc")


@pytest.mark.parametrize(
    ("name", "count", "blows"),
    [
        ("killing", 8, "kills"),
        ("ending", 5, "signals"),
        ("filling", 90, "full disks"),
        ("racing", 18, "rounds"),
        ("merging", 8, "kills"),
        ("fuzzing", 3000, "mutations"),
        pytest.param("losing", 3, "workers killed", marks=pytest.mark.slow),
    ],
)
def test_a_short_campaign_loses_nothing(name: str, count: int, blows: str) -> None:
    command = [sys.executable, "-W", "ignore", str(HERE / "run_campaigns.py"), name]
    done = subprocess.run(
        [*command, "--count", str(count), "--seed", "7"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told[blows] >= min(count, 5)
    # A campaign that counts nothing proves nothing: what it looks for must be among its words.
    wrong = {
        "racing": {"two results", "no result"},
        "merging": {"torn", "strays", "other bits", "other exit codes"},
        "fuzzing": {"crashes", "slow"},
    }.get(name, {"lost", "torn", "twice", "strays"})
    assert wrong <= told.keys()
    assert not any(told[word] for word in wrong)
